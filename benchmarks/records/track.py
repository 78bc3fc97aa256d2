"""What is frozen in a track, and what a record in it chooses.

A record may choose its recipe, its batch, its number of steps and its plan. It may not touch data, networks or metric.
Steps are fixed beforehand: the first crossing of a curve that goes up and down would be luck.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.experiments.trials import Judge, Trial
from fastdcgan.config import MetricName, RecipeConfig
from fastdcgan.data.open import open_source
from fastdcgan.data.source import ImageSource
from fastdcgan.evaluation.extractors import ExtractorName
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import architecture

LOGS = Path(__file__).parent / "logs"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a record chooses; and what the reference is trained by."""

    name: str
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    batch_size: int
    steps: int
    plan: Plan | None = None
    """None: by the package's rules for the machine. The reference has none."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Data, networks and metric: the same for all records in it."""

    name: str
    data: str
    """As `fastdcgan train --data` has it."""

    count: int
    """Pictures in the data."""

    arch: str
    width: int
    extractor: ExtractorName
    metric: MetricName
    judged: int
    """Pictures on each side."""

    reference: Record
    """Trained by the reference implementation. Its mean is the threshold, where there is no `threshold`."""

    threshold: float | None = None
    """That a record's mean has to be below; None: the reference's own mean."""

    on_gpu: bool = False
    """Whether a CPU would take days."""


def trial_of(track: Track, record: Record, seed: int) -> Trial:
    """A training of a record: measured once, after its last step."""
    return Trial(
        name=record.name,
        data=track.data,
        recipe=record.recipe,
        batch_size=record.batch_size,
        measured_at=(record.steps * record.batch_size * record.recipe.d_steps,),
        arch=track.arch,
        width=track.width,
        seed=seed,
    )


def open_track(track: Track, data: str, weights: Path | None, device: torch.device) -> tuple[ImageSource, Judge]:
    """The pictures and what judges.

    Args:
        track: what is frozen.
        data: where the track's pictures are.
        weights: a file of Inception's; None: downloaded where they are needed.
        device: of the training.

    Raises:
        ValueError: something that the track needs is missing, or the pictures are others.
    """
    if track.on_gpu and device.type == "cpu":
        raise ValueError(f"{track.name} needs a GPU, and there is none here")
    arch = architecture(track.arch)
    source = open_source(
        data, resolution=arch.resolution, channels=arch.channels, device=str(device), threads=1, cache="auto"
    )
    if len(source) != track.count:
        raise ValueError(f"{source.origin}: {len(source):,} pictures, where {track.name} has {track.count:,}")
    return source, Judge.of(source, track.judged, track.extractor, device, weights)
