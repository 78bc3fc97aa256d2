// Plays a generator: noise z to a picture, by onnxruntime-web on this machine.

import * as ort from "./runtime/ort.wasm.min.mjs";

const PER_PAGE = 24;
const SLIDER_RANGE = 6; // lengths of a direction to either side; latents are about 10 long
const MOST_KEPT = 12;
const SECONDS_OF_WALK = 4;

const element = (id) => document.getElementById(id);
const status = element("status");

let model, session, seeded, directions;
let page = 0;
let classNumber = 0; // of the class that all pictures are of, where there are classes
let chosen = null; // the latent that the sliders change
let chosenNumber = 0; // that of its picture
let kept = []; // {z, button, draw}
let ends = []; // one or two of `kept`
let playing = false;

// --- Numbers ------------------------------------------------------------------------------------------------------

// Standard normal noise, a function of the seed (Mulberry32, Box and Muller).
function noise(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: model.latent_dim }, normal);
}

// The first ones are those of `fastdcgan generate --seed 0`.
function latentOf(number) {
  const size = model.latent_dim;
  return number < model.seeded ? seeded.slice(number * size, (number + 1) * size) : noise(number);
}

function moved(z, amounts) {
  const result = Float32Array.from(z);
  amounts.forEach((amount, k) => {
    for (let i = 0; i < z.length; i++) result[i] += amount * directions[k * z.length + i];
  });
  return result;
}

// As `slerp` of fastdcgan: along the arc, which keeps the latents' length.
function between(a, b, part) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  const [wa, wb] = sine < 1e-4 ? [1 - part, part] : [Math.sin((1 - part) * angle) / sine, Math.sin(part * angle) / sine];
  return a.map((value, i) => wa * value + wb * b[i]);
}

// --- Pictures -----------------------------------------------------------------------------------------------------

// One run of the network at a time, all of the class that is chosen now.
let running = Promise.resolve();
function pictures(latents) {
  const labels = BigInt64Array.from(latents, () => BigInt(classNumber));
  const work = async () => {
    const data = new Float32Array(latents.length * model.latent_dim);
    latents.forEach((z, number) => data.set(z, number * model.latent_dim));
    const inputs = { [model.input]: new ort.Tensor("float32", data, [latents.length, model.latent_dim]) };
    if (model.classes) inputs[model.labels] = new ort.Tensor("int64", labels, [latents.length]);
    const output = (await session.run(inputs))[model.output];
    return latents.map((_, number) => imageOf(output.data, number));
  };
  const result = running.then(work);
  running = result.catch(() => {});
  return result;
}

// [C, H, W] in [-1, 1] to RGBA bytes, rounded as fastdcgan rounds.
function imageOf(numbers, number) {
  const { channels, height, width } = model;
  const area = height * width;
  const image = new ImageData(width, height);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 4; c++) {
      const channel = c === 3 ? (channels === 4 ? 3 : -1) : channels === 1 ? 0 : c;
      if (channel < 0) {
        image.data[4 * i + c] = 255;
        continue;
      }
      const level = Math.min(1, Math.max(-1, numbers[(number * channels + channel) * area + i]));
      image.data[4 * i + c] = Math.floor(((level + 1) / 2) * 255 + 0.5);
    }
  }
  return image;
}

function draw(canvas, image) {
  canvas.width = model.width;
  canvas.height = model.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Draws what was asked for last: sliders move faster than a slow machine draws.
function latest(canvas) {
  let next = null;
  let busy = false;
  return async (z) => {
    next = z;
    if (busy) return;
    busy = true;
    try {
      while (next) {
        const now = next;
        next = null;
        draw(canvas, (await pictures([now]))[0]);
      }
    } finally {
      busy = false;
    }
  };
}

function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}

// --- The grid -----------------------------------------------------------------------------------------------------

function pictureButton(label, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-pressed", "false");
  const canvas = document.createElement("canvas");
  canvas.width = model.width;
  canvas.height = model.height;
  button.append(canvas);
  button.addEventListener("click", onClick);
  return button;
}

async function showPage(which) {
  page = which;
  const [first, of] = [page * PER_PAGE, classNumber];
  const images = await pictures(Array.from({ length: PER_PAGE }, (_, n) => latentOf(first + n)));
  if (page !== which || classNumber !== of) return; // another one was asked for meanwhile
  element("back").disabled = page === 0;
  element("grid").replaceChildren(
    ...images.map((image, n) => {
      const button = pictureButton(`Picture ${first + n}`, () => choose(first + n));
      button.value = first + n;
      draw(button.firstChild, image);
      return button;
    }),
  );
  markChosen();
}

function choose(number) {
  [chosen, chosenNumber] = [latentOf(number), number];
  markChosen();
  resetSliders();
}

function markChosen() {
  for (const button of element("grid").children) {
    button.setAttribute("aria-pressed", String(Number(button.value) === chosenNumber));
  }
}

function moveFocus(event) {
  const buttons = [...event.currentTarget.children];
  const now = buttons.indexOf(document.activeElement);
  if (now < 0) return;
  const top = buttons[0].offsetTop;
  const columns = Math.max(1, buttons.filter((button) => button.offsetTop === top).length);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -now };
  const step = event.key === "End" ? buttons.length - 1 - now : steps[event.key];
  if (step === undefined) return;
  event.preventDefault();
  buttons[Math.min(buttons.length - 1, Math.max(0, now + step))].focus();
}

