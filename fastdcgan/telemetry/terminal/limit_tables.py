"""A table of how fast an architecture could at most train, here and on known GPUs."""

from rich.console import Console
from rich.table import Table

from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.gpu_prediction import ATTAINABLE, LAUNCH_SECONDS, predict
from fastdcgan.limits.roofline import KNOWN_GPUS, Ceilings, limit, measure_ceilings, work

_BYTES = {"fp32": 4, "bf16": 2}


def show_limits(arch: Architecture, batch: int) -> None:
    """Print both tables, of this CPU and known GPUs. Raises ValueError for a batch below 1."""
    if batch < 1:
        raise ValueError(f"--batch-size {batch}: must be at least 1")
    Console().print(limits_table(arch, batch, measure_ceilings()), prediction_table(arch, batch))


def limits_table(arch: Architecture, batch: int, here: Ceilings) -> Table:
    """One row a machine and precision. Rows of GPUs are predictions from datasheets."""
    table = Table(
        title=f"{arch.name}, width {arch.width}, batch {batch}: the roofline",
        caption="A step does its convolutions at the machine's best rate, or moves each operator's inputs and outputs "
        "at its bandwidth, whichever takes longer. Fusion and caches move less. GPUs: predictions from datasheets.",
    )
    for heading in ("machine", "precision", "GFLOP/image", "MB/image", "TFLOP/s", "GB/s", "images/s", "bound by"):
        table.add_column(heading, justify="left" if heading in ("machine", "precision", "bound by") else "right")
    for machine in (here, *KNOWN_GPUS.values()):
        for precision, rate in machine.flops.items():
            needed = work(arch, batch, _BYTES[precision])
            most = limit(needed, machine, precision)
            table.add_row(
                machine.name,
                precision,
                f"{needed.flops / 1e9:.2f}",
                f"{needed.bytes / 1e6:.1f}",
                f"{rate / 1e12:,.2f}",
                f"{machine.bytes / 1e9:,.0f}",
                f"{most.images_per_sec:,.0f}",
                most.bound_by,
            )
    return table


def prediction_table(arch: Architecture, batch: int) -> Table:
    """One row a known GPU and precision: a step in eager execution and captured whole, predicted kernel by kernel."""
    table = Table(
        title=f"{arch.name}, width {arch.width}, batch {batch}: a step on GPUs, predicted and not measured",
        caption="The sum over kernels of the longer of their arithmetic and their memory traffic, at "
        f"{ATTAINABLE:.0%} of datasheet peaks. Eager also has to launch each operator, {1e6 * LAUNCH_SECONDS:.0f} us "
        "apiece; a step captured whole (--compile step) is replayed without.",
    )
    text = ("GPU", "precision", "eager bound by", "captured bound by")
    for heading in (*text[:2], "eager ms", text[2], "captured ms", "captured images/s", text[3]):
        table.add_column(heading, justify="left" if heading in text else "right")
    for gpu in KNOWN_GPUS.values():
        for precision in gpu.flops:
            step = predict(arch, batch, gpu, precision)
            table.add_row(
                gpu.name,
                precision,
                f"{1e3 * step.eager:.2f}",
                step.eager_bound_by,
                f"{1e3 * step.captured:.2f}",
                f"{batch / step.captured:,.0f}",
                step.captured_bound_by,
            )
    return table
