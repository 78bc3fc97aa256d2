import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastdcgan.data.faces import dataset, portrait
from fastdcgan.data.faces.dataset import faces_folder, write_faces
from fastdcgan.data.faces.portrait import draw_face


def pixels(seed: int, index: int, size: int = 96) -> np.ndarray:
    return np.asarray(draw_face(seed, index, size))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    return np.stack([pixels(0, index) for index in range(64)]).astype(np.float64)


def test_a_face_depends_on_seed_and_index_alone() -> None:
    forwards = [pixels(3, index) for index in range(12)]
    backwards = [pixels(3, index) for index in reversed(range(12))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_indices_and_seeds_give_different_people() -> None:
    people = {pixels(seed, index).tobytes() for seed in range(2) for index in range(40)}
    assert len(people) == 80


@pytest.mark.parametrize("size", [8, 32, 64, 96, 128])
def test_size_and_mode(size: int) -> None:
    face = draw_face(0, 0, size)
    assert (face.size, face.mode) == ((size, size), "RGB")


def test_a_small_face_is_the_same_person() -> None:
    large = np.asarray(draw_face(0, 4, 96).resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    assert np.abs(large - pixels(0, 4, 32)).mean() < 6


@pytest.mark.parametrize("numbers", [(-1, 0, 96), (0, -1, 96), (0, 0, 7)])
def test_numbers_out_of_range(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a face needs"):
        draw_face(*numbers)


def test_faces_vary(crowd: np.ndarray) -> None:
    assert crowd.std(axis=0).mean() > 40
    nearest = min(np.abs(crowd[a] - crowd[b]).mean() for a in range(64) for b in range(a))
    assert nearest > 15


def test_the_layout_is_shared(crowd: np.ndarray) -> None:
    """In every face there is an eye, with its blacks and whites, in each eye's place, and plain skin below."""
    grey = crowd.mean(axis=3)
    for columns in (slice(29, 44), slice(52, 67)):
        eye = grey[:, 50:66, columns]
        assert (eye.min(axis=(1, 2)) < 90).all()
        assert (eye.max(axis=(1, 2)) > 230).all()
    skin = grey[:, 71:73, 57:60]
    assert np.ptp(skin, axis=(1, 2)).max() < 40


def test_the_drawing_is_the_one_of_its_version(crowd: np.ndarray) -> None:
    """If this fails because you changed what is drawn: raise DRAWING_VERSION, then put the new numbers here."""
    drawn = crowd.mean(axis=0).reshape(3, 32, 3, 32, 3).mean(axis=(1, 3, 4))
    assert dataset.DRAWING_VERSION == 1
    assert drawn == pytest.approx(np.array(EXPECTED), abs=1.0)


EXPECTED = [[186.2, 150.7, 186.8], [170.5, 132.3, 169.9], [209.1, 166.9, 208.9]]
"""Mean brightness of 64 faces in the nine fields of a 3 × 3 grid."""


def test_write_faces_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    first = contents(write_faces(tmp_path / "a", 12, seed=1, size=48))
    second = contents(write_faces(tmp_path / "b", 12, seed=1, size=48))
    assert sorted(first) == [f"{index:05d}.jpg" for index in range(12)]
    assert first == second


def test_what_is_written_is_what_is_drawn(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "set", 3, seed=2)
    with Image.open(folder / "00002.jpg") as stored:
        stored.load()
        error = np.abs(np.asarray(stored, dtype=np.float64) - pixels(2, 2)).mean()
        layers = stored.layer  # type: ignore[attr-defined]
    assert error < 3
    assert [layer[1:3] for layer in layers] == [(1, 1)] * 3, "chroma is subsampled"


def test_progress_counts_up_to_all(tmp_path: Path) -> None:
    counts: list[int] = []
    write_faces(tmp_path / "set", 6, size=16, on_progress=counts.append)
    assert counts == sorted(counts) and counts[-1] == 6


def test_a_complete_set_is_left_alone(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "set", 4, size=16)
    (folder / "00000.jpg").write_bytes(b"kept")
    counts: list[int] = []
    assert write_faces(folder, 4, size=16, on_progress=counts.append) == folder
    assert (folder / "00000.jpg").read_bytes() == b"kept" and not counts


def test_a_damaged_set_is_named(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "set", 4, size=16)
    (folder / "00002.jpg").unlink()
    with pytest.raises(ValueError, match="lacks 1 of its 4 portraits"):
        write_faces(folder, 4, size=16)


class Interrupted(Exception):  # noqa: N818
    pass


def interrupt_at(last: int) -> Callable[[int], None]:
    def on_progress(done: int) -> None:
        if done >= last:
            raise Interrupted

    return on_progress


@pytest.fixture
def two_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_FACES_PER_HELPER", 2)
    monkeypatch.setattr(dataset, "usable_cores", lambda: 2)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write_faces(tmp_path / "set", 8, size=16, on_progress=interrupt_at(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("two_helpers")
def test_an_interrupted_build_ends_its_helpers(tmp_path: Path) -> None:
    """They have minutes of work left, so waiting for them runs into the timeout."""
    with pytest.raises(Interrupted):
        write_faces(tmp_path / "set", 40_000, on_progress=interrupt_at(3))
    assert not list(tmp_path.iterdir())


def test_helpers_draw_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = contents(write_faces(tmp_path / "alone", 11, size=32))
    monkeypatch.setattr(dataset, "_FACES_PER_HELPER", 2)
    monkeypatch.setattr(dataset, "usable_cores", lambda: 3)
    monkeypatch.setattr(dataset, "save_faces", None)  # the parent draws nothing itself
    counts: list[int] = []
    assert contents(write_faces(tmp_path / "helped", 11, size=32, on_progress=counts.append)) == alone
    assert counts[-1] == 11


def test_drawing_needs_no_torch() -> None:
    """With PyTorch, each helper would take seconds to start."""
    code = f"import runpy, sys; runpy.run_path({portrait.__file__!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("two_helpers")
def test_a_helper_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        dataset._draw_all(tmp_path / "nowhere", 8, 0, 16, lambda done: None)


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    code = (
        "import os, signal, sys; from pathlib import Path; from fastdcgan.data.faces.dataset import write_faces;"
        "write_faces(Path(sys.argv[1]), 8, 0, 16, lambda done: done == 5 and os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)])
    assert killed.returncode == -signal.SIGKILL
    (remains,) = tmp_path.iterdir()
    assert remains != folder

    assert len(contents(write_faces(folder, 8, size=16))) == 8
    assert remains.exists(), "a build of another process that may be alive was removed"
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(remains, (long_ago, long_ago))
    write_faces(tmp_path / "other", 1, size=16)
    assert not remains.exists()


def test_builds_at_the_same_time_leave_one_whole_set(tmp_path: Path) -> None:
    both_draw, both_drew = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
    folders: list[Path] = []

    def on_progress(done: int) -> None:
        if done == 1:
            both_draw.wait()
        if done == 6:
            both_drew.wait()

    def build() -> None:
        folders.append(write_faces(tmp_path / "set", 6, size=16, on_progress=on_progress))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert folders == [tmp_path / "set"] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]
    assert contents(tmp_path / "set") == contents(write_faces(tmp_path / "alone", 6, size=16))


def test_sets_that_differ_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = [
        faces_folder(2, 0, 16, cache_folder=tmp_path),
        faces_folder(3, 0, 16, cache_folder=tmp_path),
        faces_folder(2, 1, 16, cache_folder=tmp_path),
        faces_folder(2, 0, 24, cache_folder=tmp_path),
    ]
    assert len(set(folders)) == 4
    assert folders[0] == tmp_path / "faces-v1-16px-seed0-2"
    assert [len(contents(folder)) for folder in folders] == [2, 3, 2, 2]


def test_the_environment_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "deep" / "cache"))
    assert faces_folder(1, size=16).parent == tmp_path / "deep" / "cache"
    assert faces_folder(1, size=16, cache_folder=tmp_path / "said").parent == tmp_path / "said"
    monkeypatch.delenv("FASTDCGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "system" / name)
    assert faces_folder(1, size=16).parent == tmp_path / "system" / "fastdcgan"


def test_a_cache_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"can't write the portraits to .*FASTDCGAN_CACHE") as raised:
        faces_folder(1, size=16, cache_folder=tmp_path / "file" / "cache")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("numbers", [(0, 0, 16), (1, -1, 16), (1, 0, 7)])
def test_sets_out_of_range(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="faces need"):
        write_faces(tmp_path / "set", *numbers)
    assert not list(tmp_path.iterdir())
