"""A table of how training would scale over many GPUs: predicted."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.allreduce import LINK_EFFICIENCY, gpu_fabrics, max_gpus
from fastdcgan.limits.gpu_prediction import PEAK_EFFICIENCY, predict_compute
from fastdcgan.limits.roofline import Ceilings, find_gpu
from fastdcgan.limits.scaling import (
    Communication,
    Compute,
    batch_norm_messages,
    parse_gpu_counts,
    strong_scaling,
    weak_scaling,
)

WIDE = 80
"""Columns from which there is room for all of a table."""

Scaling = Literal["strong", "weak"]


def show_scaling(
    arch: Architecture,
    batch: int,
    *,
    gpu: str,
    gpus: str,
    links: str,
    precision: str,
    captured: bool,
    bytes_per_number: int,
    synchronised: bool,
    critical_batch: float,
    scalings: Sequence[Scaling],
) -> None:
    """Print a table for each kind of scaling.

    Args:
        arch: the networks.
        batch: pictures: of all GPUs, or of each.
        gpu: its name.
        gpus: how many, as for `parse_gpu_counts`.
        links: what joins them, as for `gpu_fabrics`.
        precision: of the arithmetic.
        captured: the step is replayed as one graph.
        bytes_per_number: of the gradients on their way.
        synchronised: BatchNorm's statistics are those of all GPUs.
        critical_batch: for time to quality, as in `images_needed`.
        scalings: the kinds.

    Raises:
        ValueError: for what can't be, naming the option.
    """
    if batch < 1:
        raise ValueError(f"--batch-size {batch}: must be at least 1")
    if not 0 < critical_batch < float("inf"):
        raise ValueError(f"--critical-batch {critical_batch}: must be above 0")
    name, datasheet = find_gpu(gpu)
    counts = parse_gpu_counts(gpus)
    if (most := max_gpus(links)) is not None and counts[-1] > most:
        raise ValueError(f"--link {links} joins at most {most} GPUs: for {counts[-1]} add a network, nvlink+infiniband")
    sharing = Communication(
        fabrics=gpu_fabrics(links, name),
        overlapped=not captured,
        buckets=not captured,
        bytes_per_number=bytes_per_number,
        batch_norm=batch_norm_messages(arch) if synchronised else (),
    )
    console = Console()
    for scaling in scalings:
        console.print(
            scaling_table(
                *(scaling, arch, batch, datasheet, precision, counts, links, sharing, critical_batch),
                wide=console.width >= WIDE,
            )
        )


def scaling_table(
    scaling: Scaling,
    arch: Architecture,
    batch: int,
    gpu: Ceilings,
    precision: str,
    counts: Sequence[int],
    links: str,
    sharing: Communication,
    critical_batch: float,
    *,
    wide: bool,
) -> Table:
    """One row a number of GPUs. Fits 80 columns.

    Args:
        scaling: "strong" divides one batch among the GPUs, "weak" gives each one of its own.
        arch: the networks.
        batch: pictures: of all GPUs, or of each.
        gpu: datasheet peaks.
        precision: of the arithmetic.
        counts: of GPUs.
        links: their names, for the title.
        sharing: the links, and how the GPUs use them. Without overlap the step is a captured one.
        critical_batch: for time to quality.
        wide: with the algorithm of the all-reduce, and the time to quality. Without them, 60 columns are enough.

    Raises:
        ValueError: if the batch can't be divided by any of the counts.
    """
    captured = not sharing.overlapped
    on_gpu = partial(_on_gpu, arch, gpu, precision, captured)
    rows = (strong_scaling if scaling == "strong" else weak_scaling)(batch, counts, on_gpu, sharing)
    if not rows:
        raise ValueError(f"--batch-size {batch}: can't be divided among {', '.join(map(str, counts))} GPUs")
    whose = "divided among all GPUs (strong scaling)" if scaling == "strong" else "on each GPU (weak scaling)"
    table = Table(
        title=f"A prediction, not a measurement: {arch.name}, width {arch.width}, {precision}, a batch of {batch} "
        f"{whose}, {gpu.name}, {links}",
        caption=_assumptions(sharing, captured, critical_batch if wide else None, left_out=len(counts) - len(rows)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    headings = ["GPUs", "batch\neach", "step\nms", "images/s", "effi-\nciency", "waits", "all-\nreduce\nms"]
    if wide:
        headings.insert(5, "qual-\nity in")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for heading in ("bound by", "all-\nreduce\nby")[: 2 if wide else 1]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            str(row.ranks),
            str(row.batch),
            f"{1e3 * row.seconds:.2f}",
            f"{row.images_per_sec:,.0f}",
            f"{row.efficiency:.0%}",
            *([f"{1 / row.sooner(batch, critical_batch):.0%}"] if wide else []),
            f"{row.communication:.0%}",
            f"{1e3 * (row.gradient_seconds + row.batch_norm_seconds):.2f}",
            *(row.bound_by, row.algorithm or "-")[: 2 if wide else 1],
        )
    return table


def _on_gpu(arch: Architecture, gpu: Ceilings, precision: str, captured: bool, batch: int) -> Compute:
    return predict_compute(arch, batch, gpu, precision, captured=captured)


def _assumptions(sharing: Communication, captured: bool, critical_batch: float | None, left_out: int) -> str:
    step = (
        "A captured step is replayed without launches; its gradients are added when all are there."
        if captured
        else "A step takes its kernels or the launches of its operators, whichever is longer; gradients are added in "
        "DDP's buckets while the backward pass goes on, and what is late is waited for."
    )
    parts = (
        f"{step} Kernels reach {PEAK_EFFICIENCY:.0%} of datasheet peaks, "
        f"links {LINK_EFFICIENCY:.0%} of theirs, with latencies from "
        "NCCL's cost model (Ethernet: assumed); the fastest of ring, tree and node by node counts.",
        f"Gradients travel in {'fp32' if sharing.bytes_per_number == 4 else 'bf16'}; BatchNorm's statistics "
        + ("are synchronised, in messages that nothing hides." if sharing.batch_norm else "stay on each GPU."),
        "Data are there when they are needed, and no GPU is slower than another. Efficiency: images/s of a GPU, by "
        "those of one alone. Waits: the share of a step in which a GPU waits for messages.",
        "Quality in: the time to some quality, by that of one GPU alone; a batch is taken to need 1 + batch / "
        f"{critical_batch:g} times the images of a tiny one (--critical-batch, known for small networks on the "
        "embedded faces only)."
        if critical_batch is not None
        else "",
        f"Left out: {left_out} counts that don't divide the batch." if left_out else "",
    )
    return " ".join(filter(None, parts))
