"""report.html: what a run did, as one file that needs nothing else.

It is made from what is in the run's folder, whatever of it is there and whole; the rest is named. All of that is text
from outside, so the template escapes everything, and the page forbids itself to load or send anything.

The file stays below about 6 MB however long the run was: at most 48 grids of at most 640 pixels a side, fewer
where they take more than MOST_BYTES, and curves of at most 240 points.
"""

import base64
import io
import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits import hardware
from fastdcgan.limits.roofline import Ceilings, ceilings_of, limit, work
from fastdcgan.runs.animation import EFFORT, QUALITY, evenly, save_animation
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import read_json, write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import Record, read_metrics_counting
from fastdcgan.telemetry.report.charts import ONE, TWO, Curve, chart
from fastdcgan.telemetry.report.grids import Grid, diversity, read_grids, read_picture, shown
from fastdcgan.telemetry.report.warning_signs import Sign, diversity_signs, lately, mean, training_signs
from fastdcgan.telemetry.terminal.display import Display

MOST_BYTES = 4 * 2**20
"""Of the sample grids in the page, before they are written as text, a third longer."""

MILLISECONDS, HOLD = 200, 1800
"""Each grid of the animation is shown, and the last one longer."""

BRIEFLY = 0.03
"""Seconds that each kernel is measured for the machine's ceilings."""

MOST_JSON = 2**22
MOST_LISTED = 10
LARGEST = 1e15
"""No figure of a run comes near it: what is beyond can't be drawn."""

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_GEOMETRY = ("resolution", "channels", "width", "latent_dim")
_ABSURD = 10  # times a ceiling: plans that save work may pass it, but not so far
_MILESTONES = 6  # grids that are printed


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What config.json and end.json tell of a run. All of it is from outside, and may be missing."""

    config: Mapping[str, Any]
    conditions: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: str
    arch: Architecture | None
    failed: str
    """Why the run ended before its time; empty if it didn't, or nobody knows."""
    machine: Ceilings | None


@contextmanager
def reporting(
    folder: RunFolder, device: torch.device, processes: int, display: Display, *, first: bool
) -> Iterator[None]:
    """Write the report when what is done within has ended, however it did. A report never costs the run.

    Args:
        folder: of the run.
        device: where it takes place.
        processes: of the run.
        display: is told where the report is.
        first: whether this is the process that writes.
    """
    failed = ""
    if first:
        with suppress(OSError):  # how an earlier sitting ended is no longer true
            folder.end.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        failed = str(error) or type(error).__name__
        raise
    finally:
        if first:
            try:
                _write_end(folder, failed, device, processes)
                write_report(folder)
            except Exception as error:  # noqa: BLE001 (the run is what matters, and all of it is written already)
                display.say(f"report    can't be written: {error}")


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
    """Write report.html and samples.webp of a run. Returns what could not be read, a line each.

    Raises:
        ValueError: there is no such folder, nothing of a run in it, or it can't be written.
    """
    if not folder.path.is_dir():
        raise ValueError(f"no such run folder: {folder.path}")
    if not any(path.exists() for path in (folder.config, folder.metrics, folder.samples)):
        raise ValueError(f"{folder.path} is not a run's folder: it has no config.json, no metrics.jsonl and no samples")
    unread: list[str] = []
    facts = _read_facts(folder, unread)
    records = _read_records(folder, unread)
    resolution = facts.arch.resolution if facts.arch else None
    grids, left_out = read_grids(folder.samples, resolution)
    if not grids and not left_out:
        unread.append("samples: there are none")
    unread += [f"samples: {line}" for line in left_out[:MOST_LISTED]]
    if len(left_out) > MOST_LISTED:
        unread.append(f"samples: {len(left_out) - MOST_LISTED:,} more")
    found = read_picture(folder.real)
    real = None if isinstance(found, str) else found
    if isinstance(found, str):
        unread.append(f"{folder.real.name}: {found}")
    page = _render(folder, facts, records, grids, real, unread)
    try:
        write_replacing(folder.report, page)
        if grids:
            save_animation([grid.picture for grid in grids], folder.animation, MILLISECONDS, HOLD)
    except OSError as error:
        raise ValueError(f"can't write to {folder.path}: {error.strerror or error}") from error
    return unread


# --- What is in the folder --------------------------------------------------------------------------------------------


