"""The newest checkpoint damaged between two sittings: the run goes on from the one before, and ends as undisturbed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from figures import Figure
from left_behind import STEPS, left_behind, name_after_the_sitting

from faults.conftest import Undisturbed
from faults.sitting import LONG, Case, begin, sit, train, two_at_a_time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks processes"),
]

NEWEST = Path("checkpoints", f"step-{STEPS:08d}")
FILES = ("generator.safetensors", "discriminator.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path, other: Path) -> None:
    path.unlink()


def swap(path: Path, other: Path) -> None:
    shutil.copy(other / path.name, path)


def swap_all(path: Path, other: Path) -> None:
    shutil.rmtree(path.parent)
    shutil.copytree(other, path.parent)


Damage = Callable[[Path, Path], None]

EVERY: list[tuple[Damage, str]] = [
    *((damage, file) for damage in (cut, flip, empty, remove, swap) for file in FILES),
    (swap_all, FILES[0]),
]
FEW: list[tuple[Damage, str]] = [
    (cut, FILES[0]),
    (flip, FILES[2]),
    (empty, FILES[3]),
    (remove, FILES[4]),
    (swap, FILES[1]),
    (swap_all, FILES[0]),
]


def test_damage_to_the_newest(undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure) -> None:
    other = tmp_path / "other"
    assert sit(train(pictures, other, "--seed", 7)).code == 0
    cases = EVERY if LONG else FEW

    def goes_on(number: int, damage: Damage, file: str) -> Case[None]:
        done = f"{damage.__name__} {file}"
        run = Path(shutil.copytree(undisturbed[0], tmp_path / f"{number}"))
        damage(run / NEWEST / file, other / NEWEST)
        name_after_the_sitting(run)
        ended = yield begin(train(pictures, run))
        assert ended.code == 0, (done, ended.error)
        said = ended.said
        assert f"passed    over checkpoint {run / NEWEST} is " in said and "resuming  after step 8 " in said, done
        aside = run / NEWEST.with_name(f"{NEWEST.name}.set-aside")
        assert aside.is_dir(), done
        shutil.rmtree(aside)
        found, wanted = left_behind(run), undisturbed[1]
        assert found.keys() == wanted.keys(), done
        assert [name for name in wanted if found[name] != wanted[name]] == [], done

    went_on = [*two_at_a_time(goes_on(number, *case) for number, case in enumerate(cases))]
    assert len(went_on) == len(cases)
    figure(
        "newest checkpoint cut, flipped, emptied, of others",
        dict.fromkeys(("damaged", "named and passed over", "runs gone on with ended as undisturbed"), len(cases)),
    )


def test_all_damaged(undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure) -> None:
    run = Path(shutil.copytree(undisturbed[0], tmp_path / "run"))
    for path in (run / "checkpoints").iterdir():
        empty(path / FILES[4], path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = sit(train(pictures, run))
    assert ended.code == 2 and ended.error.count("\n") == 1 and "can be used: " in ended.error, ended.error
    kept = {path: path.read_bytes() for path in before if path.exists()}
    changed = [path.name for path in before if kept.get(path) != before[path]]
    assert set(changed) <= {"run.log", ".lock"}
    figure("all checkpoints damaged", {"run refused in one line, and left as it was": 1})
