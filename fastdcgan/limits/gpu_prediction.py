"""How long a step would take on a GPU that isn't here, kernel by kernel. Predicted from datasheets, measured nowhere.

`roofline.py` asks what binds a whole step. On a GPU each kernel has a roof of its own: convolutions mostly wait for
arithmetic, everything between them for memory, and the two don't overlap. So a step takes the sum over its kernels of
the longer of the two; and in eager execution no less than it takes to launch them all.

The kernels are those of a compiler that fuses what touches the same numbers one by one: a BatchNorm with the activation
behind it is one kernel that reads its statistics and one that writes the result, and two again on the way back.

Held against the captured step of dcgan64 (batch 128, bf16) as Inductor lowers it for an H100, with 291 GFLOP and 2.4 GB
moved: the convolutions and their arithmetic are the same here, the bytes a sixth fewer. Here nothing is written that
could be computed again from what is read anyway, and nothing is copied into another layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from fastdcgan.gan.architecture import Architecture, ConvSpec, conv_out, conv_transpose_out
from fastdcgan.limits.roofline import Ceilings, pass_flops
from fastdcgan.limits.scaling import Compute, Gradient, gradient_numbers

ATTAINABLE = 0.8
"""Of a datasheet's peaks, both, what large kernels reach."""

LAUNCH_SECONDS = 9e-6
"""What an operator costs PyTorch and Python before the GPU hears of it: 8 to 10 us on a fast host."""

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel of a captured step."""

    name: str
    flops: float = 0.0
    bytes: float = 0.0

    def seconds(self, gpu: Ceilings, precision: str) -> float:
        """Under the lower of its two roofs."""
        return max(self._arithmetic(gpu, precision), self._memory(gpu))

    def is_bound_by_memory(self, gpu: Ceilings, precision: str) -> bool:
        """Whether it waits for bytes longer than for arithmetic."""
        return self._memory(gpu) > self._arithmetic(gpu, precision)

    def _arithmetic(self, gpu: Ceilings, precision: str) -> float:
        return self.flops / (ATTAINABLE * gpu.flops[precision])

    def _memory(self, gpu: Ceilings) -> float:
        return self.bytes / (ATTAINABLE * gpu.bytes)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a step on a GPU."""

    arithmetic: float
    """If only arithmetic took time."""

    memory: float
    """If only memory traffic did."""

    captured: float
    """Replayed whole, without launches: the sum over kernels of the longer of the two."""

    captured_bound_by: str
    """ "arithmetic" or "memory": where most of that time goes."""

    launches: float
    """What launching takes in eager execution, one operator after the other."""

    @property
    def eager(self) -> float:
        """Launches and kernels overlap: the longer of the two. Eager kernels are taken to be no slower."""
        return max(self.launches, self.captured)

    @property
    def eager_bound_by(self) -> str:
        """ "launches", "arithmetic" or "memory"."""
        return "launches" if self.launches > self.captured else self.captured_bound_by


def predict(arch: Architecture, batch: int, gpu: Ceilings, precision: str) -> Prediction:
    """A step of a batch on one GPU, channels-last, with both Adam updates, the data already in its memory.

    Args:
        arch: the networks.
        batch: pictures an iteration.
        gpu: datasheet peaks.
        precision: fp32 or bf16.
    """
    whole = kernels(arch, batch, precision)
    by_memory = sum(kernel.seconds(gpu, precision) for kernel in whole if kernel.is_bound_by_memory(gpu, precision))
    captured = sum(kernel.seconds(gpu, precision) for kernel in whole)
    return Prediction(
        arithmetic=sum(kernel.flops for kernel in whole) / (ATTAINABLE * gpu.flops[precision]),
        memory=sum(kernel.bytes for kernel in whole) / (ATTAINABLE * gpu.bytes),
        captured=captured,
        captured_bound_by="memory" if 2 * by_memory > captured else "arithmetic",
        launches=LAUNCH_SECONDS * eager_launches(arch, precision),
    )


def compute(arch: Architecture, batch: int, gpu: Ceilings, precision: str, *, captured: bool) -> Compute:
    """The same step, and when in it each layer's gradient is there: where launches bind, all is later alike.

    Args:
        arch: the networks.
        batch: pictures an iteration.
        gpu: datasheet peaks.
        precision: fp32 or bf16.
        captured: replayed whole, without launches.
    """
    step = predict(arch, batch, gpu, precision)
    seconds = step.captured if captured else step.eager
    done, clock = {}, 0.0
    for kernel in kernels(arch, batch, precision):
        clock += kernel.seconds(gpu, precision) * seconds / step.captured
        done[kernel.name] = clock

    def gradients(network: str, numbers: list[int]) -> tuple[Gradient, ...]:
        # D's are there with those of its second pass, over the real pictures.
        return tuple(
            Gradient(numbers=numbers[index], seconds=done[f"{network} {index} weight's gradient"])
            for index in reversed(range(len(numbers)))
        )

    generator, discriminator = gradient_numbers(arch)
    return Compute(
        seconds=seconds,
        discriminator=gradients("D real", discriminator),
        generator=gradients("G", generator),
        bound_by=step.captured_bound_by if captured else step.eager_bound_by,
    )


