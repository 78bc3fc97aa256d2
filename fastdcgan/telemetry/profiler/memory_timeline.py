"""memory.png: allocated memory over a profiled window, above a time line of the named ranges."""

from pathlib import Path

from fastdcgan.gan.ranges import ALL_RANGES, ALL_REDUCE
from fastdcgan.storage.files import replacing
from fastdcgan.telemetry.profiler.trace import MemoryPoint, Window

_COLOURS = (
    *("#4477aa", "#bbbbbb", "#ee6677", "#228833", "#ccbb44", "#66a61e", "#1b9e77", "#aa3377"),
    *("#66ccee", "#d95f02", "#a6761d", "#7570b3", "#000000", "#999999", "#e7298a", "#666666"),
    *("#3b528b", "#f4a582"),
)


assert len(_COLOURS) >= len(ALL_RANGES)


def peak(window: Window) -> tuple[MemoryPoint, str] | None:
    """When most memory was allocated, and in which range ("" if in none); None if no allocation was recorded."""
    if not window.memory:
        return None
    most = max(window.memory, key=lambda point: point.bytes)
    within = [found.name for found in window.ranges if found.start <= most.seconds <= found.start + found.seconds]
    return most, within[-1] if within else ""


def plot_memory(window: Window, path: Path) -> None:
    """Plot the memory of a window to a PNG; nothing where no allocation was recorded."""
    found = peak(window)
    if found is None:
        return
    from matplotlib.figure import Figure  # slow to import, and needed only now

    most, within = found
    figure = Figure(figsize=(11, 5.5), dpi=120, layout="constrained")
    memory, names = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    milliseconds = [1e3 * point.seconds for point in window.memory]
    mebibytes = [point.bytes / 2**20 for point in window.memory]
    memory.step(milliseconds, mebibytes, where="post", color="#333333", linewidth=0.9)
    memory.fill_between(milliseconds, mebibytes, step="post", color="#333333", alpha=0.12)
    memory.plot(1e3 * most.seconds, most.bytes / 2**20, "o", color="#d95f02")
    what = "held" if window.device == "gpu" else "allocated since the window began, and still held"
    memory.set(
        title=f"Memory over {window.steps} steps: {most.bytes / 2**20:,.1f} MiB at most"
        + (f", in {within}" if within else ""),
        ylabel=f"MiB {what}",
    )
    memory.title.set_fontsize(11)
    memory.yaxis.label.set_fontsize(8)
    shown = [name for name in ALL_RANGES if name != ALL_REDUCE and any(found.name == name for found in window.ranges)]
    for name in shown:
        bars = [(1e3 * found.start, 1e3 * found.seconds) for found in window.ranges if found.name == name]
        names.broken_barh(bars, (0, 1), color=_COLOURS[ALL_RANGES.index(name)], label=name)
    names.set(xlabel="ms", yticks=[], ylim=(0, 1), xlim=(0, 1e3 * window.length))
    figure.legend(*names.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    for axes in (memory, names):
        axes.spines[["top", "right"]].set_visible(False)
    memory.grid(alpha=0.25)
    with replacing(path) as file:
        figure.savefig(file, format="png")
