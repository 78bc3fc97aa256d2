"""The parity tests are tested: each of these mistakes, planted in a copy of the package, must turn them red."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    """Text replacements in one file of the package; every old text must be there exactly once."""

    name: str
    file: str
    replacements: tuple[tuple[str, str], ...]


FAULTS = (
    Fault(
        "real and fake concatenated through one BatchNorm",
        "gan/step.py",
        (
            (
                "    with profiler_range(ranges.DISCRIMINATOR_REAL):\n        logits_real_B = D(real_BCHW)\n"
                "    with profiler_range(ranges.DISCRIMINATOR_FAKE):\n        logits_fake_B = D(fake_BCHW)\n",
                "    logits_real_B, logits_fake_B = D(torch.cat([real_BCHW, fake_BCHW])).chunk(2)\n",
            ),
        ),
    ),
    Fault("a missing detach", "gan/step.py", (("fake_BCHW.detach()", "fake_BCHW"),)),
    Fault(
        "a flipped label",
        "gan/objectives.py",
        (("    return _cross_entropy(logits_fake_B, 1.0)", "    return _cross_entropy(logits_fake_B, 0.0)"),),
    ),
    Fault(
        "a stale D in the generator phase",
        "gan/step.py",
        (
            (
                "    with profiler_range(ranges.OPTIMIZER_D):\n"
                "        optimizer_step(state.optimizer_d, state.scaler_d)\n",
                "",
            ),
            (
                "    with profiler_range(ranges.METRICS):\n        return StepMetrics(\n",
                "    optimizer_step(state.optimizer_d, state.scaler_d)\n"
                "    with profiler_range(ranges.METRICS):\n        return StepMetrics(\n",
            ),
        ),
    ),
    Fault(
        "BatchNorm in eval",
        "execution/prepare.py",
        (("    return TrainState(\n", "    generator.eval(), discriminator.eval()\n    return TrainState(\n"),),
    ),
    Fault(
        "a wrong beta1", "execution/prepare.py", (("betas=(recipe.beta1, recipe.beta2)", "betas=(0.9, recipe.beta2)"),)
    ),
    Fault(
        "D's gradients leaking into the next step",
        "gan/step.py",
        (
            ("    network.requires_grad_(False)\n", ""),
            ("    optimizer.zero_grad(set_to_none=True)\n", ""),
        ),
    ),
    Fault(
        "a wrong initial standard deviation",
        "gan/models.py",
        (("nn.init.normal_(child.weight, 0.0, 0.02", "nn.init.normal_(child.weight, 0.0, 0.2"),),
    ),
    Fault(
        "the loss's mean over the wrong axis",
        "gan/objectives.py",
        (
            (
                "F.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, label))",
                "F.binary_cross_entropy_with_logits(logits_B[:, None], torch.full_like(logits_B[:, None], label), "
                'reduction="none").mean(1).sum()',
            ),
        ),
    ),
    Fault("Tanh missing", "gan/models.py", (("            nn.Tanh(),\n", ""),)),
)


def parity(package: Path) -> subprocess.CompletedProcess[str]:
    """The exact rung of the parity suite, against the package in a folder."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
            *("tests/parity/test_parity.py", "-k", "dcgan28 and (begin or bit_for_bit) and not full"),
        ],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its parity tests, to be spoiled."""
    for name in ("fastdcgan", "tests/parity"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "test_planted*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_copy_itself_is_green(copy: Path) -> None:
    """Else the faults below would prove nothing."""
    result = parity(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_turns_parity_red(fault: Fault, copy: Path) -> None:
    path = copy / "fastdcgan" / fault.file
    source = path.read_text()
    for old, new in fault.replacements:
        assert source.count(old) == 1, f"{fault.file} no longer holds {old!r} once: plant the fault anew"
        source = source.replace(old, new)
    path.write_text(source)
    result = parity(copy)
    assert result.returncode == 1, result.stdout
    assert "ImportError" not in result.stdout and "SyntaxError" not in result.stdout, result.stdout
