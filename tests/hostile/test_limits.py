"""What a file claims is compared with a limit before any memory is taken for it; and what it says is shown harmless."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastdcgan import cli
from fastdcgan.config import RunConfig, TrainConfig, flat
from fastdcgan.data import folder as folders
from fastdcgan.data.archives import shard_cache, shards
from fastdcgan.data.archives.shard import PICTURE_DTYPE
from fastdcgan.data.archives.tar_headers import list_tar_members
from fastdcgan.data.datasets.cifar10 import open_cifar10
from fastdcgan.data.datasets.idx import read_idx_images
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.decoding.picture import MAX_SCANS, examine
from fastdcgan.data.describe import write_skipped
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import read_manifest
from fastdcgan.data.source import Skipped
from fastdcgan.runs.folder import RunFolder, read_condition, read_config
from fastdcgan.storage import strict_json
from fastdcgan.storage.cache import read_cached, write_cached
from fastdcgan.storage.files import read_json, read_limited
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.metrics import read_metrics
from fastdcgan.telemetry.terminal.display import Display

DEEP = "[" * 100_000
CONFIG = flat(TrainConfig(run=RunConfig(images=100)).resolved())


def npy(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


def idx(count: int, height: int, width: int) -> bytes:
    return struct.pack(">IIII", 0x0803, count, height, width) + bytes(100)


def tar_claiming(size: int) -> bytes:
    member = tarfile.TarInfo("a.png")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


CLAIMS = {
    "huge.npy": npy(f"({2**60}, 16, 16, 3)"),
    "endless.npy": npy(f"({'0x' + 'f' * 9000}, 16, 16, 3)"),
    "train-images-idx3-ubyte": idx(2**32 - 1, 2**32 - 1, 2**32 - 1),
    "huge.tar": tar_claiming(2**60),
    "negative.tar": tar_claiming(-(2**40)),
    "bomb.png": png_claiming(2**31 - 1, 2**31 - 1),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_claims_to_be_gigantic_is_refused_in_one_short_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(CLAIMS[name])
    spec = tmp_path / name if name.endswith((".npy", ".tar")) else tmp_path
    with pytest.raises(ValueError) as refusal:
        open_source(str(spec), resolution=16, channels=3, device="cpu", threads=1)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_an_idx_header_alone_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GiB are within the limit, but not there."""
    asked: list[int] = []
    real = io.BufferedReader.read

    class Watched(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return real(self, size)

    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(2**21, 32, 32))
    monkeypatch.setattr("fastdcgan.data.datasets.idx.open_regular", lambda path: Watched(io.FileIO(path)))
    with pytest.raises(ValueError, match="damaged or cut off"):
        read_idx_images(path)
    assert max(asked) <= 2**20
    assert min(asked) > 0


def test_files_that_are_read_whole_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="larger than the limit"):
        read_json(huge)
    with pytest.raises(ValueError, match="larger than the limit"):
        read_metrics(huge)
    assert read_cached(huge) is None
    assert read_manifest(huge) is None
    (tmp_path / "run").mkdir()
    huge.rename(tmp_path / "run" / "config.json")
    with pytest.raises(ValueError, match="can't be read"):
        read_config(RunFolder(tmp_path / "run"))
    assert read_condition(RunFolder(tmp_path / "run"), "data") is None
    (tmp_path / "small").write_bytes(bytes(10))
    assert read_limited(tmp_path / "small", 10) == bytes(10)
    with pytest.raises(ValueError):
        read_limited(tmp_path / "small", 9)


@pytest.mark.parametrize("text", [DEEP, '{"config": ' + DEEP, '{"a":' * 100_000])
def test_json_nested_without_end(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        strict_json.parse(text.encode())
    run = RunFolder(tmp_path)
    run.config.write_text(text)
    run.metrics.write_text(text)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_config(run)
    assert read_condition(run, "data") is None
    assert read_metrics(run.metrics) == []
    assert read_manifest(run.config) is None


def test_scans_of_a_jpeg_are_counted() -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "JPEG", progressive=True)
    data = file.getvalue()
    examine(data)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="scans"):
        examine(data[:last] + data[last:-2] * (MAX_SCANS + 1) + data[-2:])


