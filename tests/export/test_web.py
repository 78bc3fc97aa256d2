"""The page that plays a generator: its files, and what a person sees and does in a real browser."""

import json
import os
import re
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from browser import needs_chromium, page, served
from hostile_names import HOSTILE_NAME
from PIL import Image

from fastdcgan import Generator, Run, cli, train
from fastdcgan.export.web_page import RUNTIME, fetched_runtime, principal_directions
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.interpolate import slerp
from fastdcgan.runs.sampling import generate_uint8
from fastdcgan.storage.printable import printable

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs the extra `export`"
)


def trained(folder: Path, arch: str, channels: int) -> Run:
    shape = (16, *architecture(arch).resolution, channels)
    pictures_NHWC = np.random.default_rng(0).integers(0, 2, shape, np.uint8) * 255
    np.save(folder / "pictures.npy", pictures_NHWC)
    return trained_on(folder / "pictures.npy", folder, arch, channels)


def trained_on(data: Path, folder: Path, arch: str, channels: int, **more: Any) -> Run:
    model = {
        "arch": arch,
        "width": 4,
        "channels": channels,
        "batch_size": 4,
        "images": 64,
        "lr": 0.02,
        "ema": 0.5,
        **more,
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
        return train(data=data, **model, out=folder / "run", track="none", quiet=True, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("run"), "dcgan16", 3)


CLASSES = sorted(("dark", "light", HOSTILE_NAME))


@pytest.fixture(scope="module")
def run_with_classes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, numbers = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(8):
            levels_HWC = numbers.integers(0, 60, (16, 16, 3)) + 90 * place
            Image.fromarray(levels_HWC.astype(np.uint8)).save(folder / "pictures" / name / f"{number}.png")
    return trained_on(folder / "pictures", folder, "dcgan16", 3, conditional=True, images=256)


@pytest.fixture
def no_runtime(tmp_path: Path) -> Path:
    """Files of the right names."""
    folder = tmp_path / "no-runtime"
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).write_text(name)
    return folder


def export(run: Run, out: Path, *options: object) -> None:
    cli.main(list(map(str, ("export", run.path, "--to", "web", "--out", out, *options))))


def refused(capsys: pytest.CaptureFixture[str], run: Run, out: Path, *options: object) -> str:
    with pytest.raises(SystemExit) as end:
        export(run, out, *options)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and not out.exists()
    return error


