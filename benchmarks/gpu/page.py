"""report.md: what was found, for somebody who was not there."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.contenders import EXAMPLES, EXAMPLES_AMP, REFERENCE
from benchmarks.gpu.rows import Row, rows, why
from benchmarks.report import conditions_text, count, percent, spread, table
from fastdcgan.limits.gpu_prediction import LAUNCH_SECONDS, PEAK_EFFICIENCY
from fastdcgan.limits.roofline import Ceilings

Results = dict[str, Any]
"""What results.json holds, see `__main__.py`."""

Part = dict[str, Any]
"""As `run_parts` reports it."""


def page(results: Results) -> str:
    """All of it as Markdown."""
    parts = {part["name"]: part for part in results["parts"]}
    machine = Ceilings(**results["peaks"]) if results["peaks"] else None
    found = rows(results["parts"], machine)
    sections = [
        title(results),
        verdict(results),
        targets(results, found),
        "## The machine",
        conditions_text([{"conditions": results["conditions"]}]),
        facts(results, parts.get("speed")),
    ]
    headline = [row for row in found if str(row.cell) == results["headline"]]
    if headline:
        sections += [f"## The step: {results['headline']}", step_table(headline), legend(results)]
        sections += ["### Predicted and measured", prediction_table(headline, results), *reasons(headline, results)]
    if len(headline) < len(found):
        others = [row for row in found if row not in headline]
        sections += ["## The step, all other cases", overview(found), "Every contender:", cells_table(others)]
    for name, render in (
        ("tests", tests_text),
        ("parity", parity_text),
        ("launches", launches_text),
        ("end to end", end_to_end_text),
        ("profile", profile_text),
        ("default run", default_run_text),
    ):
        if name in parts:
            sections += [f"## {parts[name]['title']}", render(parts[name]), *trouble(parts[name])]
    return "\n\n".join(filter(None, sections)) + "\n"


# --- The top ----------------------------------------------------------------------------------------------------------


def title(results: Results) -> str:
    """What this is, and above all whether there was a GPU."""
    if results["on_gpu"]:
        return f"# The GPU proof: {results['device_name']}"
    return (
        f"# NO GPU: the GPU proof as it ran on a CPU ({results['device_name']})\n\n"
        "> **No figure on this page is of a GPU.** No CUDA device was used"
        f"{': ' + results['why_no_gpu'] if results['why_no_gpu'] else ''}. The command ran to its end on the CPU with "
        "smaller networks and batches, to show that it works; its speeds say nothing of any GPU, and little of a CPU "
        "(`pytest benchmarks --benchmark-only` measures those)."
    )


def verdict(results: Results) -> str:
    """In which state each part ended."""
    lines = [
        f"Made by `{results['command']}` in {results['seconds'] / 60:.1f} of {results['minutes']:g} minutes, "
        f"{results['conditions']['date']}.",
        "",
        table(
            {
                "part": lambda part: part["title"],
                "": lambda part: part["status"] if part["status"] == "done" else f"**{part['status']}**",
                "seconds": lambda part: f"{part['seconds']:.0f}",
                "what is wrong": lambda part: cell_text("; ".join(part["problems"][:3]) + more(part["problems"], 3)),
            },
            results["parts"],
        ),
    ]
    missing = [note for part in results["parts"] for note in part["notes"]]
    lines += ["", "Missing or left out, each below by name:", ""] if missing else []
    lines += [f"- {part['title']}: {cut(note)}" for part in results["parts"] for note in part["notes"]]
    return "\n".join(lines)


def targets(results: Results, found: Sequence[Row]) -> str:
    """What was aimed at, and what was reached. The aims are an H100's, at dcgan64, batch 128, bf16."""
    best = fastest(found, results["headline"])
    if not results["on_gpu"] or best is None or results["headline"] != "dcgan64, batch 128, bf16":
        return ""
    whole = [
        each["of_the_step"]
        for part in results["parts"]
        for each in part["records"]
        if each["kind"] == "end to end" and each["way"] == "packed faces"
    ]
    lines: list[tuple[str, str, float, float, float | None]] = [
        ("images/s, the step on data that is there", ",.0f", 40_000, 100_000, best.images_per_sec),
        (
            "times pytorch/examples' loop, fp32, in turns",
            ".1f",
            6,
            15,
            best.against_examples.speedup if best.against_examples else None,
        ),
        ("a whole run from a pack, of the step", ".2f", 0.95, 0.99, whole[0] if whole else None),
        ("share of the predicted captured step", ".2f", 0.4, 0.75, best.roofline_share),
    ]
    columns: dict[str, Callable[[tuple[str, str, float, float, float | None]], str]] = {
        "": lambda line: line[0],
        "must": lambda line: format(line[2], line[1]),
        "aim": lambda line: format(line[3], line[1]),
        "measured": lambda line: "" if line[4] is None else format(line[4], line[1]),
        "reached": lambda line: reached(line[2], line[3], line[4]),
    }
    other = "" if "H100" in results["device_name"] else " They are an H100's; this is another device."
    return f"## Aims\n\ndcgan64, batch 128, bf16, by `{best.contender}`.{other}\n\n{table(columns, lines)}"


