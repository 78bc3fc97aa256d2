"""`--evaluate-every` on two processes: the first one measures, the other waits, and nothing learned depends on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from launched import QUICK, assert_same_weights, launch, learned

pytestmark = pytest.mark.slow


def test_two_processes_measure_once_and_learn_the_same(tmp_path: Path) -> None:
    data = tmp_path / "pictures.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8))
    common = ("--data", data, *QUICK, "--images", 32, "--checkpoint-every", 2)
    for name, asked in (("measured", ("--evaluate-every", 2, "--evaluate-images", 50)), ("plain", ())):
        code, said = launch(*common, "--out", tmp_path / name, *asked).ended(within=300)
        assert code == 0, said
    lines = [json.loads(line) for line in (tmp_path / "measured" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert json.loads((tmp_path / "measured" / "best.json").read_text())["step"] in (2, 4)
    assert_same_weights(learned(tmp_path / "measured", 4), learned(tmp_path / "plain", 4))
