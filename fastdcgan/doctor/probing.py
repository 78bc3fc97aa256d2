"""Looking at everything, in a process of its own: what is broken may raise, hang, or end the process it is in."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from fastdcgan.doctor import launching, machine, measuring, software
from fastdcgan.doctor.finding import Finding, first_line

PATIENCE = 180.0
"""Seconds in which a probe must answer. Kernels may have to be compiled."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Something to look at."""

    topic: str
    look: Callable[[], Finding]
    needed: bool = False
    """Whether training needs what is looked at to answer."""

    measures: bool = False
    """Whether it takes steps."""


PROBES = (
    Probe(topic="system", look=software.system),
    Probe(topic="torch", look=software.torch, needed=True),
    Probe(topic="cpu", look=machine.cpu),
    Probe(topic="memory", look=machine.memory),
    Probe(topic="devices", look=machine.devices),
    Probe(topic="torchvision", look=software.torchvision, needed=True),
    Probe(topic="accelerate", look=software.accelerate, needed=True),
    Probe(topic="numpy", look=software.numpy, needed=True),
    Probe(topic="pillow", look=software.pillow, needed=True),
    Probe(topic="libraries", look=software.libraries, needed=True),
    Probe(topic="dali", look=software.dali),
    Probe(topic="trackers", look=software.trackers),
    Probe(topic="compiler", look=software.compiler),
    Probe(topic="own kernels", look=software.kernels),
    Probe(topic="launcher", look=launching.launcher),
    Probe(topic="cache", look=machine.cache),
    Probe(topic="disk", look=machine.disk),
    Probe(topic="plan", look=measuring.plan, needed=True),
    Probe(topic="parity", look=measuring.parity, needed=True, measures=True),
    Probe(topic="speed", look=measuring.speed, measures=True),
)


def look_at(probes: Sequence[Probe], patience: float = PATIENCE) -> Generator[Finding]:
    """What each probe finds, in their order. Raises nothing for what is broken: that is a finding."""
    left = list(probes)
    while left:
        answered = 0
        for finding in _in_a_process(left, patience):
            yield finding
            answered += 1
        left = left[answered:]


def ask(probe: Probe) -> Finding:
    """What a probe finds, in this process; that it raises is a finding too."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return probe.look()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (what is broken may raise anything)
        return Finding(topic=probe.topic, found=f"can't be used: {first_line(error)}", broken=probe.needed)


def _in_a_process(probes: Sequence[Probe], patience: float) -> Generator[Finding]:
    """The findings of the first probes: up to and including the one that does not answer."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(tuple(probes), sender), daemon=True)
    process.start()
    sender.close()
    try:
        for probe in probes:
            try:
                if receiver.poll(patience):
                    yield receiver.recv()
                    continue
                why = f"no answer within {patience:.0f} s"
            except EOFError:
                process.join(patience)
                code = process.exitcode
                why = f"it ended the process, by signal {-code}" if code and code < 0 else "it ended the process"
            yield Finding(topic=probe.topic, found=f"can't be used: {why}", broken=probe.needed)
            return
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(probes: Sequence[Probe], sender: "Connection[Finding, None]") -> None:
    """In the process of its own. Libraries print there what they like, and nobody reads it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for probe in probes:
        sender.send(ask(probe))
