"""What a profiler slows down stays out of the figures of speed."""

from fastdcgan.telemetry.profiler.profiled_intervals import Interval, ProfiledIntervals


def test_without_a_profiler_an_interval_counts_whole() -> None:
    assert ProfiledIntervals().unprofiled(Interval(10, 2.0, 0.5)) == Interval(10, 2.0, 0.5)


def test_profiled_steps_are_left_out_with_their_time_and_waiting() -> None:
    profiled = ProfiledIntervals()
    profiled.toggle(Interval(3, 3.0, 0.25))
    profiled.toggle(Interval(5, 9.0, 1.25))
    assert profiled.unprofiled(Interval(10, 14.0, 1.5)) == Interval(8, 8.0, 0.5)
    assert profiled.unprofiled(Interval(10, 10.0, 0.5)) == Interval(10, 10.0, 0.5)  # the next interval is its own


def test_a_window_may_lie_across_a_tick() -> None:
    profiled = ProfiledIntervals()
    profiled.toggle(Interval(8, 8.0, 0.0))
    assert profiled.unprofiled(Interval(10, 14.0, 0.0)) == Interval(8, 8.0, 0.0)
    profiled.toggle(Interval(3, 9.0, 0.0))
    assert profiled.unprofiled(Interval(10, 16.0, 0.0)) == Interval(7, 7.0, 0.0)


def test_where_every_step_was_profiled_all_of_them_count() -> None:
    profiled = ProfiledIntervals()
    profiled.toggle(Interval())
    assert profiled.unprofiled(Interval(2, 5.0, 1.0)) == Interval(2, 5.0, 1.0)
