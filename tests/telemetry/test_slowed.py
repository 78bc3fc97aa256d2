"""What a profiler slows down stays out of the figures of speed."""

from fastdcgan.telemetry.profiler.slowed import Lap, Slowed


def test_without_a_profiler_a_lap_counts_whole() -> None:
    assert Slowed().rest(Lap(10, 2.0, 0.5)) == Lap(10, 2.0, 0.5)


def test_slow_steps_are_left_out_with_their_time_and_waiting() -> None:
    slowed = Slowed()
    slowed.turn(Lap(3, 3.0, 0.25))
    slowed.turn(Lap(5, 9.0, 1.25))
    assert slowed.rest(Lap(10, 14.0, 1.5)) == Lap(8, 8.0, 0.5)
    assert slowed.rest(Lap(10, 10.0, 0.5)) == Lap(10, 10.0, 0.5)  # the next lap is its own


def test_a_window_may_lie_across_a_tick() -> None:
    slowed = Slowed()
    slowed.turn(Lap(8, 8.0, 0.0))
    assert slowed.rest(Lap(10, 14.0, 0.0)) == Lap(8, 8.0, 0.0)
    slowed.turn(Lap(3, 9.0, 0.0))
    assert slowed.rest(Lap(10, 16.0, 0.0)) == Lap(7, 7.0, 0.0)


def test_where_every_step_was_slow_that_is_what_there_is_to_say() -> None:
    slowed = Slowed()
    slowed.turn(Lap())
    assert slowed.rest(Lap(2, 5.0, 1.0)) == Lap(2, 5.0, 1.0)
