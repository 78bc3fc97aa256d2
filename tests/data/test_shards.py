"""Pictures in tar shards look as they do in a folder, and nothing in a shard can stop the others."""

import gzip
import io
import itertools
import os
import random
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import PHOTOS, bad_files, encode, good_files
from opened import complaint, pixels, source
from PIL import Image

from fastdcgan.data.archives import listing
from fastdcgan.data.archives.listing import NO_PICTURE
from fastdcgan.data.archives.shard import PICTURE_DTYPE, Shard
from fastdcgan.data.archives.shards import ShardIndex, open_shards
from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.decoding.formats import FORMAT_NAMES, PICTURE_SUFFIXES
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.hidden import HIDDEN_FILE
from fastdcgan.data.pack import read_manifest
from fastdcgan.data.source import SECOND_PICTURE, describe_hidden
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.printable import printable

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # pytest undoes our own filter

JPEG = encode(PHOTOS[0].resize((20, 30)), "JPEG")
DECODERS = ["pillow", pytest.param("dali", marks=pytest.mark.skipif(not dali_available(), reason="no DALI"))]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


def write(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def four(tmp_path: Path) -> str:
    """40 different pictures in 4 shards."""
    levels = np.random.default_rng(0).integers(0, 256, (40, 9, 8, 3), dtype=np.uint8)
    pictures = [encode(Image.fromarray(level), "PNG") for level in levels]
    for shard in range(4):
        files = {f"{number:03d}.png": pictures[number] for number in range(10 * shard, 10 * shard + 10)}
        write(tmp_path / "four" / f"{shard:02d}.tar", files)
    return str(tmp_path / "four" / "{00..03}.tar")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The bytes of every picture that is checked, from now on."""
    seen: list[bytes] = []
    real = listing.examine
    monkeypatch.setattr(listing, "examine", lambda data: seen.append(data) or real(data))
    return seen


def names(index: ShardIndex) -> list[str]:
    return [shard.describe_picture(n).split(": ", 1)[1] for shard in index.shards for n in range(len(shard.pictures))]


def reasons(index: ShardIndex) -> dict[str, str]:
    """By the member's name, or the shard's."""
    return {Path(skipped.path).name.split(": ")[-1]: skipped.reason for skipped in index.skipped}


@pytest.mark.parametrize("decoder", DECODERS)
def test_pictures_look_as_in_a_folder(decoder: str, tmp_path: Path) -> None:
    files = {name: data for name, data in sorted(good_files().items()) if name.lower().endswith(PICTURE_SUFFIXES)}
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    every = list(files.items())
    for start in range(0, len(every), 20):
        write(tmp_path / "shards" / f"{start:03d}.tar", dict(every[start : start + 20]))
    of_shards, of_folder = source(tmp_path / "shards", decoder), source(tmp_path / "folder", decoder)
    assert len(of_shards) == len(of_folder) == len(files)
    assert torch.equal(pixels(of_shards), pixels(of_folder))
    index = open_shards(str(tmp_path / "shards" / "*.tar"))
    assert names(index) == [printable(name) for name in files]
    assert [index.read_bytes(n) for n in range(len(index))] == list(files.values())


def test_every_bad_picture_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    bad = {name: told for name, told in bad_files().items() if name.lower().endswith(PICTURE_SUFFIXES)}
    mixed = {f"{n:02d} {name}": data for n, (name, (data, _)) in enumerate(bad.items())}
    write(tmp_path / "s.tar", mixed | {"good.jpg": JPEG, "good.seg.png": b"", "good.json": b"{}", ".jpg": b""})
    index = open_shards(str(tmp_path / "s.tar"))
    assert names(index) == ["good.jpg"]
    assert index.read_bytes(0) == JPEG
    told = reasons(index)
    assert told.pop("good.seg.png") == SECOND_PICTURE
    assert told.pop("good.json") == NO_PICTURE
    assert told.pop(".jpg") == HIDDEN_FILE
    assert len(told) == len(bad)
    for n, (name, (_, reason)) in enumerate(bad.items()):
        assert reason in told[f"{n:02d} {name}"], name
    again = open_shards(str(tmp_path / "s.tar"))  # from the cache
    assert (names(again), again.skipped, again.fingerprint) == (names(index), index.skipped, index.fingerprint)


def test_photos_with_dots_in_their_names_are_all_used(tmp_path: Path) -> None:
    photos = {f"x.y/IMG.2023.05.{day:02d}.jpg": JPEG for day in range(1, 31)}
    photos |= {f"Screen Shot 10.{minute}.33.PNG": JPEG for minute in range(10, 30)} | {"a.jpg": JPEG, "b.jpeg": JPEG}
    opened = source(write(tmp_path / "s.tar", photos))
    assert len(opened) == 52 and not opened.skipped
    assert "; 50 share their name up to the first dot with another, and each is used" in opened.description
    index = open_shards(str(tmp_path / "s.tar"))
    assert names(index) == list(photos)
    assert open_shards(str(write(tmp_path / "t.tar", {"a.jpg": JPEG, "b.1.jpg": JPEG}))).remark == ""


def test_parts_of_a_sample_are_no_second_pictures(tmp_path: Path) -> None:
    """Wherever they stand, and whether or not the sample's own picture can be used. All are counted."""
    kept = {"b/1.jpg": JPEG, "a/1.x.jpg": JPEG, "2.a.jpg": JPEG, "3.jpg": JPEG, "3.png": JPEG}
    parts = ("a/0.seg.png", "a/0.depth.map.png", "b/1.seg.jpg", "a/1.x.seg.jpg", "9.seg.png", "8.seg.png")
    labels = {f"{number}.cls": b"3" for number in range(1000)} | {"a/0.json": b"{}"}
    seconds = dict.fromkeys(parts, JPEG)
    with tarfile.open(
        write(tmp_path / "s.tar", seconds | {"a/0.jpg": JPEG} | kept | labels | {"9.jpg": b""}), "a"
    ) as tar:
        link = tarfile.TarInfo("8.jpg")
        link.type = tarfile.SYMTYPE
        tar.addfile(link)
    index = open_shards(str(tmp_path / "s.tar"))
    assert names(index) == ["a/0.jpg", *kept]
    assert index.remark.startswith("; 2 share")  # 3.jpg and 3.png
    told = [(skip.path.split(": ")[1], skip.reason, skip.count, skip.not_a_picture) for skip in index.skipped]
    assert told == [
        ("9.jpg", "empty file", 1, False),
        ("8.jpg", "a link, not a file", 1, False),
        ("a/0.seg.png", SECOND_PICTURE, 4, False),
        ("b/1.seg.jpg", SECOND_PICTURE, 2, False),
        ("0.cls", NO_PICTURE, 1000, True),
        ("a/0.json", NO_PICTURE, 1, True),
    ]
    again = open_shards(str(tmp_path / "s.tar"))  # from the cache
    assert (names(again), again.skipped, again.remark) == (names(index), index.skipped, index.remark)


def test_hidden_and_tool_members_are_left_out_and_counted(tmp_path: Path) -> None:
    hidden = ("./__MACOSX/._a.jpg", "x/.ipynb_checkpoints/a-checkpoint.jpg", "x/.ipynb_checkpoints/b.json", "x/._a.jpg")
    members = dict.fromkeys(("./a.jpg", "x/a.jpg", *hidden, "x/../b.jpg"), JPEG)
    index = open_shards(str(write(tmp_path / ".s.tar", members | {"Thumbs.db": b""})))
    assert names(index) == ["./a.jpg", "x/a.jpg", "x/../b.jpg"]
    said = "3 files in hidden or tool folders (.ipynb_checkpoints, __MACOSX), 2 hidden or tool files (._*, Thumbs.db)"
    assert describe_hidden(index.skipped) == said
    again = open_shards(str(tmp_path / ".s.tar"))  # from the cache
    assert (names(again), again.skipped, again.fingerprint) == (names(index), index.skipped, index.fingerprint)
    with pytest.raises(ValueError, match=r"^no pictures .*; left out: 1 file in hidden or tool folders \(\.git\)$"):
        open_shards(str(write(tmp_path / "t.tar", {".git/a.jpg": JPEG})))


def test_many_suffixes_are_counted_in_little_memory(tmp_path: Path) -> None:
    index = open_shards(str(write(tmp_path / "s.tar", {"a.jpg": JPEG} | {f"a.{n}": b"" for n in range(500)})))
    assert sum(skip.count for skip in index.skipped) == 500
    assert len(index.skipped) <= 17


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "s.tar", {"a.jpg": JPEG}), "a") as tar:
        for name, kind in (
            ("soft.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("disk.png", tarfile.BLKTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
            ("label", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    index = open_shards(str(tmp_path / "s.tar"))
    assert names(index) == ["a.jpg"]
    link, odd = "a link, not a file", "not a regular file"
    told = {"soft.jpg": link, "hard.jpg": link, "pipe.jpg": odd, "disk.png": odd, "label": NO_PICTURE}
    assert reasons(index) == told


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(form: int, tmp_path: Path) -> None:
    long = "folder.d/" + "x" * 300 + ".jpg"
    files = {
        long: JPEG,
        "../../up.JPG": JPEG,
        "/root.jpeg": JPEG,
        "é\n\x1b🙂.jpg": JPEG,
        os.fsdecode(b"\xff.jpg"): JPEG,
    }
    index = open_shards(str(write(tmp_path / "s.tar", files, form)))
    assert names(index) == [printable(name) for name in files]
    (tmp_path / "s.tar").unlink()
    with pytest.raises(ValueError, match=r"s\.tar: é\\n\\x1b🙂\.jpg: no such file or directory$"):
        index.read_bytes(3)


def test_a_truncated_shard_gives_its_complete_members(tmp_path: Path) -> None:
    data = JPEG + bytes(-len(JPEG) % 512 + 100)  # padding follows
    step = 512 + len(data) + 412
    whole = write(tmp_path / "whole.tar", {f"{n}.jpg": data for n in range(3)}).read_bytes()
    shard = tmp_path / "s.tar"
    for cut, count, reason in (
        (step + 100, 1, "cut off in the middle of a header"),
        (step + 512, 1, "cut off in the middle of 1.jpg"),
        (step + 512 + len(data) - 1, 1, "cut off in the middle of 1.jpg"),
        (step + 512 + len(data), 2, "it has no end mark, so it may have been cut off"),
        (2 * step, 2, "it has no end mark, so it may have been cut off"),
        (3 * step, 3, "it has no end mark, so it may have been cut off"),
    ):
        shard.write_bytes(whole[:cut])
        index = open_shards(str(shard))
        assert len(index) == count, cut
        assert reasons(index) == {"s.tar": reason}, cut
    shard.write_bytes(whole[: 3 * step + 512])
    assert not open_shards(str(shard)).skipped
    shard.write_bytes(whole[:600])
    assert complaint(shard) == f"no usable picture in {shard}; {shard}: cut off in the middle of 0.jpg"


def test_reading_ends_at_a_damaged_header(tmp_path: Path) -> None:
    shard = write(tmp_path / "s.tar", {"0.jpg": JPEG, "1.jpg": JPEG, "2.jpg": JPEG})
    step = 512 + -(-len(JPEG) // 512) * 512
    data = bytearray(shard.read_bytes())
    data[step + 3] ^= 1
    shard.write_bytes(data)
    index = open_shards(str(shard))
    assert names(index) == ["0.jpg"]
    assert reasons(index) == {"s.tar": f"damaged at byte {step:,}; what comes after that is lost"}


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("b.jpg")
    info.size = 2**60
    headers = {"a member": info.tobuf(tarfile.GNU_FORMAT)}
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"):
        info.type = kind
        headers[f"type {kind!r}"] = info.tobuf(tarfile.GNU_FORMAT)
    info.size = -(2**40)
    headers["less than nothing"] = info.tobuf(tarfile.GNU_FORMAT)
    info.type, info.size, info.pax_headers = tarfile.REGTYPE, 5, {"size": "9" * 30}
    headers["in a pax header"] = info.tobuf(tarfile.PAX_FORMAT)
    first = write(tmp_path / "first.tar", {"a.jpg": JPEG}).read_bytes()[: 512 + -(-len(JPEG) // 512) * 512]
    for what, header in headers.items():
        (tmp_path / "s.tar").write_bytes(first + header + bytes(2000))
        tracemalloc.start()
        index = open_shards(str(tmp_path / "s.tar"))
        assert tracemalloc.get_traced_memory()[1] < 2**24, what
        tracemalloc.stop()
        assert names(index) == ["a.jpg"], what


def test_huge_members_are_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("film.jpg")
    info.size = 3 * 2**30
    shard = tmp_path / "s.tar"
    shard.write_bytes(info.tobuf())
    with shard.open("r+b") as file:
        file.truncate(512 + info.size)
        file.seek(512 + info.size)
        file.write(write(tmp_path / "small.tar", {"a.jpg": JPEG}).read_bytes())
    index = open_shards(str(shard))
    assert names(index) == ["a.jpg"]
    assert reasons(index) == {"film.jpg": "3.0 GiB is more than the limit of 1 GiB"}


def test_sparse_members_are_left_out(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse.jpg")
    sparse.size = 512
    sparse.type = tarfile.GNUTYPE_SPARSE
    rest = write(tmp_path / "rest.tar", {"a.jpg": JPEG}).read_bytes()
    (tmp_path / "s.tar").write_bytes(sparse.tobuf(tarfile.GNU_FORMAT) + bytes(512) + rest)
    index = open_shards(str(tmp_path / "s.tar"))
    assert names(index) == ["a.jpg"]
    assert reasons(index) == {"sparse.jpg": "a sparse file"}


def test_a_shard_with_random_damage_is_refused_in_one_line(tmp_path: Path) -> None:
    """200 shards with bytes exchanged at random: each is opened, or refused in one line."""
    chance = random.Random(0)
    whole = write(tmp_path / "s.tar", {"x" * 150 + ".jpg": b"no picture", "b.jpg": b"", "é.png": b"?"}).read_bytes()
    for _ in range(200):
        data = bytearray(whole[: chance.randrange(1, len(whole))])
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.choice(
                b"\0\xff\x80 0179gxLKS=\n" + bytes([chance.randrange(256)])
            )
        (tmp_path / "s.tar").write_bytes(data)
        assert complaint(tmp_path / "s.tar").startswith(("no usable picture", "no pictures", f"{tmp_path}/s.tar: "))


def test_what_is_no_tar_is_refused_in_one_line(tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"
    rest = "unpack it to a plain .tar, because pictures are read at random"
    for data, reason in (
        (b"", "an empty file, not a tar file"),
        (b"hello", "not a tar file, or damaged from the beginning"),
        (b"<html>" * 1000, "not a tar file, or damaged from the beginning"),
        (random.Random(0).randbytes(5000), "not a tar file, or damaged from the beginning"),
        (
            gzip.compress(bytes(1024)),
            f"compressed by gzip: {rest}",
        ),
        (
            b"\x28\xb5\x2f\xfd" + bytes(50),
            f"compressed by zstd: {rest}",
        ),
    ):
        shard.write_bytes(data)
        assert complaint(shard) == f"{shard}: {reason}"
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(bytes(1024)))
    with pytest.raises(ValueError, match="compressed by gzip"):
        source(tmp_path / "s.tar.gz")
    shard.write_bytes(bytes(10240))
    assert complaint(shard) == f"no pictures ({FORMAT_NAMES}) in {shard}; nothing is in there"
    write(shard, {"a/1.txt": b"", "a/1.cls": b"3"})
    assert complaint(shard).endswith(f"in {shard}, but 2 other members, as {shard}: a/1.txt")
    write(shard, {"a/1.jpg": b"", "a/1.cls": b"3"})
    assert complaint(shard) == f"no usable picture in {shard}; {shard}: a/1.jpg: empty file"
    write(shard, {"1.jpg": b"", "2.jpg": b""})
    assert complaint(shard) == f"no usable picture in {shard}; {shard}: 1.jpg: empty file (and 1 more)"
    os.mkfifo(tmp_path / "pipe.tar")
    assert complaint(tmp_path / "pipe.tar") == f"{tmp_path}/pipe.tar: not a regular file"
    (tmp_path / "folder.tar").mkdir()
    assert complaint(tmp_path / "{s,folder}.tar") == f"{tmp_path}/folder.tar: a folder, not an archive"


def test_only_a_changed_shard_is_checked_again(four: str, checked: list[bytes]) -> None:
    before = open_shards(four)
    assert len(checked) == 40
    same = open_shards(four)
    assert len(checked) == 40
    assert same.fingerprint == before.fingerprint
    assert [same.info(n) for n in range(40)] == [before.info(n) for n in range(40)]
    shard = Path(four).parent / "02.tar"
    write(shard, {"new.jpg": JPEG})
    after = open_shards(four)
    assert len(checked) == 41
    assert names(after)[20] == "new.jpg"
    assert len(after) == 31
    assert after.fingerprint != before.fingerprint
    os.utime(shard, ns=(1, 1))
    assert open_shards(four).fingerprint != after.fingerprint
    assert len(checked) == 42


def test_a_shard_that_changes_or_vanishes_after_the_check_is_named(four: str) -> None:
    index = open_shards(four)
    folder = Path(four).parent
    write(folder / "01.tar", {"new.jpg": JPEG})
    with pytest.raises(ValueError, match=r"/01\.tar: 013\.png: the shard was changed since it was checked"):
        index.read_bytes(13)
    (folder / "02.tar").unlink()
    with pytest.raises(ValueError, match=r"/02\.tar: 029\.png: no such file or directory"):
        index.read_bytes(29)
    assert index.read_bytes(39)
    os.utime(folder / "03.tar", ns=(1, 1))
    with pytest.raises(ValueError, match=r"/03\.tar: 039\.png: the shard was changed"):
        list(PillowSource(index, frame=Frame.of(8), channels=3, threads=1).read([[0], [39]]))


def test_an_interrupted_check_keeps_the_shards_it_has_finished(four: str, checked: list[bytes]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if (what, done) == ("checking images", 25):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_shards(four, interrupt)
    checked.clear()
    told: list[tuple[str, int, int]] = []
    assert len(open_shards(four, lambda *args: told.append(args))) == 40
    assert len(checked) == 20
    assert told[:2] == [("listing shards", 1, 2), ("listing shards", 2, 2)]
    assert told[2:] == [("checking images", done, 20) for done in range(1, 21)]


def test_an_os_error_of_a_shard_is_not_cached(four: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Shard.read_stored

    def failing(self: Shard, picture: int) -> bytes:
        if picture == 3:
            raise PermissionError(13, "Permission denied")
        return real(self, picture)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "read_stored", failing)
        told = reasons(open_shards(four))
    assert told == dict.fromkeys(("003.png", "013.png", "023.png", "033.png"), "permission denied")
    assert len(open_shards(four)) == 40


def test_a_damaged_cache_is_ignored_and_replaced(tmp_path: Path, checked: list[bytes]) -> None:
    shard = write(tmp_path / "s.tar", {"a.jpg": JPEG, "b.jpg": b""})
    index = open_shards(str(shard))
    (cache,) = (cache_folder() / "shards").iterdir()
    sound = cache.read_bytes()
    flipped = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in range(0, len(sound), 40)]
    for damaged in (b"", b"\xff", sound[:-5], *flipped):
        cache.write_bytes(damaged)
        checked.clear()
        again = open_shards(str(shard))
        assert (names(again), again.skipped) == (names(index), index.skipped)
        assert len(checked) == 2
        assert cache.read_bytes() == sound


def test_a_cache_that_cannot_be_written_is_no_error(four: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(Path(four).parent / "00.tar" / "below a file"))
    assert len(open_shards(four)) == 40


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_resumed_run_sees_what_it_would_have_seen(decoder: str, four: str) -> None:
    """Steps 0 to 8 over 40 pictures, 12 a batch: three to an epoch."""

    def batches(start: int, stop: int, rank: int = 0, world_size: int = 1) -> list[torch.Tensor]:
        batching = Batching(seed=3, global_batch=12, rank=rank, world_size=world_size, flip=True)
        stream = real_batches(source(four, decoder), batching, torch.device("cpu"), start)
        taken = list(itertools.islice(stream, stop - start))
        stream.close()
        return taken

    whole = batches(0, 8)
    assert not torch.equal(whole[0], whole[3]), "epochs differ"
    for start in (1, 2, 3, 7):
        assert torch.equal(torch.stack(batches(start, 8)), torch.stack(whole[start:]))
    for start in (0, 2, 5):
        first, second = (batches(start, 8, rank, 2) for rank in (0, 1))
        both = [torch.cat(halves) for halves in zip(first, second, strict=True)]
        assert torch.equal(torch.stack(both), torch.stack(whole[start:]))


def test_packed_shards_equal_streamed_ones(four: str) -> None:
    streamed, packed = source(four), source(four, cache="on")
    assert "packed in" in packed.description
    assert torch.equal(pixels(packed), pixels(streamed))
    assert (packed.origin, packed.fingerprint) == (four, streamed.fingerprint)
    write(Path(four).parent / "00.tar", {"new.jpg": JPEG, "new.cls": b"3", "old.cls": b"4"})
    packed = source(four, cache="on")
    assert len(packed) == 31
    manifests = [read_manifest(path) for path in (cache_folder() / "packs").glob("*.json")]
    assert [manifest.skipped for manifest in manifests if manifest] == [packed.skipped]
    assert packed.skipped[0].count == 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing to count by")
def test_descriptors_are_given_back(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / "many" / f"{number}.tar", {"a.jpg": JPEG})

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    most = 0
    stream = source(tmp_path / "many" / "{0..99}.tar").read([n] for n in range(100))
    for _ in stream:
        most = max(most, descriptors())
    assert most <= before + 4
    assert descriptors() == before


def test_a_picture_takes_few_bytes(four: str) -> None:
    assert PICTURE_DTYPE.itemsize <= 28
    assert all(len(shard.names) < 10 * len(shard.pictures) for shard in open_shards(four).shards)
