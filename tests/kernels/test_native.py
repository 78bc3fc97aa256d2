"""Which kernels are used on a machine, and what is said where there are none."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastdcgan import cli
from fastdcgan.kernels import native
from fastdcgan.kernels.native.build import build, compiler

needs_x86 = pytest.mark.skipif(native.instruction_set() is None, reason="our kernels need Linux, and AVX2")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, and nothing that was loaded before."""
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTDCGAN_ISA", raising=False)
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library_path", lambda name: tmp_path / f"{name}.so")


def processor(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(native, "is_supported_machine", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))


AVX2 = ("avx2", "fma3")
AVX512 = (*AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ((), None),
        (("avx2",), None),
        (AVX2, "avx2"),
        ((*AVX2, "avx512_f"), "avx2"),
        (AVX512, "avx512"),
        ((*AVX512, "avx512_bf16"), "avx512_bf16"),
        ((*AVX512, "avx512_bf16", "amx_tile"), "avx512_bf16"),
        ((*AVX512, "avx512_bf16", "amx_tile", "amx_bf16"), "avx512_amx"),
    ],
)
def test_the_widest_instruction_set_is_used(
    features: tuple[str, ...], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, *features)
    monkeypatch.setattr(native, "_may_use_matrix_unit", lambda: True)
    assert native.instruction_set() == wanted


def test_a_matrix_unit_that_the_system_refuses_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, *AVX512, "avx512_bf16", "amx_tile", "amx_bf16")
    monkeypatch.setattr(native, "_may_use_matrix_unit", lambda: False)
    assert native.instruction_set() == "avx512_bf16"


def test_a_narrower_one_can_be_asked_for_but_none_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processor(monkeypatch, *AVX512)
    monkeypatch.setenv("FASTDCGAN_ISA", "avx2")
    assert native.instruction_set() == "avx2"
    monkeypatch.setenv("FASTDCGAN_ISA", "avx512_bf16")
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["train", "--data", str(tmp_path), "--arch", "dcgan16", "--device", "cpu", "--out", str(tmp_path / "run")]
        )
    assert stop.value.code == 2
    assert "FASTDCGAN_ISA=avx512_bf16 is not to be had here, but one of: avx512, avx2, none" in capsys.readouterr().err


def test_why_there_are_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx2")
    assert native.library() == "they need AVX2 and FMA, which this processor lacks"
    monkeypatch.setattr(native, "is_supported_machine", lambda: False)
    native.library.cache_clear()
    assert native.library() == "they are for Linux on x86-64"


@needs_x86
@pytest.mark.usefixtures("not_shipped")
def test_without_libraries_and_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    why = native.library()
    assert isinstance(why, str)
    assert "no C++ compiler" in why
    assert not native.has_kernel("winograd_gather2", torch.float32)


@needs_x86
@pytest.mark.usefixtures("not_shipped")
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tmp_path / "c++"
    failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: no space left on device" >&2\nexit 1\n')
    failing.chmod(0o700)
    monkeypatch.setenv("CXX", str(failing))
    assert native.library() == "they can't be compiled: error: no space left on device"
    assert not [*(tmp_path / "cache").rglob("*.so")]


@needs_x86
@pytest.mark.usefixtures("not_shipped")
def test_an_older_compiler_builds_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, *AVX512, "avx512_bf16")
    older = tmp_path / "c++"
    older.write_text('#!/bin/sh\ncase "$*" in *-mavx512bf16*) exit 1;; esac\necho "# 0"\n')
    older.chmod(0o700)
    monkeypatch.setenv("CXX", str(older))
    assert native.instruction_set() == "avx512"


@needs_x86
def test_a_library_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout's sources change after it was installed."""
    name = native.instruction_set()
    assert name is not None
    program = compiler()
    if program is None:
        pytest.skip("there is no compiler")
    shipped, built = tmp_path / "shipped.so", tmp_path / "cache" / "native"
    build(program, name, shipped)
    monkeypatch.setattr(native, "library_path", lambda name: shipped)
    assert isinstance(native.library(), ctypes.CDLL)
    assert not built.exists()

    monkeypatch.setattr(native, "source_hash", lambda: "of other sources")
    native.library.cache_clear()
    monkeypatch.setattr(native, "build", lambda program, name, library: os.link(shipped, library))
    assert isinstance(native.library(), ctypes.CDLL)
    assert list(built.iterdir())
