"""A run in a notebook's kernel: one output that is updated in place, and the kernel's stop."""

import asyncio
import re
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import needs_chromium, page
from conftest import ROOT

from fastdcgan.api import notebook
from fastdcgan.api.notebook import Html, NotebookView
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.terminal.display import Display


class Shown:
    """Stands in for IPython's `display`: keeps what an output showed, one after the other."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def __call__(self, page: Html, *, display_id: bool) -> "Shown":
        assert display_id and not self.pages, "one output, which is updated"
        self.pages.append(page._repr_html_())
        return self

    def update(self, page: object) -> None:
        assert isinstance(page, Html)
        self.pages.append(page._repr_html_())


def record(step: int) -> Record:
    figures = {"loss_d": 1 / step, "loss_g": 0.5, "d_real": 0.7, "d_fake": 0.3, "images_per_sec": 100.0 * step}
    return Record(step=step, images=8 * step, epoch=step / 4, seconds=step, data_wait_fraction=0.0, **figures)


def displayed() -> list[str]:
    shown = Shown()
    with Display(view=NotebookView(shown)) as display:
        display.advance("packing images", 24, 24)
        display.say("networks  <b>bold</b> & so on")
        for step in range(1, 9):
            display.train(record(step), step, 10)
        display.show_samples(torch.linspace(-1, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16), 8)
    return shown.pages


def test_it_shows_bars_figures_samples_and_messages(capsys: pytest.CaptureFixture[str]) -> None:
    last = displayed()[-1]
    assert capsys.readouterr().out == ""
    assert 'value="8" max="10"' in last and "8 of 10, 0:00 left" in last
    assert "packing" not in last, "what is done is not shown any more"
    assert "loss D <b>0.125</b>" in last and "img/s <b>800</b>" in last and last.count("<polyline") == 3
    assert "samples after step 8" in last and "data:image/webp;base64," in last
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; so on" in last


def test_its_html_is_well_formed() -> None:
    open_tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("img", "br"):
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            assert tag == "polyline"

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser().feed(displayed()[-1])
    assert open_tags == []


def test_it_is_updated_no_more_than_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(notebook.time, "monotonic", lambda: now[0])
    shown = Shown()
    view = NotebookView(shown)
    view.start()
    task = view.add_task("training", total=1000)
    for step in range(1, 1001):
        now[0] += 0.01
        view.update(task, completed=step)
        view.add(record(step))
    assert 9 <= len(shown.pages) <= 12
    assert len(view._page()._repr_html_()) < 20_000


@pytest.mark.slow
@needs_chromium
def test_it_can_be_looked_at(screenshots: Path) -> None:
    with page(800, 700) as browser:
        browser.set_content(displayed()[-1])
        browser.screenshot(path=screenshots / "notebook.png")
        width = browser.evaluate("document.documentElement.scrollWidth")
        assert width <= 800 and browser.locator("svg").first.bounding_box()["width"] > 50  # type: ignore[index]


SETUP = """
import signal, threading, numpy as np, torch, fastdcgan
torch.set_num_threads(2)
np.save("pictures.npy", np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8))
options = dict(data="pictures.npy", arch="dcgan16", width=4, batch_size=4, out="run", device="cpu", track="none")
state = lambda: (signal.getsignal(signal.SIGINT), torch.get_num_threads(), threading.active_count())
before = state()
"""


@pytest.mark.slow
def test_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real Jupyter: the run shows itself in one output, the stop button saves and interrupts, the kernel goes on."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [
        SETUP,
        "run = fastdcgan.train(**options, images=32)",
        "assert state() == before, (state(), before)",
        "open('begun', 'w').close(); fastdcgan.train(**options, images=10**7)",
        "assert state() == before; print(sorted(run.checkpoints)[-1] > 8)",
    ]
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    cells[3].metadata["tags"] = ["raises-exception"]
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=cells), timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )

    def stop() -> None:
        lines = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (tmp_path / "begun").exists() or len(lines.read_bytes().splitlines()) < 12:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        asyncio.run(client.km.interrupt_kernel())

    stopper = threading.Thread(target=stop)
    stopper.start()
    outputs: list[list[dict[str, Any]]] = [cell.get("outputs", []) for cell in client.execute().cells]
    stopper.join()
    assert len(outputs[1]) == 1, outputs[1]
    (trained,) = outputs[1]
    assert trained["output_type"] == "display_data" and len(trained["data"]["text/html"]) < 100_000
    assert "Done. " in trained["data"]["text/plain"] and re.search("8 of 8", trained["data"]["text/html"])
    assert [output.get("ename") for output in outputs[3]].count("KeyboardInterrupt") == 1
    assert outputs[4][0]["text"] == "True\n"
