import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from fastdcgan.config import DataConfig, RecipeConfig, RunConfig, TrainConfig, flat
from fastdcgan.runs.folder import (
    BATCH_NAMED,
    RunFolder,
    as_begun,
    check_writable,
    choose,
    create,
    read_config,
    write_config,
)

TODAY = date(2026, 2, 3)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs without --out go below the current folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def config(
    *, out: Path | None = None, lr: float = 2e-4, batch: int = 32, resume: str = "auto", images: int = 100
) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=batch),
        recipe=RecipeConfig(lr=lr),
        run=RunConfig(out=out, resume=resume, images=images),  # type: ignore[arg-type]
    ).resolved()


def begin(asked: TrainConfig, today: date = TODAY) -> RunFolder:
    """A run that has begun."""
    folder = choose(asked, today)
    create(folder)
    write_config(folder, asked, asked.model.architecture(), {})
    return folder


def test_the_default_is_named_by_date_and_architecture() -> None:
    asked = config()
    assert choose(asked, TODAY).path == Path("runs") / f"2026-02-03-{asked.model.arch}"
    assert not Path("runs").exists(), "choosing makes nothing"


def test_the_same_request_goes_on_with_todays_run() -> None:
    first = begin(config())
    assert choose(config(), TODAY) == first
    assert choose(config(images=10_000), TODAY) == first, "a longer run goes on"
    assert choose(config(), date(2026, 2, 4)) != first


def test_another_request_gets_a_number() -> None:
    first = begin(config())
    second = begin(config(lr=1e-3))
    third = begin(config(lr=1e-2))
    assert second.path == first.path.with_name(f"{first.path.name}-2")
    assert third.path == first.path.with_name(f"{first.path.name}-3")
    assert choose(config(lr=1e-3), TODAY) == second
    assert choose(config(), TODAY) == first


def test_only_a_batch_that_nobody_named_is_taken_from_the_run() -> None:
    chosen, usual = config(batch=32), config(batch=128)
    first = begin(chosen)
    assert choose(usual, TODAY, batch_named=False) != first, "begun with --batch-size 32"
    write_config(first, chosen, chosen.model.architecture(), {BATCH_NAMED: False})
    assert choose(usual, TODAY, batch_named=False) == first
    assert as_begun(usual, first, batch_named=False) == chosen
    assert choose(usual, TODAY) != first, "--batch-size 128 was asked for"


def test_resume_off_gets_a_number_too() -> None:
    first = begin(config())
    assert choose(config(resume="off"), TODAY).path == first.path.with_name(f"{first.path.name}-2")


def test_a_damaged_run_of_that_name_is_left_alone() -> None:
    first = begin(config())
    first.config.write_text("{")
    assert choose(config(), TODAY).path == first.path.with_name(f"{first.path.name}-2")


def test_a_file_of_that_name_is_left_alone() -> None:
    name = choose(config(), TODAY).path
    name.parent.mkdir()
    name.write_text("notes")
    assert choose(config(), TODAY).path == name.with_name(f"{name.name}-2")


def test_out_is_taken_as_it_is() -> None:
    asked = config(out=Path("my run"))
    assert choose(asked, TODAY).path == Path("my run")
    begin(asked)
    assert choose(asked, TODAY).path == Path("my run")
    assert choose(asked, date(2027, 1, 1)).path == Path("my run")


def test_out_may_be_an_existing_folder_without_a_run() -> None:
    Path("mine").mkdir()
    (Path("mine") / "notes.txt").write_text("keep")
    begin(config(out=Path("mine")))
    assert (Path("mine") / "notes.txt").read_text() == "keep"


def test_out_with_another_run_is_refused_naming_the_options() -> None:
    begin(config(out=Path("mine")))
    with pytest.raises(ValueError, match="mine holds a run with another configuration") as refusal:
        choose(config(out=Path("mine"), lr=1e-3, batch=64), TODAY)
    assert "--lr: 0.0002, now 0.001" in str(refusal.value)
    assert "--batch-size: 32, now 64" in str(refusal.value)
    assert "--images" not in str(refusal.value)


