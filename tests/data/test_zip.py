"""Pictures in zip files look as they do in a folder, and a hostile zip file costs nothing."""

import itertools
import json
import stat
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS, bad_files, encode, good_files
from opened import complaint, pixels, source
from PIL import Image

from fastdcgan.data.archives import listing, zip_headers
from fastdcgan.data.archives.shards import ShardIndex, open_shards
from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.data.decoding.formats import PICTURE_SUFFIXES
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.storage.printable import printable

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # pytest undoes our own filter

JPEG = encode(PHOTOS[0].resize((20, 30)), "JPEG")
BMP = encode(Image.new("RGB", (200, 300), "red"), "BMP")
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
DECODERS = ["pillow", pytest.param("dali", marks=pytest.mark.skipif(not dali_available(), reason="no DALI"))]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def write(path: Path, files: dict[str, bytes], method: int = DEFLATED) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def names(index: ShardIndex) -> list[str]:
    return [printable(name) for shard in index.shards for name in shard.picture_names()]


def reasons(index: ShardIndex) -> dict[str, str]:
    """By the member's name; of the whole file, by its path."""
    return {skipped.path.removeprefix(f"{index.origin}: "): skipped.reason for skipped in index.skipped}


@pytest.mark.parametrize("decoder", DECODERS)
def test_pictures_look_as_in_a_folder(decoder: str, tmp_path: Path) -> None:
    files = {
        name: data
        for name, data in sorted(good_files().items())
        if name.lower().endswith(PICTURE_SUFFIXES) and name.isprintable()
    }
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    every = list(files.items())
    write(tmp_path / "zips" / "0.zip", dict(every[:20]), STORED)
    write(tmp_path / "zips" / "1.ZIP", dict(every[20:]))
    of_zips, of_folder = source(tmp_path / "zips", decoder), source(tmp_path / "folder", decoder)
    assert len(of_zips) == len(of_folder) == len(files)
    assert torch.equal(pixels(of_zips), pixels(of_folder))
    index = open_shards(str(tmp_path / "zips" / "*"))
    assert [index.read_bytes(n) for n in range(len(index))] == list(files.values())
    assert torch.equal(pixels(source(tmp_path / "zips", decoder, cache="on")), pixels(of_folder))


def test_every_bad_picture_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    bad = {name: told for name, told in bad_files().items() if name.lower().endswith(PICTURE_SUFFIXES)}
    mixed = {name: data for name, (data, _) in bad.items()}
    rest = {"good.jpg": JPEG, "good.seg.png": b"", "good.json": b"{}", "__MACOSX/._good.jpg": b"", "x/more.zip": b""}
    index = open_shards(str(write(tmp_path / "s.zip", mixed | rest)))
    assert names(index) == ["good.jpg"]
    assert index.read_bytes(0) == JPEG
    told = reasons(index)
    assert told["x/more.zip"] == listing.NESTED
    assert len(told) == len(bad) + 4
    for name, (_, reason) in bad.items():
        assert reason in told[name], name
    again = open_shards(str(tmp_path / "s.zip"))  # from the cache
    assert (names(again), again.skipped, again.fingerprint) == (names(index), index.skipped, index.fingerprint)