def kernels(arch: Architecture, batch: int, precision: str) -> list[Kernel]:
    """All kernels of a step that take time, in order. Losses are left out, and the cast of the pictures."""
    number = _BYTES[precision]
    generator, discriminator = _layers(arch, batch)

    def forward(network: str, layers: list[_Layer]) -> Iterator[Kernel]:
        for layer in layers:
            yield from layer.forward(network, number)

    def backward(network: str, layers: list[_Layer], weights: bool, inputs: bool) -> Iterator[Kernel]:
        """`inputs`: whether what enters the first layer needs a gradient too."""
        for layer in reversed(layers):
            yield from layer.backward(network, number, weights=weights, inputs=inputs or layer is not layers[0])

    return list(
        chain(
            _casts("G", generator, precision),
            forward("G", generator),
            _casts("D", discriminator, precision),
            forward("D real", discriminator),
            forward("D fake", discriminator),
            backward("D fake", discriminator, weights=True, inputs=False),
            backward("D real", discriminator, weights=True, inputs=False),
            _adam("D", discriminator, number, gradients=2),
            _casts("D updated", discriminator, precision),
            forward("D updated", discriminator),
            backward("D updated", discriminator, weights=False, inputs=True),
            backward("G", generator, weights=True, inputs=False),
            _adam("G", generator, number, gradients=1),
        )
    )


def eager_launches(arch: Architecture, precision: str) -> int:
    """Operators that eager execution launches in a step with fused Adam: 188 for dcgan64 in bf16."""
    G, D = len(arch.generator), len(arch.discriminator)
    convolutions, normalised, activated = G + 3 * D, (G - 1) + 3 * (D - 2), G + 3 * (D - 1)
    forward_and_backward = 2 * (convolutions + normalised + activated)
    counters, accumulated = normalised, D + 2 * (D - 2)  # D's gradients on real and on fake are added
    losses_and_metrics, adam = 25, 4
    # Weights, and back as gradients; pictures, noise, logits and D's probabilities.
    casts = (G + 2 * D) + (G + D) + 10 if precision != "fp32" else 0
    return forward_and_backward + counters + accumulated + losses_and_metrics + adam + casts


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A convolution and what follows it; sizes in numbers, for a whole batch."""

    index: int
    flops: float
    """Of a forward pass."""

    weight: int
    input: int
    output: int
    normalised: bool
    activated: bool

    def forward(self, network: str, number: int) -> Iterator[Kernel]:
        """Kernels of a forward pass; `number`: bytes of each."""
        name = f"{network} {self.index}"
        yield Kernel(
            name=f"{name} convolution", flops=self.flops, bytes=number * (self.input + self.weight + self.output)
        )
        if self.normalised:
            yield Kernel(name=f"{name} statistics", bytes=number * self.output)
        if self.activated:
            yield Kernel(name=f"{name} activation", bytes=number * 2 * self.output)

    def backward(self, network: str, number: int, *, weights: bool, inputs: bool) -> Iterator[Kernel]:
        """Kernels of a backward pass, from the gradient of the activation's output."""
        name = f"{network} {self.index}"
        if self.normalised:  # both read what came in, what went out (its sign is the activation's slope), its gradient
            yield Kernel(name=f"{name} gradient's statistics", bytes=number * 3 * self.output)
            yield Kernel(name=f"{name} activation's gradient", bytes=number * 4 * self.output)
        elif self.activated:
            yield Kernel(name=f"{name} activation's gradient", bytes=number * 3 * self.output)
        moved = number * (self.input + self.weight + self.output)
        if weights:
            yield Kernel(name=f"{name} weight's gradient", flops=self.flops, bytes=moved)
        if inputs:
            yield Kernel(name=f"{name} input's gradient", flops=self.flops, bytes=moved)


def _casts(network: str, layers: list[_Layer], precision: str) -> Iterator[Kernel]:
    """Weights are kept in fp32; for each phase they are cast, all in one kernel."""
    if precision != "fp32":
        weights = sum(layer.weight for layer in layers)
        yield Kernel(name=f"{network} cast", bytes=(4 + _BYTES[precision]) * weights)


def _adam(network: str, layers: list[_Layer], number: int, gradients: int) -> Iterator[Kernel]:
    """Reads the gradients of each pass; reads and writes weights and two moments, in fp32."""
    weights = sum(layer.weight for layer in layers)
    yield Kernel(name=f"{network} Adam", bytes=(2 * 3 * 4 + gradients * number) * weights)


def _layers(arch: Architecture, batch: int) -> tuple[list[_Layer], list[_Layer]]:
    def chained(
        specs: tuple[ConvSpec, ...], flops: list[int], sides: list[int], unnormalised: set[int], linear: set[int]
    ) -> list[_Layer]:
        return [
            _Layer(
                index=index,
                flops=batch * flops[index],
                weight=spec.in_channels * spec.out_channels * spec.kernel**2,
                input=batch * spec.in_channels * sides[index] ** 2,
                output=batch * spec.out_channels * sides[index + 1] ** 2,
                normalised=index not in unnormalised,
                activated=index not in linear,
            )
            for index, spec in enumerate(specs)
        ]

    up, down = [1], [arch.resolution]
    for spec in arch.generator:
        up.append(conv_transpose_out(up[-1], spec.kernel, spec.stride, spec.padding))
    for spec in arch.discriminator:
        down.append(conv_out(down[-1], spec.kernel, spec.stride, spec.padding))
    generator_flops, discriminator_flops = pass_flops(arch)
    last_g, last_d = len(arch.generator) - 1, len(arch.discriminator) - 1
    return (
        chained(arch.generator, generator_flops, up, unnormalised={last_g}, linear=set()),
        chained(arch.discriminator, discriminator_flops, down, unnormalised={0, last_d}, linear={last_d}),
    )
