"""A run of the suite as tables and a plot: `python -m benchmarks.report BENCH.json [--out DIR]`.

With `--compare OTHER.json` it says instead whether that second run repeats the first.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from benchmarks.results import results_in
from benchmarks.suites import SUITES, in_order

Row = TypeVar("Row")

Info = dict[str, Any]
"""The extra_info of a result, see `results.py`."""

OURS, REFERENCE, CEILING = "#1b9e77", "#bbbbbb", "#d95f02"


def main(
    bench: tyro.conf.Positional[Path],
    out: Path = Path(),
    compare: Annotated[Path | None, tyro.conf.arg(metavar="OTHER.json")] = None,
) -> None:
    """Render a run of the benchmarks: report.md and report.png.

    Args:
        bench: what `pytest benchmarks --benchmark-only --benchmark-json=BENCH.json` wrote.
        out: the folder that the report goes to; made if need be.
        compare: a second run. Nothing is rendered; for each case it's said whether the second run's figure lies within
            the first's stated spread.
    """
    infos = read(bench)
    if compare is not None:
        print(comparison(infos, read(compare)))
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.md").write_text(report(infos), encoding="utf-8")
        plot(infos, out / "report.png")
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error
    print(f"{out / 'report.md'}, {out / 'report.png'}")


def read(path: Path) -> list[Info]:
    """The results in a file, in the order of SUITES.

    Raises:
        ValueError: there is no such file, or it holds no run of this suite.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        results = run["benchmarks"]
        extra_infos = [result["extra_info"] for result in results if result["extra_info"]]
        if not extra_infos:
            raise KeyError("extra_info")
        if failed := len(results) - len(extra_infos):
            print(f"{path}: {failed} cases are left out, because they failed once they were timed", file=sys.stderr)
        return in_order(info for extra_info in extra_infos for info in results_in(extra_info))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no run of these benchmarks, made with --benchmark-json") from error


# --- Tables -----------------------------------------------------------------------------------------------------------


def report(infos: Sequence[Info]) -> str:
    """All tables as Markdown, under the conditions they were measured in."""
    by_suite: dict[str, list[Info]] = defaultdict(list)
    for info in infos:
        by_suite[info["suite"]].append(info)
    parts = ["# Speed", conditions_text(infos)]
    for suite, these in by_suite.items():
        parts.append(f"## {SUITES[suite]}")
        match suite:
            case "technique":
                parts += [f"**{arch}**\n\n{techniques(rows)}" for arch, rows in grouped(these, "arch").items()]
            case "start-up":
                parts.append(durations(these))
            case "packing" | "order":
                parts.append(costs(these))
            case "host overhead":
                parts.append(overheads(these))
            case _:
                parts.append(throughputs(these))
    parts.append(
        "Ratios are medians over pairs of turns, taken one after the other; in brackets their quartiles. The ceiling "
        "is what the best convolution or matrix product in that precision reaches here, as if the step did nothing "
        "else; Winograd's kernels multiply less than it counts, and may exceed it. The parity error is the relative "
        "distance of the gradients from those in fp64; allowed is 1.5 times the reference's own in that precision."
    )
    return "\n\n".join(parts) + "\n"


def conditions_text(infos: Sequence[Info]) -> str:
    """Machine, versions, commit and date of a run, in a few lines."""
    first = infos[0]["conditions"] if infos else {}
    if not first:
        return "No results."
    loads = [load for info in infos if (load := info["conditions"]["load_average"]) is not None]
    load = f", load average {min(loads)} to {max(loads)}" if loads else ""
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    settings = {**first["allocator"], **first["thread_settings"]}
    lines = [
        f"{first['gpu'] or first['cpu']}, {first['cores']} cores, {first['threads']} threads{load}",
        versions,
        f"commit {first['commit']}, {first['date']}",
        f"huge pages {first['huge_pages']}; " + (", ".join(f"{k}={v}" for k, v in settings.items()) or "no settings"),
    ]
    return "\n".join(f"- {line}" for line in lines)


def throughputs(infos: Sequence[Info]) -> str:
    """Ours and the reference's images per second, case by case."""
    columns: dict[str, Callable[[Info], str]] = {
        "": lambda info: info["case"],
        "ours, img/s": lambda info: f"{info['images_per_sec']:,.0f}",
        "quartiles": lambda info: rates(info["images_per_sec_quartiles"]) if info["suite"] == "packed" else "",
        "reference, img/s": lambda info: f"{info['reference_images_per_sec']:,.0f}",
        "ratio": lambda info: spread(info["speedup"], info["speedup_quartiles"]),
        "pairs": lambda info: str(info["pairs"]),
        "waits for data": waiting,
        "of the ceiling": lambda info: percent(info.get("ceiling_fraction")),
        "parity error (of what is allowed)": parity,
        "peak memory, MiB": memory,
        "first step, s": lambda info: f"{info['warm_up_seconds']:.1f}",
        "plan": lambda info: info.get("plan", ""),
    }
    return table(columns, infos)


def rates(quartiles: Sequence[float]) -> str:
    """Where nothing but the rate itself counts, its spread counts too."""
    return f"{quartiles[0]:,.0f} to {quartiles[1]:,.0f}"


