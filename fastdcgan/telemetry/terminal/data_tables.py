"""What `fastdcgan data` and `fastdcgan pack` print: a label and what it stands for, a row each."""

import shlex
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from fastdcgan.config import DEFAULT_DATA, DataConfig
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.describe import FileStatistics, ShapeStatistics, SourceFacts, group_by_reason
from fastdcgan.data.duplicates import Copies
from fastdcgan.data.labels import Labels
from fastdcgan.data.pack import Pack, PackResult
from fastdcgan.data.source import (
    Skipped,
    common_suffixes,
    count_files,
    describe_hidden,
    describe_skipped,
    is_passed_over,
)
from fastdcgan.gan.architecture import MAX_CLASSES, Size, architecture
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted

MOST = 10
"""Kinds, reasons and files listed at most."""

NAMED = 3
"""FileStatistics named for each reason."""

_INDENT = 10


class Rows:
    """Labels with values of one or more lines: wrapped beside the label on a terminal, left whole anywhere else."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See `rich.console`."""
        for label, value in self.rows:
            lines = [printable(line) for line in value.split("\n")]
            if console.is_terminal:
                width = max(options.max_width - _INDENT, _INDENT)
                lines = [str(part) for line in lines for part in _wrapped(console, line, width)]
            for number, line in enumerate(lines):
                start = "" if number else label
                yield Text.assemble(
                    (start.ljust(_INDENT), "bold" if start else ""), line, no_wrap=True, overflow="ignore"
                )


def show(rows: Sequence[tuple[str, str]]) -> None:
    """Print rows."""
    Console(highlight=False, emoji=False, markup=False).print(Rows(rows), soft_wrap=True)


def facts_rows(facts: SourceFacts, asked: DataConfig) -> list[tuple[str, str]]:
    """All that is known of a source.

    Args:
        facts: the facts.
        asked: how the source was opened.
    """
    rows = [("source", facts.source)]
    if facts.files is not None:
        rows += _files_rows(facts.files, facts.count, facts.frame)
    if facts.pixels is not None:
        shape = "x".join(map(str, facts.pixels.shape))
        rows.append(("array", f"{facts.pixels.dtype}, {shape}, {size_in_words(facts.pixels.bytes)}"))
        rows += _fit_rows(facts.pixels.shapes, facts.frame)
    if facts.labels is not None:
        rows.append(("classes", classes_in_words(facts.labels)))
        if 1 < len(facts.labels.classes) <= MAX_CLASSES:
            rows.append(("", f"{train_command(asked, facts.frame.size, facts.channels)} --conditional learns them"))
    if facts.copies is not None:
        rows.append(("copies", _copies_in_words(facts.copies)))
    return [*rows, ("pack", _pack_in_words(facts, asked)), *skipped_by_reason_rows(facts.skipped)]


def packing_rows(pack: Pack, packing: PackResult, asked: DataConfig) -> list[tuple[str, str]]:
    """What was done for a pack, and how it is used."""
    count = len(pack.original)
    why = {
        "outdated": "the one that was there was out of date; ",
        "damaged": "the one that was there was damaged; ",
    }.get(packing.found, "")
    if packing.found == "whole":
        done = "it was there already, and is whole: all of it was compared with its checksum"
    elif packing.seconds is None:
        done = "another process built it meanwhile"
    else:
        rate = count / max(packing.seconds, 1e-9)
        done = f"{why}built in {packing.seconds:,.1f} s: {rate:,.0f} img/s"
    skipped = unusable(pack.original.skipped)
    rows = [
        ("pack", printable(pack.array)),
        ("", f"{counted(count, 'picture')}, {_arithmetic(pack)}"),
        ("", done),
    ]
    if skipped:
        listed = [describe_skipped(skip) for skip in skipped[:MOST]]
        if len(skipped) > MOST:
            listed.append(f"and {count_files(skipped[MOST:]):,} more; fastdcgan data --skipped FILE lists all")
        rows.append(("skipped", "\n".join([f"{counted(count_files(skipped), 'file')} that can't be used:", *listed])))
    rows += left_out_rows(pack.original.skipped)
    return [*rows, ("use", f"{train_command(asked, pack.frame.size, pack.channels)} uses it")]


