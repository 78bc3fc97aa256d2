"""Which process was lost: whoever notices says so where all can read it, and who says nothing for seconds is lost.

The place is the store by which a launcher's processes find each other. One that ends by an error of its own leaves it
there, so that the others can say it.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Thread
from typing import Any, NamedTuple

from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in the stubs

from fastdcgan.distributed.accelerator import Accelerator, first_line
from fastdcgan.distributed.collectives import gather_objects
from fastdcgan.storage.processes import has_ended
from fastdcgan.storage.signals import EndedTogetherError, Stopped

ROLL_CALL_SECONDS = 3.0
"""In which all that are left notice a loss: the same message has failed for all of them."""

GOES_ON = "the same command goes on from the last checkpoint"

LINGER_SECONDS = 1.0
"""After which a process leaves: its end would be taken for a loss, or the store end with it, by one that is later."""

STORE_SECONDS = 1.0
"""For a word in the store, which may be out of reach."""


class Place(NamedTuple):
    """Where a process runs."""

    host: str
    first: int
    """The first rank of the machine: machines may have one name."""

    pid: int


class LastWords(NamedTuple):
    """Of a process that has ended by an error of its own."""

    message: str
    said: bool
    """Whether it has told its user."""

    signal: int = 0
    """By which it was asked to end."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a roll call has found."""

    message: str
    speaks: bool
    """Whether this process is the one on its machine that is to say it."""

    signal: int = 0
    """By which the other one was asked to end."""


@dataclass
class _Answers:
    """To a roll call, as they come."""

    is_first: bool
    """Whether this process has come first on its machine, or is its first one as far as it knows."""

    here: set[int] = field(default_factory=set)
    """Who has noticed a loss as well."""

    gone: set[int] = field(default_factory=set)
    """Whose processes have ended without a word."""

    words: dict[int, LastWords] = field(default_factory=dict)


class RollCall:
    """Of all processes of a run, or of the only one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._rank, self._ranks = accelerator.process_index, accelerator.num_processes
        self._store: Any = None
        """A torch.distributed.Store. None: a single process, or it can't be reached."""
        if self._ranks > 1:
            self._store = _connect()
        first = self._rank - int(os.environ.get("LOCAL_RANK", 0))
        self._places: list[Place] = gather_objects(accelerator, Place(socket.gethostname(), first, os.getpid()))

    def leave(self, message: str, *, said: bool, signal: int = 0) -> None:
        """Tell the others why this process ends, as far as they can be reached."""
        if self._store is not None:
            words = json.dumps(LastWords(message, said, signal))
            _within(STORE_SECONDS, lambda: self._store.set(self._key("left", self._rank), words))

    def call(self, timeout: float, symptom: str) -> Loss:
        """Find out who is lost. Takes `ROLL_CALL_SECONDS` if somebody hangs, or is on another machine.

        Args:
            timeout: seconds for which one that hangs was waited for.
            symptom: how the loss has shown, which is told where no more is known.
        """
        others = set(range(self._ranks)) - {self._rank}
        gone = {rank for rank in others if self._is_gone(rank)}
        answers = _Answers(is_first=not any(self._is_near(rank) for rank in others - gone if rank < self._rank))
        is_complete = self._store is not None and _within(
            ROLL_CALL_SECONDS + STORE_SECONDS, lambda: self._listen(answers)
        )
        time.sleep(LINGER_SECONDS)
        if answers.words:
            rank, (message, said, signal) = min(answers.words.items())
            speaks = answers.is_first and not (said and self._is_near(rank))
            return Loss(message=f"rank {rank}: {message}", speaks=speaks, signal=signal)
        if is_complete:
            lost = answers.gone or others - answers.here
        else:  # without the store, only what this machine knows
            lost = gone or (others if self._ranks == 2 else set())
            if not lost or (lost == others and self._ranks > 2):
                return any_loss(timeout, symptom)
        named = " and ".join(self._describe(rank, timeout, symptom) for rank in sorted(lost))
        why = named or f"the other processes gave up rank {self._rank}, which did not answer for {timeout:g} s"
        return Loss(message=f"{why}; {GOES_ON}", speaks=answers.is_first)

    def _listen(self, answers: "_Answers") -> None:
        """Until it is known who has gone, or has noticed as well."""
        self._store.set(self._key("lost", self._rank), "")
        answers.is_first = self._store.add(self._key("speaks", self._places[self._rank].first), 1) == 1
        end = time.monotonic() + ROLL_CALL_SECONDS
        while time.monotonic() < end:
            missing = set(range(self._ranks)) - {self._rank} - answers.here
            gone = {rank for rank in missing if self._is_gone(rank)}  # before it is asked what it said
            for rank in missing:
                if self._has("left", rank):
                    answers.words[rank] = LastWords(*json.loads(self._store.get(self._key("left", rank))))
                elif self._has("lost", rank):
                    answers.here.add(rank)
            answers.gone = gone - answers.here
            # Whoever waits for one that is neither gone nor lost notices when this process leaves.
            if answers.gone or answers.words or missing <= answers.here:
                return
            time.sleep(0.05)

    def _has(self, what: str, rank: int) -> bool:
        return bool(self._store.check([self._key(what, rank)]))

    def _key(self, what: str, who: int) -> str:
        """Of this start: the store of a launcher outlives its processes."""
        return f"fastdcgan/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{what}/{who}"

    def _is_near(self, rank: int) -> bool:
        return bool(self._places[rank][:2] == self._places[self._rank][:2])

    def _is_gone(self, rank: int) -> bool:
        """Whether its process is known to have ended: that of another machine isn't."""
        return self._is_near(rank) and has_ended(self._places[rank].pid)

    def _describe(self, rank: int, timeout: float, symptom: str) -> str:
        host, _, pid = self._places[rank]
        fate = f"did not answer for {timeout:g} s"
        if self._is_gone(rank):
            fate = "was killed, by a signal or for want of memory"
        elif not self._is_near(rank):
            fate = f"ended or {fate} ({symptom})"
        return f"rank {rank} (process {pid} on {host}) {fate}"


