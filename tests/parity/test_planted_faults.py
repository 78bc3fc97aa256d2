"""The parity tests are tested: each of these mistakes, planted in a copy of the package, must turn them red."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")]

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
                "    with profiler_range(ranges.DISCRIMINATOR_REAL):\n"
                "        logits_real_B = call(D, real_BCHW, labels_B)\n"
                "    with profiler_range(ranges.DISCRIMINATOR_FAKE):\n"
                "        logits_fake_B = call(D, fake_BCHW, labels_B)\n",
                "    logits_real_B, logits_fake_B = D(torch.cat([real_BCHW, fake_BCHW])).chunk(2)\n",
            ),
        ),
    ),
    Fault("a missing detach", "gan/step.py", (("fake_bCHW.detach()", "fake_bCHW"),)),
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
                "        with profiler_range(ranges.OPTIMIZER_D):\n"
                "            optimizer_step(state.optimizer_d, state.scaler_d)\n",
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
    Fault(
        "every update of D from the first pictures",
        "gan/step.py",
        (("real_BCHW.chunk(state.d_steps)", "real_BCHW.chunk(state.d_steps)[:1] * state.d_steps"),),
    ),
    Fault(
        "one learning rate for both networks",
        "execution/prepare.py",
        (("recipe.lr if own_lr is None else own_lr", "recipe.lr"),),
    ),
    Fault("no power iteration", "gan/step.py", (("        state.discriminator.before_update()\n", ""),)),
    Fault(
        "a singular value that no gradient passes",
        "gan/spectral.py",
        (
            (
                "torch.dot(left, layer.weight.flatten(1) @ right)",
                "torch.dot(left, layer.weight.flatten(1) @ right).detach()",
            ),
        ),
    ),
    Fault(
        "fake pictures that D sees as they are",
        "gan/step.py",
        (("        return augment(fake_BCHW, draws_BN, state.augmentation)\n", "        return fake_BCHW\n"),),
    ),
    Fault(
        "real pictures changed by the fake ones' numbers",
        "gan/step.py",
        (("augment(real_BCHW, draws_of_real_BN,", "augment(real_BCHW, draws_of_fake_BN,"),),
    ),
    Fault(
        "anchors that don't follow", "gan/lecam.py", (("means_2.to(self._anchors.dtype), 1 - DECAY", "means_2, 0.0"),)
    ),
    Fault(
        "logits drawn to their own anchor",
        "gan/lecam.py",
        (("anchor_real, anchor_fake = self", "anchor_fake, anchor_real = self"),),
    ),
    Fault(
        "real pictures judged as of another class",
        "gan/step.py",
        (("call(D, real_BCHW, labels_B)\n    with", "call(D, real_BCHW, labels_B.roll(1))\n    with"),),
    ),
    Fault(
        "fake pictures made of another class than they are judged as",
        "gan/step.py",
        (
            (
                "call(state.call_generator, update.z, update.labels)",
                "call(state.call_generator, update.z, update.labels.flip(0))",
            ),
        ),
    ),
    Fault(
        "no projection while G learns",
        "gan/models.py",
        (
            (
                "self.class_vectors(labels_B) * features",
                "self.class_vectors(labels_B) * self.embedding.weight.requires_grad * features",
            ),
        ),
    ),
    Fault(
        "classes that aren't normalised",
        "gan/spectral.py",
        (("F.embedding(labels_B, _normalised(self.embedding))", "self.embedding(labels_B)"),),
    ),
    Fault(
        "the penalty taken as of no class",
        "gan/gradient_penalty.py",
        (("self._discriminator(pictures_BCHW, labels_B)", "self._discriminator(pictures_BCHW, labels_B * 0)"),),
    ),
    Fault(
        "a relativistic G that doesn't look at real pictures",
        "gan/step.py",
        (
            ("        logits_real_B = call(D, real_BCHW, labels_B).detach() if objective.relativistic else None\n", ""),
            (
                "objective.generator(call(D, fake_BCHW, labels_B), logits_real_B)",
                "objective.generator(call(D, fake_BCHW, labels_B), torch.zeros(len(fake_BCHW)))",
            ),
        ),
    ),
    Fault(
        "a relativistic D that prefers fake pictures",
        "gan/objectives.py",
        (("_cross_entropy(logits_real_B - logits_fake_B, 1.0)", "_cross_entropy(logits_fake_B - logits_real_B, 1.0)"),),
    ),
    Fault(
        "R2 at real pictures",
        "gan/gradient_penalty.py",
        (("sides.append((self._r2, generate()))", "sides.append((self._r2, real_BCHW))"),),
    ),
    Fault(
        "R2 at pictures that D doesn't see",
        "gan/step.py",
        (
            (
                "labels_b in parts])\n    return as_discriminator_sees(state, fake_BCHW, update.draws)",
                "labels_b in parts])\n    return fake_BCHW",
            ),
        ),
    ),
    Fault(
        "a replay of the first pictures",
        "execution/replay.py",
        (("        static.copy_(current, non_blocking=True)\n", ""),),
    ),
    Fault(
        "a recording's memory given away while it is in use",
        "execution/cpu_graph.py",
        (("other.last >= memory.first", "other.last > memory.first"),),
    ),
    Fault(
        "weights that keep what they learned while a graph was recorded",
        "execution/replay.py",
        (("tensor.copy_(before[id(tensor)]) if id(tensor) in before else tensor.zero_()", "pass"),),
    ),
    Fault("Tanh missing", "gan/models.py", (("            nn.Tanh(),\n", ""),)),
)


UNTOUCHED = "untouched"

GREEN, RED = 0, 1

Result = tuple[int, str]
"""pytest's exit code, and what it said."""


def copied(folder: Path) -> Path:
    """The package and its parity tests, to be spoiled."""
    for name in ("fastdcgan", "tests/parity"):
        ignored = shutil.ignore_patterns("__pycache__", "test_planted*", "red_or_green*")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def plant(fault: Fault, package: Path) -> None:
    path = package / "fastdcgan" / fault.file
    source = path.read_text()
    for old, new in fault.replacements:
        assert source.count(old) == 1, f"{fault.file} no longer holds {old!r} once: plant the fault anew"
        source = source.replace(old, new)
    path.write_text(source)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Of the parity tests against a sound copy, and against one with each fault.

    All in one go: what takes the time is importing PyTorch.
    """
    folders = {UNTOUCHED: copied(tmp_path_factory.mktemp("sound"))}
    for fault in FAULTS:
        folders[fault.name] = copied(tmp_path_factory.mktemp("spoiled"))
        plant(fault, folders[fault.name])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("red_or_green.py")), *map(str, folders.values())],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    codes = map(int, done.stdout.split())
    return {
        name: (code, (folder / "said.txt").read_text())
        for (name, folder), code in zip(folders.items(), codes, strict=True)
    }


def test_the_copy_itself_is_green(results: dict[str, Result]) -> None:
    """Else the faults below would prove nothing."""
    code, said = results[UNTOUCHED]
    assert code == GREEN, said
    assert " passed" in said, said


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_turns_parity_red(fault: Fault, results: dict[str, Result]) -> None:
    code, said = results[fault.name]
    assert code == RED, said
    assert "ImportError" not in said and "SyntaxError" not in said, said
