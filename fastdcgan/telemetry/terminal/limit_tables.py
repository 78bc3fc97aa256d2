"""A table of how fast an architecture could at most train, here and on known GPUs."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.gpu_prediction import LAUNCH_SECONDS, PEAK_EFFICIENCY, predict
from fastdcgan.limits.roofline import KNOWN_GPUS, Ceilings, measure_ceilings, throughput_limit, work_per_image

_BYTES = {"fp32": 4, "bf16": 2}


def show_limits(arch: Architecture, batch: int) -> None:
    """Print both tables, of this CPU and known GPUs. Raises ValueError for a batch below 1."""
    if batch < 1:
        raise ValueError(f"--batch-size {batch}: must be at least 1")
    Console().print(limits_table(arch, batch, measure_ceilings()), prediction_table(arch, batch))


def limits_table(arch: Architecture, batch: int, here: Ceilings) -> Table:
    """One row a machine and precision. Rows of GPUs are predictions from datasheets. Fits 60 columns."""
    needed = {precision: work_per_image(arch, batch, size) for precision, size in _BYTES.items()}
    moved = ", ".join(f"{each.bytes / 1e6:.1f} MB in {precision}" for precision, each in needed.items())
    table = _table(
        f"{arch.name}, width {arch.width}, batch {batch}: the roofline",
        f"An image takes {needed['fp32'].flops / 1e9:.2f} GFLOP and moves {moved}. A step does its convolutions at the "
        "machine's best rate, or moves each operator's inputs and outputs at its bandwidth, whichever takes longer. "
        "Fusion and caches move less. GPUs: predictions from datasheets.",
        text=("machine", "precision", "bound by"),
        headings=("machine", "precision", "TFLOP/s", "GB/s", "images/s", "bound by"),
    )
    for machine in (here, *KNOWN_GPUS.values()):
        for precision, rate in machine.flops.items():
            most = throughput_limit(needed[precision], machine, precision)
            table.add_row(
                machine.name.removesuffix(" (datasheet)"),
                precision,
                f"{rate / 1e12:,.2f}",
                f"{machine.bytes / 1e9:,.0f}",
                f"{most.images_per_sec:,.0f}",
                most.bound_by,
            )
    return table


def prediction_table(arch: Architecture, batch: int) -> Table:
    """One row a known GPU and precision: a step in eager execution and captured whole, predicted kernel by kernel.

    Fits 60 columns.
    """
    text = ("GPU and\nprecision", "eager\nbound by", "captured\nbound by")
    table = _table(
        f"A step on GPUs, predicted and not measured: {arch.name}, width {arch.width}, batch {batch}",
        "The sum over kernels of the longer of their arithmetic and their memory traffic, at "
        f"{PEAK_EFFICIENCY:.0%} of datasheet peaks. Eager also has to launch each operator, "
        f"{1e6 * LAUNCH_SECONDS:.0f} us apiece; a step captured whole (--compile step) is replayed without.",
        text=text,
        headings=(text[0], "eager\nms", text[1], "captured\nms", "captured\nimages/s", text[2]),
    )
    for name, gpu in KNOWN_GPUS.items():
        for precision in gpu.flops:
            step = predict(arch, batch, gpu, precision)
            table.add_row(
                f"{name} {precision}",
                f"{1e3 * step.eager:.2f}",
                step.eager_bound_by,
                f"{1e3 * step.captured:.2f}",
                f"{batch / step.captured:,.0f}",
                step.captured_bound_by,
            )
    return table


def _table(title: str, caption: str, *, text: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in text else "right", overflow="fold")
    return table