def _write_end(folder: RunFolder, failed: str, device: torch.device, processes: int) -> None:
    machine = None
    # One process of several measures only its own share of a CPU. GPUs are one a process, and known from datasheets.
    if not failed and (device.type != "cpu" or processes == 1):
        machine = ceilings_of(device, BRIEFLY)
    record = {
        "failed": failed,
        "machine": machine and {"name": machine.name, "flops": machine.flops, "bytes": machine.bytes},
    }
    write_replacing(folder.end, json.dumps(record, indent=2) + "\n")


def _read_facts(folder: RunFolder, unread: list[str]) -> Facts:
    record = _read_json(folder.config, unread, needed=True)
    end = _read_json(folder.end, unread)
    config = _table(record.get("config"))
    arch = None
    if record:
        found = _table(record.get("architecture"))
        try:
            arch = architecture(found["name"], **{name: found[name] for name in _GEOMETRY})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            unread.append(f"{folder.config.name}: no architecture that we know ({error})")
    conditions = _table(record.get("conditions"))
    machine = _ceilings(end.get("machine"))
    if machine is None and conditions.get("processes") == 1 and conditions.get("device") == "cpu":
        here = torch.device("cpu")
        # Threads are of the process: this one may be at liberty to use others.
        same = {**hardware.describe(here), "threads": conditions.get("threads")}
        machine = ceilings_of(here, BRIEFLY) if conditions.get("hardware") == same else None
    command = record.get("command")
    return Facts(
        config=config,
        conditions=conditions,
        versions=_table(record.get("versions")),
        command=shlex.join(map(str, command)) if isinstance(command, list) else "",
        arch=arch,
        failed=str(end.get("failed") or ""),
        machine=machine,
    )


def _read_json(path: Path, unread: list[str], *, needed: bool = False) -> Mapping[str, Any]:
    """The table in a file; an empty one, and a line in `unread`, where there is none."""
    if not path.is_file():
        if needed or path.exists():
            unread.append(f"{path.name}: no such file")
        return {}
    try:
        found = read_json(path, MOST_JSON)
    except (OSError, ValueError) as error:
        unread.append(f"{path.name}: not to be read ({error})")
        return {}
    if not isinstance(found, dict):
        unread.append(f"{path.name}: not a table")
        return {}
    return found


def _read_records(folder: RunFolder, unread: list[str]) -> list[Record]:
    name = folder.metrics.name
    if not folder.metrics.is_file():
        unread.append(f"{name}: no such file")
        return []
    try:
        found, left_out = read_metrics_counting(folder.metrics)
    except (OSError, ValueError) as error:
        unread.append(f"{name}: {getattr(error, 'strerror', None) or error}")
        return []
    drawn = [record for record in found if all(abs(value) < LARGEST for value in vars(record).values())]
    left_out += len(found) - len(drawn)
    if left_out:
        unread.append(f"{name}: {left_out:,} {'line is' if left_out == 1 else 'lines are'} no records")
    if not drawn and not left_out:
        unread.append(f"{name}: it is empty")
    return list({record.step: record for record in sorted(drawn, key=lambda record: record.step)}.values())


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _ceilings(found: object) -> Ceilings | None:
    table = _table(found)
    flops = {str(name): rate for name, rate in _table(table.get("flops")).items() if _is_rate(rate)}
    if not flops or not _is_rate(table.get("bytes")):
        return None
    return Ceilings(name=str(table.get("name")), flops=flops, bytes=table["bytes"])


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < LARGEST * LARGEST


# --- What the page shows ----------------------------------------------------------------------------------------------