def reached(must: float, aim: float, measured: float | None) -> str:
    """In a word."""
    if measured is None:
        return "not measured"
    return "aim" if measured >= aim else "must" if measured >= must else "**no**"


def fastest(found: Sequence[Row], cell: str) -> Row | None:
    """Our fastest plan in a cell."""
    return min((row for row in found if row.ours and str(row.cell) == cell), key=lambda row: row.seconds, default=None)


def facts(results: Results, speed: Part | None) -> str:
    """What else is known of the machine, and its own rates."""
    said = {name: value for name, value in results["facts"].items() if name not in ("packages", "missing")}
    lines = [f"{name}: {value}" for name, value in said.items()]
    lines.append(
        "packages: " + ", ".join(f"{name} {version}" for name, version in results["facts"]["packages"].items())
    )
    if results["facts"]["missing"]:
        lines.append("not installed: " + ", ".join(results["facts"]["missing"]))
    for record in speed["records"] if speed else []:
        if record["kind"] == "rates":
            flops = ", ".join(f"{rate / 1e12:,.2f} TFLOP/s {name}" for name, rate in record["rates"]["flops"].items())
            lines.append(f"reached by itself: {flops}, {record['rates']['bytes'] / 1e9:,.0f} GB/s (a copy)")
            tf32 = "is on for cuDNN's convolutions and for products" if record["tf32"]["cudnn"] else "is off for cuDNN"
            lines.append(f"fp32: TF32 {tf32} where there is one, for all contenders alike")
    clocks = [each["clocks"] for each in (speed["records"] if speed else []) if each.get("clocks")]
    if clocks:
        first = ", ".join(f"{name}: {value}" for name, value in clocks[0].items())
        lines.append(f"just after the headline's turns: {first}")
    return "\n".join(f"- {line}" for line in lines)


# --- The step ---------------------------------------------------------------------------------------------------------


def step_table(found: Sequence[Row]) -> str:
    """The contenders of one cell."""
    columns: dict[str, Callable[[Row], str]] = {
        "": lambda row: row.contender,
        "img/s": lambda row: f"{row.images_per_sec:,.0f}",
        "ms (quartiles)": milliseconds,
        "x reference": lambda row: ratio(row, "against_reference"),
        "x pytorch/examples": lambda row: ratio(row, "against_examples"),
        "TFLOP/s": lambda row: f"{row.flops_per_sec / 1e12:.2f}",
        "GB/s": lambda row: f"{row.bytes_per_sec / 1e9:,.0f}",
        "of the roofline": lambda row: percent(row.roofline_share),
        "launches": lambda row: count(row.counts["launches"]) if row.counts and row.counts["kernels"] else "",
        "kernels": lambda row: count(row.counts["kernels"]) if row.counts and row.counts["kernels"] else "",
        "operators, nested ones too": lambda row: (
            count(row.counts["operators"]) if row.counts and not row.counts["kernels"] else ""
        ),
        "peak MiB": lambda row: count(row.peak_memory_mib),
        "first step, s": lambda row: f"{row.first_step_seconds:.1f}",
        "parity": lambda row: parity_word(row),
        "turns": lambda row: str(row.turns),
    }
    return table(columns, found)


