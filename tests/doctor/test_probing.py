"""The process that looks: what raises, hangs or dies in it is a finding, and the rest is looked at all the same."""

import os
import signal
import sys
import time

import pytest

from fastdcgan.doctor.finding import Finding
from fastdcgan.doctor.probing import Probe, ask, look_at

# Imports neither torch nor what imports it: each process that looks imports this file.


def well() -> Finding:
    print("what a library prints")
    return Finding(topic="well", found="there")


def raises() -> Finding:
    raise RuntimeError("operator torchvision::nms does not exist\nand more")


def leaves() -> Finding:
    sys.exit("a library that gives up")


def dies() -> Finding:
    os.kill(os.getpid(), signal.SIGSEGV)
    return well()


def hangs() -> Finding:
    time.sleep(600)
    return well()


def found(probe: Probe, words: str) -> Finding:
    return Finding(topic=probe.topic, found=words, broken=probe.needed)


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize(
    ("look", "words"),
    [
        (raises, "can't be used: RuntimeError: operator torchvision::nms does not exist"),
        (leaves, "can't be used: SystemExit: a library that gives up"),
    ],
)
def test_a_probe_that_raises(look: object, words: str, needed: bool) -> None:
    probe = Probe(topic="x", look=look, needed=needed)  # type: ignore[arg-type]
    assert ask(probe) == found(probe, words)


def test_whatever_happens_all_probes_answer_in_their_order(capfd: pytest.CaptureFixture[str]) -> None:
    probes = [
        Probe(topic="well", look=well),
        Probe(topic="dies", look=dies, needed=True),
        Probe(topic="raises", look=raises),
        Probe(topic="hangs", look=hangs),
        Probe(topic="well", look=well),
    ]
    assert list(look_at(probes, patience=5)) == [
        well(),
        found(probes[1], f"can't be used: it ended the process, by signal {signal.SIGSEGV.value}"),
        found(probes[2], "can't be used: RuntimeError: operator torchvision::nms does not exist"),
        found(probes[3], "can't be used: no answer within 5 s"),
        well(),
    ]
    assert capfd.readouterr().out == 2 * "what a library prints\n", "by the two calls here, and by no other process"
