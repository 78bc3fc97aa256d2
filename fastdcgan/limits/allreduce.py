"""Predicts the time of an all-reduce by the alpha-beta model (Hockney 1994).

A message of b bytes takes alpha + beta b: a latency plus b over a bandwidth. The algorithms are sequences of messages:
the ring (Patarasuk & Yuan 2009), the double binary tree (Sanders, Speck & Traeff 2009), and the hierarchical one, a
ring inside each node and either of the two between nodes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LINK_EFFICIENCY = 0.8
"""The part of a link's nominal bandwidth that large messages reach. Assumed; NCCL's own tests come near it."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A connection between two ranks."""

    latency: float
    """alpha: seconds a message."""

    bytes_per_sec: float
    """1 / beta, one way."""

    shared: bool = False
    """One for all ranks of a node together; else one for each."""


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """The links within and between nodes, as one protocol uses them."""

    intra_node: Link
    inter_node: Link
    ranks_per_node: int
    protocol: str = ""
    startup_seconds: float = 0.0
    """Before the first message."""

    algorithms: tuple[str, ...] = ("ring", "tree", "by node")
    """Keys of `ALGORITHMS`; the fastest one is used."""


@dataclass(frozen=True, kw_only=True)
class AllReduce:
    """A predicted all-reduce."""

    seconds: float
    algorithm: str
    """The algorithm and the protocol; empty for one rank."""


def all_reduce(size: float, ranks: int, fabrics: Sequence[Fabric]) -> AllReduce:
    """The fastest all-reduce over all fabrics and algorithms.

    Args:
        size: bytes on each rank.
        ranks: how many; one rank takes no time.
        fabrics: the same links under each available protocol.
    """
    if ranks == 1:
        return AllReduce(seconds=0.0, algorithm="")
    options = [
        AllReduce(seconds=fabric.startup_seconds + seconds, algorithm=f"{name} {fabric.protocol}".strip())
        for fabric in fabrics
        for name in fabric.algorithms
        if not math.isinf(seconds := ALGORITHMS[name](size, ranks, fabric))
    ]
    return min(options, key=lambda option: option.seconds)


