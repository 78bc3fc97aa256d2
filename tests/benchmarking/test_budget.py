"""The time of a run of the benchmarks: shared out among the cases, and kept to."""

from typing import Any

import pytest
from test_benchmarks import Benchmark, Machine, within_2_percent

from benchmarks.budget import Budget, Case, OutOfTimeError
from benchmarks.measure import take_turns


def begin(budget: Budget, weight: float, to_come: float) -> Case:
    return budget.next_case(weight, to_come, say=lambda what: None)


def test_a_share_is_as_large_as_its_weight_and_what_is_left_over_is_carried_forward() -> None:
    machine = Machine()
    budget = Budget(100.0, weights=5, clock=machine.clock)
    assert begin(budget, 3, to_come=2).end - machine.now == within_2_percent(60)
    machine.now += 20
    assert begin(budget, 1, to_come=1).end - machine.now == within_2_percent(40)
    assert begin(budget, 1, to_come=0).end - machine.now == within_2_percent(80)


def test_when_time_runs_short_the_next_has_its_share_and_the_last_go_without() -> None:
    machine = Machine()
    budget = Budget(100.0, weights=5, clock=machine.clock)
    begin(budget, 1, to_come=4)
    machine.now += 70
    assert begin(budget, 1, to_come=3).end - machine.now == within_2_percent(20)
    machine.now += 18
    assert not budget.is_short(1)
    assert begin(budget, 1, to_come=2).end - machine.now == within_2_percent(12)
    machine.now += 3
    assert budget.is_short(1)
    machine.now += 10
    assert budget.left == 0.0
    with pytest.raises(OutOfTimeError):
        begin(budget, 1, to_come=0).doing("anything")


def test_the_weight_says_how_long_turns_may_take_where_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_BENCH_SECONDS", "10")
    assert begin(Budget(), 3, to_come=1).seconds_of_turns(least=1000) == 30
    machine = Machine()
    assert begin(Budget(7.0, 3, machine.clock), 3, to_come=0).seconds_of_turns(least=1) == within_2_percent(7)


def turns(machine: Machine, case: Case, benchmark: Any = None, **more: Any) -> Any:
    contenders = {"reference": machine.contender("reference", 3.0), "ours": machine.contender("ours", 1.0)}
    return take_turns(benchmark or Benchmark(), contenders, case=case, **more)


def test_a_case_takes_as_many_pairs_as_its_share_has_room_for() -> None:
    machine = Machine()
    case = begin(Budget(30.0, 10, machine.clock), 10, to_come=0)
    measured = turns(machine, case)
    assert len(measured.seconds["ours"]) == (30 - 2 * 4) // 4
    assert machine.now <= case.end


def test_a_case_whose_fewest_pairs_do_not_fit_is_not_timed() -> None:
    machine = Machine()
    benchmark = Benchmark()
    with pytest.raises(OutOfTimeError, match="fewest pairs take 12 s, and 11 s are left"):
        turns(machine, begin(Budget(19.0, 1, machine.clock), 1, to_come=0), benchmark)
    assert benchmark.rounds == 0


def test_the_fewest_pairs_may_exceed_the_share_by_half() -> None:
    machine = Machine()
    assert len(turns(machine, begin(Budget(28.0, 2, machine.clock), 1, to_come=1)).seconds["ours"]) == 3
    with pytest.raises(OutOfTimeError):
        turns(machine, begin(Budget(26.0, 2, machine.clock), 1, to_come=1))


def test_the_fewest_pairs_of_what_is_vital_may_exceed_its_share_but_not_the_whole() -> None:
    machine = Machine()
    case = Budget(40.0, 10, machine.clock).next_case(1, 9, say=lambda what: None, vital=True)
    assert len(turns(machine, case).seconds["ours"]) == 3
    with pytest.raises(OutOfTimeError):
        turns(machine, Budget(19.0, 10, machine.clock).next_case(1, 9, say=lambda what: None, vital=True))


def test_a_case_that_cannot_even_warm_up_ends_at_the_next_contender() -> None:
    machine = Machine()
    with pytest.raises(OutOfTimeError):
        turns(machine, begin(Budget(2.0, 1, machine.clock), 1, to_come=0))
    assert machine.log == ["reference"]


def test_a_machine_that_slows_down_ends_a_case_early_but_not_before_its_fewest_pairs() -> None:
    machine = Machine()
    case = begin(Budget(40.0, 10, machine.clock), 10, to_come=0)
    case.say = lambda what: setattr(machine, "speed", 0.25 if what.startswith("pair 2") else machine.speed)
    measured = turns(machine, case)
    assert len(measured.seconds["ours"]) == len(measured.seconds["reference"]) == 3


def test_a_case_that_is_asked_to_ends_after_its_turn_with_what_it_has() -> None:
    machine = Machine()
    case = begin(Budget(1000.0, 100, machine.clock), 100, to_come=0)

    def ask(what: str) -> None:
        case.stop = case.enough and what.startswith("pair 5")

    case.say = ask
    measured = turns(machine, case)
    assert len(measured.seconds["ours"]) == len(measured.seconds["reference"]) == 5


def test_steps_that_are_known_need_no_estimate() -> None:
    machine = Machine()
    measured = turns(machine, begin(Budget(20.1, 1, machine.clock), 1, to_come=0), steps=1)
    assert len(measured.seconds["ours"]) == (20 - 4) // 4
    assert measured.steps_per_turn == 1


def test_what_a_turn_takes_besides_its_steps_counts() -> None:
    machine = Machine()

    class Settles:
        def time(self, steps: int) -> float:
            machine.now += steps + 9.0
            return float(steps)

    case = begin(Budget(121.0, 100, machine.clock), 100, to_come=0)
    measured = take_turns(Benchmark(), {"reference": Settles(), "ours": Settles()}, case=case)
    assert len(measured.seconds["ours"]) == 4
    assert machine.now <= case.end