def test_what_a_tar_says_of_all_members_is_not_gathered(tmp_path: Path) -> None:
    """It would be copied for each of them: time and memory without measure."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(50):
            tar.fileobj.write(tarfile.TarInfo.create_pax_global_header({f"key{number}": "x"}))  # type: ignore[union-attr]
            tar.offset = tar.fileobj.tell()  # type: ignore[union-attr]
            tar.addfile(tarfile.TarInfo(f"{number}.png"))
    kept: list[int] = []
    real = tarfile.TarInfo.fromtarfile

    def watched(tar: tarfile.TarFile) -> tarfile.TarInfo:
        kept.append(len(tar.pax_headers))
        return real(tar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile.TarInfo, "fromtarfile", staticmethod(watched))
        members = list(list_tar_members(str(tmp_path / "a.tar"), (tmp_path / "a.tar").stat().st_size))
    assert [member.name for member in members] == [f"{number}.png" for number in range(50)]
    assert max(kept) <= 1


def test_a_cut_archive_of_cifar10_is_told_in_one_line(tmp_path: Path) -> None:
    import gzip

    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 2**20
    whole = b"".join(tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{n}").tobuf() for n in range(2, 6))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(gzip.compress(whole + member.tobuf() + bytes(512)))
    with pytest.raises(ValueError, match="damaged"):
        open_cifar10(tmp_path, frame=Frame.of(32), channels=3, threads=1)


# --- Configurations and indexes ---------------------------------------------------------------------------------------

WRONG = [
    *((name, value) for name in ("width", "batch_size", "seed", "log_every") for value in ("4", [4], True, 1.5, {})),
    ("out", 5),
    ("out", ["a"]),
    ("arch", ["dcgan64"]),
    ("data", None),
    ("lr", "fast"),
    ("lr", float("nan")),
    ("flip", 1),
    ("precision", "int8"),
    ("precision", ["fp32"]),
    ("batch_size", -5),
    ("seed", 2**70),
    ("resolution", 2**40),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_runs_configuration_is_checked_like_a_users(name: str, value: object, tmp_path: Path) -> None:
    assert name in CONFIG
    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps({"config": {**CONFIG, name: value}}))
    with pytest.raises(ValueError, match=r"config\.json can't be read: "):
        read_config(run)


def test_networks_that_no_checkpoint_holds_are_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdcgan.runs import generate

    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps({"config": {**CONFIG, "width": 10**8}}))
    saved = run.checkpoints / "step-00000001"
    saved.mkdir(parents=True)
    (saved / "generator.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr("fastdcgan.gan.models.Generator", lambda *_, **__: pytest.fail("memory was taken for it"))
    with pytest.raises(ValueError, match=r"."):
        generate.generate_from_run(tmp_path, count=1, seed=0, out=tmp_path / "grid.png")


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


ENTRY = [20, 20, True, "PNG RGB", 1, 1, ""]
INDEXES: list[object] = [
    [],
    {"files": []},
    {"files": {"a.png": []}},
    {"files": {"a.png": [0, 0, *ENTRY[2:]]}},
    {"files": {"a.png": ["x", *ENTRY[1:]]}},
    {"files": {"a.png": [*ENTRY[:6], 5]}},
    {"files": {"a.png": None}},
]


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_in_the_cache_that_is_none_is_made_anew(index: object, photo_folder: Path) -> None:
    whole = folders.scan_folder(photo_folder)
    path = folders._cache_path(photo_folder)
    for found in (index, {"format": folders._format(), **index} if isinstance(index, dict) else index):
        write_cached(path, json.dumps(found).encode())
        assert folders.scan_folder(photo_folder) == whole
    write_cached(path, DEEP.encode())
    assert folders.scan_folder(photo_folder) == whole


def change(field: str, value: int) -> Callable[[dict[str, object], np.ndarray], None]:
    def changed(found: dict[str, object], pictures: np.ndarray) -> None:
        pictures[field] = value

    return changed


def say(field: str, value: object) -> Callable[[dict[str, object], np.ndarray], None]:
    return lambda found, pictures: found.update({field: value})


SHARD_INDEXES = [
    change("offset", -(2**40)),
    change("offset", 2**62),
    change("bytes", 2**32 - 1),
    change("deflated", 2**32 - 1),
    say("labels", 1),
    say("labels", -1),
    say("labels", None),
    change("width", 0),
    change("kind", 9),
    say("pictures", 2**60),
    say("pictures", "1"),
    say("kinds", [5]),
    say("skipped", [["a", 5]]),
    say("sharing", "x"),
    say("passed_over", [["a", "b", -1]]),
    say("passed_over", [[5, "b", 1]]),
    say("passed_over", [["a", "b"]]),
]


@pytest.mark.parametrize("spoil", SHARD_INDEXES)
def test_an_index_of_a_shard_that_is_none_is_made_anew(
    spoil: Callable[[dict[str, object], np.ndarray], None], photo_folder: Path, tmp_path: Path
) -> None:
    tar_path = tmp_path / "a.tar"
    with tarfile.open(tar_path, "w") as tar:
        tar.add(photo_folder / "a.png", "a.png")
    whole = shards.open_shards(str(tar_path)).read_bytes(0)
    cached = shard_cache.cache_path(str(tar_path))
    line, _, body = (read_cached(cached) or b"").partition(b"\n")
    found, pictures = json.loads(line), np.frombuffer(body, PICTURE_DTYPE, 1).copy()
    spoil(found, pictures)
    write_cached(cached, json.dumps(found).encode() + b"\n" + pictures.tobytes() + body[pictures.nbytes :])
    assert shard_cache.load_cached(str(tar_path), *shards._stamp(str(tar_path))) is None
    assert shards.open_shards(str(tar_path)).read_bytes(0) == whole


# --- Words ------------------------------------------------------------------------------------------------------------

RED = "\x1b[31mred\x1b[0m\x9b31m\u202eabc\r\n\x07"


def harmless(text: str) -> bool:
    return all(c.isprintable() for c in text.replace("\n", ""))


def test_whatever_a_name_is_made_of_it_is_one_line_and_moves_nothing() -> None:
    assert printable(RED) == r"\x1b[31mred\x1b[0m\x9b31m\u202eabc\r\n\x07"
    assert printable("half of a pair: \ud800") == r"half of a pair: \ud800"
    assert printable(printable(RED)) == printable(RED)


def test_what_the_terminal_is_told_is_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Display() as display:
        display.say(f"two\nlines {RED}")
    out = capsys.readouterr().out
    assert "two\nlines" in out
    assert harmless(out)

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"config": {**CONFIG, RED: 1, "\ud800": "x" * 10**6}}))
    with pytest.raises(SystemExit):
        cli.main(["generate", str(run)])
    complaint = capsys.readouterr().err
    assert "unknown fields" in complaint
    assert harmless(complaint)
    assert complaint.count("\n") == 1
    assert len(complaint) < 10_000


def test_the_list_of_what_is_skipped_is_one_line_a_file(tmp_path: Path) -> None:
    write_skipped([Skipped(path=RED, reason=RED), Skipped(path="b", reason="c")], tmp_path / "skipped.txt")
    text = (tmp_path / "skipped.txt").read_text()
    assert text.count("\n") == 2
    assert harmless(text)
