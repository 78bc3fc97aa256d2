"""Evaluations while a run trains: every `--evaluate-every` steps, on the main process, with few pictures."""

from dataclasses import replace

import torch

from fastdcgan.config import FEWEST_EVALUATED, RunConfig
from fastdcgan.evaluation import distances
from fastdcgan.evaluation.best import check_enough, comparable, find_best
from fastdcgan.evaluation.efficientnet import FEATURES
from fastdcgan.evaluation.evaluate import measure
from fastdcgan.evaluation.extractors import Extractor, check_weights_installed, open_extractor
from fastdcgan.evaluation.features import RealSide, real_features
from fastdcgan.evaluation.records import Evaluation, append_evaluations, read_evaluations
from fastdcgan.runs.checkpoints.folder import Best
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import converting_write_errors
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training.run import Run


def check_can_evaluate() -> None:
    """Raises ValueError, naming the extra, where a package is missing."""
    distances.check_installed()
    check_weights_installed()


def check_can_choose(asked: RunConfig, pictures: int) -> None:
    """Raises ValueError where pictures are too few for the figure that the best checkpoint is to be told by."""
    if asked.evaluate_every is not None:
        check_enough(asked.best_by, min(asked.evaluate_images, pictures), FEATURES)


class Evaluator:
    """Measures what a run would make pictures with. Nothing that is learned depends on it.

    The extractor and the real side are opened at the first evaluation.
    """

    def __init__(self, run: Run, display: Display) -> None:
        """What was measured before is read. Raises ValueError if it can't be."""
        self._run, self._display = run, display
        self._extractor: Extractor | None = None
        self._real: RealSide | None = None
        with converting_write_errors(run.folder.evaluations):
            self._past = read_evaluations(run.folder.evaluations)[0]

    def evaluate(self, step: int) -> tuple[Evaluation, Best]:
        """Measure, and write that down.

        Returns:
            what was found; and the best so far, of this step where that is it.

        Raises:
            ValueError: the pictures can't be read, or are too few.
            WriteError: it can't be written.
        """
        run = self._run
        # One caller: several threads would each keep memory of their own from the allocator, for the rest of the run.
        extractor = self._extractor = self._extractor or replace(
            open_extractor("efficientnet-lite0", self._device()), threads=1
        )
        count = min(run.config.run.evaluate_images, len(run.source))
        if count < FEWEST_EVALUATED:
            raise ValueError(f"{count} pictures are too few: at least {FEWEST_EVALUATED}")
        real = self._real = self._real or real_features(
            run.source,
            count,
            extractor,
            flip=run.config.data.flip,
            on_progress=lambda done, total: self._display.advance("real pictures", done, total),
        )
        found = measure(
            run.state.sampler,
            run.arch.latent_dim,
            real,
            extractor,
            seed=0,
            repeat=0,
            progress=Progress(step=step, images=step * run.config.images_a_step),
            weights="average" if run.state.average else "last",
            training=True,
            on_stage=lambda what, done, total: None,
            class_counts=run.labels.counts() if run.labels else (),
        )
        with converting_write_errors(run.folder.evaluations):
            append_evaluations(run.folder.evaluations, [found])
        best = find_best([*comparable(self._past, found, run.folder), found], run.config.run.best_by)
        assert best is not None
        self._past.append(found)
        return found, best

    def reconsidered(self, known: Best | None) -> Best | None:
        """The best so far, where the one that is known was told by another figure than the run's is now."""
        by = self._run.config.run.best_by
        trained = [one for one in self._past if one.training]
        if known is None or known.by == by or not trained:
            return known
        return find_best(comparable(trained, trained[-1], self._run.folder), by) or known

    def _device(self) -> torch.device:
        device = self._run.accelerator.device
        return device if device.type == "cuda" else torch.device("cpu")