def legend(results: Results) -> str:
    """What the columns say."""
    peaks = results["peaks"]["name"] if results["peaks"] else "unknown"
    return (
        "All in turns in one process, timed by CUDA events (by the clock on a CPU); ratios are medians over turns "
        "taken one after the other, with quartiles. x: how many times faster. TFLOP/s: the direct convolutions' "
        "arithmetic. GB/s: what a step moves by the model, fused. Of the roofline: the captured step as predicted from "
        f"{peaks} at {PEAK_EFFICIENCY:.0%}, by the step as measured. Launches: calls of the host that make the device "
        "work, counted in another process. Peak: beyond what was in use before. The reference and pytorch/examples "
        "compute in fp32 in every case, with cuDNN trying out its algorithms, as the latter asks it to."
    )


def prediction_table(found: Sequence[Row], results: Results) -> str:
    """Predicted beside measured."""
    if not results["peaks"]:
        return "The peaks of this device are not known here, so nothing is predicted."
    columns: dict[str, Callable[[Row], str]] = {
        "": lambda row: row.contender,
        "predicted as": lambda row: "captured, no launches" if row.whole else "eager",
        "predicted, ms": lambda row: decimals(row.predicted_seconds),
        "measured, ms": lambda row: decimals(row.seconds),
        "measured / predicted": lambda row: f"{row.off:.2f}" if row.off else "",
        "device works, ms": lambda row: decimals(row.counts["device_seconds"]) if row.counts else "",
        "host, ms": lambda row: decimals(row.host_seconds),
    }
    source = (
        f"Peaks: {results['peaks']['name']}. An eager step is predicted as the longer of its kernels and of its "
        f"launches at {1e6 * LAUNCH_SECONDS:.0f} us apiece, a captured one as its kernels alone."
    )
    return f"{table(columns, found)}\n\n{source}"


def reasons(found: Sequence[Row], results: Results) -> list[str]:
    """Why they differ, contender by contender, where that was counted."""
    machine = Ceilings(**results["peaks"]) if results["peaks"] else None
    cost = launch_cost(results)
    said = [f"- {row.contender}: {text}." for row in found if (text := why(row, cost, machine))]
    return ["Why they differ, by the profiler's counts:", "\n".join(said)] if said else []


def launch_cost(results: Results) -> float | None:
    """Measured seconds for a small operator; None where that was not measured."""
    records = (record for part in results["parts"] for record in part["records"])
    return next((float(record["seconds"]) for record in records if record["kind"] == "launch cost"), None)


def overview(found: Sequence[Row]) -> str:
    """A row a cell: the reference, both loops, and the fastest plan."""
    cells = list(dict.fromkeys(str(row.cell) for row in found))
    by_name = {(str(row.cell), row.contender): row for row in found}

    def rate(cell: str, contender: str) -> str:
        row = by_name.get((cell, contender))
        return f"{row.images_per_sec:,.0f}" if row else ""

    def of_best(cell: str, show: Callable[[Row], str]) -> str:
        row = fastest(found, cell)
        return show(row) if row else ""

    columns: dict[str, Callable[[str], str]] = {
        "": lambda cell: cell,
        "reference, img/s": lambda cell: rate(cell, REFERENCE),
        EXAMPLES: lambda cell: rate(cell, EXAMPLES),
        EXAMPLES_AMP: lambda cell: rate(cell, EXAMPLES_AMP),
        "fastest plan": lambda cell: of_best(cell, lambda row: row.contender),
        "img/s": lambda cell: of_best(cell, lambda row: f"{row.images_per_sec:,.0f}"),
        "x reference": lambda cell: of_best(cell, lambda row: ratio(row, "against_reference")),
        "x pytorch/examples": lambda cell: of_best(cell, lambda row: ratio(row, "against_examples")),
        "of the roofline": lambda cell: of_best(cell, lambda row: percent(row.roofline_share)),
        "measured / predicted": lambda cell: of_best(cell, lambda row: f"{row.off:.2f}" if row.off else ""),
    }
    return table(columns, cells)