def test_members_that_are_no_plain_files_are_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w", DEFLATED) as archive:
        for name, method in (("a.jpg", STORED), ("b.jpg", zipfile.ZIP_BZIP2), ("c.jpg", zipfile.ZIP_LZMA)):
            archive.writestr(name, JPEG, method)
        for name in ("../../up.jpg", "/root.jpg", "C:/x.jpg", "x\\..\\up.jpg"):
            archive.writestr(zipfile.ZipInfo(name), JPEG)
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.jpg")
        archive.writestr("in\\side.jpg", JPEG)
        archive.writestr("secret.jpg", JPEG)
        archive.getinfo("secret.jpg").flag_bits |= 1
        archive.writestr("film.jpg", JPEG)
        archive.getinfo("film.jpg").file_size = 3 * 2**30
        archive.writestr("nameless.jpg", JPEG)
        archive.getinfo("nameless.jpg").filename = ""
    index = open_shards(str(tmp_path / "s.zip"))
    assert names(index) == ["a.jpg", "in/side.jpg"]
    told = reasons(index)
    assert "by bzip2" in told.pop("b.jpg")
    assert "by lzma" in told.pop("c.jpg")
    outside = dict.fromkeys(("../../up.jpg", "/root.jpg", "C:/x.jpg", "x/../up.jpg"), zip_headers.LEADS_OUT)
    assert told == outside | {
        "link.jpg": "a link, not a file",
        "secret.jpg": "encrypted",
        "film.jpg": "3.0 GiB is more than the limit of 1 GiB",
        index.origin: "damaged: a member of it has no name",
    }


def test_a_member_that_inflates_to_more_than_is_said_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w", DEFLATED) as archive:
        archive.writestr("good.bmp", BMP)
        archive.writestr("more.bmp", BMP)
        archive.getinfo("more.bmp").file_size -= 1
        archive.writestr("less.bmp", BMP)
        archive.getinfo("less.bmp").file_size += 1
        archive.writestr("other.bmp", BMP)
        archive.getinfo("other.bmp").CRC ^= 1
        archive.writestr("plain.bmp", BMP, STORED)
        archive.getinfo("plain.bmp").file_size += 1
    index = open_shards(str(tmp_path / "s.zip"))
    assert names(index) == ["good.bmp"]
    size = "damaged in the archive: it doesn't have the size that is given for it"
    assert reasons(index) == {
        "more.bmp": size,
        "less.bmp": size,
        "other.bmp": "damaged in the archive: its checksum differs",
        "plain.bmp": "damaged: two sizes are given for it",
    }


def test_members_that_share_their_bytes_are_read_once(tmp_path: Path) -> None:
    """By overlapping members 10 MB unpack to 281 TB (https://www.bamsoftware.com/hacks/zipbomb/)."""
    with zipfile.ZipFile(tmp_path / "s.zip", "w", DEFLATED) as archive:
        archive.writestr("0.bmp", BMP)
        first = archive.getinfo("0.bmp")
        for number in range(1, 2000):
            again = zipfile.ZipInfo(f"{number}.bmp")
            again.compress_type, again.header_offset = DEFLATED, first.header_offset + number % 7
            again.file_size, again.compress_size, again.CRC = first.file_size, first.compress_size, first.CRC
            archive.filelist.append(again)
        archive._didModify = True
    index = open_shards(str(tmp_path / "s.zip"))
    assert names(index) == ["0.bmp"]
    assert len(index.skipped) == 1999
    assert {skip.reason for skip in index.skipped} == {"overlaps another member"}


def test_what_is_no_zip_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.zip", {f"{n}.jpg": JPEG for n in range(3)}).read_bytes()
    path = tmp_path / "s.zip"
    gone = "not a zip file, or cut off: the list of its members is missing at its end"
    for data in (b"", b"hello", whole[:-40], whole[:100], b"PK\3\4" + bytes(50)):
        path.write_bytes(data)
        assert complaint(path) == f"{path}: {gone}"
    tail = bytearray(whole)
    end = whole.rindex(b"PK\5\6")
    tail[end + 12 : end + 16] = struct.pack("<I", 2**31)  # a list of two gibibytes
    path.write_bytes(tail)
    assert complaint(path) == f"{path}: {gone}"
    write(path, {})
    assert complaint(path).endswith(f"in {path}; nothing is in there")
    write(path, {"in.zip": whole, "b.zip": whole})
    assert complaint(path).endswith(f"but 2 other members, as {path}: in.zip ({listing.NESTED})")


