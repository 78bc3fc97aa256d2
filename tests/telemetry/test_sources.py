import shlex
from dataclasses import fields
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fastdcgan.config import DataConfig
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.describe import ArrayInfo, FileStatistics, ShapeStatistics, SourceFacts
from fastdcgan.data.labels import Labels
from fastdcgan.data.pack import Pack, PackResult
from fastdcgan.data.source import Skipped
from fastdcgan.gan.architecture import MAX_CLASSES
from fastdcgan.telemetry.terminal.data_tables import (
    Rows,
    facts_rows,
    pack_command,
    packing_rows,
    show,
    size_in_words,
    skipped_by_reason_rows,
    train_command,
)

PHOTOS = DataConfig(data="/photos")

FILES = FileStatistics(
    kinds=(("JPEG RGB", 99_990), ("PNG RGBA", 10)),
    smallest=(40, 20),
    median=(178, 218),
    largest=(8000, 20),
    enlarged=12,
    shapes=ShapeStatistics(others=0, mean=1.0, least=1.0, below_half=0),
    bytes=123_456_789,
)


class Source:
    """Enough of one."""

    origin = "/photos"
    description = "100,000 pictures in /photos, decoded by Pillow"

    def __init__(self, skipped: tuple[Skipped, ...] = ()) -> None:
        self.skipped = skipped

    def __len__(self) -> int:
        return 100_000


def pack(resolution: int = 64, channels: int = 3, skipped: tuple[Skipped, ...] = ()) -> Pack:
    original: Any = Source(skipped)
    return Pack(original=original, frame=Frame.of(resolution), channels=channels)


def facts(**changes: Any) -> SourceFacts:
    known: dict[str, Any] = {
        "source": Source.description,
        "count": 100_000,
        "frame": Frame.of(64),
        "channels": 3,
        "files": FILES,
        "pixels": None,
        "pack": pack(),
        "pack_status": "missing",
        "skipped": (),
    }
    return SourceFacts(**{**known, **changes})


def text(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{label}: {value}" for label, value in rows)


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        (("cat", "dog"), "fastdcgan train --data /photos --resolution 64 --conditional learns them"),
        (("cat",), None),
        (tuple(map(str, range(MAX_CLASSES + 1))), None),
    ],
)
def test_classes_come_with_the_command_that_learns_them(classes: tuple[str, ...], line: str | None) -> None:
    labels = Labels(np.arange(len(classes), dtype=np.int32), classes)
    conditional = [value for _, value in facts_rows(facts(labels=labels), PHOTOS) if "--conditional" in value]
    assert conditional == ([line] if line else [])


def test_all_figures_of_files_are_there() -> None:
    said = text(facts_rows(facts(), PHOTOS))
    for words in ("100,000 pictures in /photos", "99,990  JPEG RGB", "    10  PNG RGBA", "smallest 40x20"):
        assert words in said
    for words in ("median 178x218", "largest 8000x20", "12 smaller than 64x64", "123.5 MB, 1.2 kB each"):
        assert words in said
    assert "12,288 bytes each, 1.2 GB in all" in said
    assert "fastdcgan pack /photos --resolution 64" in said
    assert "--fit pad" not in said, "all have the network's shape"
    assert "skipped: nothing" in said


def test_what_each_fit_costs_is_said() -> None:
    shapes = ShapeStatistics(others=3, mean=0.75, least=0.4, below_half=1)
    files = FileStatistics(**{**vars(FILES), "shapes": shapes})
    said = text(facts_rows(facts(files=files, frame=Frame.of("128x64", "pad")), PHOTOS))
    assert "3 pictures have another shape than 128x64 (height x width):" in said
    assert "--fit crop     cuts off 25% of a picture in the mean, 60% at most; 1 picture loses more than half\n" in said
    assert "--fit pad      cuts nothing off, but 25% of a picture is border in the mean, 60% at most (as here)" in said
    assert "--fit stretch  cuts nothing off, but makes pictures wider or narrower, 2.50 times at most" in said


def test_pictures_of_one_size_are_said_to_be() -> None:
    files = FileStatistics(**{**vars(FILES), "smallest": (96, 96), "median": (96, 96), "largest": (96, 96)})
    assert "all 96x96" in text(facts_rows(facts(files=files), PHOTOS))


def test_many_kinds_are_summed_up() -> None:
    kinds = tuple((f"JPEG {number}", 100 - number) for number in range(13))
    files = FileStatistics(**{**vars(FILES), "kinds": kinds})
    said = text(facts_rows(facts(files=files), PHOTOS))
    assert "JPEG 9" in said and "JPEG 10" not in said
    assert "267  of 3 other kinds" in said


@pytest.mark.parametrize(("pack_status", "words"), [("whole", "as they are now"), ("outdated", "out of date")])
def test_the_status_of_the_pack_is_printed(pack_status: str, words: str) -> None:
    assert words in text(facts_rows(facts(pack_status=pack_status), PHOTOS))


