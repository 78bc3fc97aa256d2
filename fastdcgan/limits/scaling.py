"""Predicts the time of a training iteration on many ranks: its compute time on one rank, plus communication.

Each iteration all-reduces the gradients of D and those of G. DDP does it in buckets, each as soon as the backward pass
has filled it, so that a part is hidden behind the rest of the backward pass. What ends later is exposed: the optimizer
waits for it. Synchronised BatchNorm adds many small all-reduces, all of them exposed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.allreduce import AllReduce, Fabric, all_reduce

FIRST_BUCKET_BYTES, BUCKET_BYTES = 2**20, 25 * 2**20
"""Bytes of fp32 gradients after which DDP closes its first bucket, and each other one."""

MAX_RANKS = 65_536
"""Beyond it the model's latencies are not those of any real network."""


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The gradient of a layer and its BatchNorm."""

    numbers: int
    seconds: float = 0.0
    """When it is ready, from the start of the iteration, without any waiting for communication."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """An iteration on one rank, without communication."""

    seconds: float
    discriminator: tuple[Gradient, ...]
    """In the order in which they are ready: the last layer's first."""

    generator: tuple[Gradient, ...]
    bound_by: str
    """What bounds it, in a word or two."""


@dataclass(frozen=True, kw_only=True)
class Communication:
    """How ranks communicate."""

    fabrics: tuple[Fabric, ...]
    """The links, under each protocol."""

    overlapped: bool = True
    """Whether all-reduces overlap the backward pass: not on CPUs, which carry the messages themselves, nor in a
    captured step."""

    buckets: bool = True
    """As DDP has them; else one all-reduce a network, as in a captured step."""

    bytes_per_number: int = 4
    """Of the gradients as they are sent: 2 if they are compressed to bf16."""

    batch_norm: tuple[int, ...] = ()
    """How many numbers each all-reduce of synchronised BatchNorm has."""


@dataclass(frozen=True, kw_only=True)
class ScaledIteration:
    """A predicted iteration on a number of ranks."""

    ranks: int
    batch: int
    """Pictures of each rank."""

    compute_seconds: float
    gradient_seconds: float
    """Of all all-reduces of gradients, hidden or not."""

    exposed_seconds: float
    """Of the part of them that is not hidden."""

    batch_norm_seconds: float
    algorithm: str
    """Of the largest all-reduce."""

    bound_by: str
    """What takes most of the time: "all-reduce", or what bounds a rank by itself."""

    efficiency: float = 1.0
    """Images per second and rank, relative to one rank alone."""

    @property
    def seconds(self) -> float:
        """Of the iteration."""
        return self.compute_seconds + self.exposed_seconds + self.batch_norm_seconds

    @property
    def images_per_sec(self) -> float:
        """Of all ranks together."""
        return self.ranks * self.batch / self.seconds

    def sooner(self, batch: int, critical_batch: float) -> float:
        """How many times as soon as one rank with a batch it comes to the same quality."""
        images = images_needed(self.ranks * self.batch, critical_batch) / images_needed(batch, critical_batch)
        return self.ranks * self.efficiency / images

    @property
    def communication(self) -> float:
        """The part of the time in which a rank waits for communication."""
        return (self.exposed_seconds + self.batch_norm_seconds) / self.seconds


def images_needed(batch: int, critical_batch: float) -> float:
    """Images to some quality with a batch, by those with the smallest (McCandlish et al. 2018, section 2.3).

    Up to the critical batch, larger batches save steps in proportion; far above it, they save none.
    """
    return 1 + batch / critical_batch


def weak_scaling(
    batch: int, counts: Iterable[int], compute: Callable[[int], Compute], communication: Communication
) -> list[ScaledIteration]:
    """Predict iterations on each number of ranks, with `batch` pictures on each rank.

    Args:
        batch: pictures of each rank.
        counts: numbers of ranks.
        compute: a rank by itself, by its number of pictures.
        communication: how ranks communicate.
    """
    return _curve([(ranks, batch) for ranks in counts], batch, compute, communication)