def test_out_with_a_run_is_refused_with_resume_off() -> None:
    begin(config(out=Path("mine")))
    with pytest.raises(ValueError, match=r"mine already holds a run: .*--resume auto"):
        choose(config(out=Path("mine"), resume="off"), TODAY)


def test_out_that_is_a_file_is_refused() -> None:
    Path("mine").write_text("notes")
    with pytest.raises(ValueError, match="the output folder mine is a file"):
        choose(config(out=Path("mine")), TODAY)


def test_create_makes_what_a_run_writes_into_and_nothing_else() -> None:
    folder = RunFolder(Path("some") / "where")
    create(folder)
    create(folder)
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "samples"]


def test_create_removes_what_a_killed_process_was_writing_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.samples.mkdir()
    left = [run.samples / ".step-00000006.png.4711", tmp_path / ".config.json.12"]
    kept = [run.samples / "step-00000004.png", tmp_path / ".lock", tmp_path / ".notes.2", tmp_path / "table.csv.2"]
    for path in (*left, *kept):
        path.touch()
    (tmp_path / ".link.json.3").symlink_to(kept[0])
    create(run)
    assert not any(path.exists() for path in (*left, tmp_path / ".link.json.3"))
    assert all(path.exists() for path in kept)


def test_a_folder_that_cannot_be_made_is_refused_by_name() -> None:
    Path("file").write_text("")
    with pytest.raises(ValueError, match=r"can't write to the output folder file.run: \w+"):
        create(RunFolder(Path("file") / "run"))


def test_a_folder_that_cannot_be_written_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(ValueError, match="can't write to the output folder mine: Read-only file system"):
        create(RunFolder(Path("mine")))


def test_what_cannot_be_written_is_found_out_early_without_making_anything(inside: Path) -> None:
    Path("file").write_text("")
    check_writable(RunFolder(Path("some") / "where"))
    check_writable(RunFolder(inside))
    for path in (Path("file"), Path("file") / "run" / "deeper"):
        with pytest.raises(ValueError, match=f"can't write to the output folder {path}: "):
            check_writable(RunFolder(path))
    assert [path.name for path in inside.iterdir()] == ["file"]


def test_the_configuration_comes_back_as_it_was() -> None:
    asked = config(out=Path("my run"))
    folder = begin(asked)
    assert read_config(folder) == asked
    record = json.loads(folder.config.read_text())
    assert record["config"] == flat(asked)
    assert record["architecture"]["name"] == asked.model.arch
    assert {"python", "torch", "fastdcgan"} <= record["versions"].keys()
    assert list(folder.path.glob("*.tmp")) == []


def test_a_folder_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no such run folder: nowhere"):
        read_config(RunFolder(Path("nowhere")))


def test_a_folder_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run's folder: it has no config\.json"):
        read_config(RunFolder(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"config": null}',
        '{"config": []}',
        '{"config": "x"}',
        '{"config": {}}',
        '{"config": {"lr": 1}}',
    ],
)
def test_a_damaged_configuration_is_refused_by_name(text: str) -> None:
    folder = begin(config(out=Path("mine")))
    folder.config.write_text(text)
    with pytest.raises(ValueError, match=r"mine.config\.json can't be read: "):
        read_config(folder)


def test_a_configuration_that_is_not_text_is_refused_by_name() -> None:
    folder = begin(config(out=Path("mine")))
    folder.config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine.config\.json can't be read: "):
        read_config(folder)


def test_fields_of_another_version_are_named() -> None:
    folder = begin(config(out=Path("mine")))
    record = json.loads(folder.config.read_text())
    record["config"]["weight_decay"] = 0.1
    folder.config.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="unknown fields weight_decay"):
        read_config(folder)
