"""state.json of a checkpoint: which run and step it is of, and with which architecture."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdcgan.gan.architecture import Architecture
from fastdcgan.runs.checkpoints.folder import step_in_name
from fastdcgan.storage import checksummed, strict_json
from fastdcgan.storage.checksummed import FileDigest
from fastdcgan.storage.printable import printable

FORMATS = 1, 2, 3
"""That this version reads; it writes the last.

1: from before there were manifests: of the tensors only names, types, shapes and finiteness can be checked.
2: from before there was an average of the generator.
"""

FORMAT_WITHOUT_MANIFEST = 1

FILES = ("generator.safetensors", "discriminator.safetensors", "optimizer.safetensors", "state.json")
GENERATOR_FILE, DISCRIMINATOR_FILE, OPTIMIZER_FILE, STATE_FILE = FILES

AVERAGE_FILE = "average.safetensors"
"""The moving average of the generator, where the run has one."""

MAX_STATE_BYTES = 1 << 20
"""Limit of state.json; ours have a few thousand bytes."""

_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "images": (int,),
    "seconds": (int, float),
    "rollbacks": (int,),
    "architecture": (dict,),
    "scaler_g": (dict,),
    "scaler_d": (dict,),
}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    """Training time so far, over all sessions."""

    rollbacks: int = 0
    """How often the run went back to a checkpoint with new noise, after numbers that were not finite."""

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Progress":
        """The progress in a record that was checked."""
        return cls(**{name: record[name] for name in ("step", "images", "seconds", "rollbacks")})


def make_record(
    arch: Architecture,
    progress: Progress,
    run: str | None,
    plan: object,
    *,
    scaler_g: dict[str, Any],
    scaler_d: dict[str, Any],
) -> dict[str, Any]:
    """A state.json of the newest format; a gradient scaler that is not used is {}."""
    return {
        "format": FORMATS[-1],
        "run": run,
        **asdict(progress),
        "architecture": arch.record(),
        "plan": plan,
        "scaler_g": scaler_g,
        "scaler_d": scaler_d,
    }


def read_record(path: Path, run: str | None) -> tuple[dict[str, Any], dict[str, FileDigest] | None]:
    """Read and check a checkpoint's state.json.

    Args:
        path: of the checkpoint.
        run: the id that the run must have; None: any. Checkpoints of format 1 have none, and fit every run.

    Returns:
        the record; and the manifest, None for format 1.

    Raises:
        ValueError: it is damaged, or of another run or step.
    """
    try:
        manifest = checksummed.read_manifest(path)
        if manifest is not None and manifest.keys() - {AVERAGE_FILE} != set(FILES):
            raise ValueError(f"its {checksummed.MANIFEST} is of another kind of folder")
        text = checksummed.read(path / STATE_FILE, manifest[STATE_FILE] if manifest else None, MAX_STATE_BYTES)
        try:
            record: dict[str, Any] = strict_json.parse(text)
        except ValueError as error:
            raise ValueError(f"its {STATE_FILE} can't be read: {error}") from error
        _check_fields(record, has_manifest=manifest is not None)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    if step_in_name(path) not in (None, record["step"]):
        raise ValueError(f"checkpoint {path} is not what its name says: it is of step {record['step']:,}")
    if run is not None and record.get("run") not in (run, None):
        raise ValueError(f"checkpoint {path} is of another run ({printable(str(record['run']))}, this is {run})")
    return record, manifest


def check_architecture(path: Path, record: dict[str, Any], arch: Architecture) -> None:
    """Raises ValueError where a checkpoint is of another architecture, naming the fields that differ."""
    expected = arch.record()
    found = record["architecture"]
    named = [*expected, *(["classes"] if "classes" in found and "classes" not in expected else [])]
    if differing := [name for name in named if found.get(name) != expected.get(name)]:
        named = [name for name in differing if name not in ("generator", "discriminator")] or differing
        raise ValueError(
            f"checkpoint {path} is of another architecture: "
            + ", ".join(f"{name} {_shown(found.get(name))} there, {_shown(expected.get(name))} here" for name in named)
        )


def _shown(value: object) -> str:
    """A number as it is; of classes their names, the first ones of many."""
    return printable(shortened(", ".join(map(str, value))) if isinstance(value, list) else f"{value}")


def shortened(value: object) -> str:
    """A value's repr of 80 characters at most, for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_fields(record: Any, *, has_manifest: bool) -> None:
    """Raises ValueError."""
    if not isinstance(record, dict) or record.get("format") not in FORMATS:
        raise ValueError(
            f"its {STATE_FILE} is not of a format that this version reads ({', '.join(map(str, FORMATS))})"
        )
    if not has_manifest and record["format"] != FORMAT_WITHOUT_MANIFEST:
        raise ValueError(f"its {checksummed.MANIFEST} is missing")
    record.setdefault("rollbacks", 0)  # older checkpoints don't have it
    for name, types in _FIELD_TYPES.items():
        # not isinstance: True is an int to it
        if type(record.get(name)) not in types:
            raise ValueError(f"{name} is {shortened(record.get(name))} in its {STATE_FILE}")
    for name in ("step", "images", "seconds", "rollbacks"):
        if not 0 <= record[name] < 2**63:
            raise ValueError(f"{name} is {shortened(record[name])} in its {STATE_FILE}")
    if type(record.get("run")) not in (str, type(None)):
        raise ValueError(f"run is {shortened(record['run'])} in its {STATE_FILE}")
