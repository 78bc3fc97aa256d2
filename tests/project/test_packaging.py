"""What a user installs: wheel and sdist, built from the files that git tracks, and run outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from site import getsitepackages

import pytest
from conftest import ROOT
from PIL import Image

from fastdcgan.kernels import native
from fastdcgan.kernels.native.build import TARGETS, compiler, is_supported_machine, source_hash

CAN_BUILD = is_supported_machine() and compiler() is not None


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Paths that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("without git nothing says which files are the project's")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {path for path in listed.split("\0") if (ROOT / path).is_file()}


@pytest.fixture(scope="module")
def wheel(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    return build("wheel", copy(tracked, tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked."""
    packed = build("sdist", copy(tracked, tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("sdist"))
    with tarfile.open(packed) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python has from 3.11.4 on
        archive.extractall(packed.parent)
    return packed.parent / packed.name.removesuffix(".tar.gz")


def copy(paths: set[str], to: Path) -> Path:
    """Each build has a copy of its own: setuptools adds to a wheel what an earlier build listed."""
    for path in paths:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, to / path)
    return to


def build(kind: str, source: Path, out: Path) -> Path:
    """By the hook that pip and build call, without what they download first."""
    checked(sys.executable, "-c", f"from setuptools import build_meta as b; b.build_{kind}({str(out)!r})", cwd=source)
    [built] = out.iterdir()
    return built


def checked(*command: object, cwd: Path) -> str:
    """What a command says that must succeed, where nothing leads back to the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checksums(wheel: Path) -> dict[str, int]:
    """CRC-32 by path."""
    with zipfile.ZipFile(wheel) as archive:
        return {file.filename: file.CRC for file in archive.infolist()}


@pytest.mark.slow(30)
def test_the_wheel_holds_the_whole_package_and_our_kernels_and_nothing_else(wheel: Path, tracked: set[str]) -> None:
    held = {path for path in checksums(wheel) if ".dist-info/" not in path}
    libraries = {f"fastdcgan/kernels/native/kernels_{name}.so" for name in TARGETS} if CAN_BUILD else set()
    assert held == {path for path in tracked if path.startswith("fastdcgan/")} | libraries
    assert "-py3-none-" in wheel.name, "the kernels know nothing of Python"


def test_the_sdist_holds_all_that_git_tracks(sdist: Path, tracked: set[str]) -> None:
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    by_setuptools = {path for path in held if path in ("PKG-INFO", "setup.cfg") or ".egg-info/" in path}
    assert held - by_setuptools == tracked


@pytest.mark.slow(30)
def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    assert checksums(build("wheel", sdist, tmp_path)) == checksums(wheel)


@pytest.mark.slow
@pytest.mark.skipif(not CAN_BUILD, reason="no kernels are built here")
def test_kernels_of_these_sources_are_not_built_again_and_others_are(tracked: set[str], tmp_path: Path) -> None:
    """An installation in the checkout has left them there: a second one takes them as they are."""
    checkout = copy(tracked, tmp_path / "checkout")
    current, other = (checkout / f"fastdcgan/kernels/native/kernels_{name}.so" for name in ("avx512", "avx2"))
    current.write_text(f"of these sources: {source_hash()}")
    other.write_text("of others")
    (tmp_path / "wheel").mkdir()
    with zipfile.ZipFile(build("wheel", checkout, tmp_path / "wheel")) as archive:
        assert archive.read("fastdcgan/kernels/native/kernels_avx512.so") == current.read_bytes()
        assert archive.read("fastdcgan/kernels/native/kernels_avx2.so").startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_that_works_the_wheel_has_no_kernels(
    compiler: str, tracked: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    (tmp_path / "wheel").mkdir()
    files = checksums(build("wheel", copy(tracked, tmp_path / "checkout"), tmp_path / "wheel"))
    assert not [path for path in files if path.endswith(".so")]
    assert "fastdcgan/kernels/native/winograd.cpp" in files


@pytest.fixture
def program(wheel: Path, tmp_path: Path) -> Path:
    """`fastdcgan`, installed in a virtual environment of its own."""
    environment = tmp_path / "venv"
    checked(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", environment)
    checked(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    scripts, packages = (
        Path(sysconfig.get_path(name, scheme="venv", vars={"base": str(environment), "platbase": str(environment)}))
        for name in ("scripts", "purelib")
    )
    # What it depends on is what runs these tests. The .pth files there are not followed: one leads to the checkout.
    (packages / "dependencies.pth").write_text("\n".join(getsitepackages()))
    found = checked(scripts / "python", "-c", "import fastdcgan; print(fastdcgan.__file__)", cwd=tmp_path).strip()
    assert (packages / "fastdcgan" / "__init__.py").samefile(found)
    return scripts / "fastdcgan"


@pytest.mark.slow
def test_the_installed_package_trains_and_generates(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        Image.new("RGB", (20, 20), (number * 30, 10, 200)).save(tmp_path / "pictures" / f"{number}.png")
    tiny = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2, "--images", 4, "--plan", "default")
    tiny = (*tiny, "--decoder", "pillow", "--track", "none")
    # A machine without a compiler: what isn't in the wheel can't be built.
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))

    assert "generate" in checked(program, "--help", cwd=tmp_path)
    checked(program, "train", "--data", "pictures", "--out", "run", *tiny, cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").exists()
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["conditions"]["plan"]
    assert ("winograd" in plan) == (CAN_BUILD and native.instruction_set() is not None)
    checked(program, "generate", "run", "--count", 4, "--out", "grid.png", cwd=tmp_path)
    Image.open(tmp_path / "grid.png").verify()