def test_a_zip_after_other_bytes_and_with_large_fields_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as file:
        file.write(JPEG)
    data = (tmp_path / "s.zip").read_bytes()
    (tmp_path / "s.zip").write_bytes(b"#!/bin/sh\n" + data)  # one that unpacks itself
    index = open_shards(str(tmp_path / "s.zip"))
    assert index.read_bytes(0) == JPEG
    (tmp_path / "s.tar").write_bytes(data)
    assert open_shards(str(tmp_path / "s.tar")).read_bytes(0) == JPEG, "its content says what it is"


def test_damage_after_the_check_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zip", {"a.bmp": BMP, "b.bmp": BMP})
    index = open_shards(str(path))
    write(path, {"a.bmp": BMP})
    with pytest.raises(ValueError, match=r"/s\.zip: b\.bmp: the shard was changed since it was checked"):
        index.read_bytes(1)


def stylegan(folder: Path, labels: object, method: int = STORED) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    files = {f"{n // 20:05d}/img{n:08d}.png": encode(Image.fromarray(level), "PNG") for n, level in enumerate(levels)}
    return write(folder / "data.zip", files | {"dataset.json": json.dumps({"labels": labels}).encode()}, method)


def numbered(count: int = 40) -> list[list[object]]:
    return [[f"{n // 20:05d}/img{n:08d}.png", 6 if n % 3 else 2] for n in range(count)]


def test_stylegans_zip_is_read_with_its_labels(tmp_path: Path) -> None:
    for method in (STORED, DEFLATED):
        path = stylegan(tmp_path, numbered(), method)
        for cache in ("off", "on", "on"):
            opened = source(path, cache=cache)
            assert len(opened) == 40 and not opened.skipped
            labels = opened.labels
            assert labels is not None
            assert labels.classes == ("2", "6")
            assert labels.numbers.tolist() == [1 if n % 3 else 0 for n in range(40)]
            assert labels.counts() == [14, 26]
    broken = [None, numbered(39), [[name, [0.5]] for name, _ in numbered()], {"a": 1}, 5]
    for labels in broken:
        assert source(stylegan(tmp_path, labels)).labels is None, labels  # 00000 and 00001 are no classes
    path = stylegan(tmp_path, numbered())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("00001/img99999999.png", b"")
    assert source(path).labels is None
    with zipfile.ZipFile(stylegan(tmp_path, [*numbered(), ["bad.png", 9]]), "a") as archive:
        archive.writestr("bad.png", b"")
    labels = source(path).labels
    assert labels is not None
    assert labels.counts() == [14, 26]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_resumed_run_sees_what_it_would_have_seen(decoder: str, method: int, tmp_path: Path) -> None:
    path = stylegan(tmp_path, None, method)

    def batches(start: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
        batching = Batching(seed=3, global_batch=12, rank=rank, world_size=world_size, flip=True)
        with closing(real_batches(source(path, decoder), batching, torch.device("cpu"), start)) as stream:
            return torch.stack(list(itertools.islice(stream, 8 - start)))

    whole = batches(0)
    for start in (1, 2, 3, 7):
        assert torch.equal(batches(start), whole[start:])
        assert torch.equal(torch.cat([batches(start, 0, 2), batches(start, 1, 2)], dim=1), whole[start:])


def test_inflating_is_bounded() -> None:
    from fastdcgan.data.archives.shard import inflate

    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezed.compress(bytes(2**26)) + squeezed.flush()
    for size in (0, 1, 2**26 - 1, 2**26 + 1):
        with pytest.raises(ValueError, match="damaged in the archive"):
            inflate(bomb, size)
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged in the archive"):
        inflate(bomb, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert len(inflate(bomb, 2**26)) == 2**26
    empty = zlib.compressobj(9, zlib.DEFLATED, -15)
    assert inflate(empty.flush(), 0) == b""
    with pytest.raises(ValueError, match="damaged in the archive"):
        inflate(bomb[:-5], 2**26)