def ring(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds of 2 (n - 1) messages of size / n. A node sends as many bytes to others as each of its ranks does."""
    per_node, nodes = _ranks_and_nodes(ranks, fabric)
    between = 2 * (nodes - 1)
    latency = between * fabric.inter_node.latency + (2 * (ranks - 1) - between) * fabric.intra_node.latency
    return latency + 2 * (ranks - 1) / ranks * size / _bottleneck_bandwidth(per_node, nodes, fabric)


def tree(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds to go up and down log2 n levels. Two trees share the bytes, so that links are used in both directions."""
    per_node, nodes = _ranks_and_nodes(ranks, fabric)
    latency = 2 * (_tree_levels(per_node) * fabric.intra_node.latency + _tree_levels(nodes) * fabric.inter_node.latency)
    return latency + 2 * size / _bottleneck_bandwidth(per_node, nodes, fabric)


def hierarchical(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds of a reduce-scatter in each node, an all-reduce of its parts between nodes, and an all-gather in each.

    Infinite for a single node, or nodes of one rank.
    """
    per_node, nodes = _ranks_and_nodes(ranks, fabric)
    if per_node == 1 or nodes == 1:
        return math.inf
    intra, inter = fabric.intra_node, fabric.inter_node
    within = 2 * (per_node - 1) * intra.latency + 2 * (per_node - 1) / per_node * size / intra.bytes_per_sec
    bandwidth = _node_bandwidth(per_node, fabric)
    by_ring = 2 * (nodes - 1) * inter.latency + 2 * (nodes - 1) / nodes * size / bandwidth
    by_tree = 2 * _tree_levels(nodes) * inter.latency + 2 * size / bandwidth
    return within + min(by_ring, by_tree)


ALGORITHMS: dict[str, Callable[[float, int, Fabric], float]] = {
    "ring": ring,
    "tree": tree,
    "by node": hierarchical,
}


def _ranks_and_nodes(ranks: int, fabric: Fabric) -> tuple[int, int]:
    """Ranks of a node, and nodes."""
    return min(ranks, fabric.ranks_per_node), math.ceil(ranks / fabric.ranks_per_node)


def _tree_levels(members: int) -> int:
    return math.ceil(math.log2(members))


def _node_bandwidth(per_node: int, fabric: Fabric) -> float:
    """Bytes per second that leave a node when all its ranks send."""
    return fabric.inter_node.bytes_per_sec * (1 if fabric.inter_node.shared else per_node)


def _bottleneck_bandwidth(per_node: int, nodes: int, fabric: Fabric) -> float:
    """Of all rings or trees together: there are as many as a node has links to others, and they share the bytes."""
    rates = [fabric.intra_node.bytes_per_sec] if per_node > 1 else []
    if nodes > 1:
        rates.append(_node_bandwidth(per_node, fabric))
    return min(rates)


# --- Links of GPUs ----------------------------------------------------------------------------------------------------

GPUS_PER_NODE = 8
"""GPUs that NVLink joins in a DGX or HGX machine."""

# One way; the datasheets count both: 600 GB/s a GPU for NVLink 3, 900 GB/s for NVLink 4.
_NVLINK = {"A100": 300e9, "H100": 450e9, "H200": 450e9}

_NETWORKS = {
    "infiniband": 400e9 / 8,  # NDR, an adapter for each GPU, as in a DGX H100
    "ethernet100": 100e9 / 8,  # one adapter a node
    "ethernet25": 25e9 / 8,
    "ethernet10": 10e9 / 8,
}

# NCCL's own cost model (src/graph/tuning.cc, 2.2x): seconds before the first message, seconds a message over NVLink
# and over a network (the slower of ring and tree), and the part of the bandwidth. LL ("low latency"), for small
# messages, sends a flag with each word instead of synchronising.
_PROTOCOLS = {"LL": (6.6e-6, 0.6e-6, 5.0e-6, 0.25), "Simple": (8.4e-6, 4.0e-6, 14.0e-6, 1.0)}

ETHERNET_SECONDS = 25e-6
"""The latency of a message over TCP, under each protocol. Assumed."""


def gpu_fabrics(links: str, gpu: str) -> tuple[Fabric, ...]:
    """The links of a cluster of known GPUs, by name, under each of NCCL's protocols.

    Args:
        links: `nvlink`, `nvlink+NETWORK` for nodes of 8, or `NETWORK` alone for nodes of one GPU.
        gpu: a key of `roofline.KNOWN_GPUS`.

    Raises:
        ValueError: unknown names.
    """
    has_nvlink = links.startswith("nvlink")
    network_name = "" if links == "nvlink" else links.removeprefix("nvlink+")
    if links != "nvlink" and network_name not in _NETWORKS:
        raise ValueError(f"--link {links}: know nvlink, {', '.join(_NETWORKS)}, and nvlink+ any of the latter")
    is_ethernet = network_name.startswith("ethernet")
    fabrics = []
    for protocol, (startup, nvlink_latency, network_latency, part) in _PROTOCOLS.items():
        nvlink = Link(latency=nvlink_latency, bytes_per_sec=LINK_EFFICIENCY * part * _NVLINK[gpu])
        network = nvlink
        if network_name:
            network = Link(
                latency=ETHERNET_SECONDS if is_ethernet else network_latency,
                bytes_per_sec=LINK_EFFICIENCY * part * _NETWORKS[network_name],
                shared=is_ethernet,
            )
        fabrics.append(
            Fabric(
                protocol=protocol,
                startup_seconds=startup,
                intra_node=nvlink,
                inter_node=network,
                ranks_per_node=GPUS_PER_NODE if has_nvlink else 1,
            )
        )
    return tuple(fabrics)


def max_gpus(links: str) -> int | None:
    """How many GPUs the links of this name connect at most; None: any number."""
    return GPUS_PER_NODE if links == "nvlink" else None


# --- Measured links ---------------------------------------------------------------------------------------------------


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a + b x by least squares of the relative errors, both at least 0.

    Args:
        points: pairs (x, y), y > 0, with at least two different x.
    """
    # Dividing by y makes the errors relative: 1 = a / y + b x / y.
    s = sum(1 / y**2 for _, y in points)
    sx = sum(x / y**2 for x, y in points)
    sy = sum(1 / y for _, y in points)
    sxx = sum(x * x / y**2 for x, y in points)
    sxy = sum(x / y for x, y in points)
    slope = (s * sxy - sx * sy) / (s * sxx - sx * sx)
    if slope <= 0:
        return sy / s, 0.0
    intercept = (sy - slope * sx) / s
    return (intercept, slope) if intercept > 0 else (0.0, sxy / sxx)


def fit_fabric(times: Sequence[tuple[float, float]], ranks: int) -> Fabric:
    """Latency and bandwidth of the links of one machine, from measured all-reduces by gloo, which uses rings.

    Args:
        times: bytes and seconds of each all-reduce.
        ranks: how many took part.
    """
    intercept, slope = fit_line(times)
    messages = 2 * (ranks - 1)
    link = Link(
        latency=intercept / messages,
        bytes_per_sec=messages / ranks / slope if slope else math.inf,
    )
    return Fabric(intra_node=link, inter_node=link, ranks_per_node=ranks, algorithms=("ring",))