def test_an_array_of_the_right_size_needs_no_pack() -> None:
    array = ArrayInfo(shape=(60_000, 28, 28, 1), dtype="uint8", bytes=47_040_000, shapes=FILES.shapes)
    said = text(
        facts_rows(facts(files=None, pixels=array, pack=None, pack_status=None), DataConfig(data="fashion-mnist"))
    )
    assert "uint8, 60000x28x28x1, 47.0 MB" in said and "not needed" in said


def test_skipped_files_are_grouped_counted_and_a_few_are_named() -> None:
    skipped = [Skipped(path=f"cut{n}", reason="truncated image") for n in range(1200)]
    skipped += [Skipped(path=f"odd{n}", reason=f"reason {n}") for n in range(11)]
    said = text(skipped_by_reason_rows(skipped))
    assert "1,211 files" in said and "1,200 x truncated image" in said
    assert "cut2" in said and "cut3" not in said and "and 1,197 more" in said
    assert "reason 8" in said and "reason 9" not in said and "2 for 2 other reasons" in said
    said = text(skipped_by_reason_rows([Skipped(path="s.tar: a.cls", reason="no picture by its name", count=1500)]))
    assert (
        "1,500 files" in said and "1,500 x no picture" in said and "s.tar: a.cls" in said and "and 1,499 more" in said
    )


def test_a_pack_that_was_built_says_how_fast_and_how_it_is_used() -> None:
    skipped = tuple(Skipped(path=f"bad{number}", reason="empty file") for number in range(12))
    said = text(
        packing_rows(pack(skipped=skipped), PackResult(found="damaged", seconds=50.0), DataConfig(data="my photos"))
    )
    for words in ("was damaged; built in 50.0 s: 2,000 img/s", "12 files", "bad9: empty file", "and 2 more"):
        assert words in said
    assert "bad10" not in said
    assert "fastdcgan train --data 'my photos' --resolution 64 uses it" in said
    assert "out of date" in text(packing_rows(pack(), PackResult(found="outdated", seconds=1.0), PHOTOS))
    assert "compared with its checksum" in text(packing_rows(pack(), PackResult(found="whole", seconds=None), PHOTOS))
    assert "another process" in text(packing_rows(pack(), PackResult(found="missing", seconds=None), PHOTOS))


@pytest.mark.parametrize(
    ("resolution", "channels", "options"),
    [(64, 3, "--resolution 64"), (64, 1, "--resolution 64 --channels 1"), (28, 1, "--resolution 28")],
)
def test_the_command_that_is_named_asks_for_the_same_pack(resolution: int, channels: int, options: str) -> None:
    assert train_command(PHOTOS, Frame.of(resolution).size, channels) == f"fastdcgan train --data /photos {options}"
    assert train_command(PHOTOS, Frame.of(28).size, 3).endswith("--resolution 28 --channels 3")


def test_the_commands_that_are_named_carry_each_option_that_was_given() -> None:
    given = ["--fit", "pad", "--decoder", "pillow", "--value-range=-40,40", "--drop-duplicates"]
    asked = DataConfig(data="/a b", fit="pad", decoder="pillow", value_range="-40,40", drop_duplicates=True)
    size = Frame.of("128x64").size
    for command, start in (
        (train_command(asked, size, 1), ["fastdcgan", "train", "--data"]),
        (pack_command(asked, size, 1), ["fastdcgan", "pack"]),
    ):
        assert shlex.split(command) == [*start, "/a b", "--resolution", "128x64", "--channels", "1", *given]


def test_no_option_that_decides_what_the_pictures_are_is_forgotten() -> None:
    """Who adds one to `DataConfig` adds it to the commands that are named, too, or here, if it is of no concern."""
    of_no_concern = {"data", "flip", "batch_size", "data_cache", "data_memory", "data_threads"}
    assert {field.name for field in fields(DataConfig)} - of_no_concern == {
        *("fit", "decoder", "value_range", "drop_duplicates"),
    }


def test_sizes_in_words() -> None:
    assert [size_in_words(n) for n in (1, 999, 1000, 12_288_000, 10**12)] == [
        "1 byte",
        "999 bytes",
        "1.0 kB",
        "12.3 MB",
        "1.0 TB",
    ]


@pytest.mark.parametrize("columns", [1, 20, 60])
def test_narrow_terminals_show_everything_beside_its_label(columns: int) -> None:
    path = "/a/very/long/path/" + "photograph" * 9 + ".jpg"
    rows = [("pack", f"{path}\n  12  words that are wrapped where they end"), ("", "[red]markup[/red] :cat:")]
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=columns, color_system=None, emoji=False, markup=False)
    console.print(Rows(rows), soft_wrap=True)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= max(columns, 20)
    assert lines[0].startswith("pack      /a/")
    assert all(line.startswith(" " * 10) for line in lines[1:])
    shown = "".join(line[10:].replace(" ", "") for line in lines)
    assert shown == (path + "12wordsthatarewrappedwheretheyend[red]markup[/red]:cat:")


def test_without_a_terminal_lines_stay_whole(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    path = "/photos [1]/" + "a b" * 200
    show([("source", path), ("", "two")])
    assert capsys.readouterr().out == f"source    {path}\n          two\n"