def parity(info: Info) -> str:
    """The error, and what it may be."""
    if "parity_error" not in info:
        return ""
    allowed = f" of {info['parity_allowed']:.0e}" if "parity_allowed" in info else ""
    return f"{info['parity_error']:.0e}{allowed}"


def waiting(info: Info) -> str:
    """The share of its time, with quartiles."""
    if "data_wait_fraction" not in info:
        return ""
    lower, upper = info["data_wait_fraction_quartiles"]
    return f"{info['data_wait_fraction']:.2%} ({lower:.2%} to {upper:.2%})"


def techniques(infos: Sequence[Info]) -> str:
    """What each technique was to gain over all before it, and what it did gain."""
    columns: dict[str, Callable[[Info], str]] = {
        "technique": lambda info: f"+ {info['technique']}",
        "predicted gain": lambda info: f"{info['predicted_gain']:.2f}",
        "measured gain": lambda info: spread(info["measured_gain"], info["measured_gain_quartiles"]),
        "against the reference": lambda info: spread(info["speedup"], info["speedup_quartiles"]),
        "img/s": lambda info: f"{info['images_per_sec']:,.0f}",
        "of the ceiling": lambda info: percent(info.get("ceiling_fraction")),
    }
    return table(columns, sorted(infos, key=lambda info: info["technique_number"]))


def durations(infos: Sequence[Info]) -> str:
    """Seconds, case by case."""
    columns: dict[str, Callable[[Info], str]] = {
        "": lambda info: info["case"],
        "seconds": lambda info: spread(info["seconds"], info["seconds_quartiles"]),
        "in all": lambda info: f"{info['seconds_in_all']:.1f}",
        "subtracted": lambda info: f"{info['seconds_subtracted']:.1f}",
        "starts": lambda info: str(info["pairs"]),
        "the first start": lambda info: f"{info['warm_up_seconds']:.1f}",
    }
    return table(columns, infos)


def costs(infos: Sequence[Info]) -> str:
    """Seconds and memory, case by case; what is done more than once has quartiles."""
    columns: dict[str, Callable[[Info], str]] = {
        "": lambda info: info["case"],
        "seconds": lambda info: (
            spread(info["seconds"], info["seconds_quartiles"]) if info["times"] > 1 else f"{info['seconds']:.1f}"
        ),
        "checking, img/s": lambda info: count(info.get("checked_per_sec")),
        "packing, img/s": lambda info: count(info.get("packed_per_sec")),
        "opened again, s": lambda info: f"{info['seconds_again']:.2f}" if "seconds_again" in info else "",
        "peak memory, MiB": lambda info: count(info.get("peak_memory_mib")),
        "times": lambda info: str(info["times"]),
        "by": lambda info: info.get("plan", ""),
    }
    return table(columns, infos)


def overheads(infos: Sequence[Info]) -> str:
    """Microseconds of an iteration, case by case, by the clock and of the processor."""
    columns: dict[str, Callable[[Info], str]] = {
        "": lambda info: info["case"],
        "us an iteration": lambda info: microseconds(info, "microseconds"),
        "of the processor": lambda info: count(info["processor_microseconds"]),
        "with pictures": lambda info: microseconds(info, "microseconds_in_all"),
        "of the processor, with pictures": lambda info: count(info["processor_microseconds_in_all"]),
        "pairs": lambda info: str(info["pairs"]),
    }
    return table(columns, infos)


def microseconds(info: Info, name: str) -> str:
    """One of its figures, with quartiles: "61 (58 to 66)"."""
    lower, upper = info[f"{name}_quartiles"]
    return f"{info[name]:,.0f} ({lower:,.0f} to {upper:,.0f})"


def comparison(first: Sequence[Info], second: Sequence[Info]) -> str:
    """Does a second run repeat the first? Case by case: the first's figure with its spread, and the second's."""
    others = {(info["suite"], info["case"]): info for info in second}
    first = [info for info in first if info.get("times") != 1]  # no spread that a second could lie in
    second = [info for info in second if info.get("times") != 1]
    shared = [(info, others[key]) for info in first if (key := (info["suite"], info["case"])) in others]
    columns: dict[str, Callable[[tuple[Info, Info]], str]] = {
        "": lambda pair: f"{pair[0]['suite']}: {pair[0]['case']}",
        "first": lambda pair: spread(*figure(pair[0])),
        "second": lambda pair: spread(*figure(pair[1])),
        "within": lambda pair: "yes" if repeats(*pair) else "**no**",
    }
    within = sum(repeats(*pair) for pair in shared)
    lines = [table(columns, shared), "", f"{within} of {len(shared)} lie within the first run's spread."]
    alone = len(first) + len(second) - 2 * len(shared)
    if alone:
        lines.append(f"{alone} are in one of the runs alone.")
    return "\n".join(lines)


def figure(info: Info) -> tuple[float, Sequence[float]]:
    """What a result states, and its quartiles: a speed-up, microseconds, or seconds."""
    name = next(name for name in ("speedup", "microseconds", "seconds") if name in info)
    return info[name], info[f"{name}_quartiles"]


