from pathlib import Path
from typing import Any

import pytest
import torch
from runs import record
from torch import Tensor

import fastdcgan
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.run_warnings import min_loss_d
from fastdcgan.telemetry.watch import Watch, spread


def told(losses: list[float], every: int = 20, objective: str = "bce") -> list[int]:
    """The steps at which D is said to win."""
    watch = Watch(min_loss_d(objective))
    lines = {
        (number + 1) * every: watch.record(Record(**record((number + 1) * every, loss_d=loss)))  # type: ignore[arg-type]
        for number, loss in enumerate(losses)
    }
    return [step for step, line in lines.items() if line]


def pictures(differ: float) -> Tensor:
    noise_BCHW = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return noise_BCHW * differ


def test_a_healthy_run_is_left_in_peace() -> None:
    assert told([1.0] * 100) == []
    assert told([0.06] * 100) == [], "small, but not won"


def test_d_wins_once_its_loss_was_small_for_long() -> None:
    assert told([0.01] * 100) == [220], "not in the first 200 steps, and once"
    assert told([1.0] * 20 + [0.01] * 80) == [600], "when none of the last 200 steps was otherwise"


def test_a_loss_of_pairs_may_be_smaller() -> None:
    assert told([0.01] * 100, objective="bce") == [220]
    assert told([0.01] * 100, objective="rpgan") == []
    assert told([0.004] * 100, objective="rpgan") == [220]


def test_a_few_small_losses_are_none_of_its_business() -> None:
    assert told(([1.0] * 5 + [0.001] * 5) * 10) == []


def test_it_is_told_again_where_it_begins_again() -> None:
    assert told([0.01] * 20 + [1.0] * 20 + [0.01] * 20) == [220, 1000]
    assert told([0.01] * 20 + [0.06] * 20 + [0.01] * 20) == [220], "it never went away"


def test_d_wins_is_told_of_figures_of_every_step() -> None:
    assert told([0.01] * 500, every=1) == [201]


def test_samples_that_become_alike_are_told_of_once() -> None:
    watch = Watch()
    assert watch.samples(pictures(1.0), 0) is None
    assert watch.samples(pictures(0.5), 100) is None
    assert watch.samples(pictures(0.3), 200) is None, "they differ less, but by far not alike"
    line = watch.samples(pictures(0.2), 300)
    wanted = "the samples became alike: at step 300 they differ 60% less than at step 100; a lower --lr helped"
    assert line is not None and line.startswith(wanted)
    assert watch.samples(pictures(0.1), 400) is None
    assert watch.samples(pictures(0.5), 500) is None
    assert watch.samples(pictures(0.1), 600) is not None


def test_what_untrained_samples_look_like_says_nothing() -> None:
    watch = Watch()
    watch.samples(pictures(1.0), 0)
    assert watch.samples(pictures(0.1), 100) is None


def test_spread_is_that_of_the_report() -> None:
    assert abs(spread(pictures(0.5)) - float(pictures(0.5).numpy().std(0).mean() / 2)) < 1e-6
    assert spread(torch.cat((torch.ones(4, 3, 2, 2), -torch.ones(4, 3, 2, 2)))) == 0.5


OPTIONS: dict[str, Any] = {
    **{"arch": "dcgan16", "width": 8, "batch_size": 16, "images": 6400, "sample_every": 50},
    **{"precision": "fp32", "plan": "default", "track": "none", "quiet": True},
}


def log_until_done(run: fastdcgan.Run) -> list[str]:
    lines = (run.path / "run.log").read_text().splitlines()
    (end,) = [number for number, line in enumerate(lines) if "Done." in line]
    return lines[:end]


@pytest.mark.slow
def test_a_run_that_collapses_says_so_while_it_runs(tmp_path: Path) -> None:
    """Really collapses: docs/quality.md has the run."""
    run = fastdcgan.train(**OPTIONS, lr=2e-2, beta1=0.9, out=tmp_path / "run")
    assert any(
        "warning   the samples became alike" in line and "lower --lr helped" in line for line in log_until_done(run)
    )


@pytest.mark.slow
def test_a_run_in_which_d_wins_says_so_while_it_runs(tmp_path: Path) -> None:
    """Against a G that does not learn D wins on every processor, whatever its rounding."""
    run = fastdcgan.train(**OPTIONS, lr=2e-3, lr_g=1e-6, out=tmp_path / "run")
    assert any("warning   D wins" in line for line in log_until_done(run))
