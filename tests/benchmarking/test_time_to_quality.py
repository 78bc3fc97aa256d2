"""Trials: they measure what they say, are not repeated, and survive a kill; experiments show what they have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_extractor import ToyNetwork, noise_pictures, toy_extractor

from benchmarks.experiments import batch_size, conditional_norm, fast_recipe, same_quality, small_data, trials
from benchmarks.experiments.digits import digits
from benchmarks.experiments.trials import Trial, append_line, as_table, read_lines, read_trials, run_trials
from fastdcgan.config import RecipeConfig
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import Size

TINY = Trial(name="tiny", arch="dcgan16", width=4, batch_size=8, measured_at=(16, 40))


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "open_extractor", lambda *_: toy_extractor(ToyNetwork(48)))


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    return noise_pictures(tmp_path)


def test_trials_are_a_function_of_their_fields_and_not_repeated(pictures: str, tmp_path: Path) -> None:
    out, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    tiny = replace(TINY, data=pictures)
    few = replace(tiny, pictures=30, recipe=RecipeConfig(augment="colour"))
    run_trials([tiny, few], out, judged=60)
    before = out.read_bytes()
    run_trials([tiny, few], out, judged=60)
    assert out.read_bytes() == before
    run_trials([few, tiny], other, judged=60)
    ours, theirs = ({line["trial"]["pictures"]: line["points"] for line in read_lines(path)} for path in (out, other))
    figures = ("images", "kernel", "loss_d")
    for few in (None, 30):
        assert [[p[f] for f in figures] for p in ours[few]] == [[p[f] for f in figures] for p in theirs[few]]
    assert [point["images"] for point in ours[None]] == [16, 40]
    assert ours[None][1]["cpu_seconds"] >= ours[None][0]["cpu_seconds"]


def test_images_to_a_quality() -> None:
    assert batch_size.images_to({1000: 0.8, 4000: 0.2}, 0.4) == pytest.approx(2000), "half way by logarithms"
    assert batch_size.images_to({1000: 0.8, 4000: 0.2}, 0.1) is None
    assert batch_size.images_to({1000: 0.4, 4000: 0.2}, 0.4) == 1000
    assert batch_size.images_to({1000: 0.3, 2000: 0.8, 4000: 0.2}, 0.4) == pytest.approx(2000 * 2**0.5)


@pytest.mark.parametrize("experiment", [batch_size, fast_recipe, small_data])
def test_experiments_show_what_they_have(experiment: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "some.jsonl"
    for seed in (0, 1):
        trial = replace(experiment.trials()[0], seed=seed)
        of_trial = [{"images": images, "kernel": 0.5 + seed / 10} for images in trial.measured_at]
        with out.open("a") as file:
            file.write(json.dumps({"trial": trials.as_table(trial), "points": of_trial}) + "\n")
    experiment.show(out)
    assert "0.550 (0.500 to 0.600" in " ".join(capsys.readouterr().out.split())


def test_what_a_kill_left_half_written_is_done_again(pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "some.jsonl"
    both = [replace(TINY, data=pictures, seed=seed) for seed in (0, 1)]
    run_trials(both, out, judged=60)
    whole = out.read_text()
    first = whole.splitlines(keepends=True)[0]
    out.write_text(whole[: len(first) + 100])
    run_trials(both, out, judged=60)
    assert [trial.seed for trial, _ in read_trials(out)] == [0, 1]
    assert out.read_text().startswith(first), "what was whole is as it was"


def test_lines_from_before_a_trial_said_what_it_was_trained_on_are_of_faces(tmp_path: Path) -> None:
    table = as_table(TINY)
    newer = ("data", "half_life", "averaged", "reference")
    old = {name: value for name, value in table.items() if name not in newer}
    append_line(tmp_path / "old.jsonl", {"trial": old, "points": []})
    assert read_trials(tmp_path / "old.jsonl") == [(TINY, [])]


def test_the_committed_lines_are_trials_of_the_experiments() -> None:
    for experiment in (batch_size, fast_recipe, same_quality, small_data):
        results = Path(str(experiment.__file__)).parent / "results" / f"{Path(str(experiment.__file__)).stem}.jsonl"
        there = [trial for trial, _ in read_trials(results)]
        assert there and set(there) <= set(experiment.trials()), "what is there is not done again"
        assert len(set(there)) == len(there)


def test_the_critical_batch_is_what_explains_the_images() -> None:
    for critical in (20.0, 75.0, 300.0):
        share = (1 + 256 / critical) / (1 + 16 / critical)
        assert batch_size.critical_batch(256, share) == pytest.approx(critical)
    assert batch_size.critical_batch(256, 0.9) is None, "fewer images than the small batch: no C says so"


def test_ways_to_tell_the_class_are_tried_once_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional_norm, "MEASURED_AT", (16, 48))
    monkeypatch.setattr(conditional_norm, "JUDGED", 60)
    out = tmp_path / "some.jsonl"
    conditional_norm.run(out, 1)
    first = out.read_text()
    conditional_norm.run(out, 1)
    assert out.read_text() == first
    lines = read_lines(out)
    assert [line["way"] for line in lines] == list(conditional_norm.WAYS)
    assert [[point["images"] for point in line["points"]] for line in lines] == [[16, 48]] * 3
    conditional_norm.show(out)
    assert "one-hot" in capsys.readouterr().out


def test_a_generator_that_is_told_the_class_by_batch_norm() -> None:
    """Beside the noise alone it is the reference's; with one scale and shift for all classes BatchNorm is PyTorch's."""
    torch.manual_seed(0)
    layers, _ = reference.layers_of_size(32, 32, width=4, latent_dim=6)
    z_BL, labels_B = torch.randn(5, 6), torch.tensor([0, 3, 3, 9, 1])
    theirs, ours = reference.Generator(layers, 10), conditional_norm.ConditionalGenerator(layers, "one-hot")
    ours.plain.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(z_BL, labels_B), theirs(z_BL, labels_B))

    made = {}
    for way in ("BatchNorm", "both"):
        torch.manual_seed(0)
        network = conditional_norm.ConditionalGenerator(layers, way)
        network.initialise()
        assert not torch.equal(network(z_BL, labels_B), network(z_BL, labels_B.flip(0)))
        for norm in network.norms:
            nn.init.ones_(norm.scale.weight)
        made[way] = network(z_BL, labels_B), network(z_BL, labels_B.flip(0))
    assert len(network.norms) == 3
    assert torch.equal(*made["BatchNorm"]) and not torch.equal(*made["both"])


def test_digits_are_whole_and_white_on_black() -> None:
    source = digits(Size(32, 32))
    assert len(source) == 1797
    (few_BHWC,) = source.read(iter([[0, 1, 2]]))
    assert few_BHWC.shape == (3, 32, 32, 3) and few_BHWC.dtype == torch.uint8
    assert few_BHWC.min() == 0 and few_BHWC.max() == 255
    assert few_BHWC[:, 0].float().mean() < 64 < few_BHWC[:, 8:24, 8:24].float().mean()


def test_the_power_of_a_comparison_is_that_of_the_tables() -> None:
    """Cohen 1988, table 2.3: of two groups of 20, 0.8 standard deviations apart, 69 of 100 comparisons tell."""
    assert same_quality.power(20, 0.8) == pytest.approx(0.69, abs=0.005)
    assert same_quality.power(5, 1e-3) == pytest.approx(0.05, abs=1e-4), (
        "what is equal is found different by chance alone"
    )
    assert same_quality.power(5, same_quality.shown_effect(5)) == pytest.approx(0.8)
    assert same_quality.shown_effect(20) < same_quality.shown_effect(5)


def test_ours_and_the_reference_are_trained_in_turns_and_compared(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        replace(one, data=pictures, arch="dcgan16", width=4, batch_size=8, measured_at=(16,))
        for one in same_quality.trials(2)
    ]
    run_trials(asked, tmp_path / "some.jsonl", judged=60)
    found = read_trials(tmp_path / "some.jsonl")
    assert [(trial.reference, trial.seed) for trial, _ in found] == [(True, 0), (False, 0), (True, 1), (False, 1)]
    assert len({points[0]["kernel"] for _, points in found}) == 4
    same_quality.show(tmp_path / "some.jsonl")
    assert capsys.readouterr().out.count("n = 2") == 2


def test_the_average_is_measured_or_the_last_step(pictures: str, tmp_path: Path) -> None:
    both = [replace(TINY, data=pictures, averaged=averaged) for averaged in (True, False)]
    run_trials(both, tmp_path / "some.jsonl", judged=60)
    (averaged, last) = (points for _, points in read_trials(tmp_path / "some.jsonl"))
    assert averaged[-1]["kernel"] != last[-1]["kernel"] and averaged[-1]["loss_d"] == last[-1]["loss_d"]