def repeats(first: Info, second: Info) -> bool:
    """Whether the second run's figure lies between the first's quartiles, to the digits that are shown."""
    lower, upper = figure(first)[1]
    return round(lower, 2) <= round(figure(second)[0], 2) <= round(upper, 2)


def table(columns: dict[str, Callable[[Row], str]], rows: Iterable[Row]) -> str:
    """Markdown. Columns in which no row says anything are left out."""
    cells = {heading: [text(row) for row in rows] for heading, text in columns.items()}
    cells = {heading: texts for heading, texts in cells.items() if any(texts)}
    lines = [list(cells), ["---"] * len(cells), *map(list, zip(*cells.values(), strict=True))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def grouped(infos: Iterable[Info], name: str) -> dict[str, list[Info]]:
    """By a field."""
    groups: dict[str, list[Info]] = defaultdict(list)
    for info in infos:
        groups[info[name]].append(info)
    return groups


def spread(median: float, quartiles: Sequence[float]) -> str:
    """A median with its quartiles: "2.31 (2.24 to 2.40)"."""
    return f"{median:.2f} ({quartiles[0]:.2f} to {quartiles[1]:.2f})"


def count(number: float | None) -> str:
    """With commas; nothing where it isn't known."""
    return "" if number is None else f"{number:,.0f}"


def percent(fraction: float | None) -> str:
    """Of 1; nothing where it isn't known."""
    return "" if fraction is None else f"{fraction:.0%}"


def memory(info: Info) -> str:
    """Ours, the reference's, and their ratio."""
    if "peak_memory_mib" not in info:
        return ""
    ours, reference = info["peak_memory_mib"], info["reference_peak_memory_mib"]
    return f"{ours:,.0f} / {reference:,.0f} = {ours / reference:.2f}"


# --- The plot ---------------------------------------------------------------------------------------------------------


def plot(infos: Sequence[Info], path: Path) -> None:
    """Bars of images per second, ours and the reference's; the ceiling is a line across each pair.

    A panel for each architecture: their speeds differ a hundredfold. The headline alone, if it was measured: all cases
    of the step would be more than one looks at.
    """
    from matplotlib.figure import Figure  # slow to import, and a comparison needs none
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    of_suite = {suite: [info for info in infos if info["suite"] == suite] for suite in ("headline", "step")}
    panels = grouped(of_suite["headline"] or of_suite["step"], "arch")
    if not panels:
        return
    panels = dict(sorted(panels.items(), key=lambda panel: (len(panel[0]), panel[0])))  # dcgan64 before dcgan128
    heights = [len(rows) for rows in panels.values()]
    canvas = Figure(figsize=(9, 1.6 + 0.55 * sum(heights) + 0.5 * len(panels)), dpi=120, layout="constrained")
    axes = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=[height + 0.8 for height in heights])[:, 0]
    for axis, (arch, rows) in zip(axes, panels.items(), strict=True):
        for place, info in enumerate(rows):
            _pair_of_bars(axis, place, info)
        reach = max(max(info["images_per_sec"], info.get("ceiling_images_per_sec", 0)) for info in rows)
        axis.set(title=arch, xlim=(0, 1.12 * reach), ylim=(len(rows) - 0.45, -0.55))
        axis.set_yticks(range(len(rows)), [_label(info) for info in rows])
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel("images per second")
    conditions = infos[0]["conditions"]
    canvas.suptitle(
        f"{conditions['gpu'] or conditions['cpu']}, {conditions['cores']} cores, commit {conditions['commit'][:10]}, "
        f"{conditions['date'][:10]}",
        fontsize=10,
    )
    canvas.legend(
        handles=[
            Patch(color=OURS, label="fastdcgan"),
            Patch(color=REFERENCE, label="reference"),
            Line2D([], [], color=CEILING, linewidth=2, label="ceiling: the best this machine multiplies"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    canvas.savefig(path)


def _pair_of_bars(axis: Any, place: int, info: Info) -> None:
    for offset, name, colour in ((-0.19, "images_per_sec", OURS), (0.19, "reference_images_per_sec", REFERENCE)):
        rate = info[name]
        lower, upper = info[f"{name}_quartiles"]
        axis.barh(place + offset, rate, height=0.36, color=colour)
        axis.plot([lower, upper], [place + offset] * 2, color="black", linewidth=0.8)
        ratio = f"  ({info['speedup']:.2f} x)" if colour == OURS else ""
        axis.annotate(
            f"{rate:,.0f}{ratio}",
            (upper, place + offset),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the ceiling may lie behind it
        )
    if ceiling := info.get("ceiling_images_per_sec"):
        axis.plot([ceiling] * 2, [place - 0.42, place + 0.42], color=CEILING, linewidth=2)


def _label(info: Info) -> str:
    """The case without the architecture, which is the panel's title; the headline says so."""
    words = info["case"].removeprefix(f"{info['arch']}, ")
    return f"{words}\n(separate processes)" if info["suite"] == "headline" else words


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m benchmarks.report")
    except ValueError as problem:
        print(f"benchmarks.report: error: {problem}", file=sys.stderr)
        sys.exit(2)