@pytest.mark.slow
def test_the_folder_has_all_that_the_page_loads(
    run: Run, no_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "web"
    export(run, out, "--runtime", no_runtime)
    model = json.loads((out / "model.json").read_text())
    assert (model["name"], model["step"], model["width"], model["channels"]) == ("run", 16, 16, 3)
    z_NL = np.fromfile(out / "latents.f32", np.float32).reshape(model["seeded"], model["latent_dim"])
    assert np.array_equal(z_NL, latents(0, Stream.GENERATE, 0, len(z_NL), 100).numpy())
    assert (out / "runtime" / RUNTIME[0]).read_text() == RUNTIME[0]
    said = "".join((out / name).read_text() for name in ("index.html", "app.js", "style.css"))
    assert "http://" not in said and "https://" not in said
    assert "classes" not in model and "labels" not in model
    # Once it is there, nothing is fetched again.
    monkeypatch.setenv("PATH", "")
    export(run, out)
    assert (out / "runtime" / RUNTIME[0]).read_text() == RUNTIME[0]


def test_principal_directions_change_the_first_layer_most() -> None:
    generator, numbers = Generator(arch="dcgan16", width=4), torch.Generator().manual_seed(0)
    norm = generator.layers[1]
    with torch.no_grad():  # features that count more than others
        norm.weight.copy_(2 ** torch.randn(len(norm.weight), generator=numbers))
        norm.running_var.copy_(4 ** torch.randn(len(norm.weight), generator=numbers))
    directions_KL = principal_directions(generator, 8)
    assert torch.allclose(directions_KL @ directions_KL.T, torch.eye(8), atol=1e-5)
    first = generator.layers[:2]

    @torch.no_grad()
    def change(direction_1L: torch.Tensor) -> float:
        moved: torch.Tensor = first(direction_1L[:, :, None, None]) - first(torch.zeros(1, 100, 1, 1))
        return moved.norm().item()

    changes = [change(direction_1L) for direction_1L in directions_KL.split(1)]
    random = torch.nn.functional.normalize(torch.randn(200, 100, generator=numbers))
    assert changes == sorted(changes, reverse=True) and changes[0] > max(map(change, random.split(1)))


@pytest.mark.slow
def test_what_cannot_be_had_is_said_in_one_line(
    run: Run,
    no_runtime: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "web"
    (no_runtime / RUNTIME[1]).unlink()
    assert f"has no {RUNTIME[1]}; it is in dist/ of the npm package onnx" in refused(
        capsys, run, out, "--runtime", no_runtime
    )
    monkeypatch.setenv("PATH", "")
    assert "needs npm to fetch onnxruntime-web once, or --runtime FOLDER" in refused(capsys, run, out)
    assert "--runtime x is for --to web, not for --to onnx" in refused(
        capsys, run, out, "--runtime", "x", "--to", "onnx"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="its stand-in for npm is a shell script")
def test_what_npm_brings_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(__file__, "package/dist/ort.wasm.min.mjs")
    to_destination = 'while [ "$1" != --pack-destination ]; do shift; done'
    npm.write_text(f'#!/bin/sh\n{to_destination}\ncp {tmp_path}/other.tgz "$2"\n')
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with (
        pytest.raises(ValueError, match=r"what npm fetched is not onnxruntime-web@1\.30\.0: its SHA-512 is"),
        fetched_runtime(),
    ):
        pass
    npm.write_text("#!/bin/sh\necho first >&2\necho no network >&2\nexit 1\n")
    with (
        pytest.raises(ValueError, match=r"npm can't fetch onnxruntime-web@1\.30\.0: no network; or --runtime"),
        fetched_runtime(),
    ):
        pass


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real one: of the folder that $FASTDCGAN_ONNXRUNTIME_WEB names, else fetched by npm."""
    if folder := os.environ.get("FASTDCGAN_ONNXRUNTIME_WEB"):
        return Path(folder)
    kept = tmp_path_factory.mktemp("runtime")
    try:
        with fetched_runtime() as fetched:
            for name in RUNTIME:
                shutil.copy(fetched / name, kept)
    except ValueError as error:
        pytest.skip(str(error))
    return kept


@contextmanager
def opened(folder: Path, width: int, height: int, policy: str | None = None) -> Iterator["Page"]:
    """The page, ready. Nothing may go wrong, nor be asked of another server."""
    wrong: list[str] = []
    with served(folder, policy) as address, page(width, height) as shown:
        shown.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else wrong.append(asked.url),
        )
        shown.goto(f"{address}/index.html")
        shown.wait_for_selector("#app:not([hidden])", timeout=60_000)
        yield shown
    # The test itself reads canvases back.
    assert [line for line in wrong if not line.startswith("Canvas2D: Multiple readback operations")] == []


PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


def pixels(shown: "Page", selector: str, channels: int) -> np.ndarray[Any, Any]:
    side = shown.evaluate(f"document.querySelector({selector!r}).height")
    rgba_HWC = np.array(shown.eval_on_selector(selector, PIXELS)).reshape(side, -1, 4)
    assert (rgba_HWC[..., 3] == 255).all()
    return rgba_HWC[..., :channels]


def slide(shown: "Page", selector: str, value: float) -> None:
    shown.eval_on_selector(selector, f"s => {{ s.value = {value}; s.dispatchEvent(new Event('input')) }}")
    shown.wait_for_timeout(700)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("arch", "channels"), [("dcgan16", 3), ("dcgan28", 1), ("dcgan64x32", 3)])
def test_pictures_in_the_browser_are_those_of_python(
    arch: str, channels: int, runtime: Path, tmp_path: Path, screenshots: Path
) -> None:
    run = trained(tmp_path, arch, channels)
    generator, out = Generator.from_run(run), tmp_path / "web"
    export(run, out, "--runtime", runtime)
    z_BL = latents(0, Stream.GENERATE, 0, 48, generator.arch.latent_dim)
    with opened(out, 1000, 900) as shown:
        ours = list(generator.sample(48))
        assert np.ptp(np.stack(ours[:24]).astype(int), 0).max() > 100, "pictures differ from each other"
        for number in range(24):
            found_HWC = pixels(shown, f"#grid button:nth-child({number + 1}) canvas", channels)
            assert np.abs(found_HWC - ours[number]).max() <= 1
        shown.click("#grid button:nth-child(6)")
        slide(shown, "#direction-1", 3)
        moved_1L = z_BL[5:6] + 3 * principal_directions(generator, 8)[1:2]
        wanted_HWC = generate_uint8(generator, moved_1L)[0].astype(int)
        assert np.abs(pixels(shown, "#picture", channels) - wanted_HWC).max() <= 1
        assert np.abs(wanted_HWC - ours[5]).max() > 5, "the slider did something"
        shown.click("#keep")
        shown.click("#more")
        shown.wait_for_selector("[aria-label='Picture 24']")
        assert np.abs(pixels(shown, "[aria-label='Picture 24'] canvas", channels) - ours[24]).max() <= 1
        shown.click("[aria-label='Picture 26']")
        shown.wait_for_timeout(500)
        shown.click("#keep")
        shown.wait_for_selector("#walk:not([hidden])")
        slide(shown, "#position", 0.25)
        wanted_HWC = generate_uint8(generator, slerp(moved_1L, z_BL[26:27], 0.25))[0].astype(int)
        assert np.abs(pixels(shown, "#between", channels) - wanted_HWC).max() <= 1
        shown.screenshot(path=screenshots / f"web-{arch}.png", full_page=True)
        with shown.expect_download() as downloaded:
            shown.click("#download-between")
        assert downloaded.value.suggested_filename == "run-between.png"


@pytest.mark.slow
@needs_chromium
def test_all_is_of_the_class_that_is_chosen(
    run_with_classes: Run, runtime: Path, tmp_path: Path, screenshots: Path
) -> None:
    """Grid, sliders, kept pictures and walk. It is chosen by keyboard, and one's name is markup and escapes."""
    generator, out = Generator.from_run(run_with_classes), tmp_path / "web"
    assert generator.classes == tuple(CLASSES)
    export(run_with_classes, out, "--runtime", runtime)
    z_BL = latents(0, Stream.GENERATE, 0, 24, generator.arch.latent_dim)
    moved_1L = z_BL[5:6] - 4 * principal_directions(generator, 8)[:1]
    other_1L = z_BL[7:8]
    ours = [np.stack(list(generator.sample(48, label=name))).astype(int) for name in CLASSES]
    assert min(np.abs(ours[a] - ours[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 20, "classes differ"

    def pictures_are_of(label: int, page: int) -> None:
        def of(*latents_1L: torch.Tensor) -> Any:
            z_NL = torch.cat(latents_1L)
            return generate_uint8(generator, z_NL, torch.full((len(z_NL),), label)).astype(int)

        for number in range(24):
            found_HWC = pixels(shown, f"#grid button:nth-child({number + 1}) canvas", 3)
            assert np.abs(found_HWC - ours[label][24 * page + number]).max() <= 1
        moved_HWC, other_HWC = of(moved_1L, other_1L)
        assert np.abs(pixels(shown, "#kept button:nth-child(1) canvas", 3) - moved_HWC).max() <= 1
        assert np.abs(pixels(shown, "#kept button:nth-child(2) canvas", 3) - other_HWC).max() <= 1
        assert np.abs(pixels(shown, "#between", 3) - of(slerp(moved_1L, other_1L, 0.25))[0]).max() <= 1
        changed_HWC = of(other_1L + 2 * principal_directions(generator, 8)[2:3])[0]
        assert np.abs(pixels(shown, "#picture", 3) - changed_HWC).max() <= 1
        assert np.abs(changed_HWC - other_HWC).max() > 5, "the slider did something"

    with opened(out, 1000, 900) as shown:
        chooser = shown.get_by_label("Class", exact=True)
        assert chooser.locator("option").all_text_contents() == list(map(printable, CLASSES))
        assert shown.title() == "run"
        assert shown.locator("main img").count() == 0 and shown.locator("script").count() == 1
        shown.click("#grid button:nth-child(6)")
        slide(shown, "#direction-0", -4)
        shown.click("#keep")
        shown.wait_for_selector("#kept button:nth-child(1)")
        shown.click("#grid button:nth-child(8)")
        shown.wait_for_timeout(500)
        shown.click("#keep")
        shown.wait_for_selector("#walk:not([hidden])")
        slide(shown, "#position", 0.25)
        slide(shown, "#direction-2", 2)
        pictures_are_of(0, page=0)
        chooser.focus()
        for label, key in ((1, "ArrowDown"), (2, "End"), (0, "Home"), (1, "ArrowDown")):
            shown.keyboard.press(key)
            shown.wait_for_timeout(1000)
            pictures_are_of(label, page=0)
        assert shown.eval_on_selector("#grid [aria-pressed=true]", "b => b.getAttribute('aria-label')") == "Picture 7"
        assert chooser.evaluate("select => select === document.activeElement")
        shown.screenshot(path=screenshots / "web-classes.png", full_page=True)
        shown.click("#more")
        shown.wait_for_selector("[aria-label='Picture 24']")
        pictures_are_of(1, page=1)
        shown.set_viewport_size({"width": 390, "height": 844})
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert shown.evaluate("document.querySelector('#class').offsetHeight") >= 44
        shown.screenshot(path=screenshots / "web-classes-phone.png", full_page=True)


@pytest.mark.slow
@needs_chromium
def test_under_a_strict_policy_and_a_hostile_name(run: Run, runtime: Path, tmp_path: Path) -> None:
    """The header that docs/export.md states; and a name that other programs would take for more than a name."""
    stated = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    policy = " ".join(re.search(r"Content-Security-Policy: (default-src 'self'[^`]*)```", stated)[1].split())  # type: ignore[index]
    named = tmp_path / HOSTILE_NAME
    shutil.copytree(run.path, named)
    export(Run(named), tmp_path / "web", "--runtime", runtime)
    with opened(tmp_path / "web", 600, 800, policy) as shown:
        assert shown.inner_text("#name") == shown.title() == printable(HOSTILE_NAME)
        assert shown.locator("script").count() == 1 and shown.locator("main img").count() == 0
        shown.click("#keep")
        with shown.expect_download() as downloaded:
            shown.click("#download")
        assert downloaded.value.suggested_filename.endswith(".png") and "/" not in downloaded.value.suggested_filename


@pytest.mark.slow
@needs_chromium
def test_by_keyboard_and_on_a_phone(run: Run, runtime: Path, tmp_path: Path, screenshots: Path) -> None:
    export(run, tmp_path / "web", "--runtime", runtime)
    with opened(tmp_path / "web", 390, 844) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert not shown.is_visible("#walk"), "nothing to walk between yet"
        heights = "[...document.querySelectorAll('button')].filter(b => b.offsetHeight).map(b => b.offsetHeight)"
        assert min(shown.evaluate(heights)) >= 44, "large enough for a finger"
        buttons = "[...document.querySelectorAll('#grid button')]"
        columns = shown.evaluate(f"{buttons}.filter((b, _, all) => b.offsetTop === all[0].offsetTop).length")
        shown.focus("#grid button:first-child")
        for key in ("ArrowRight", "ArrowDown", "Enter"):
            shown.keyboard.press(key)
        pressed = shown.eval_on_selector("#grid [aria-pressed=true]", "b => b.getAttribute('aria-label')")
        assert pressed == f"Picture {1 + columns}"
        shown.focus("#direction-0")
        shown.wait_for_timeout(500)
        before = pixels(shown, "#picture", 3)
        for _ in range(40):
            shown.keyboard.press("ArrowRight")
        shown.wait_for_timeout(1000)
        assert np.abs(pixels(shown, "#picture", 3) - before).max() > 5
        for number in (1, 2):
            shown.click(f"#grid button:nth-child({number})")
            shown.wait_for_timeout(300)
            shown.click("#keep")
            shown.wait_for_selector(f"#kept button:nth-child({number})")
        shown.focus("#play")
        shown.keyboard.press("Space")
        shown.wait_for_timeout(1500)
        assert shown.inner_text("#play") == "Pause" and float(shown.input_value("#position")) > 0.02
        shown.keyboard.press("Space")
        assert shown.inner_text("#play") == "Play"
        shown.screenshot(path=screenshots / "web-phone.png", full_page=True)


@pytest.mark.slow
@needs_chromium
def test_a_folder_that_is_not_whole_says_so(run: Run, runtime: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "web", "--runtime", runtime)
    (tmp_path / "web" / "generator.onnx").unlink()
    with served(tmp_path / "web") as address, page(600, 400) as shown:
        shown.goto(f"{address}/index.html")
        shown.wait_for_selector("#status.error", timeout=60_000)
        assert shown.inner_text("#status") == "The network can't be loaded: generator.onnx can't be loaded (404)"
