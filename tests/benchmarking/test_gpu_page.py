"""The page of the proof on a GPU, from results that are known."""

from typing import Any

import pytest
from test_benchmarks import CONDITIONS, row_of

from benchmarks.gpu.page import page
from benchmarks.gpu.rows import rows, why
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.gpu_prediction import predict
from fastdcgan.limits.roofline import KNOWN_GPUS

H100 = KNOWN_GPUS["H100"]
CELL = "dcgan64, batch 128, bf16"
EAGER, WHOLE = "bf16", "bf16 + replayed"


def speed(contender: str, seconds: float, fields: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    cell = {"arch": "dcgan64", "width": None, "batch": 128, "precision": "bf16", **more}
    return {
        "kind": "speed",
        "item": f"{cell['arch']}, batch {cell['batch']}, {cell['precision']}: {contender}",
        "visit": f"{cell['batch']}, attempt 1",
        **cell,
        "contender": contender,
        "computes_in": "bf16" if fields else "fp32",
        "fields": fields,
        "seconds": [0.9 * seconds, seconds, 1.1 * seconds],
        "first_step_seconds": 1.5,
        "host_seconds": 0.9 * seconds,
        "peak_memory_mib": 1234.5,
        "clocks": {"SM clock, MHz": "1980"} if contender == "reference" else None,
    }


def counted(contender: str, launches: float, kernels: float, busy: float) -> dict[str, Any]:
    return {
        "kind": "launches", "item": f"{CELL}: {contender}", "launches": launches, "kernels": kernels,
        "device_seconds": busy, "operators": 300.0, "costliest": [("gemm | big", 2e-4)],
    }  # fmt: skip


def a_part(name: str, *records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name, "title": name.capitalize(), "status": "done", "seconds": 61.2, "problems": [], "notes": [],
        "records": list(records), **more,
    }  # fmt: skip


def results(**more: Any) -> dict[str, Any]:
    parity = {"kind": "parity", "arch": "dcgan64", "error": 1e-3, "allowed": 2e-3, "beyond": [], "passed": True}
    parts = [
        a_part(
            "tests",
            {"kind": "test", "item": "tests/a.py::b", "outcome": "passed", "why": ""},
            {"kind": "test", "item": "tests/a.py::c", "outcome": "failed", "why": "too slow"},
            status="failed",
            problems=["tests/a.py::c: too slow"],
        ),
        a_part(
            "parity",
            {**parity, "item": f"dcgan64: {EAGER}", "plan": EAGER},
            {**parity, "item": f"dcgan64: {WHOLE}", "plan": WHOLE, "beyond": ["gradients of G"], "passed": False},
        ),
        a_part(
            "speed",
            {"kind": "rates", "rates": {"flops": {"bf16": 8e14}, "bytes": 3e12}, "tf32": {"cudnn": True}},
            speed("reference", 20e-3),
            speed("pytorch/examples", 24e-3),
            speed(EAGER, 4e-3, {"precision": "bf16"}),
            speed(WHOLE, 1.2e-3, {"precision": "bf16", "replay": True}),
            speed("reference", 5e-3, batch=32),
            speed(EAGER, 4e-3, {"precision": "bf16"}, batch=32),
            notes=["No time was left for 1: dcgan128, batch 1024, fp16: reference"],
        ),
        a_part(
            "launches",
            {"kind": "launch cost", "seconds": 5e-6},
            counted(EAGER, 400.0, 410.0, 1.3e-3),
            counted(WHOLE, 6.0, 405.0, 1.15e-3),
        ),
        a_part(
            "end to end",
            {
                "kind": "end to end", "way": "packed faces", "plan": WHOLE, "images_per_sec": 100_000.0,
                "step_images_per_sec": 106_666.0, "of_the_step": 0.9375, "data_wait_fraction": 0.01,
                "first_line_seconds": 6.25, "seconds": 20.0, "training_seconds": 12.0, "images": 1_200_000,
                "cores_busy": 1.25, "stopped": False,
            },
            notes=["DALI is not installed here: decoding by it was not measured"],
        ),
        a_part("profile", {"kind": "profile", "summary": "Memory binds the step.", "files": ["profile-memory.png"]}),
        a_part(
            "default run",
            {"kind": "grid", "file": "faces-last.png", "step": 2000, "which": "last"},
            {"kind": "default run", "images": 32_000, "seconds": 30.0, "images_per_sec": 9000.0, "stopped": False,
             "plan": "bf16"},
        ),
    ]  # fmt: skip
    return {
        "command": "python -m benchmarks.gpu", "on_gpu": True, "why_no_gpu": "", "minutes": 8.0, "seconds": 470.0,
        "device_name": "NVIDIA H100 80GB HBM3", "headline": CELL, "conditions": CONDITIONS,
        "peaks": {"name": H100.name, "flops": H100.flops, "bytes": H100.bytes},
        "facts": {"driver": "580.95", "packages": {"triton": "3.6.0"}, "missing": ["tensorboard"]},
        "parts": parts, **more,
    }  # fmt: skip


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}")[1].split("\n## ")[0]


def test_the_top_says_what_it_is_of_and_what_failed() -> None:
    text = page(results())
    assert text.startswith("# The GPU proof: NVIDIA H100 80GB HBM3\n")
    top = text.split("## ")[0]
    assert "NO GPU" not in text
    assert row_of(top, "Tests") == ["Tests", "**failed**", "61", "tests/a.py::c: too slow"]
    assert "7.8 of 8 minutes" in top
    assert "dcgan128, batch 1024, fp16: reference" in top and "DALI is not installed" in top