def strong_scaling(
    batch: int, counts: Iterable[int], compute: Callable[[int], Compute], communication: Communication
) -> list[ScaledIteration]:
    """Predict iterations on each number of ranks that divides `batch`, with as many pictures on all ranks together.

    Args:
        batch: pictures of all ranks together.
        counts: numbers of ranks.
        compute: a rank by itself, by its number of pictures.
        communication: how ranks communicate.
    """
    return _curve([(ranks, batch // ranks) for ranks in counts if batch % ranks == 0], batch, compute, communication)


def predict_iteration(
    compute: Compute, batch: int, ranks: int, communication: Communication, *, slowdown: float = 1.0
) -> ScaledIteration:
    """Predict an iteration on a number of ranks.

    Args:
        compute: a rank by itself.
        batch: pictures of each rank.
        ranks: how many.
        communication: how they communicate.
        slowdown: factor of a rank's compute time, for ranks that share cores and memory.
    """
    largest, total, exposed = AllReduce(seconds=0.0, algorithm=""), 0.0, 0.0
    for gradients in (compute.discriminator, compute.generator):
        backward_end = gradients[-1].seconds
        busy_until = 0.0 if communication.overlapped else backward_end
        buckets = ddp_buckets(gradients)
        if not communication.buckets:
            buckets = [(sum(gradient.numbers for gradient in gradients), backward_end)]
        for numbers, ready in buckets:
            message = all_reduce(communication.bytes_per_number * numbers, ranks, communication.fabrics)
            busy_until = max(busy_until, ready) + message.seconds
            total += message.seconds
            largest = max(largest, message, key=lambda candidate: candidate.seconds)
        exposed += busy_until - backward_end
    batch_norm = sum(
        all_reduce(4 * numbers, ranks, communication.fabrics).seconds for numbers in communication.batch_norm
    )
    compute_seconds = slowdown * compute.seconds
    return ScaledIteration(
        ranks=ranks,
        batch=batch,
        compute_seconds=compute_seconds,
        gradient_seconds=total,
        exposed_seconds=exposed,
        batch_norm_seconds=batch_norm,
        algorithm=largest.algorithm,
        bound_by="all-reduce" if exposed + batch_norm > compute_seconds else compute.bound_by,
    )


def ddp_buckets(gradients: Sequence[Gradient]) -> list[tuple[int, float]]:
    """Numbers of each of DDP's buckets, and the second at which it is full: it closes once it is large enough."""
    closed, numbers, capacity = [], 0, FIRST_BUCKET_BYTES
    for gradient in gradients:
        numbers += gradient.numbers
        if 4 * numbers >= capacity:
            closed.append((numbers, gradient.seconds))
            numbers, capacity = 0, BUCKET_BYTES
    return closed + ([(numbers, gradients[-1].seconds)] if numbers else [])


def gradient_numbers(arch: Architecture) -> tuple[list[int], list[int]]:
    """Parameters of each layer of G and of D, with its BatchNorm's; first layer first."""
    return (
        [spec.weights + 2 * spec.out_channels for spec in arch.generator[:-1]] + [arch.generator[-1].weights],
        [arch.discriminator[0].weights]
        + [spec.weights + 2 * spec.out_channels for spec in arch.discriminator[1:-1]]
        + [arch.discriminator[-1].weights],
    )


def measured_compute(arch: Architecture, seconds: float) -> Compute:
    """A measured iteration on a processor: all gradients are taken to be ready at its end."""
    generator, discriminator = (
        tuple(Gradient(numbers=numbers, seconds=seconds) for numbers in reversed(layers))
        for layers in gradient_numbers(arch)
    )
    return Compute(seconds=seconds, discriminator=discriminator, generator=generator, bound_by="processor")


def batch_norm_messages(arch: Architecture) -> tuple[int, ...]:
    """How many numbers each all-reduce of synchronised BatchNorm has.

    Forward the sums, the squares and a count; backward two sums.
    G runs once; D runs three times, on real and on fake pictures and once more while G learns.
    """
    passes = [(spec.out_channels, 1) for spec in arch.generator[:-1]]
    passes += [(spec.out_channels, 3) for spec in arch.discriminator[1:-1]]
    return tuple(chain.from_iterable((2 * channels + 1, 2 * channels) * times for channels, times in passes))


def parse_gpu_counts(text: str) -> tuple[int, ...]:
    """The numbers in `8`, `1,2,4`, or `1..512` (the powers of two in that range), sorted.

    Raises:
        ValueError: for any other text, and for numbers above `MAX_RANKS`.
    """
    first, dots, last = text.partition("..")
    parts = (first, last) if dots else tuple(text.split(","))
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"--gpus {text}: must be a count such as 8, a list such as 1,2,4 or a range such as 1..512")
    counts = [int(part) for part in parts]
    if max(counts) > MAX_RANKS:
        raise ValueError(f"--gpus {text}: the model holds for {MAX_RANKS:,} GPUs at most")
    if dots:
        lower, upper = counts
        counts = [2**power for power in range(upper.bit_length()) if lower <= 2**power <= upper]
        if not counts:
            raise ValueError(f"--gpus {text}: there is no power of two in that range")
    return tuple(sorted(set(counts)))


def _curve(
    batches: list[tuple[int, int]], batch: int, compute: Callable[[int], Compute], communication: Communication
) -> list[ScaledIteration]:
    """An iteration for each (ranks, batch of each), with its efficiency relative to `batch` pictures on one rank."""
    alone = predict_iteration(compute(batch), batch, 1, communication)
    scaled = [predict_iteration(compute(own), own, ranks, communication) for ranks, own in batches]
    return [replace(s, efficiency=s.images_per_sec / s.ranks / alone.images_per_sec) for s in scaled]
