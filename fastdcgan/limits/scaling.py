"""What a training iteration takes on many ranks: what it takes on one, and what the ranks have to tell each other.

Each iteration adds up the gradients of D while D learns, and those of G while G learns. DDP does it in buckets, each as
soon as the backward pass has filled it, so that a part of it is hidden behind the rest of the backward pass. What is
still under way when that ends is exposed: the optimizer waits for it. Synchronised BatchNorm adds many small messages,
all of them exposed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from fastdcgan.gan.architecture import Architecture, ConvSpec
from fastdcgan.limits.allreduce import AllReduce, Fabric, all_reduce

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Bytes of fp32 gradients after which DDP closes its first bucket, and each other one."""

MOST = 65_536
"""Ranks. More than anybody has joined: there the model's latencies are no longer those of a real network."""


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """A layer's gradient, with its BatchNorm's."""

    numbers: int
    seconds: float = 0.0
    """When it is there, since the iteration began and as if nobody waited for messages."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """An iteration on one rank, without the others."""

    seconds: float
    discriminator: tuple[Gradient, ...]
    """In the order in which they are there: the last layer's first."""

    generator: tuple[Gradient, ...]
    bound_by: str


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How ranks add up what they have."""

    fabrics: tuple[Fabric, ...]
    """The links, under each protocol."""

    overlapped: bool = True
    """Messages travel while the backward pass goes on: not where the processor itself has to carry them, nor in a
    captured step."""

    buckets: bool = True
    """As DDP has them. Else each network's gradients go at once, as in a captured step."""

    bytes_per_number: int = 4
    """Of the gradients on their way: 2 if they are compressed to bf16."""

    batch_norm: tuple[int, ...] = ()
    """Numbers of each message of synchronised BatchNorm."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """An iteration on so many ranks."""

    ranks: int
    batch: int
    """Of each rank."""

    compute_seconds: float
    gradient_seconds: float
    """All-reduces of gradients, hidden or not."""

    exposed_seconds: float
    """The part of those that is not hidden."""

    batch_norm_seconds: float
    algorithm: str
    """Of the largest all-reduce."""

    bound_by: str
    """What most of the time goes to: "all-reduce", or what binds a rank by itself."""

    efficiency: float = 1.0
    """Images per second and rank, by those of one rank alone."""

    @property
    def seconds(self) -> float:
        """Of an iteration."""
        return self.compute_seconds + self.exposed_seconds + self.batch_norm_seconds

    @property
    def images_per_sec(self) -> float:
        """Of all ranks together."""
        return self.ranks * self.batch / self.seconds

    @property
    def communication(self) -> float:
        """Share of the time in which a rank waits for messages."""
        return (self.exposed_seconds + self.batch_norm_seconds) / self.seconds


def weak(batch: int, counts: Iterable[int], compute: Callable[[int], Compute], sharing: Sharing) -> list[Scaled]:
    """More ranks, more pictures: each rank has `batch` of them."""
    return _curve(((ranks, batch) for ranks in counts), share(compute(batch), batch, 1, sharing), compute, sharing)


def strong(batch: int, counts: Iterable[int], compute: Callable[[int], Compute], sharing: Sharing) -> list[Scaled]:
    """More ranks for the same work: they divide `batch` pictures. Counts that don't divide it are left out."""
    shares = ((ranks, batch // ranks) for ranks in counts if batch % ranks == 0)
    return _curve(shares, share(compute(batch), batch, 1, sharing), compute, sharing)


def share(compute: Compute, batch: int, ranks: int, sharing: Sharing, *, slowdown: float = 1.0) -> Scaled:
    """An iteration on so many ranks.

    Args:
        compute: a rank by itself.
        batch: pictures of each rank.
        ranks: how many.
        sharing: how they tell each other.
        slowdown: of a rank by others that use the same cores and memory.
    """
    largest, total, exposed = AllReduce(seconds=0.0, algorithm=""), 0.0, 0.0
    for gradients in (compute.discriminator, compute.generator):
        end = gradients[-1].seconds
        busy_until = 0.0 if sharing.overlapped else end
        for numbers, ready in buckets(gradients) if sharing.buckets else [(sum(g.numbers for g in gradients), end)]:
            message = all_reduce(sharing.bytes_per_number * numbers, ranks, sharing.fabrics)
            busy_until = max(busy_until, ready) + message.seconds
            total += message.seconds
            largest = max(largest, message, key=lambda each: each.seconds)
        exposed += busy_until - end
    batch_norm = sum(all_reduce(4 * numbers, ranks, sharing.fabrics).seconds for numbers in sharing.batch_norm)
    seconds = slowdown * compute.seconds
    return Scaled(
        ranks=ranks,
        batch=batch,
        compute_seconds=seconds,
        gradient_seconds=total,
        exposed_seconds=exposed,
        batch_norm_seconds=batch_norm,
        algorithm=largest.algorithm,
        bound_by="all-reduce" if exposed + batch_norm > seconds else compute.bound_by,
    )


def buckets(gradients: Sequence[Gradient]) -> list[tuple[int, float]]:
    """Numbers of each of DDP's buckets, and the second at which it is full: it closes once it is large enough."""
    closed, numbers, most = [], 0, FIRST_BUCKET
    for gradient in gradients:
        numbers += gradient.numbers
        if 4 * numbers >= most:
            closed.append((numbers, gradient.seconds))
            numbers, most = 0, BUCKET
    return closed + ([(numbers, gradients[-1].seconds)] if numbers else [])


def gradient_numbers(arch: Architecture) -> tuple[list[int], list[int]]:
    """Parameters of each layer of G and of D, its BatchNorm's with it."""
    return (
        [_weights(spec) + 2 * spec.out_channels for spec in arch.generator[:-1]] + [_weights(arch.generator[-1])],
        [_weights(arch.discriminator[0])]
        + [_weights(spec) + 2 * spec.out_channels for spec in arch.discriminator[1:-1]]
        + [_weights(arch.discriminator[-1])],
    )


def measured(arch: Architecture, seconds: float) -> Compute:
    """An iteration of which no more is known than how long it took: all gradients are there when it ends."""
    generator, discriminator = (
        tuple(Gradient(numbers=numbers, seconds=seconds) for numbers in reversed(layers))
        for layers in gradient_numbers(arch)
    )
    return Compute(seconds=seconds, discriminator=discriminator, generator=generator, bound_by="processor")


def batch_norm_messages(arch: Architecture) -> tuple[int, ...]:
    """Numbers of each all-reduce of synchronised BatchNorm: sums, squares and a count forward, two sums backward.

    G has one pass each way; D has three, over real and fake pictures and once more while G learns.
    """
    passes = [(spec.out_channels, 1) for spec in arch.generator[:-1]]
    passes += [(spec.out_channels, 3) for spec in arch.discriminator[1:-1]]
    return tuple(chain.from_iterable((2 * channels + 1, 2 * channels) * times for channels, times in passes))


def counts_of(text: str) -> tuple[int, ...]:
    """`8`, `1,2,4`, or `1..512`: the powers of two from one to the other.

    Raises:
        ValueError: for anything else.
    """
    first, dots, last = text.partition("..")
    parts = (first, last) if dots else tuple(text.split(","))
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"--gpus {text}: must be a count such as 8, a list such as 1,2,4 or a range such as 1..512")
    numbers = [int(part) for part in parts]
    if max(numbers) > MOST:
        raise ValueError(f"--gpus {text}: the model holds for {MOST:,} GPUs at most")
    if dots:
        lower, upper = numbers
        numbers = [2**power for power in range(upper.bit_length()) if lower <= 2**power <= upper]
        if not numbers:
            raise ValueError(f"--gpus {text}: there is no power of two in that range")
    return tuple(sorted(set(numbers)))


def _curve(
    shares: Iterable[tuple[int, int]], one: Scaled, compute: Callable[[int], Compute], sharing: Sharing
) -> list[Scaled]:
    scaled = (share(compute(batch), batch, ranks, sharing) for ranks, batch in shares)
    return [_efficient(each, one) for each in scaled]


def _efficient(scaled: Scaled, one: Scaled) -> Scaled:
    return replace(scaled, efficiency=scaled.images_per_sec / scaled.ranks / one.images_per_sec)


def _weights(spec: ConvSpec) -> int:
    return spec.in_channels * spec.out_channels * spec.kernel**2