@contextmanager
def lost_ranks_as_one_line(accelerator: Accelerator, timeout: float) -> Iterator[None]:
    """Turn what a lost process, or a lost link to it, raises into one line; and tell the others why this one ends.

    Raises:
        EndedTogetherError: which ended, or did not answer for `timeout` seconds.
        Stopped: another one was asked to stop before the first step was done.
    """
    roll_call = None
    try:
        roll_call = RollCall(accelerator)
        yield
    except EndedTogetherError:
        raise
    except Stopped as stop:
        if roll_call is not None:
            roll_call.leave(stop.args[0], said=accelerator.is_main_process, signal=stop.args[1])
        raise
    except Exception as error:
        if accelerator.num_processes > 1 and _is_lost(error):
            symptom = first_line(error)
            loss = roll_call.call(timeout, symptom) if roll_call is not None else any_loss(timeout, symptom)
            if loss.signal:
                raise Stopped(loss.message, loss.signal) from error
            raise EndedTogetherError(loss.message, speaks=loss.speaks) from error
        if roll_call is not None:
            named = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            roll_call.leave(f"{named}{first_line(error)}", said=True)
        raise


def any_loss(timeout: float, symptom: str) -> Loss:
    """Before it is known who is where."""
    why = f"the other processes ended or did not answer for {timeout:g} s ({symptom})"
    return Loss(message=f"{why}; {GOES_ON}", speaks=True)


def _is_lost(error: Exception) -> bool:
    """Gloo raises plain RuntimeErrors."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Gloo", "Connection"))
    )


def _connect() -> Any:
    """A connection of our own to the store, so that nobody waits for it but who asks. None if there can be none."""
    with suppress(KeyError, ValueError, RuntimeError):
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )
    return None


def _within(seconds: float, ask: Callable[[], None]) -> bool:
    """Ask in a thread, as a store behind a cut link doesn't answer. Returns whether it has."""
    ended, answered = Event(), list[bool]()

    def quietly() -> None:
        with suppress(RuntimeError, ValueError, TypeError):  # it is gone, or another program has written there
            ask()
            answered.append(True)
        ended.set()

    Thread(target=quietly, name="fastdcgan-store", daemon=True).start()
    return ended.wait(seconds) and bool(answered)