def cells_table(found: Sequence[Row]) -> str:
    """A row a contender, of all cells."""
    columns: dict[str, Callable[[Row], str]] = {
        "case": lambda row: str(row.cell),
        "contender": lambda row: row.contender,
        "img/s": lambda row: f"{row.images_per_sec:,.0f}",
        "ms (quartiles)": milliseconds,
        "x reference": lambda row: ratio(row, "against_reference"),
        "predicted, ms": lambda row: decimals(row.predicted_seconds),
        "of the roofline": lambda row: percent(row.roofline_share),
        "launches": lambda row: count(row.counts["launches"]) if row.counts and row.counts["kernels"] else "",
        "peak MiB": lambda row: count(row.peak_memory_mib),
        "first step, s": lambda row: f"{row.first_step_seconds:.1f}",
        "parity": lambda row: parity_word(row),
    }
    return table(columns, found)


def milliseconds(row: Row) -> str:
    """The median with its quartiles."""
    low, high = row.seconds_quartiles
    return f"{decimals(row.seconds)} ({decimals(low)} to {decimals(high)})"


def decimals(seconds: float | None) -> str:
    """Seconds as ms with three digits or more; nothing where unknown."""
    return "" if seconds is None else f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def ratio(row: Row, name: str) -> str:
    """A ratio of turns, with its quartiles; nothing where there is none."""
    pairs = getattr(row, name)
    return spread(pairs.speedup, pairs.speedup_quartiles) if pairs else ""


def parity_word(row: Row) -> str:
    """Of a plan: whether it was checked."""
    if not row.ours:
        return ""
    return "not checked" if row.parity is None else "passed" if row.parity["passed"] else "**failed**"


# --- The other parts --------------------------------------------------------------------------------------------------


def tests_text(part: Part) -> str:
    """How many tests passed, and what became of the others."""
    tests = [each for each in part["records"] if each["kind"] == "test"]
    outcomes = {name: [each for each in tests if each["outcome"] == name] for name in ("passed", "failed", "skipped")}
    lines = ["`pytest -m gpu`: " + ", ".join(f"{len(these)} {name}" for name, these in outcomes.items()) + "."]
    lines += [
        f"- {outcome}: `{each['item']}` {each['why']}"
        for outcome in ("failed", "skipped")
        for each in outcomes[outcome]
    ]
    return "\n".join([lines[0], "", *lines[1:]]).strip()


def parity_text(part: Part) -> str:
    """A row a plan, a column a pair of networks: the error, and what it may be."""
    checks = [each for each in part["records"] if each["kind"] == "parity"]
    if not checks:
        return ""
    archs = list(dict.fromkeys(each["arch"] for each in checks))
    by_name = {(each["plan"], each["arch"]): each for each in checks}

    def shown(plan: str, arch: str) -> str:
        check = by_name.get((plan, arch))
        if check is None:
            return "not checked"
        words = f"{check['error']:.1e} of {check['allowed']:.1e}"
        return words if check["passed"] else f"**{words}: {', '.join(check['beyond'])}**"

    columns: dict[str, Callable[[str], str]] = {"": lambda plan: plan}
    columns |= {arch: lambda plan, arch=arch: shown(plan, arch) for arch in archs}
    passed = sum(each["passed"] for each in checks)
    return (
        f"{passed} of {len(checks)} pass: the error of their gradients, and what it may be, which is 1.5 times the "
        "reference's own on this device in that precision (`fastdcgan/tuning/parity.py`). The truth is the reference "
        f"in fp64 on the CPU.\n\n{table(columns, list(dict.fromkeys(each['plan'] for each in checks)))}"
    )


