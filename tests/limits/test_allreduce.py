"""The cost of an all-reduce by hand, and at its limits."""

import math

import pytest

from fastdcgan.limits.allreduce import (
    LINK_EFFICIENCY,
    Fabric,
    Link,
    all_reduce,
    fit_fabric,
    fit_line,
    gpu_fabrics,
    hierarchical,
    max_gpus,
    ring,
    tree,
)

FAST, SLOW = Link(latency=1.0, bytes_per_sec=100.0), Link(latency=10.0, bytes_per_sec=10.0)
CLUSTER = Fabric(intra_node=FAST, inter_node=SLOW, ranks_per_node=4)


def flat(latency: float, bytes_per_sec: float) -> Fabric:
    link = Link(latency=latency, bytes_per_sec=bytes_per_sec)
    return Fabric(intra_node=link, inter_node=link, ranks_per_node=1024)


def test_one_rank_takes_no_time() -> None:
    assert all_reduce(1e9, 1, gpu_fabrics("nvlink", "H100")).seconds == 0


def test_a_ring_by_hand() -> None:
    """4 ranks, 100 bytes: 6 messages of 25 bytes, each a second and a quarter of one."""
    assert ring(100, 4, flat(1, 100)) == pytest.approx(6 * (1 + 0.25))


def test_a_ring_never_sends_more_than_twice_the_bytes() -> None:
    assert ring(100, 2, flat(0, 100)) == pytest.approx(1)
    assert ring(100, 1000, flat(0, 100)) == pytest.approx(2, rel=0.01)


def test_a_tree_by_hand() -> None:
    """8 ranks: 3 levels up and 3 down."""
    assert tree(100, 8, flat(1, 100)) == pytest.approx(2 * 3 + 2)


def test_small_messages_take_the_tree_and_large_ones_the_ring() -> None:
    assert all_reduce(1, 64, [flat(1, 100)]).algorithm == "tree"
    assert all_reduce(1e6, 64, [flat(1, 100)]).algorithm == "ring"


def test_a_ring_through_two_nodes_by_hand() -> None:
    """8 ranks: 14 messages, 2 of them between nodes; what leaves a node leaves it by the ways of all its 4 ranks."""
    assert ring(80, 8, CLUSTER) == pytest.approx(2 * 10 + 12 * 1 + 2 * 7 / 8 * 80 / (4 * 10))


def test_a_shared_inter_node_link_is_slower() -> None:
    shared = Fabric(intra_node=FAST, inter_node=Link(latency=10, bytes_per_sec=10, shared=True), ranks_per_node=4)
    assert ring(80, 8, shared) - ring(80, 8, CLUSTER) == pytest.approx(2 * 7 / 8 * 80 * (1 / 10 - 1 / 40))


def test_the_hierarchical_algorithm_by_hand() -> None:
    """6 messages inside; then 2 between the two nodes, a ring of 80 bytes over 4 ways."""
    assert hierarchical(80, 8, CLUSTER) == pytest.approx(6 * 1 + 2 * 3 / 4 * 80 / 100 + 2 * 10 + 80 / 40)
    assert math.isinf(hierarchical(80, 4, CLUSTER)), "within one node it is the ring"


@pytest.mark.parametrize("links", ["nvlink+infiniband", "nvlink+ethernet10", "ethernet100"])
def test_more_bytes_and_more_ranks_take_longer(links: str) -> None:
    fabrics = gpu_fabrics(links, "H100")
    by_size = [all_reduce(10**power, 64, fabrics).seconds for power in range(3, 10)]
    by_ranks = [all_reduce(1e7, 2**power, fabrics).seconds for power in range(1, 10)]
    assert by_size == sorted(by_size)
    assert by_ranks == sorted(by_ranks)


def test_nvlink_carries_what_its_datasheet_says() -> None:
    """A gigabyte over 8 H100: 7/4 of it through 450 GB/s each way."""
    taken = all_reduce(1e9, 8, gpu_fabrics("nvlink", "H100"))
    assert taken.seconds == pytest.approx(7 / 4 * 1e9 / (LINK_EFFICIENCY * 450e9), rel=0.02)
    assert taken.algorithm == "ring Simple"
    assert all_reduce(1e9, 8, gpu_fabrics("nvlink", "A100")).seconds > 1.4 * taken.seconds


def test_small_messages_take_the_protocol_for_them() -> None:
    assert all_reduce(256, 8, gpu_fabrics("nvlink", "H100")).algorithm == "tree LL"


def test_a_slower_network_is_slower() -> None:
    names = ("infiniband", "ethernet100", "ethernet25", "ethernet10")
    taken = [all_reduce(1e7, 64, gpu_fabrics(f"nvlink+{name}", "H100")).seconds for name in names]
    assert taken == sorted(taken) and taken[0] < 0.2 * taken[1]


@pytest.mark.parametrize("links", ["", "+", "pigeon", "nvlink+", "nvlink+nvlink", "+infiniband", "infiniband+nvlink"])
def test_unknown_links_are_refused(links: str) -> None:
    with pytest.raises(ValueError, match="--link"):
        gpu_fabrics(links, "H100")


def test_nvlink_connects_the_gpus_of_one_node() -> None:
    assert max_gpus("nvlink") == 8
    assert max_gpus("nvlink+infiniband") is None


def test_fit_line_through_points_on_a_line() -> None:
    assert fit_line([(1, 5), (2, 7), (4, 11)]) == pytest.approx((3, 2))


def test_fit_line_minimises_relative_errors() -> None:
    """Ten per cent off at the largest point moves the start by little."""
    start, slope = fit_line([(1, 1.001), (10, 1.01), (1e6, 1.1 * 1001)])
    assert start == pytest.approx(1, rel=0.01)
    assert slope == pytest.approx(1.1e-3, rel=0.01)


def test_fit_line_has_no_negative_coefficients() -> None:
    assert fit_line([(1, 1), (2, 3)])[0] == 0
    assert fit_line([(1, 3), (2, 1)])[1] == 0


@pytest.mark.parametrize("ranks", [2, 4])
def test_fit_fabric_recovers_the_links(ranks: int) -> None:
    truth = flat(2e-3, 1e9)
    found = fit_fabric([(size, ring(size, ranks, truth)) for size in (256, 1e6, 1e7)], ranks)
    assert found.intra_node.latency == pytest.approx(2e-3)
    assert found.intra_node.bytes_per_sec == pytest.approx(1e9)
