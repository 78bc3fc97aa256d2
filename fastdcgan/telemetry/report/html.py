"""report.html: what a run did, as one file that needs nothing else.

It is made from what is in the run's folder; what is missing or damaged is listed. All of that is text from outside, so
the template escapes everything, and the page's Content-Security-Policy forbids it to load or send anything, and to run
or be styled by anything but what is in the template.

The file stays below about 6 MB however long the run was: at most 48 grids of at most 640 pixels a side, fewer
where they take more than MAX_FRAME_BYTES, and curves of at most 240 points.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from fastdcgan.evaluation.records import Evaluation
from fastdcgan.gan.objectives import RELATIVISTIC
from fastdcgan.limits.roofline import throughput_limit, work_per_image
from fastdcgan.runs.animation import evenly_spaced, save_animation
from fastdcgan.runs.checkpoints.folder import list_checkpoints, step_in_name
from fastdcgan.runs.folder import BEGUN_FROM, RunFolder
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted
from fastdcgan.telemetry.checkerboard import on_checkerboard
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.grids import (
    Grid,
    GridPictures,
    diversity,
    downscaled,
    encode_webp,
    read_grids,
    read_picture,
)
from fastdcgan.telemetry.report.nearest import Nearest, read_nearest
from fastdcgan.telemetry.report.run_charts import median_speed, run_charts
from fastdcgan.telemetry.report.run_facts import (
    MAX_FIGURE,
    MAX_OPERATOR_COLUMNS,
    RunFacts,
    read_facts,
    read_profile,
    read_quality,
    read_records,
)
from fastdcgan.telemetry.report.run_warnings import (
    RunWarning,
    copy_warnings,
    diversity_warnings,
    min_loss_d,
    training_warnings,
)

MAX_FRAME_BYTES = 4 * 2**20
"""Of the sample grids in the page, before base64 makes them a third longer."""

FRAME_MS, LAST_EXTRA_MS = 200, 1800
"""How long each grid of the animation is shown, and how much longer the last one."""

MAX_LISTED = 10
"""Lines of a list in the page."""

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_MAX_CEILING_RATIO = 10
"""A speed so many times the ceiling is taken for damage. Plans that save arithmetic may pass the ceiling a little."""

_MILESTONES = 6
"""Grids that are printed."""


def rewrite_report(run: Path) -> None:
    """What `fastdcgan report` does: write a run's report anew, and say where it is and what it lacks.

    Raises:
        ValueError: as `write_report`.
    """
    folder = RunFolder(run)
    for line in write_report(folder):
        print(f"not shown  {printable(line)}")
    print(f"report     {printable(folder.report)}")


def write_report(folder: RunFolder) -> list[str]:
    """Write report.html and samples.webp of a run.

    Returns:
        what could not be read, a line each.

    Raises:
        ValueError: there is no such folder, nothing of a run in it, or it can't be written.
    """
    if not folder.path.is_dir():
        raise ValueError(f"no such run folder: {folder.path}")
    if not any(path.exists() for path in (folder.config, folder.metrics, folder.samples)):
        raise ValueError(f"{folder.path} is not a run's folder: it has no config.json, no metrics.jsonl and no samples")
    unread: list[str] = []
    facts = read_facts(folder, unread)
    records = read_records(folder, unread)
    size = facts.arch.resolution if facts.arch else None
    grids, skipped = read_grids(folder.samples, size, row_a_class=bool(facts.rows))
    if not grids and not skipped:
        unread.append("samples: there are none")
    unread += [f"samples: {line}" for line in skipped[:MAX_LISTED]]
    if len(skipped) > MAX_LISTED:
        unread.append(f"samples: {len(skipped) - MAX_LISTED:,} more")
    found = read_picture(folder.real)
    real = None if isinstance(found, str) else found
    if isinstance(found, str):
        unread.append(f"{folder.real.name}: {found}")
    evaluations = read_quality(folder, unread)
    nearest, pairs = _read_nearest(folder, unread)
    page = _render(folder, facts, records, grids, real, evaluations, nearest, pairs, unread)
    try:
        write_replacing(folder.report, page)
        if grids:
            save_animation(GridPictures(grids), folder.animation, FRAME_MS, LAST_EXTRA_MS)
    except OSError as error:
        raise ValueError(f"can't write to {folder.path}: {error.strerror or error}") from error
    return unread


def _render(
    folder: RunFolder,
    facts: RunFacts,
    records: Sequence[Record],
    grids: Sequence[Grid],
    real: Image.Image | None,
    evaluations: Sequence[Evaluation],
    nearest: Nearest | None,
    pairs: Image.Image | None,
    unread: Sequence[str],
) -> str:
    from jinja2 import Environment, StrictUndefined  # needed only now

    real_diversity = None
    if real and facts.arch:
        real_diversity = diversity(np.asarray(real), facts.arch.resolution, row_a_class=bool(facts.rows))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    template = resources.files("fastdcgan.telemetry.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    frames = _frames(grids)
    milestones = {step for step, _ in evenly_spaced(frames, _MILESTONES)}
    return environment.from_string(template).render(
        policy=_policy(template),
        name=folder.path.resolve().name,
        status=_status(facts, records),
        headline=_headline(facts, records),
        warnings=_warnings(folder, facts, records, grids, real_diversity, nearest, unread),
        frames=[(step, uri, step in milestones) for step, uri in frames],
        size=grids[-1].size if grids else None,
        animation=folder.animation.name if grids else None,
        real=_data_uri(encode_webp(downscaled(real))) if real else None,
        rows=facts.rows,
        nearest=nearest,
        pairs=_data_uri(encode_webp(on_checkerboard(pairs))) if pairs else None,
        charts=run_charts(records, grids, real_diversity, evaluations, facts.best_by),
        ceiling=_ceiling(facts, records),
        profile=_profile(folder),
        command=facts.command,
        tables=[
            ("Configuration", _rows(facts.config)),
            ("Conditions", _rows({k: v for k, v in facts.conditions.items() if k != "plan_fields"})),
            ("Versions", _rows(facts.versions)),
        ],
    )


def _policy(template: str) -> Markup:
    """The Content-Security-Policy that the template's own style and script pass, and nothing else."""
    digests = []
    for tag in ("style", "script"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        assert found is not None and "{{" not in found[1] and "{%" not in found[1], "it is the same in every page"
        digests.append(f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'")
    return Markup(
        f"default-src 'none'; img-src data:; style-src {digests[0]}; script-src {digests[1]}; "
        "base-uri 'none'; form-action 'none'"
    )


def _harmless(value: object) -> object:
    """Text from outside without what reverses the direction of writing, or is no character."""
    if isinstance(value, str) and not isinstance(value, Markup) and not value.isprintable():
        return printable(value)
    return value


def _status(facts: RunFacts, records: Sequence[Record]) -> tuple[str, str]:
    """Whether the run has finished: the CSS class ("good", "bad" or "note") and the text."""
    total, step = facts.conditions.get("steps"), records[-1].step if records else 0
    if facts.failed:
        return "bad", f"failed after step {step:,}"
    if not isinstance(total, int) or total < 1:
        return "note", f"step {step:,}"
    if step >= total:
        return "good", f"finished: {counted(step, 'step')}"
    return "note", f"not finished: step {step:,} of {total:,}"


def _headline(facts: RunFacts, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Labels and figures at the top of the page."""
    figures = [("network", facts.arch.name)] if facts.arch else []
    if records:
        last = records[-1]
        figures += [
            ("images seen", f"{last.images:,.0f}"),
            ("epochs", f"{last.epoch:,.1f}"),
            ("training time", _duration(last.seconds)),
            ("images a second", f"{median_speed(records):,.0f}"),
        ]
    match facts.conditions.get(BEGUN_FROM):
        case {"run": str(run), "step": int(step)}:
            figures.append(("begun with", f"{run}@{step}"))
    device, processes = facts.conditions.get("device"), facts.conditions.get("processes")
    if isinstance(device, str):
        several = f" x {processes:,}" if isinstance(processes, int) and processes > 1 else ""
        figures.append(("device", f"{device}{several}"))
    return figures


def _warnings(
    folder: RunFolder,
    facts: RunFacts,
    records: Sequence[Record],
    grids: Sequence[Grid],
    real_diversity: float | None,
    nearest: Nearest | None,
    unread: Sequence[str],
) -> list[tuple[RunWarning, list[str]]]:
    """All warnings of the page, each with a list of lines that belong to it."""
    warnings: list[tuple[RunWarning, list[str]]] = []
    if facts.failed:
        warnings.append((RunWarning(title="Training failed", text=facts.failed), []))
    saved = [step for path in list_checkpoints(folder.checkpoints) if (step := step_in_name(path)) is not None]
    alike = diversity_warnings(grids, real_diversity, out=shlex.quote(str(folder.path)), saved=saved)
    warnings += [
        (found, []) for found in (*training_warnings(records, min_loss_d(facts.config.get("objective"))), *alike)
    ]
    warnings += [(found, []) for found in copy_warnings(nearest)]
    skipped = facts.conditions.get("skipped")
    if isinstance(skipped, int) and skipped > 0:
        text = f"All are listed with the reason in {folder.skipped.name}."
        title = f"{skipped:,} {'file was' if skipped == 1 else 'files were'} skipped"
        warnings.append((RunWarning(title=title, text=text, bad=False), _first_lines(folder.skipped)))
    if unread:
        title, text = "Some of the run's folder could not be read", "The rest of this page is made from what there is."
        warnings.append((RunWarning(title=title, text=text, bad=False), list(unread)))
    return warnings


def _read_nearest(folder: RunFolder, unread: list[str]) -> tuple[Nearest | None, Image.Image | None]:
    """What samples are nearest to, and the picture of it; neither where they weren't compared."""
    try:
        nearest = read_nearest(folder)
    except (OSError, ValueError) as error:
        unread.append(f"{folder.nearest_record.name}: {getattr(error, 'strerror', None) or error}")
        return None, None
    if nearest is None:
        return None, None
    pairs = read_picture(folder.nearest)
    if isinstance(pairs, str):
        unread.append(f"{folder.nearest.name}: {pairs}")
        return nearest, None
    return nearest, pairs


def _first_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return file.read(2**16).decode("utf-8", "replace").splitlines()[:MAX_LISTED]


def _ceiling(facts: RunFacts, records: Sequence[Record]) -> dict[str, Any] | None:
    """The speed that was reached beside the one that the machine's roofline allows; None where that is unknown."""
    precision, batch = facts.config.get("precision"), facts.config.get("batch_size")
    processes = facts.conditions.get("processes")
    machine = facts.machine
    if machine is None or facts.arch is None or not records or not isinstance(batch, int) or precision not in _BYTES:
        return None
    if facts.config.get("d_steps", 1) != 1:  # another amount of work an image
        return None
    if precision not in machine.flops or batch < 1 or not isinstance(processes, int) or processes < 1:
        return None
    work = work_per_image(facts.arch, batch, _BYTES[precision], facts.config.get("objective") in RELATIVISTIC)
    most = throughput_limit(work, machine, precision)
    ceiling, reached = processes * most.images_per_sec, median_speed(records)
    if reached > _MAX_CEILING_RATIO * ceiling:
        return None
    return {
        "share": reached / ceiling,
        "reached": f"{reached:,.0f}",
        "ceiling": f"{ceiling:,.0f}",
        "bound_by": most.bound_by,
        "machine": machine.name,
        "precision": precision,
    }


def _profile(folder: RunFolder) -> dict[str, Any] | None:
    """The profiler's sentence and a table of the costliest operators; None where there is no profile."""
    found = read_profile(folder)
    if found is None:
        return None
    sentence, operators = found
    columns = list(dict.fromkeys(str(name) for row in operators for name in row))[:MAX_OPERATOR_COLUMNS]
    return {
        "sentence": sentence,
        "columns": [column.replace("_", " ") for column in columns],
        "rows": [[_format(row.get(column, "")) for column in columns] for row in operators],
    }


def _frames(grids: Sequence[Grid]) -> list[tuple[int, str]]:
    """Steps and data URIs of grids; of all, or evenly spaced ones that take no more than MAX_FRAME_BYTES."""
    chosen = list(grids)
    while len(chosen) > 2 and sum(len(grid.webp) for grid in chosen) > MAX_FRAME_BYTES:
        chosen = evenly_spaced(chosen, max(2, len(chosen) * 3 // 4))
    return [(grid.step, _data_uri(grid.webp)) for grid in chosen]


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _rows(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name).replace("_", " "), _format(value)) for name, value in table.items()]


def _format(value: object) -> str:
    """A JSON value as text for people."""
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}" if abs(value) < MAX_FIGURE else "very many"
        case dict():
            return ", ".join(f"{name}: {_format(part)}" for name, part in value.items())
        case list():
            return ", ".join(map(_format, value))
    return str(value)


def _duration(seconds: float) -> str:
    """Hours, minutes or seconds: two units at most."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
