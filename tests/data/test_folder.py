import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import PHOTOS, encode, write_corpus
from PIL import Image

from fastdcgan.data import folder as folder_module
from fastdcgan.data.decoding.formats import FORMAT_NAMES
from fastdcgan.data.decoding.picture import NOT_AN_IMAGE
from fastdcgan.data.folder import FolderIndex, scan_folder
from fastdcgan.data.source import common_suffixes, describe_hidden
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.printable import printable

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # pytest undoes our own filter

JPEG = encode(PHOTOS[0].resize((20, 30)), "JPEG")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.jpg", "a.jpg", "c.jpg"):
        (folder / name).write_bytes(JPEG)
    return folder


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The bytes of every file that is decoded, from now on."""
    seen: list[bytes] = []
    real = folder_module.examine
    monkeypatch.setattr(folder_module, "examine", lambda data: seen.append(data) or real(data))
    return seen


def names(index: FolderIndex) -> list[str]:
    return [os.path.relpath(picture.path, index.folder) for picture in index.pictures]


def test_no_good_file_is_lost_and_every_bad_one_has_its_reason(tmp_path: Path) -> None:
    good, reasons = write_corpus(tmp_path / "corpus")
    index = scan_folder(tmp_path / "corpus")
    assert set(names(index)) == good
    assert names(index) == sorted(good)
    told = {skipped.path: skipped.reason for skipped in index.skipped}
    assert set(told) == {str(tmp_path / "corpus" / name) for name in reasons}
    for name, reason in reasons.items():
        assert reason.lower() in told[str(tmp_path / "corpus" / name)].lower(), name
    assert scan_folder(tmp_path / "corpus") == index  # from the cache: odd names and reasons survive it


def test_damaged_pictures_come_before_files_that_are_no_pictures(tmp_path: Path, photos: Path) -> None:
    for number in range(30):
        (photos / f"{number}.txt").write_text("BM, a label")
    (photos / "z.jpg").write_text("text")
    (photos / "zz").write_bytes(JPEG[:300])
    (photos / "video.avi").write_bytes(b"RIFF\0\0\0\0AVI LIST" + bytes(100))
    skipped = scan_folder(photos).skipped
    assert [Path(skip.path).name for skip in skipped if not skip.not_a_picture] == ["z.jpg", "zz"]
    assert [skip.not_a_picture for skip in skipped] == [False] * 2 + [True] * 31
    assert all(skip.reason == NOT_AN_IMAGE for skip in skipped[2:])
    assert common_suffixes(skipped[2:]) == ".txt, .avi"
    assert common_suffixes(skipped[2:], limit=1) == ".txt, ..."


HIDDEN = {
    ".ipynb_checkpoints/a-checkpoint.jpg": ".ipynb_checkpoints",
    "sub/.ipynb_checkpoints/x/b-checkpoint.jpg": ".ipynb_checkpoints",
    "__MACOSX/sub/._a.jpg": "__MACOSX",
    ".Trash-1000/files/old.jpg": ".Trash-1000",
    ".thumbnails/normal/a.png": ".thumbnails",
    "sub/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": "@eaDir",
    ".git/objects/ab/cdef": ".git",
    "Thumbs.db": "Thumbs.db",
    "sub/thumbs.db": "thumbs.db",
    "._a.jpg": "._*",
    "sub/._b.jpg": "._*",
    ".secret.jpg": ".*",
}


def test_hidden_and_tool_files_are_left_out_and_counted(photos: Path, checked: list[bytes]) -> None:
    fingerprint = scan_folder(photos).fingerprint
    for name in HIDDEN:
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    for name in ("..a.jpg", "eaDir.jpg", "MACOSX.jpg"):
        (photos / name).write_bytes(JPEG)
    (photos / "..a.jpg").rename(photos / "a..jpg")
    checked.clear()
    index = scan_folder(photos)
    assert names(index) == ["MACOSX.jpg", "a..jpg", "a.jpg", "b.jpg", "c.jpg", "eaDir.jpg"]
    assert len(checked) == 3, "what is left out isn't read"
    told = Counter[str]()
    for skip in index.skipped:
        told[skip.hidden] += skip.count
    assert told == Counter(HIDDEN.values())
    assert describe_hidden(index.skipped) == (
        "7 files in hidden or tool folders (.ipynb_checkpoints, .Trash-1000, .git, .thumbnails, ...), "
        "5 hidden or tool files (._*, .*, Thumbs.db, thumbs.db)"
    )
    for name in ("MACOSX.jpg", "a..jpg", "eaDir.jpg"):
        (photos / name).unlink()
    assert scan_folder(photos).fingerprint == fingerprint, "of the pictures alone"


def test_a_folder_below_a_hidden_one_is_used(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "__MACOSX" / ".photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(JPEG)
    index = scan_folder(folder)
    assert names(index) == ["sub/a.jpg"]
    assert not index.skipped


def test_a_visible_link_to_hidden_pictures_is_followed(photos: Path) -> None:
    (photos / ".store").mkdir()
    (photos / ".store" / "d.jpg").write_bytes(JPEG)
    (photos / ".latest").symlink_to(photos / ".store")  # counted as one file, not followed
    (photos / "link").symlink_to(photos / ".store")
    index = scan_folder(photos)
    assert names(index) == ["a.jpg", "b.jpg", "c.jpg", "link/d.jpg"]
    assert describe_hidden(index.skipped) == "1 file in hidden or tool folders (.store), 1 hidden or tool file (.*)"


def test_a_folder_of_hidden_files_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos" / "__MACOSX").mkdir(parents=True)
    (tmp_path / "photos" / "__MACOSX" / "a.jpg").write_bytes(JPEG)
    with pytest.raises(ValueError, match=r"^no pictures .*; left out: 1 file in hidden or tool folders \(__MACOSX\)$"):
        scan_folder(tmp_path / "photos")


def test_of_files_that_are_no_pictures_only_the_beginning_is_read_and_that_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "film.mkv").write_bytes(b"film" * 100_000)
    read: list[int] = []
    real = folder_module.may_be_picture
    monkeypatch.setattr(folder_module, "may_be_picture", lambda data: read.append(len(data)) or real(data))
    first = scan_folder(photos)
    assert scan_folder(photos) == first
    assert read == [18]
    (photos / "film.mkv").write_bytes(JPEG)
    assert len(scan_folder(photos)) == 4


def test_a_picture_that_becomes_a_pipe_does_not_hang(photos: Path) -> None:
    index = scan_folder(photos)
    (photos / "b.jpg").unlink()
    os.mkfifo(photos / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg: the file was changed"):
        index.read_bytes(1)


def test_size_is_the_upright_one(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    for picture in scan_folder(tmp_path / "corpus").pictures:
        name = Path(picture.path).name
        if name.startswith("orientation"):
            assert (picture.width, picture.height) == ((66, 97) if int(name[11]) >= 5 else (97, 66))


def test_what_is_printed_fits_any_terminal(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / os.fsdecode(b"\xff\n\x1b[31m.jpg")).write_bytes(b"")
    (tmp_path / "odd" / "good.jpg").write_bytes(JPEG)
    (skipped,) = scan_folder(tmp_path / "odd").skipped
    assert skipped.path.endswith(r"odd/\xff\n\x1b[31m.jpg")
    skipped.path.encode("ascii")
    assert printable("é 🙂.jpg") == "é 🙂.jpg"


def test_unchanged_files_are_not_decoded_again(photos: Path, checked: list[bytes]) -> None:
    first = scan_folder(photos)
    assert len(checked) == 3
    assert scan_folder(photos) == first
    assert scan_folder(str(photos) + "/../photos/") == FolderIndex(
        folder=Path(str(photos) + "/../photos/"),
        pictures=tuple(p._replace(path=str(photos / ".." / "photos" / Path(p.path).name)) for p in first.pictures),
        skipped=(),
    )
    assert len(checked) == 3


def test_only_changed_and_new_files_are_checked_again(photos: Path, checked: list[bytes]) -> None:
    scan_folder(photos)
    checked.clear()
    (photos / "b.jpg").write_bytes(b"")
    (photos / "d.png").write_bytes(encode(PHOTOS[1].resize((9, 9)), "PNG"))
    (photos / "a.jpg").unlink()
    index = scan_folder(photos)
    assert len(checked) == 2
    assert names(index) == ["c.jpg", "d.png"]
    assert [skipped.reason for skipped in index.skipped] == ["empty file"]
    (photos / "b.jpg").write_bytes(JPEG)
    assert names(scan_folder(photos)) == ["b.jpg", "c.jpg", "d.png"]
    assert len(checked) == 3


def test_a_file_of_the_same_size_with_a_new_time_is_checked_again(photos: Path, checked: list[bytes]) -> None:
    scan_folder(photos)
    checked.clear()
    os.utime(photos / "a.jpg", ns=(1, 1))
    scan_folder(photos)
    assert len(checked) == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"30")] ^= 1  # a height
    path.write_bytes(data)


def _other_version(path: Path) -> None:
    index = json.loads(path.read_bytes().partition(b"\n")[2])
    body = json.dumps(index | {"format": "of another time"}).encode()
    path.write_bytes(b"%08x\n%s" % (zlib.crc32(body), body))


@pytest.mark.parametrize(
    "damage", [_cut, _flip, _other_version, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\xff")]
)
def test_a_damaged_cache_is_ignored_and_replaced(damage: object, photos: Path, checked: list[bytes]) -> None:
    assert callable(damage)
    index = scan_folder(photos)
    (cache,) = (cache_folder() / "folders").iterdir()
    sound = cache.read_bytes()
    damage(cache)
    checked.clear()
    assert scan_folder(photos) == index
    assert len(checked) == 3
    assert cache.read_bytes() == sound


def test_a_cache_that_cannot_be_written_is_no_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(photos / "a.jpg" / "below a file"))
    assert len(scan_folder(photos)) == 3


def test_an_interrupted_check_keeps_what_it_has_done(photos: Path, checked: list[bytes]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_folder(photos, interrupt)
    checked.clear()
    assert len(scan_folder(photos)) == 3
    assert len(checked) <= 2


def test_progress_counts_what_needs_checking(photos: Path) -> None:
    told: list[tuple[str, int, int]] = []
    scan_folder(photos, lambda *args: told.append(args))
    assert told == [("checking images", done, 3) for done in (1, 2, 3)]
    scan_folder(photos, lambda *args: told.append(args))
    assert len(told) == 3


def test_an_os_error_is_not_cached(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def failing(path: str, *args: int, **options: int) -> int:
        if str(path).endswith("b.jpg"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        assert [skipped.reason for skipped in scan_folder(photos).skipped] == ["permission denied"]
    assert len(scan_folder(photos)) == 3


def test_huge_files_are_not_read(photos: Path) -> None:
    with (photos / "film.jpg").open("wb") as file:
        file.truncate(3 * 2**30)
    (skipped,) = scan_folder(photos).skipped
    assert skipped.reason == "3.0 GiB is more than the limit of 1 GiB"


def test_a_linked_folder_is_visited_once_under_its_real_path(photos: Path) -> None:
    (photos / "z").mkdir()
    (photos / "z" / "1.jpg").write_bytes(JPEG)
    (photos / "0").symlink_to(photos / "z")
    (photos / "z" / "loop").symlink_to(photos)
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "2.jpg").write_bytes(JPEG)
    (photos / "other").symlink_to(elsewhere)
    assert names(scan_folder(photos)) == ["a.jpg", "b.jpg", "c.jpg", "other/2.jpg", "z/1.jpg"]


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    def complaint(path: Path) -> str:
        with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
            scan_folder(path)
        return str(raised.value)

    assert complaint(tmp_path / "miss\ning") == f"no such folder: {tmp_path}/miss\\ning"
    (tmp_path / "file.jpg").write_bytes(JPEG)
    assert complaint(tmp_path / "file.jpg") == f"not a folder but a file: {tmp_path}/file.jpg"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert complaint(empty) == f"no pictures ({FORMAT_NAMES}) in {empty}; it is empty"
    (empty / "a").write_text("")
    assert complaint(empty).endswith("; it holds 1 other file")
    (empty / "b.txt").write_text("text")
    (empty / "c.TXT").write_text("text")
    (empty / "d.psd").write_text("text")
    assert complaint(empty).endswith("; it holds 4 other files (.txt, .psd)")
    (empty / "c.jpg").write_text("")
    assert complaint(empty) == f"no usable picture in {empty}; {empty}/c.jpg: empty file"
    (empty / "d.jpg").write_text("")
    assert complaint(empty) == f"no usable picture in {empty}; {empty}/c.jpg: empty file (and 1 more)"


def test_a_file_that_changes_or_vanishes_after_the_check_is_named(photos: Path) -> None:
    index = scan_folder(photos)
    assert index.read_bytes(1) == JPEG
    Image.new("RGB", (20, 30)).save(photos / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg: the file was changed"):
        index.read_bytes(1)
    os.utime(photos / "a.jpg", ns=(1, 1))
    with pytest.raises(ValueError, match=r"a\.jpg: the file was changed"):
        index.read_bytes(0)
    (photos / "c.jpg").unlink()
    with pytest.raises(ValueError, match=r"c\.jpg: no such file"):
        index.read_bytes(2)