// --- Sliders ------------------------------------------------------------------------------------------------------

let drawChosen;
const sliders = () => [...document.querySelectorAll("#sliders input")];
const changed = () => moved(chosen, sliders().map((slider) => Number(slider.value)));

function makeSliders() {
  for (let k = 0; k < model.directions; k++) {
    const label = document.createElement("label");
    label.textContent = `Direction ${k + 1}`;
    label.htmlFor = `direction-${k}`;
    const slider = document.createElement("input");
    Object.assign(slider, { id: `direction-${k}`, type: "range", min: -SLIDER_RANGE, max: SLIDER_RANGE, step: 0.05 });
    slider.addEventListener("input", () => drawChosen(changed()));
    element("sliders").append(label, slider);
  }
}

function resetSliders() {
  for (const slider of sliders()) slider.value = 0;
  return drawChosen(chosen);
}

// --- Kept ones, and the walk between two --------------------------------------------------------------------------

let drawBetween;

function keep() {
  const one = { z: changed() };
  one.button = pictureButton(`Kept picture ${kept.length + 1}`, () => chooseEnd(one));
  one.draw = latest(one.button.firstChild);
  one.draw(one.z);
  kept = [...kept, one];
  if (kept.length > MOST_KEPT) {
    const [oldest, ...others] = kept;
    kept = others;
    ends = ends.filter((end) => end !== oldest);
  }
  element("kept").replaceChildren(...kept.map((each) => each.button));
  if (ends.length < 2) chooseEnd(one);
}

function chooseEnd(one) {
  ends = ends.includes(one) ? ends.filter((end) => end !== one) : [...ends, one].slice(-2);
  for (const each of kept) each.button.setAttribute("aria-pressed", String(ends.includes(each)));
  const both = ends.length === 2;
  element("walk").hidden = !both;
  element("hint").hidden = both;
  if (both) walkTo(Number(element("position").value));
  else stopPlaying();
}

function walkTo(part) {
  element("position").value = part;
  return drawBetween(between(ends[0].z, ends[1].z, part));
}

function stopPlaying() {
  playing = false;
  element("play").textContent = "Play";
  element("play").setAttribute("aria-pressed", "false");
}

function togglePlaying() {
  if (playing) return stopPlaying();
  playing = true;
  element("play").textContent = "Pause";
  element("play").setAttribute("aria-pressed", "true");
  const start = performance.now() - Math.acos(1 - 2 * Number(element("position").value)) * (1000 * SECONDS_OF_WALK) / Math.PI;
  const frame = async (now) => {
    if (!playing) return;
    const part = (1 - Math.cos((Math.PI * (now - start)) / (1000 * SECONDS_OF_WALK))) / 2; // there and back
    await walkTo(Math.min(1, Math.max(0, part)));
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

// --- Classes ------------------------------------------------------------------------------------------------------

function makeClasses() {
  // Names are data: they enter as text alone.
  element("class").replaceChildren(...model.classes.map((name, number) => new Option(name, number)));
  element("class").addEventListener("change", (event) => chooseClass(Number(event.target.value)));
  element("classes").hidden = false;
}

// All that is seen is of one class, kept pictures and the walk too: the noise stays, and is drawn anew.
function chooseClass(number) {
  classNumber = number;
  drawChosen(changed());
  showPage(page);
  for (const one of kept) one.draw(one.z);
  if (ends.length === 2) walkTo(Number(element("position").value));
}

// --- Begin --------------------------------------------------------------------------------------------------------

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} can't be loaded (${response.status})`);
  return response;
}

const floats = async (name) => new Float32Array(await (await fetched(name)).arrayBuffer());

async function begin() {
  model = await (await fetched("model.json")).json();
  document.title = element("name").textContent = model.name;
  element("about").textContent =
    `A DCGAN's generator after ${model.step.toLocaleString("en")} steps, ` +
    `${model.width} × ${model.height} pixels. It runs in your browser; nothing is sent anywhere.`;
  document.documentElement.style.setProperty("--aspect", model.width / model.height);
  [seeded, directions] = [await floats("latents.f32"), await floats("directions.f32")];
  ort.env.wasm.wasmPaths = new URL("runtime/", document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more need headers that few servers send
  session = await ort.InferenceSession.create(new Uint8Array(await (await fetched(model.model)).arrayBuffer()));
  drawChosen = latest(element("picture"));
  drawBetween = latest(element("between"));
  makeSliders();
  if (model.classes) makeClasses();
  await showPage(0);
  choose(0);
  element("more").addEventListener("click", () => showPage(page + 1));
  element("back").addEventListener("click", () => showPage(Math.max(0, page - 1)));
  element("grid").addEventListener("keydown", moveFocus);
  element("kept").addEventListener("keydown", moveFocus);
  element("keep").addEventListener("click", keep);
  element("reset").addEventListener("click", resetSliders);
  element("download").addEventListener("click", () => download(element("picture"), model.name));
  element("download-between").addEventListener("click", () => download(element("between"), `${model.name}-between`));
  element("position").addEventListener("input", (event) => {
    stopPlaying();
    walkTo(Number(event.target.value));
  });
  element("play").addEventListener("click", togglePlaying);
  element("app").hidden = false;
  status.textContent = "";
}

begin().catch((error) => {
  status.className = "error";
  status.textContent = `The network can't be loaded: ${error.message}`;
  throw error;
});
