"""Tables on narrow terminals: no figure and no word is cut off."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from fastdcgan.data.source import Skipped
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.allreduce import gpu_fabrics
from fastdcgan.limits.roofline import KNOWN_GPUS
from fastdcgan.limits.scaling import Communication, batch_norm_messages
from fastdcgan.telemetry.terminal.data_tables import Rows, skipped_by_reason_rows
from fastdcgan.telemetry.terminal.limit_tables import limits_table, prediction_table
from fastdcgan.telemetry.terminal.plan_tables import plans_table
from fastdcgan.telemetry.terminal.scaling_tables import WIDE, scaling_table
from fastdcgan.tuning.paired import PairedTimes
from fastdcgan.tuning.parity import Parity
from fastdcgan.tuning.tune import Measurement, TuningResult

LARGE = architecture("dcgan512", width=1024)
HERE = replace(KNOWN_GPUS["H200"], name="this CPU", bytes=1.23e12)
WIDTHS = pytest.mark.parametrize("width", [60, 80])


def printed(what: RenderableType, width: int) -> str:
    """What a terminal of so many columns shows."""
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=True, color_system=None).print(what)
    text = written.getvalue()
    assert "…" not in text, text
    assert max(map(len, text.splitlines())) <= width, text
    return text


def tuning() -> TuningResult:
    """A long plan that wins, one that fails, one that there was no time for."""
    kernels = ("ends", "norm", "thin", "winograd")
    wins = Plan(precision="bf16", kernels=kernels, stacked=True, threads=128)
    slow = PairedTimes((123.4, 125.0, 121.0), (123.4, 125.0, 121.0))
    fast = PairedTimes((123.4, 125.0, 121.0), (31.0, 25.0, 11.0))
    fine = Parity(error=1.2e-3, allowed=5.6e-3, beyond=())
    wrong = Parity(error=1.2, allowed=5.6e-3, beyond=("gradients of D", "gradients of G"))
    plans = (
        Measurement(plan=wins, parity=fine, times=fast, warm_up_seconds=123.4, peak_memory_mib=123_456.0),
        Measurement(plan=Plan(precision="bf16"), parity=wrong),
        Measurement(plan=Plan(kernels=kernels)),
    )
    reference = Measurement(plan=None, times=slow, warm_up_seconds=123.4, peak_memory_mib=123_456.0)
    return TuningResult(arch=LARGE, batch=4096, reference=reference, plans=plans, seconds=60.0)


@WIDTHS
def test_the_roofline(width: int) -> None:
    text = printed(limits_table(architecture("dcgan512"), 4096, HERE), width)
    assert {"machine", "precision", "TFLOP/s", "images/s", "arithmetic", "memory"} <= set(text.split())
    assert text.count("A100 80GB bf16") == text.count("this CPU  fp32") == 1, "a row is a line"
    assert "GFLOP and moves" in " ".join(text.split())


@WIDTHS
@pytest.mark.parametrize("batch", [1, 4096])
def test_the_prediction(width: int, batch: int) -> None:
    text = printed(prediction_table(architecture("dcgan64"), batch), width)
    assert {"precision", "images/s", "captured", "launches" if batch == 1 else "arithmetic"} <= set(text.split())
    assert text.count("H100 bf16") == 1


@WIDTHS
@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_scaling(scaling: str, width: int) -> None:
    sharing = Communication(
        fabrics=gpu_fabrics("nvlink+ethernet10", "H100"), batch_norm=batch_norm_messages(architecture("dcgan64"))
    )
    counts = [2**power for power in range(10)]
    table = scaling_table(
        scaling,  # type: ignore[arg-type]
        *(architecture("dcgan64"), 512, KNOWN_GPUS["H100"], "bf16", counts, "nvlink+ethernet10", sharing, 20.0),
        wide=width >= WIDE,
    )
    text = printed(table, width)
    shares = 3 if width >= WIDE else 2
    rows = re.findall(rf"^ +(\d+) +\d+ +[\d.,]+ +([\d,]+)(?: +\d+%){{{shares}}} ", text, re.MULTILINE)
    assert [int(count) for count, _ in rows] == counts, "a row is a line"
    assert {"images/s", "all-reduce"} <= set(text.split())


@WIDTHS
def test_plans(width: int) -> None:
    text = printed(plans_table(tuning(), HERE), width)
    words = " ".join(text.split())
    for word in (
        "reference",
        "(quartiles)",
        "(allowed)",
        "warm-up",
        "FAILS",
        "PARITY",
        "123,456",
        "(5.6e-03)",
        "winograd",
    ):
        assert word in text.split(), word
    assert "no time left" in words and "> bf16" in words
    assert "gradients" in words.partition("too far")[2]


@WIDTHS
def test_what_is_skipped(width: int) -> None:
    skipped = [Skipped(path=f"/pictures/{'long ' * 9}name/{number}.jpg", reason="empty file") for number in range(5)]
    text = printed(Rows(skipped_by_reason_rows(skipped)), width)
    assert all(f"{number}.jpg" in text for number in range(3)) and "and 2 more" in text


@WIDTHS
def test_a_path_longer_than_a_line_is_there_to_the_last_letter(width: int) -> None:
    path = Path("/") / ("x" * 300 + "end")
    assert str(path) in "".join(printed(Rows([("pack", str(path))]), width).split())
