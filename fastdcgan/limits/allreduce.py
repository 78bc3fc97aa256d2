"""How long ranks take to add up numbers: the alpha-beta model of the all-reduce (Hockney 1994).

A message of b bytes takes alpha + beta b: a latency, and the inverse of a bandwidth. The algorithms are sequences of
messages: the ring (Patarasuk & Yuan 2009), the double binary tree (Sanders, Speck & Traeff 2009), and a ring inside
each node with either of the two between nodes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REACHED = 0.8
"""Of a link's nominal rate, what large messages reach. An assumption; NCCL's own tests come out near it."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What carries messages between two ranks."""

    latency: float
    """alpha: seconds a message."""

    bytes_per_sec: float
    """1 / beta, one way."""

    shared: bool = False
    """One for all ranks of a node together, instead of one for each."""


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """The links that a group of ranks has, as one protocol uses them."""

    inside: Link
    """Between ranks of a node."""

    between: Link
    """Between nodes."""

    node: int
    """Ranks of a full node."""

    protocol: str = ""
    start: float = 0.0
    """Seconds before the first message."""

    algorithms: tuple[str, ...] = ("ring", "tree", "by node")
    """Keys of `ALGORITHMS`: those it can choose from."""


@dataclass(frozen=True, kw_only=True)
class AllReduce:
    """One all-reduce."""

    seconds: float
    algorithm: str


def all_reduce(size: float, ranks: int, fabrics: Sequence[Fabric]) -> AllReduce:
    """The fastest way to add up `size` bytes that each of the ranks has, the result for all.

    Args:
        size: bytes on each rank.
        ranks: how many; one has nothing to add.
        fabrics: the same links under each protocol there is to choose from.
    """
    if ranks == 1:
        return AllReduce(seconds=0.0, algorithm="")
    ways = [
        AllReduce(seconds=fabric.start + seconds, algorithm=f"{name} {fabric.protocol}".strip())
        for fabric in fabrics
        for name in fabric.algorithms
        if not math.isinf(seconds := ALGORITHMS[name](size, ranks, fabric))
    ]
    return min(ways, key=lambda way: way.seconds)


def ring(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds: 2 (n - 1) messages of size / n. Through a node's way out goes all that goes through one of its ranks."""
    inside, nodes = _shape(ranks, fabric)
    crossing = 2 * (nodes - 1)
    latency = crossing * fabric.between.latency + (2 * (ranks - 1) - crossing) * fabric.inside.latency
    return latency + 2 * (ranks - 1) / ranks * size / _slowest(inside, nodes, fabric)


def tree(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds: up and down log2 n levels, two trees sharing the bytes so that every link is used both ways."""
    inside, nodes = _shape(ranks, fabric)
    latency = 2 * (_levels(inside) * fabric.inside.latency + _levels(nodes) * fabric.between.latency)
    return latency + 2 * size / _slowest(inside, nodes, fabric)


def hierarchical(size: float, ranks: int, fabric: Fabric) -> float:
    """Seconds: each node adds up by itself, its ranks each a part; parts are added between nodes, then gathered."""
    inside, nodes = _shape(ranks, fabric)
    if inside == 1 or nodes == 1:
        return math.inf
    within = 2 * (inside - 1) * fabric.inside.latency + 2 * (inside - 1) / inside * size / fabric.inside.bytes_per_sec
    rate = _way_out(inside, fabric)
    by_ring = 2 * (nodes - 1) * fabric.between.latency + 2 * (nodes - 1) / nodes * size / rate
    by_tree = 2 * _levels(nodes) * fabric.between.latency + 2 * size / rate
    return within + min(by_ring, by_tree)


ALGORITHMS: dict[str, Callable[[float, int, Fabric], float]] = {
    "ring": ring,
    "tree": tree,
    "by node": hierarchical,
}


def _shape(ranks: int, fabric: Fabric) -> tuple[int, int]:
    """Ranks of a node, and nodes."""
    return min(ranks, fabric.node), math.ceil(ranks / fabric.node)


def _levels(members: int) -> int:
    return math.ceil(math.log2(members))


def _way_out(inside: int, fabric: Fabric) -> float:
    """Bytes per second that leave a node when all its ranks send."""
    return fabric.between.bytes_per_sec * (1 if fabric.between.shared else inside)


def _slowest(inside: int, nodes: int, fabric: Fabric) -> float:
    """As many rings, or trees, as there are ways out share the bytes."""
    rates = ([fabric.inside.bytes_per_sec] if inside > 1 else []) + ([_way_out(inside, fabric)] if nodes > 1 else [])
    return min(rates)


# --- Links that GPUs have ---------------------------------------------------------------------------------------------

NODE = 8
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
# and over a network (the slower of ring and tree), and the share of the bandwidth. LL, for small messages, sends a flag
# with each word and waits for no other.
_PROTOCOLS = {"LL": (6.6e-6, 0.6e-6, 5.0e-6, 0.25), "Simple": (8.4e-6, 4.0e-6, 14.0e-6, 1.0)}

ETHERNET_SECONDS = 25e-6
"""A message over TCP sockets, whatever the protocol: an assumption."""


def gpu_fabrics(links: str, gpu: str) -> tuple[Fabric, ...]:
    """The links of a cluster of known GPUs, by name.

    Args:
        links: `nvlink`, `nvlink+NETWORK` for nodes of 8, or `NETWORK` alone for nodes of one GPU.
        gpu: a key of `roofline.KNOWN_GPUS`.

    Raises:
        ValueError: unknown names.
    """
    inside, between = ("nvlink", links.removeprefix("nvlink+")) if links.startswith("nvlink") else ("", links)
    if links == "nvlink":
        between = ""
    elif between not in _NETWORKS:
        raise ValueError(f"--link {links}: know nvlink, {', '.join(_NETWORKS)}, and nvlink+ any of the latter")
    fabrics = []
    for protocol, (start, nvlink_latency, network_latency, share) in _PROTOCOLS.items():
        nvlink = Link(latency=nvlink_latency, bytes_per_sec=REACHED * share * _NVLINK[gpu])
        network = nvlink
        if between:
            is_ethernet = between.startswith("ethernet")
            network = Link(
                latency=ETHERNET_SECONDS if is_ethernet else network_latency,
                bytes_per_sec=REACHED * share * _NETWORKS[between],
                shared=is_ethernet,
            )
        fabrics.append(
            Fabric(protocol=protocol, start=start, inside=nvlink, between=network, node=NODE if inside else 1)
        )
    return tuple(fabrics)


def reach(links: str) -> int | None:
    """How many GPUs the links join at most; None: any number."""
    return NODE if links == "nvlink" else None


# --- Links that were measured -----------------------------------------------------------------------------------------


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a + b x with the least squared relative errors, neither below 0.

    Args:
        points: x and y > 0, at two different x at least.
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
    start = (sy - slope * sx) / s
    return (start, slope) if start > 0 else (0.0, sxy / sxx)


def measured_fabric(times: Sequence[tuple[float, float]], ranks: int) -> Fabric:
    """Links that explain how long rings took on one machine, the only way that gloo knows.

    Args:
        times: bytes of an all-reduce, and its seconds.
        ranks: how many took part.
    """
    start, slope = line(times)
    messages = 2 * (ranks - 1)
    link = Link(
        latency=start / messages,
        bytes_per_sec=messages / ranks / slope if slope else math.inf,
    )
    return Fabric(inside=link, between=link, node=ranks, algorithms=("ring",))
