"""The measuring code is tested too: readings made up by the model's own rules must be found to obey it."""

import json

import pytest

from benchmarks.scaling import Readings, findings, hold, report
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.models import build, parameter_count
from fastdcgan.limits.allreduce import Fabric, Link, ring

ARCH = architecture("dcgan28")
GRADIENTS = [4 * parameter_count(network) for network in build(ARCH, 0)]
LINK = Link(latency=1e-3, bytes_per_sec=1e9)
CROWD = 1.1
"""How much slower a rank is beside another."""


def made_up(drift: float = 1.0) -> Readings:
    """Two cores; a step of one rank takes 10 ms, and 1 ms a picture. `drift` slows down all that train together."""

    def alone(batch: int) -> float:
        return 10e-3 + 1e-3 * batch

    def together(ranks: int) -> float:
        gloo = Fabric(intra_node=LINK, inter_node=LINK, ranks_per_node=ranks)
        # All of dcgan28's gradients fit into DDP's first bucket, D's and G's.
        return drift * (CROWD * max(1, ranks / 2) * alone(64 // ranks) + sum(ring(g, ranks, gloo) for g in GRADIENTS))

    return Readings(
        64,
        solo={batch: [alone(batch)] * 3 for batch in (64, 32, 16)},
        beside=[CROWD * alone(32)] * 3,
        together={1: [drift * alone(64)] * 3, 2: [together(2)] * 3, 4: [together(4)] * 3},
        two_threads=[0.9 * together(2)] * 3,
        all_reduce={
            ranks: {
                size: [ring(size, ranks, Fabric(intra_node=LINK, inter_node=LINK, ranks_per_node=ranks))] * 3
                for size in (256, 10**6, 10**7)
            }
            for ranks in (2, 4)
        },
    )


def test_what_obeys_the_model_is_predicted() -> None:
    held = hold(made_up(), ARCH, filling=2)
    assert [each.ranks for each in held] == [1, 2, 4]
    assert [each.ratio for each in held] == pytest.approx([1, 1, 1])
    assert [each.predicted_seconds for each in held] == pytest.approx([each.measured_seconds for each in held])
    assert held[0].communication == 0 < held[1].communication < held[2].communication
    assert all(each.ratio_by_cores_alone < 0.97 for each in held[1:])


def test_what_does_not_is_found_out() -> None:
    assert [each.ratio for each in hold(made_up(drift=1.5), ARCH, filling=2)] == pytest.approx([1 / 1.5] * 3)


def test_the_report_says_so() -> None:
    conditions = {
        "load_average": None,
        "versions": {},
        "allocator": {},
        "thread_settings": {},
        "gpu": None,
        "cpu": "paper",
        "cores": 2,
        "threads": 2,
        "commit": "abc",
        "date": "today",
        "huge_pages": "never",
    }
    runs = [
        {"arch": "dcgan28", "batch": 64, "plan": "fp32", "conditions": conditions}
        | findings(made_up(drift), ARCH, filling=2)
        for drift in (1.0, 1.5)
    ]
    text = report(json.loads(json.dumps(runs)))
    lines = [line for line in text.splitlines() if line.startswith(("| 1 | dcgan28", "| 2 | dcgan28"))]
    assert [line.endswith("yes |") for line in lines[:6]] == [True] * 3 + [False] * 3
    assert "1.00 ms, 1.00 GB/s" in text  # the link, found again
    assert "0.90 (0.90 to 0.90)" in text  # two ranks against two threads
