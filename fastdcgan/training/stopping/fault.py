"""What keeps one of several processes from going on, such as lost pictures or a full disk; and what is known by all.

A process that leaves takes the others with it: they wait in the middle of a step for what it would have sent. So it
keeps its fault to itself until the next vote, in which all learn of it, and takes part in the steps until then. One
without pictures takes blank ones, after a copy of what was learned before: that copy is what is saved, and what was
learned of blanks goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Of one process."""

    message: str
    whole_step: int | None = None
    """The last step for which it had pictures; None: it has them still."""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What the faults of all processes come to."""

    message: str
    """Which process, and what it met."""

    whole_step: int | None
    """The last step for which all had pictures; None: all have them still."""

    keeper: int
    """The first process that has a copy of what was learned until then."""


def agree(faults: Sequence[Fault | None]) -> Agreed:
    """The earliest fault counts. `faults`: by rank; one at least."""
    met = [(rank, fault) for rank, fault in enumerate(faults) if fault is not None]
    without = [(fault.whole_step, rank) for rank, fault in met if fault.whole_step is not None]
    step, keeper = min(without) if without else (None, 0)
    rank, first = next((r, f) for r, f in met if f.whole_step == step)
    others = len(met) - 1
    more = f" (and {others} other rank{'s' * (others > 1)} likewise)" if others else ""
    return Agreed(message=f"rank {rank}: {first.message}{more}", whole_step=step, keeper=keeper)
