"""The stopwatch, against a clock of our own."""

import random
import statistics
from collections.abc import Callable

import pytest

from fastdcgan.tuning import paired


class Machine:
    """A clock that only steps move on, and a log of what was done."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.queued = 0.0

    def step(self, name: str, *seconds: float) -> Callable[[], None]:
        """A step that takes each of these durations in turn."""
        durations = iter(seconds)

        def take() -> None:
            self.log.append(name)
            self.now += next(durations)

        return take

    def clock(self) -> float:
        return self.now


def test_durations_and_their_ratio() -> None:
    times = paired.PairedTimes((3.0, 4.0, 6.0), (1.0, 2.0, 2.0))
    assert (times.reference_seconds, times.our_seconds) == (4.0, 2.0)
    assert times.speedup == 3.0  # of 3, 2, 3
    assert times.speedup_quartiles == (2.5, 3.0)


def test_drift_does_not_change_the_ratio() -> None:
    drift = [1.0, 2.0, 4.0, 8.0]
    times = paired.PairedTimes(tuple(3.0 * factor for factor in drift), tuple(2.0 * factor for factor in drift))
    assert times.speedup == 1.5
    assert times.speedup_quartiles == (1.5, 1.5)


def test_the_quartiles_of_one_pair_are_its_ratio() -> None:
    assert paired.PairedTimes((3.0,), (1.0,)).speedup_quartiles == (3.0, 3.0)


@pytest.mark.parametrize(("reference_turns", "our_turns"), [(0, 0), (2, 1), (1, 2)])
def test_turns_that_are_no_pairs_are_refused(reference_turns: int, our_turns: int) -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        paired.PairedTimes((1.0,) * reference_turns, (1.0,) * our_turns)


def test_queued_work_counts_for_the_turn_that_queued_it() -> None:
    """As on a GPU: a step returns at once, and the time passes while one waits."""
    machine = Machine()

    def queue(seconds: float) -> Callable[[], None]:
        def take() -> None:
            machine.queued += seconds

        return take

    def synchronize() -> None:
        machine.now += machine.queued
        machine.queued = 0.0

    rounds = paired.RoundTimer(queue(4.0), {"ours": queue(2.0)}, clock=machine.clock, synchronize=synchronize)
    machine.queued = 8.0  # by what came before
    rounds.time_round()

    assert rounds.result("ours") == paired.PairedTimes((4.0,), (2.0,))


def test_each_candidates_turn_is_paired_with_the_reference_of_its_round() -> None:
    machine = Machine()
    drift = [1.0, 2.0, 4.0]
    rounds = paired.RoundTimer(
        machine.step("reference", *(6.0 * factor for factor in drift)),
        {"a": machine.step("a", *(2.0 * factor for factor in drift)), "b": machine.step("b", 3.0, 6.0)},
        clock=machine.clock,
    )
    rounds.time_round()
    rounds.time_round()
    rounds.drop("b")
    rounds.time_round()

    assert machine.log == ["reference", "a", "b"] * 2 + ["reference", "a"]
    assert rounds.active == ["a"]
    assert rounds.reference_seconds == [6.0, 12.0, 24.0]
    assert rounds.result("a") == paired.PairedTimes((6.0, 12.0, 24.0), (2.0, 4.0, 8.0))
    assert rounds.result("b") == paired.PairedTimes((6.0, 12.0), (3.0, 6.0))
    assert rounds.result("b").speedup == 2.0


def test_a_turn_is_as_many_calls_as_fit_into_it() -> None:
    """Seconds are those of a call; the first turn shows how many fit, and a call that is longer than a turn is one."""
    machine = Machine()
    rounds = paired.RoundTimer(
        machine.step("reference", *[6.0] * 3),
        {"ours": machine.step("ours", 2.0, 1.0, 1.0, 0.5, 1.0, 0.5, 0.5, 0.5)},
        clock=machine.clock,
        turn_seconds=5.0,
    )
    for _ in range(3):
        rounds.time_round()
    assert machine.log == ["reference", "ours", "reference", "ours", "ours", "reference", *["ours"] * 5]
    assert rounds.result("ours") == paired.PairedTimes((6.0,) * 3, (2.0, 1.0, 0.6))


def test_known_durations_are_measured_on_a_noisy_machine() -> None:
    """Drift, jitter of a tenth, and every seventh turn disturbed: rates and ratios stay within 2 %."""
    rng = random.Random(0)
    machine = Machine()

    def disturbed(seconds: float) -> Callable[[], None]:
        def take() -> None:
            slow = 3.0 if rng.random() < 1 / 7 else 1.0
            machine.now += seconds * slow * rng.uniform(0.95, 1.05) * (1 + 0.0002 * machine.now)

        return take

    true = {"a": 0.120, "b": 0.300}
    rounds = paired.RoundTimer(
        disturbed(0.360), {name: disturbed(seconds) for name, seconds in true.items()}, clock=machine.clock
    )
    for _ in range(101):
        rounds.time_round()

    for name, seconds in true.items():
        assert rounds.result(name).speedup == pytest.approx(0.360 / seconds, rel=0.02)
    drift = 1 + 0.0002 * (100 + (machine.now - 100) / 2)
    assert rounds.result("a").our_seconds == pytest.approx(0.120 * drift, rel=0.02)
    assert statistics.median(rounds.reference_seconds) == pytest.approx(0.360 * drift, rel=0.02)