def skipped_by_reason_rows(skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    """How many files can't be used, and why: the reasons with their counts, the first files of each."""
    left_out = left_out_rows(skipped)
    skipped = unusable(skipped)
    if not skipped:
        return [("skipped", "nothing"), *left_out]
    lines = [f"{counted(count_files(skipped), 'file')} that can't be used:"]
    reasons = group_by_reason(skipped)
    for reason, group in reasons[:MOST]:
        count, named = count_files(group), group[:NAMED]
        lines.append(f"{count:,} x {reason}:")
        lines += [f"    {skip.path}" for skip in named]
        if count > len(named):
            lines.append(f"    and {count - len(named):,} more")
    if len(reasons) > MOST:
        rest = sum(count_files(group) for _, group in reasons[MOST:])
        lines.append(f"{rest:,} for {counted(len(reasons) - MOST, 'other reason')}")
    return [("skipped", "\n".join(lines)), *left_out]


def left_out_rows(skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    """How many files are left out that nothing is wrong with, and of which kinds; nothing where there are none."""
    lines = []
    for reason, group in group_by_reason([skip for skip in skipped if is_passed_over(skip)]):
        lines.append(f"{counted(count_files(group), 'picture')}, as {group[0].path}: {reason}")
    if others := [skip for skip in skipped if skip.not_a_picture and not skip.hidden]:
        kinds = common_suffixes(others)
        of_kinds = f" ({kinds})" if kinds else f", as {others[0].path}"
        lines.append(f"{files_that_are_no_pictures(count_files(others))}{of_kinds}")
    if hidden := describe_hidden(skipped):
        lines.append(hidden)
    return [("left out", "\n".join(lines))] if lines else []


def unusable(skipped: Sequence[Skipped]) -> list[Skipped]:
    """Pictures that something is wrong with."""
    return [skip for skip in skipped if not skip.not_a_picture and not is_passed_over(skip)]


def classes_in_words(labels: Labels) -> str:
    """How many there are, and how many pictures each has, the largest first."""
    counts = sorted(zip(labels.counts(), labels.classes, strict=True), key=lambda pair: -pair[0])
    most, least = counts[0][0], counts[-1][0]
    if most == least:
        names = ", ".join([printable(name) for _, name in counts[:MOST]] + ["..."] * (len(counts) > MOST))
        return f"{len(counts):,} of {counted(most, 'picture')} each: {names}"
    named = [f"{printable(name)} {count:,}" for count, name in counts[:MOST]]
    if len(counts) > MOST:
        named.append(f"... {printable(counts[-1][1])} {least:,}")
    return f"{len(counts):,}, the largest {most / least:,.1f} times the smallest: {', '.join(named)}"


def _copies_in_words(copies: Copies) -> str:
    if not len(copies):
        return "none: no two pictures have the same bytes"
    first = f"{counted(len(copies), 'picture')} with the bytes of another, as {copies.example()}"
    return f"{first}\n--drop-duplicates leaves them out"


def train_command(asked: DataConfig, size: Size, channels: int) -> str:
    """The command that trains on a source, opened so, at a size."""
    return f"fastdcgan train --data {_options(asked, size, channels)}"


def pack_command(asked: DataConfig, size: Size, channels: int) -> str:
    """The command that packs a source, opened so, at a size."""
    return f"fastdcgan pack {_options(asked, size, channels)}"


def size_in_words(count: int) -> str:
    """Bytes in the unit that suits them."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return counted(count, "byte")


def files_that_are_no_pictures(count: int) -> str:
    """How many, in words."""
    return f"{counted(count, 'file')} that {'is no picture' if count == 1 else 'are no pictures'}"


def _files_rows(files: FileStatistics, count: int, frame: Frame) -> list[tuple[str, str]]:
    rows = []
    rows.append(("files", f"{size_in_words(files.bytes)}, {size_in_words(files.bytes // count)} each in the mean"))
    figures = [f"{number:,}" for _, number in files.kinds[:MOST]]
    width = max(map(len, figures))
    kinds = [f"{figure:>{width}}  {kind}" for figure, (kind, _) in zip(figures, files.kinds, strict=False)]
    if len(files.kinds) > MOST:
        rest = sum(number for _, number in files.kinds[MOST:])
        kinds.append(f"{rest:>{width},}  of {counted(len(files.kinds) - MOST, 'other kind')}")
    sizes = [
        f"{label} {width}x{height}"
        for label, (width, height) in (
            ("smallest", files.smallest),
            ("median", files.median),
            ("largest", files.largest),
        )
    ]
    enlarged = f"{files.enlarged:,} smaller than {frame.size}, so enlarged" if files.enlarged else ""
    if files.smallest == files.largest:
        sizes = [f"all {files.median[0]}x{files.median[1]}"]
    lines = [", ".join(sizes), *filter(None, (enlarged,))]
    return [*rows, ("kinds", "\n".join(kinds)), ("sizes", "\n".join(lines)), *_fit_rows(files.shapes, frame)]


def _fit_rows(shapes: ShapeStatistics, frame: Frame) -> list[tuple[str, str]]:
    """What each way to fit pictures of another shape costs them; nothing where all have the frame's shape."""
    if not shapes.others:
        return []
    mean, most = _percent(1 - shapes.mean), _percent(1 - shapes.least)
    loses = "loses" if shapes.below_half == 1 else "lose"
    half = f"; {counted(shapes.below_half, 'picture')} {loses} more than half" if shapes.below_half else ""
    costs = {
        "crop": f"cuts off {mean} of a picture in the mean, {most} at most{half}",
        "pad": f"cuts nothing off, but {mean} of a picture is border in the mean, {most} at most",
        "stretch": f"cuts nothing off, but makes pictures wider or narrower, {1 / shapes.least:.2f} times at most",
    }
    count = "1 picture has" if shapes.others == 1 else f"{shapes.others:,} pictures have"
    lines = [f"{count} another shape than {frame.size} (height x width):"]
    lines += [f"--fit {fit:<8} {cost}{' (as here)' * (fit == frame.fit)}" for fit, cost in costs.items()]
    return [("fit", "\n".join(lines))]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _pack_in_words(facts: SourceFacts, asked: DataConfig) -> str:
    pack = facts.pack
    if pack is None:
        return "not needed: the pictures are an array of this size already"
    match facts.pack_status:
        case "whole":
            state = f"there, and of the pictures as they are now: {printable(pack.array)}"
        case "outdated":
            state = "out of date: the pictures, or what decodes them, have changed since; training builds it anew"
        case "damaged":
            state = "damaged; training builds it anew"
        case _:
            state = f"none yet; training builds it, or {pack_command(asked, pack.frame.size, pack.channels)}"
    return f"{state}\n{_arithmetic(pack)}"


def _options(asked: DataConfig, size: Size, channels: int) -> str:
    """The source, and every option that decides what its pictures are, as far as it isn't the usual one."""
    said = [shlex.quote(printable(asked.data or DEFAULT_DATA)), f"--resolution {size.short}"]
    if channels != architecture(resolution=size).channels:
        said.append(f"--channels {channels}")
    usual = DataConfig()
    said += [f"--fit {asked.fit}"] * (asked.fit != usual.fit)
    said += [f"--decoder {asked.decoder}"] * (asked.decoder != usual.decoder)
    # with =, as -40,40 begins like an option
    said += [f"--value-range={shlex.quote(asked.value_range)}"] * (asked.value_range != usual.value_range)
    said += ["--drop-duplicates"] * asked.drop_duplicates
    return " ".join(said)


def _arithmetic(pack: Pack) -> str:
    each = pack.frame.size.area * pack.channels
    return f"{pack.frame.size}x{pack.channels} = {each:,} bytes each, {size_in_words(pack.bytes)} in all"


def _wrapped(console: Console, line: str, width: int) -> list[Text]:
    """One line as those that fit, continued at its own indent."""
    indent = line[: len(line) - len(line.lstrip(" "))]
    parts = Text(line.strip()).wrap(console, max(width - len(indent), 1), overflow="fold")
    return [Text(indent + part.plain.rstrip()) for part in parts] or [Text("")]
