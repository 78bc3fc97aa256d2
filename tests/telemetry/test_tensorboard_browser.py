"""TensorBoard as a person sees it, in a real browser: a run's scalars, its sample grids, its profile."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import numpy as np
import pytest
from browser import needs_chromium, page
from conftest import Command
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [needs_chromium, pytest.mark.slow]

STEPS, SAMPLE_EVERY = 20, 10

PATIENCE = 60.0
"""Seconds in which what is waited for must come."""

NO_CHARTS = """
const nothing = new Proxy(function () {}, {
  get: (_, name) => (name === "then" || typeof name === "symbol" ? undefined : nothing),
  apply: () => nothing,
  construct: () => nothing,
});
window.google = nothing;
"""
"""Instead of Google Charts, which the plugin fetches from the network before it shows anything: draws nothing."""


@pytest.fixture(scope="module")
def run(fastdcgan: Command, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run over photographs, profiled."""
    out = tmp_path_factory.mktemp("runs") / "photographs"
    result = fastdcgan(
        "train",
        *("--data", photographs, "--out", out, "--images", STEPS * 24, "--batch-size", 24, "--profile"),
        *("--arch", "dcgan32", "--width", 8, "--precision", "fp32", "--plan", "default", "--decoder", "pillow"),
        # fast, so that the grids differ
        *("--lr", 0.01),
        *("--sample-every", SAMPLE_EVERY, "--device", "cpu"),
    )
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def tensorboard(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard over the folder of runs, on this machine alone and on a port that was free."""
    scratch = tmp_path_factory.mktemp("tensorboard")
    log = scratch / "log.txt"
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", run.parent, "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            # the plugin leaves a temporary folder behind when it is killed
            env={**os.environ, "TMPDIR": str(scratch)},
            start_new_session=True,
        )
    try:
        yield _address(process, log)
    finally:
        # all of them: it starts a data server and, for the plugin, processes that read traces
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in _patiently():
        if found := re.search(r"TensorBoard \S+ at (http://127\.0\.0\.1:\d+/)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
    raise AssertionError(log.read_text())


def _patiently() -> Iterator[None]:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.1)


def _wait_for_the_plugin(tensorboard: str) -> None:
    """Until it has read the trace: a page that is drawn before has no tab for it."""
    runs = []
    for _ in _patiently():
        with urlopen(f"{tensorboard}data/plugin/pytorch_profiler/runs", timeout=PATIENCE) as answer:
            runs = json.load(answer)["runs"]
        if runs:
            break
    assert len(runs) == 1, runs


@contextmanager
def opened(tensorboard: str, tab: str) -> Iterator["Page"]:
    """A page with one of TensorBoard's tabs."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE * 1000)
    with page(1400, 1000) as shown:
        shown.set_default_timeout(PATIENCE * 1000)
        shown.route(
            "https://www.gstatic.com/charts/loader.js",
            lambda route: route.fulfill(content_type="text/javascript", body=NO_CHARTS),
        )
        shown.goto(f"{tensorboard}#{tab}")
        yield shown


def test_scalars_are_drawn(tensorboard: str, run: Path, screenshots: Path) -> None:
    from playwright.sync_api import expect

    ticks = len((run / "metrics.jsonl").read_text().splitlines())
    with opened(tensorboard, "scalars") as tab:
        # else it leaves out what is beyond its axis, such as the wait for the very first batch
        tab.get_by_text("Ignore outliers in chart scaling").click()
        # the first two groups are open from the start
        tab.locator("button.heading", has_text="speed").click()
        for name in (
            *("loss/D", "loss/G", "probability/D(x)", "probability/D(G(z))"),
            *("speed/images per second", "speed/data wait fraction"),
        ):
            card = tab.locator("tf-scalar-card").filter(has=tab.locator(".name").get_by_text(name, exact=True))
            a_line_to_each_tick = re.compile(rf"^M([^L]*L){{{ticks - 1}}}[^L]*$")
            expect(card.locator("path.line").first).to_have_attribute("d", a_line_to_each_tick)
        tab.screenshot(path=screenshots / "tensorboard-scalars.png")


def test_sample_grids_are_those_of_the_run(tensorboard: str, run: Path, screenshots: Path) -> None:
    from playwright.sync_api import expect

    with opened(tensorboard, "images") as tab:
        card = tab.locator("tf-image-loader")
        picture = card.locator("img")
        for step in range(STEPS, -1, -SAMPLE_EVERY):
            card.locator(".heading-label").get_by_text(f"step {step}", exact=True).wait_for()
            source = picture.get_attribute("src")
            seen = np.asarray(Image.open(io.BytesIO(tab.request.get(f"{tensorboard}{source}").body())), int)
            saved = np.asarray(Image.open(run / "samples" / f"step-{step:08d}.png"), int)
            # one rounds to eight bits, the other cuts off
            assert abs(seen - saved).max() <= 1, step
            if step == STEPS:
                tab.screenshot(path=screenshots / "tensorboard-samples.png")
            if step > 0:
                card.locator("paper-slider").press("ArrowLeft")
                expect(picture).not_to_have_attribute("src", f"{source}")


def test_the_operator_table_has_our_ranges(tensorboard: str, screenshots: Path) -> None:
    from playwright.sync_api import expect

    pytest.importorskip("torch_tb_profiler", reason="needs the extra `profile`")
    _wait_for_the_plugin(tensorboard)
    with opened(tensorboard, "pytorch_profiler") as tab:
        # as tall as the table
        tab.set_viewport_size({"width": 1400, "height": 2200})
        plugin = tab.frame_locator("iframe")
        plugin.get_by_role("button", name="Overview").click()
        plugin.get_by_role("option", name="Operator", exact=True).click()
        table = plugin.locator("table").filter(has_text="Host Self Duration")
        operator = table.get_by_text("aten::convolution_backward", exact=True)
        operator.wait_for()
        tab.screenshot(path=screenshots / "tensorboard-operators.png")
        search = plugin.get_by_text("Search by Name").locator("..").locator("input")
        for name in (
            *("data wait", "discriminator real + discriminator fake", "backward D", "optimizer D"),
            *("generator", "backward G", "optimizer G"),
        ):
            search.fill(name)
            expect(operator).to_have_count(0)
            row = table.locator("tbody tr").filter(has=tab.get_by_role("cell", name=name, exact=True))
            assert int(row.locator("td").nth(3).inner_text()) > 0
