"""Predicts the time of a step on a GPU, kernel by kernel, from datasheets. Nothing is measured.

`roofline.py` bounds a whole step. On a GPU each kernel is bounded by itself: convolutions mostly by arithmetic, the
kernels between them by memory, and kernels don't overlap. So a step takes the sum over its kernels of the longer of the
two; in eager execution at least the time to launch them all.

The kernels are those of a compiler that fuses elementwise operators: a BatchNorm with its activation is one kernel that
computes the statistics and one that writes the result, and two again in the backward pass.

Compared with the captured step of dcgan64 (batch 128, bf16) as Inductor lowers it for an H100, with 291 GFLOP and 2.4
GB
moved: convolutions and FLOPs are the same here, the bytes a sixth fewer. Here nothing is written that could be
recomputed from what is read anyway, and nothing is copied into another layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from fastdcgan.gan.architecture import Architecture, ConvSpec, Size
from fastdcgan.limits.roofline import Ceilings, pass_flops
from fastdcgan.limits.scaling import Compute, Gradient, gradient_numbers

PEAK_EFFICIENCY = 0.8
"""The part of a datasheet's peaks, FLOPs and bandwidth, that large kernels reach. Assumed."""

LAUNCH_SECONDS = 9e-6
"""Host time of PyTorch and Python for an operator in eager execution: 8 to 10 us on a fast host."""

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel of a captured step: its FLOPs and the bytes that it moves."""

    name: str
    flops: float = 0.0
    bytes: float = 0.0

    def seconds(self, gpu: Ceilings, precision: str) -> float:
        """The longer of the times for arithmetic and for memory traffic."""
        return max(self._arithmetic(gpu, precision), self._memory(gpu))

    def is_bound_by_memory(self, gpu: Ceilings, precision: str) -> bool:
        """Whether memory traffic takes longer than arithmetic."""
        return self._memory(gpu) > self._arithmetic(gpu, precision)

    def _arithmetic(self, gpu: Ceilings, precision: str) -> float:
        return self.flops / (PEAK_EFFICIENCY * gpu.flops[precision])

    def _memory(self, gpu: Ceilings) -> float:
        return self.bytes / (PEAK_EFFICIENCY * gpu.bytes)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted seconds of a step on a GPU."""

    arithmetic: float
    """Arithmetic alone."""

    memory: float
    """Memory traffic alone."""

    captured: float
    """A captured step, without launches: the sum over kernels of the longer of the two."""

    captured_bound_by: str
    """ "arithmetic" or "memory": where most of that time goes."""

    launches: float
    """Launching all operators of eager execution."""

    @property
    def eager(self) -> float:
        """An eager step: the longer of launches and kernels, which overlap. Its kernels are those of a captured one."""
        return max(self.launches, self.captured)

    @property
    def eager_bound_by(self) -> str:
        """ "launches", "arithmetic" or "memory"."""
        return "launches" if self.launches > self.captured else self.captured_bound_by


def predict(arch: Architecture, batch: int, gpu: Ceilings, precision: str) -> Prediction:
    """Predict a step on one GPU: channels-last, both Adam updates included, the data in its memory.

    Args:
        arch: the networks.
        batch: pictures an iteration.
        gpu: datasheet peaks.
        precision: fp32 or bf16.
    """
    kernels = step_kernels(arch, batch, precision)
    by_memory = sum(kernel.seconds(gpu, precision) for kernel in kernels if kernel.is_bound_by_memory(gpu, precision))
    captured = sum(kernel.seconds(gpu, precision) for kernel in kernels)
    return Prediction(
        arithmetic=sum(kernel.flops for kernel in kernels) / (PEAK_EFFICIENCY * gpu.flops[precision]),
        memory=sum(kernel.bytes for kernel in kernels) / (PEAK_EFFICIENCY * gpu.bytes),
        captured=captured,
        captured_bound_by="memory" if 2 * by_memory > captured else "arithmetic",
        launches=LAUNCH_SECONDS * eager_launches(arch, precision),
    )


def predict_compute(arch: Architecture, batch: int, gpu: Ceilings, precision: str, *, captured: bool) -> Compute:
    """Predict a step, and when in it each layer's gradient is ready.

    Where launches bound the step, all kernels are delayed by the same factor.

    Args:
        arch: the networks.
        batch: pictures an iteration.
        gpu: datasheet peaks.
        precision: fp32 or bf16.
        captured: whether the step is captured, without launches.
    """
    step = predict(arch, batch, gpu, precision)
    seconds = step.captured if captured else step.eager
    finished, clock = {}, 0.0
    for kernel in step_kernels(arch, batch, precision):
        clock += kernel.seconds(gpu, precision) * seconds / step.captured
        finished[kernel.name] = clock

    def gradients(network: str, numbers: list[int]) -> tuple[Gradient, ...]:
        # D's are ready after its second backward pass, over the real pictures.
        return tuple(
            Gradient(numbers=numbers[index], seconds=finished[f"{network} {index} weight's gradient"])
            for index in reversed(range(len(numbers)))
        )

    generator, discriminator = gradient_numbers(arch)
    return Compute(
        seconds=seconds,
        discriminator=gradients("D real", discriminator),
        generator=gradients("G", generator),
        bound_by=step.captured_bound_by if captured else step.eager_bound_by,
    )