def launches_text(part: Part) -> str:
    """What each step launches, and its costliest operators or kernels."""
    counted = [each for each in part["records"] if each["kind"] == "launches"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "": lambda each: each["item"],
        "launches": lambda each: count(each["launches"]) if each["kernels"] else "",
        "kernels": lambda each: count(each["kernels"]) if each["kernels"] else "",
        "device works, ms": lambda each: decimals(each["device_seconds"]),
        "operators, nested ones too": lambda each: count(each["operators"]),
        "costliest, ms": lambda each: cell_text(
            "; ".join(f"{name[:40]} {decimals(seconds)}" for name, seconds in each["costliest"][:3])
        ),
    }
    cost = next((each["seconds"] for each in part["records"] if each["kind"] == "launch cost"), None)
    said = f"A small operator costs the host {1e6 * cost:.1f} us here. " if cost is not None else ""
    return f"{said}Of a step, by PyTorch's profiler.\n\n{table(columns, counted)}" if counted else said


def end_to_end_text(part: Part) -> str:
    """Whole runs, by their own metrics."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "`fastdcgan train`": lambda each: each["way"],
        "img/s": lambda each: count(each["images_per_sec"]),
        "the step's": lambda each: count(each["step_images_per_sec"]) if each["images_per_sec"] else "",
        "of the step": lambda each: f"{each['of_the_step']:.2f}" if each["of_the_step"] else "",
        "waits for data": lambda each: f"{each['data_wait_fraction']:.1%}" if each["data_wait_fraction"] else "",
        "images": lambda each: count(each["images"]),
        "first line, s": lambda each: decimals_of_seconds(each["first_line_seconds"]),
        "in all, s": lambda each: decimals_of_seconds(each["seconds"]),
        "of it training": lambda each: decimals_of_seconds(each["training_seconds"]),
        "cores busy": lambda each: f"{each['cores_busy']:.1f}" if each["cores_busy"] is not None else "",
        "plan": lambda each: each["plan"],
    }
    runs = [each for each in part["records"] if each["kind"] == "end to end"]
    return (
        "Images per second by the run's own metrics, which leave out samples and checkpoints, without its first "
        "quarter; beside it the step's rate from above. First line: from the start of the process until its first "
        "figures are there, after ten steps, or one. In all: the process, with its start, samples and checkpoints.\n\n"
        + table(columns, runs)
        if runs
        else ""
    )


def profile_text(part: Part) -> str:
    """The package's own summary."""
    found = [each for each in part["records"] if each["kind"] == "profile"]
    if not found:
        return ""
    plot = (
        "\n\n![memory over the profiled steps](profile-memory.png)" if "profile-memory.png" in found[0]["files"] else ""
    )
    return f"`fastdcgan profile`, of the same case:\n\n```\n{found[0]['summary'].strip()}\n```{plot}"


def default_run_text(part: Part) -> str:
    """The run without options, and its grids."""
    lines = [
        f"`fastdcgan train` without other options than where: {each['images']:,} images in {each['seconds']:.0f} s of "
        f"all, {count(each['images_per_sec'])} images/s"
        + (", stopped when its time was over" if each["stopped"] else "")
        + f"; plan: {each['plan']}."
        for each in part["records"]
        if each["kind"] == "default run"
    ]
    grids = {each["file"]: each for each in part["records"] if each["kind"] == "grid"}.values()
    lines += [
        f"![the faces after {each['step']:,} steps]({each['file']})\n\n*After {each['step']:,} steps.*"
        for each in grids
    ]
    return "\n\n".join(lines)


def trouble(part: Part) -> list[str]:
    """What is wrong, missing or left out in a part, one by one."""
    lines = [f"- **failed**: {problem}" for problem in part["problems"]] + [f"- {note}." for note in part["notes"]]
    return ["\n".join(lines)] if lines else []


def decimals_of_seconds(seconds: float | None) -> str:
    """With one digit after the point; nothing where unknown."""
    return "" if seconds is None else f"{seconds:.1f}"


def cut(text: str, length: int = 160) -> str:
    """The beginning of a long text."""
    return text if len(text) <= length else f"{text[:length].rpartition(' ')[0]} ..."


def cell_text(text: str) -> str:
    """Text that fits into a cell of a table."""
    return text.replace("|", "/").replace("\n", " ")


def more(problems: Sequence[str], shown: int) -> str:
    """How many are not shown."""
    return f"; and {len(problems) - shown} more, below" if len(problems) > shown else ""
