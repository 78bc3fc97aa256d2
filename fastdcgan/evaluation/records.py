"""evaluations.jsonl: a line of JSON for each time that a run's pictures were measured. Lines are only ever added."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fastdcgan.evaluation.distances import Distances
from fastdcgan.storage import strict_json
from fastdcgan.storage.files import open_to_append, read_limited, write_replacing

MAX_BYTES = 2**26
"""Limit of evaluations.jsonl: a hundred thousand lines."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A line of evaluations.jsonl: one set of generated pictures against as many real ones."""

    step: int
    images: int
    """Training pictures seen until then."""

    weights: str
    """average: of G's moving average; last: as the step left them."""

    pictures: int
    """On each side."""

    seed: int
    """Of the noise."""

    repeat: int
    """Which set of pictures of this seed."""

    extractor: str
    frechet_label: str
    kernel_label: str
    real: str
    """Identity of the real side: figures of others can't be compared."""

    frechet: float | None
    kernel: float
    kernel_std: float
    precision: float
    recall: float
    seconds: float
    """That it took."""

    training: bool
    """Whether it was made by `train`, at its own steps, or by `evaluate`."""

    @property
    def conditions(self) -> tuple[object, ...]:
        """Those of the same conditions can be compared."""
        return self.extractor, self.real, self.pictures, self.weights

    @property
    def distances(self) -> Distances:
        """What was measured."""
        return Distances(
            frechet=self.frechet,
            kernel=self.kernel,
            kernel_std=self.kernel_std,
            precision=self.precision,
            recall=self.recall,
        )


def describe_evaluation(one: Evaluation) -> str:
    """The figures in a line, and what they took."""
    frechet = f"{one.frechet_label} {one.frechet:.2f}, " if one.frechet is not None else ""
    return (
        f"{frechet}{one.kernel_label} {one.kernel:.4f}, precision {one.precision:.2f}, recall {one.recall:.2f} "
        f"at step {one.step:,} ({one.pictures:,} pictures, {one.weights} weights, {one.seconds:.0f} s)"
    )


def append_evaluations(path: Path, evaluations: Iterable[Evaluation]) -> None:
    """Add lines. Raises OSError."""
    with open_to_append(path) as file:
        file.write("".join(_line(one) for one in evaluations))


def read_evaluations(path: Path) -> tuple[list[Evaluation], int]:
    """The evaluations in a file, none where there is none, and the number of invalid lines, which are left out.

    Raises:
        ValueError: the file is larger than `MAX_BYTES`.
        OSError: it can't be read.
    """
    if not path.exists():
        return [], 0
    found, invalid = [], 0
    for line in read_limited(path, MAX_BYTES).split(b"\n"):
        if not line.strip():
            continue
        try:
            one = Evaluation(**strict_json.parse(line))
        except (ValueError, TypeError):
            one = None
        if one is None or not _is_valid(one):
            invalid += 1
        else:
            found.append(one)
    return found, invalid


def evaluations_after(path: Path, step: int) -> list[Evaluation]:
    """Those past a step, from which on the run is repeated. Raises ValueError and OSError."""
    return [one for one in _read_or_refuse(path) if one.step > step]


def forget_later_steps(path: Path, step: int) -> None:
    """Remove the lines past a step, from which on the run is repeated. Raises ValueError and OSError."""
    if path.exists():
        write_replacing(path, "".join(_line(one) for one in _read_or_refuse(path) if one.step <= step))


def _read_or_refuse(path: Path) -> list[Evaluation]:
    try:
        return read_evaluations(path)[0]
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _is_valid(one: Evaluation) -> bool:
    """Whether all fields are what they are declared to be, and numbers finite."""
    # not isinstance: True is an int to it
    texts: Sequence[object] = (one.weights, one.extractor, one.frechet_label, one.kernel_label, one.real)
    wholes: Sequence[object] = (one.step, one.images, one.pictures, one.seed, one.repeat)
    numbers: list[object] = [one.kernel, one.kernel_std, one.precision, one.recall, one.seconds]
    if one.frechet is not None:
        numbers.append(one.frechet)
    return (
        all(type(text) is str for text in texts)
        and all(type(whole) is int and 0 <= whole < 2**63 for whole in wholes)
        and all(type(number) in (int, float) and abs(number) < 1e15 for number in numbers)  # type: ignore[arg-type]
        and type(one.training) is bool
    )


def _line(one: Evaluation) -> str:
    values = asdict(one)
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float)), values
    return json.dumps({key: float(f"{v:.7g}") if isinstance(v, float) else v for key, v in values.items()}) + "\n"