def test_without_a_gpu_the_first_line_says_so_and_aims_are_not_judged() -> None:
    text = page(results(on_gpu=False, why_no_gpu="PyTorch finds none", device_name="A Processor"))
    assert text.startswith("# NO GPU: the GPU proof as it ran on a CPU (A Processor)\n")
    assert "No figure on this page is of a GPU" in text and "PyTorch finds none" in text
    assert "## Aims" not in text


def test_aims_are_judged_by_the_fastest_plan() -> None:
    aims = section(page(results()), "Aims")
    assert WHOLE in aims and "another device" not in aims
    assert row_of(aims, "images/s")[1:] == ["40,000", "100,000", "106,667", "aim"]
    assert row_of(aims, "times pytorch/examples")[1:] == ["6.0", "15.0", "20.0", "aim"]
    assert row_of(aims, "a whole run")[1:] == ["0.95", "0.99", "0.94", "**no**"]
    assert row_of(aims, "share of the predicted")[1:3] == ["0.40", "0.75"]
    assert "another device" in page(results(device_name="NVIDIA H200"))


def test_a_step_has_its_rate_its_ratios_and_its_launches() -> None:
    step = section(page(results()), f"The step: {CELL}").split("### ")[0]
    eager = row_of(step, f"{EAGER} |")
    assert eager[1:5] == ["32,000", "4 (3.8 to 4.2)", "5.00 (5.00 to 5.00)", "6.00 (6.00 to 6.00)"]
    assert "400" in eager and "410" in eager and "passed" in eager
    assert "**failed**" in row_of(step, f"{WHOLE} |")
    assert "tests" not in row_of(step, "reference")


def test_predicted_stands_beside_measured_and_why_they_differ() -> None:
    arch = architecture("dcgan64")
    predicted = predict(arch, 128, H100, "bf16")
    text = section(page(results()), f"The step: {CELL}").split("### Predicted and measured")[1]
    assert row_of(text, f"{WHOLE} |")[1:5] == [
        "captured, no launches", f"{1e3 * predicted.captured:.3g}", "1.2", f"{1.2e-3 / predicted.captured:.2f}",
    ]  # fmt: skip
    assert row_of(text, f"{EAGER} |")[1:3] == ["eager", f"{1e3 * predicted.eager:.3g}"]
    assert f"- {EAGER}: launch-bound: the device works 1.30 of 4.00 ms" in text
    assert "400 launches, which at 5.0 us apiece are 2.00 ms" in text
    assert f"- {WHOLE}: device-bound: 405 kernels take 1.15 of 1.20 ms" in text
    assert f"{1.15e-3 / predicted.captured:.2f} times what the model gives its kernels" in text


def test_a_device_of_unknown_peaks_gets_no_prediction() -> None:
    text = page(results(peaks=None))
    assert "nothing is predicted" in text
    assert row_of(section(text, f"The step: {CELL}"), f"{EAGER} |")[1] == "32,000"


def test_a_case_of_another_batch_is_in_the_overview() -> None:
    overview, every = section(page(results()), "The step, all other cases").split("Every contender:")
    assert row_of(overview, "dcgan64, batch 32, bf16")[1:6] == ["6,400", "", EAGER, "8,000", "1.25 (1.25 to 1.25)"]
    assert row_of(overview, CELL)[1:4] == ["6,400", "5,333", WHOLE]
    assert CELL not in every


def test_the_other_parts_say_what_they_found() -> None:
    text = page(results())
    assert "1 passed, 1 failed, 0 skipped" in section(text, "Tests")
    assert "**1.0e-03 of 2.0e-03: gradients of G**" in row_of(section(text, "Parity"), WHOLE)
    assert "1 of 2 pass" in section(text, "Parity")
    run = row_of(section(text, "End to end"), "packed faces")
    assert run[1:4] == ["100,000", "106,666", "0.94"] and "1.2" in run
    assert "Memory binds the step." in section(text, "Profile") and "(profile-memory.png)" in text
    assert "![the faces after 2,000 steps](faces-last.png)" in section(text, "Default run")
    assert "gemm / big" in section(text, "Launches")
    assert "not installed: tensorboard" in text and "SM clock, MHz: 1980" in text
    assert "TF32 is on" in text


def test_what_was_measured_twice_in_a_case_is_shown_with_its_own_reference() -> None:
    again = [
        {**speed("reference", 40e-3), "visit": "9"},
        {**speed("bf16 + compiled", 10e-3, {"precision": "bf16"}), "visit": "9"},
    ]
    parts = [a_part("speed", speed("reference", 20e-3), speed(EAGER, 4e-3, {"precision": "bf16"}), *again)]
    found = {row.contender: row for row in rows(parts, H100)}
    assert len(found) == 3
    assert found["reference"].seconds == 40e-3
    assert (eager := found[EAGER].against_reference) and eager.speedup == pytest.approx(5.0)
    compiled = found["bf16 + compiled"]
    assert compiled.against_reference and compiled.against_reference.speedup == pytest.approx(4.0)


def test_a_contender_that_was_not_counted_has_no_reason() -> None:
    (row,) = rows([a_part("speed", speed("reference", 20e-3))], H100)
    assert why(row, 5e-6, H100) == ""