def _render(
    folder: RunFolder,
    facts: Facts,
    records: Sequence[Record],
    grids: Sequence[Grid],
    real: Image.Image | None,
    unread: Sequence[str],
) -> str:
    from jinja2 import Environment, StrictUndefined  # needed only now

    real_differs = diversity(np.asarray(real), facts.arch.resolution) if real and facts.arch else None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("fastdcgan.telemetry.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    frames = _frames(grids)
    milestones = {step for step, _ in evenly(frames, _MILESTONES)}
    return environment.from_string(template).render(
        name=folder.path.resolve().name,
        standing=_standing(facts, records),
        headline=_headline(facts, records),
        signs=_signs(folder, facts, records, grids, real_differs, unread),
        frames=[(step, uri, step in milestones) for step, uri in frames],
        size=grids[-1].picture.size if grids else None,
        animation=folder.animation.name if grids else None,
        real=_data_uri(shown(real)) if real else None,
        charts=_charts(records, grids, real_differs),
        ceiling=_ceiling(facts, records),
        profile=_profile(folder),
        command=facts.command,
        tables=[
            ("Configuration", _rows(facts.config)),
            ("Conditions", _rows({k: v for k, v in facts.conditions.items() if k != "plan_fields"})),
            ("Versions", _rows(facts.versions)),
        ],
    )


def _standing(facts: Facts, records: Sequence[Record]) -> tuple[str, str]:
    """Of what kind the run's end was, and in words."""
    total, step = facts.conditions.get("steps"), records[-1].step if records else 0
    if facts.failed:
        return "bad", f"failed after step {step:,}"
    if not isinstance(total, int) or total < 1:
        return "note", f"step {step:,}"
    if step >= total:
        return "good", f"finished: {step:,} steps"
    return "note", f"not finished: step {step:,} of {total:,}"


def _headline(facts: Facts, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Labels and figures at the top of the page."""
    figures = [("network", facts.arch.name)] if facts.arch else []
    if records:
        last = records[-1]
        figures += [
            ("images seen", f"{last.images:,.0f}"),
            ("epochs", f"{last.epoch:,.1f}"),
            ("training time", in_words(last.seconds)),
            ("images a second", f"{_speed(records):,.0f}"),
        ]
    device, processes = facts.conditions.get("device"), facts.conditions.get("processes")
    if isinstance(device, str):
        several = f" x {processes:,}" if isinstance(processes, int) and processes > 1 else ""
        figures.append(("device", f"{device}{several}"))
    return figures


def _signs(
    folder: RunFolder,
    facts: Facts,
    records: Sequence[Record],
    grids: Sequence[Grid],
    real: float | None,
    unread: Sequence[str],
) -> list[tuple[Sign, list[str]]]:
    """What to look at, each with lines that belong to it."""
    signs: list[tuple[Sign, list[str]]] = []
    if facts.failed:
        signs.append((Sign(title="Training failed", text=facts.failed), []))
    signs += [(sign, []) for sign in (*training_signs(records), *diversity_signs(grids, real))]
    skipped = facts.conditions.get("skipped")
    if isinstance(skipped, int) and skipped > 0:
        text = f"All are listed with the reason in {folder.skipped.name}."
        title = f"{skipped:,} {'file was' if skipped == 1 else 'files were'} skipped"
        signs.append((Sign(title=title, text=text, bad=False), _first_lines(folder.skipped)))
    if unread:
        text = "The rest of this page is made from what there is."
        signs.append((Sign(title="Some of the run's folder could not be read", text=text, bad=False), list(unread)))
    return signs


def _first_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return file.read(2**16).decode("utf-8", "replace").splitlines()[:MOST_LISTED]


def _charts(records: Sequence[Record], grids: Sequence[Grid], real: float | None) -> list[dict[str, Any]]:
    """Each: a title, a key (colour and name), the drawing, what it is, and what it says of this run."""
    charts = []
    steps = [record.step for record in records]
    if records:
        end = lately(records)
        loss_d, loss_g = mean([r.loss_d for r in end]), mean([r.loss_g for r in end])
        d_real, d_fake = mean([r.d_real for r in end]), mean([r.d_fake for r in end])
        wait = mean([r.data_wait_fraction for r in records])
        charts += [
            {
                "title": "Losses",
                "keys": [("one", "D, the discriminator"), ("two", "G, the generator")],
                "svg": chart(
                    [
                        Curve(steps=steps, values=[r.loss_d for r in records], colour=ONE),
                        Curve(steps=steps, values=[r.loss_g for r in records], colour=TWO),
                    ],
                    label="Losses of D and G over the steps",
                ),
                "about": "How wrong each network is. They play against each other, so neither loss should go to 0: a "
                "healthy pair stays in balance, and lower does not mean better pictures.",
                "reading": f"At the end: D {loss_d:.2f}, G {loss_g:.2f}.",
            },
            {
                "title": "What D believes",
                "keys": [("one", "D(x), real pictures"), ("two", "D(G(z)), generated ones")],
                "svg": chart(
                    [
                        Curve(steps=steps, values=[r.d_real for r in records], colour=ONE),
                        Curve(steps=steps, values=[r.d_fake for r in records], colour=TWO),
                    ],
                    label="D's probability of real over the steps, for real and for generated pictures",
                    limits=(0, 1),
                    level=0.5,
                    percent=True,
                ),
                "about": "How probable D finds it that a picture is real. The wider the gap, the easier it tells them "
                "apart; both at the dotted 50 % would mean that it can only guess.",
                "reading": f"At the end: {d_real:.0%} for real pictures, {d_fake:.0%} for generated ones.",
            },
        ]
    known = [grid for grid in grids if grid.diversity is not None]
    if known:
        values = [grid.diversity or 0.0 for grid in known]
        compared = f", {values[-1] / real:.0%} of that of real pictures" if real else ""
        charts.append(
            {
                "title": "Diversity of the samples",
                "keys": [("one", "samples"), *([("dotted", "real pictures")] if real else [])],
                "svg": chart(
                    [Curve(steps=[grid.step for grid in known], values=values, dots=len(known) < 30)],
                    label="Diversity of the samples over the steps",
                    limits=(0, max(*values, real or 0.0, 0.01) * 1.1),
                    level=real,
                    percent=True,
                ),
                "about": "How much the samples of a grid differ from each other, pixel by pixel, as a share of black "
                "to white. A steep fall is mode collapse: whatever the noise, G makes the same picture.",
                "reading": f"At the end: {values[-1]:.1%}{compared}.",
            }
        )
    if records:
        speeds, waits = [r.images_per_sec for r in records], [r.data_wait_fraction for r in records]
        charts += [
            {
                "title": "Speed",
                "keys": [("one", "images a second")],
                "svg": chart(
                    [Curve(steps=steps, values=speeds)], label="Images per second over the steps", limits=(0, None)
                ),
                "about": "How many real pictures a second the networks trained on, without the time for samples and "
                "checkpoints. It should be flat: dips are other programs, heat, or slow data.",
                "reading": f"Half of the time it was above {_speed(records):,.0f}.",
            },
            {
                "title": "Waiting for data",
                "keys": [("one", "share of the time")],
                "svg": chart(
                    [Curve(steps=steps, values=waits)],
                    label="Share of the time spent waiting for pictures, over the steps",
                    limits=(0, max(0.1, *waits) * 1.05),
                    percent=True,
                ),
                "about": "The share of the time in which training stood still because the next pictures were not read "
                "or decoded yet. Near 0 is right: then the networks, not the disk, set the pace.",
                "reading": f"In the mean: {wait:.1%}.",
            },
        ]
    return charts


def _ceiling(facts: Facts, records: Sequence[Record]) -> dict[str, Any] | None:
    """The speed that was reached beside the most that the machine's roofline allows; None where that is unknown."""
    precision, batch = facts.config.get("precision"), facts.config.get("batch_size")
    processes = facts.conditions.get("processes")
    machine = facts.machine
    if machine is None or facts.arch is None or not records or not isinstance(batch, int) or precision not in _BYTES:
        return None
    if precision not in machine.flops or batch < 1 or not isinstance(processes, int) or processes < 1:
        return None
    most = limit(work(facts.arch, batch, _BYTES[precision]), machine, precision)
    ceiling, reached = processes * most.images_per_sec, _speed(records)
    if reached > _ABSURD * ceiling:
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
    """What a profiler found, if one ran: a sentence and a table. None where it can't be read."""
    found = _read_json(folder.profile / "summary.json", [])
    listed = found.get("operators")
    rows = [row for row in listed[:MOST_LISTED] if isinstance(row, dict)] if isinstance(listed, list) else []
    sentence = found.get("sentence")
    if not rows and not isinstance(sentence, str):
        return None
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))[:8]
    return {
        "sentence": sentence if isinstance(sentence, str) else "",
        "columns": [column.replace("_", " ") for column in columns],
        "rows": [[_value(row.get(column, "")) for column in columns] for row in rows],
    }


def _frames(grids: Sequence[Grid]) -> list[tuple[int, str]]:
    """Steps and pictures of grids, so many that they take no more than MOST_BYTES."""
    encoded = [(grid.step, _webp(grid.picture)) for grid in grids]
    while len(encoded) > 2 and sum(len(body) for _, body in encoded) > MOST_BYTES:
        encoded = evenly(encoded, max(2, len(encoded) * 3 // 4))
    return [(step, _as_uri(body)) for step, body in encoded]


def _data_uri(picture: Image.Image) -> str:
    return _as_uri(_webp(picture))


def _as_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=QUALITY, method=EFFORT)
    return out.getvalue()


def _speed(records: Sequence[Record]) -> float:
    return statistics.median(record.images_per_sec for record in records)


def _rows(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name).replace("_", " "), _value(value)) for name, value in table.items()]


def _value(value: object) -> str:
    """As a person writes it."""
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}" if abs(value) < LARGEST else "very many"
        case dict():
            return ", ".join(f"{name}: {_value(part)}" for name, part in value.items())
        case list():
            return ", ".join(map(_value, value))
    return str(value)


def in_words(seconds: float) -> str:
    """Hours, minutes or seconds: two units at most."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
