"""What docstrings and docs/api.md show is what happens."""

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

MODULES = ["training", "run", "data", "generator"]
"""Later ones use the run that the first one's example makes."""


@pytest.mark.slow
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = np.random.default_rng(0).integers(0, 256, (24, 40, 32, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for number, photograph_HWC in enumerate(photographs):
        Image.fromarray(photograph_HWC).save(tmp_path / "photos" / f"{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastdcgan.telemetry.report.end_of_run.device_ceilings", lambda *_: None)
    for name in MODULES:
        found = doctest.testmod(import_module(f"fastdcgan.api.{name}"), optionflags=doctest.ELLIPSIS)
        assert found.attempted > 0 and found.failed == 0, name
    page = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert page.attempted > 10 and page.failed == 0