def step_kernels(arch: Architecture, batch: int, precision: str) -> list[Kernel]:
    """The kernels of a step, in order, without the losses and the cast of the pictures, which are negligible."""
    number_bytes = _BYTES[precision]
    generator, discriminator = _layer_sizes(arch, batch)

    def forward(network: str, layers: list[_Layer]) -> Iterator[Kernel]:
        for layer in layers:
            yield from layer.forward(network, number_bytes)

    def backward(network: str, layers: list[_Layer], weights: bool, inputs: bool) -> Iterator[Kernel]:
        """`inputs`: whether the first layer's input needs a gradient too."""
        for layer in reversed(layers):
            yield from layer.backward(network, number_bytes, weights=weights, inputs=inputs or layer is not layers[0])

    return list(
        chain(
            _casts("G", generator, precision),
            forward("G", generator),
            _casts("D", discriminator, precision),
            forward("D real", discriminator),
            forward("D fake", discriminator),
            backward("D fake", discriminator, weights=True, inputs=False),
            backward("D real", discriminator, weights=True, inputs=False),
            _adam("D", discriminator, number_bytes, gradients=2),
            _casts("D updated", discriminator, precision),
            forward("D updated", discriminator),
            backward("D updated", discriminator, weights=False, inputs=True),
            backward("G", generator, weights=True, inputs=False),
            _adam("G", generator, number_bytes, gradients=1),
        )
    )


def eager_launches(arch: Architecture, precision: str) -> int:
    """How many operators eager execution launches in a step with fused Adam: 188 for dcgan64 in bf16."""
    G, D = len(arch.generator), len(arch.discriminator)
    convolutions, normalised, activated = G + 3 * D, (G - 1) + 3 * (D - 2), G + 3 * (D - 1)
    forward_and_backward = 2 * (convolutions + normalised + activated)
    counters, accumulated = normalised, D + 2 * (D - 2)  # D's gradients on real and on fake are added
    losses_and_metrics, adam = 25, 4
    # Of weights and of their gradients; of pictures, noise, logits and D's probabilities.
    casts = (G + 2 * D) + (G + D) + 10 if precision != "fp32" else 0
    return forward_and_backward + counters + accumulated + losses_and_metrics + adam + casts


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A convolution with its BatchNorm and activation; sizes in numbers, for a whole batch."""

    index: int
    flops: float
    """Of a forward pass."""

    weight: int
    input: int
    output: int
    normalised: bool
    activated: bool

    def forward(self, network: str, number_bytes: int) -> Iterator[Kernel]:
        """Kernels of a forward pass; `number_bytes`: bytes of a number."""
        name = f"{network} {self.index}"
        yield Kernel(
            name=f"{name} convolution", flops=self.flops, bytes=number_bytes * (self.input + self.weight + self.output)
        )
        if self.normalised:
            yield Kernel(name=f"{name} statistics", bytes=number_bytes * self.output)
        if self.activated:
            yield Kernel(name=f"{name} activation", bytes=number_bytes * 2 * self.output)

    def backward(self, network: str, number_bytes: int, *, weights: bool, inputs: bool) -> Iterator[Kernel]:
        """Kernels of a backward pass, from the gradient of the activation's output."""
        name = f"{network} {self.index}"
        if self.normalised:  # both read the input, the output (its sign gives the slope) and its gradient
            yield Kernel(name=f"{name} gradient's statistics", bytes=number_bytes * 3 * self.output)
            yield Kernel(name=f"{name} activation's gradient", bytes=number_bytes * 4 * self.output)
        elif self.activated:
            yield Kernel(name=f"{name} activation's gradient", bytes=number_bytes * 3 * self.output)
        moved = number_bytes * (self.input + self.weight + self.output)
        if weights:
            yield Kernel(name=f"{name} weight's gradient", flops=self.flops, bytes=moved)
        if inputs:
            yield Kernel(name=f"{name} input's gradient", flops=self.flops, bytes=moved)


def _casts(network: str, layers: list[_Layer], precision: str) -> Iterator[Kernel]:
    """Weights are fp32; in each phase one kernel casts all of a network."""
    if precision != "fp32":
        weights = sum(layer.weight for layer in layers)
        yield Kernel(name=f"{network} cast", bytes=(4 + _BYTES[precision]) * weights)


def _adam(network: str, layers: list[_Layer], number_bytes: int, gradients: int) -> Iterator[Kernel]:
    """Reads `gradients` gradients a weight; reads and writes the weight and two moments, in fp32."""
    weights = sum(layer.weight for layer in layers)
    yield Kernel(name=f"{network} Adam", bytes=(2 * 3 * 4 + gradients * number_bytes) * weights)


def _layer_sizes(arch: Architecture, batch: int) -> tuple[list[_Layer], list[_Layer]]:
    """The layers of G and of D."""

    def layers(
        specs: tuple[ConvSpec, ...], flops: list[int], sizes: list[Size], unnormalised: set[int], linear: set[int]
    ) -> list[_Layer]:
        return [
            _Layer(
                index=index,
                flops=batch * flops[index],
                weight=spec.weights,
                input=batch * spec.in_channels * sizes[index].area,
                output=batch * spec.out_channels * sizes[index + 1].area,
                normalised=index not in unnormalised,
                activated=index not in linear,
            )
            for index, spec in enumerate(specs)
        ]

    sizes_g, sizes_d = [Size(1, 1)], [arch.resolution]
    for spec in arch.generator:
        sizes_g.append(spec.conv_transpose_out(sizes_g[-1]))
    for spec in arch.discriminator:
        sizes_d.append(spec.conv_out(sizes_d[-1]))
    generator_flops, discriminator_flops = pass_flops(arch)
    last_g, last_d = len(arch.generator) - 1, len(arch.discriminator) - 1
    return (
        layers(arch.generator, generator_flops, sizes_g, unnormalised={last_g}, linear=set()),
        layers(arch.discriminator, discriminator_flops, sizes_d, unnormalised={0, last_d}, linear={last_d}),
    )
