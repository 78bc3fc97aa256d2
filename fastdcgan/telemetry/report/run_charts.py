"""The charts of a report: each with its title, legend, SVG, explanation and what it shows of this run."""

import statistics
from collections.abc import Sequence
from typing import Any

from fastdcgan.config import DEFAULT_METRIC, MetricName
from fastdcgan.evaluation.best import figure, figure_label, is_better_high
from fastdcgan.evaluation.records import Evaluation
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.charts import FIRST_COLOUR, SECOND_COLOUR, Curve, chart
from fastdcgan.telemetry.report.grids import Grid
from fastdcgan.telemetry.report.run_warnings import last_tenth

MAX_MARKED_GRIDS = 30
"""Each grid's diversity is marked with a dot where there are fewer."""

_ABOUT_DISTANCE = (
    "How far {pictures:,} generated pictures are from as many real ones, as a network that knows photographs sees "
    "them. At 0 it could not tell them apart. Where it rises for long, pictures become worse."
)
_ABOUT_SHARE: dict[MetricName, str] = {
    "precision": "How many of {pictures:,} generated pictures are among as many real ones, as a network that knows "
    "photographs sees them. Where it falls for long, pictures become worse.",
    "recall": "How many of {pictures:,} real pictures are among as many generated ones, as a network that knows "
    "photographs sees them. Where it falls for long, kinds of pictures are lost.",
}

Chart = dict[str, Any]
"""For the template: `title`, `keys` (pairs of CSS class and text), `svg`, `about` and `reading`, all str but `keys`."""


def run_charts(
    records: Sequence[Record],
    grids: Sequence[Grid],
    real: float | None,
    evaluations: Sequence[Evaluation] = (),
    by: MetricName = DEFAULT_METRIC,
) -> list[Chart]:
    """The charts for which there are data.

    Args:
        records: by step.
        grids: by step.
        real: the diversity of training pictures; None if unknown.
        evaluations: of the same conditions, by step.
        by: the figure that the best of them is told by.
    """
    charts = [_losses(records), _probabilities(records)] if records else []
    if known := [grid for grid in grids if grid.diversity is not None]:
        charts.append(_diversity(known, real))
    if evaluations:
        charts.append(_quality(evaluations, by))
    return [*charts, _speed(records), _data_wait(records)] if records else charts


def median_speed(records: Sequence[Record]) -> float:
    """Images per second, of one record at least."""
    return statistics.median(record.images_per_sec for record in records)


def _steps(records: Sequence[Record]) -> list[int]:
    return [record.step for record in records]


def _losses(records: Sequence[Record]) -> Chart:
    end = last_tenth(records)
    loss_d, loss_g = (statistics.fmean(getattr(r, name) for r in end) for name in ("loss_d", "loss_g"))
    return {
        "title": "Losses",
        "keys": [("one", "D, the discriminator"), ("two", "G, the generator")],
        "svg": chart(
            [
                Curve(steps=_steps(records), values=[r.loss_d for r in records], colour=FIRST_COLOUR),
                Curve(steps=_steps(records), values=[r.loss_g for r in records], colour=SECOND_COLOUR),
            ],
            label="Losses of D and G over the steps",
        ),
        "about": "How wrong each network is. They play against each other, so neither loss should go to 0: a "
        "healthy pair stays in balance, and lower does not mean better pictures.",
        "reading": f"At the end: D {loss_d:.2f}, G {loss_g:.2f}.",
    }


def _probabilities(records: Sequence[Record]) -> Chart:
    end = last_tenth(records)
    d_real, d_fake = (statistics.fmean(getattr(r, name) for r in end) for name in ("d_real", "d_fake"))
    return {
        "title": "What D believes",
        "keys": [("one", "D(x), real pictures"), ("two", "D(G(z)), generated ones")],
        "svg": chart(
            [
                Curve(steps=_steps(records), values=[r.d_real for r in records], colour=FIRST_COLOUR),
                Curve(steps=_steps(records), values=[r.d_fake for r in records], colour=SECOND_COLOUR),
            ],
            label="D's probability of real over the steps, for real and for generated pictures",
            limits=(0, 1),
            level=0.5,
            percent=True,
        ),
        "about": "How probable D finds it that a picture is real. The wider the gap, the easier it tells them "
        "apart; both at the dotted 50 % would mean that it can only guess.",
        "reading": f"At the end: {d_real:.0%} for real pictures, {d_fake:.0%} for generated ones.",
    }


def _diversity(grids: Sequence[Grid], real: float | None) -> Chart:
    values = [grid.diversity or 0.0 for grid in grids]
    compared = f", {values[-1] / real:.0%} of that of real pictures" if real else ""
    return {
        "title": "Diversity of the samples",
        "keys": [("one", "samples"), *([("dotted", "real pictures")] if real else [])],
        "svg": chart(
            [Curve(steps=[grid.step for grid in grids], values=values, dots=len(grids) < MAX_MARKED_GRIDS)],
            label="Diversity of the samples over the steps",
            limits=(0, max(*values, real or 0.0, 0.01) * 1.1),
            level=real,
            percent=True,
        ),
        "about": "How much the samples of a grid differ from each other, pixel by pixel, as a share of black "
        "to white. A steep fall is mode collapse: whatever the noise, G makes the same picture.",
        "reading": f"At the end: {values[-1]:.1%}{compared}.",
    }


def _quality(evaluations: Sequence[Evaluation], by: MetricName) -> Chart:
    if any(figure(one, by) is None for one in evaluations):
        by = DEFAULT_METRIC
    values = [figure(one, by) or 0.0 for one in evaluations]
    last, is_share = evaluations[-1], is_better_high(by)
    shown = {"kernel": "{:.4f}", "frechet": "{:.2f}"}.get(by, "{:.0%}").format
    best = (max if is_share else min)(zip(values, evaluations, strict=True), key=lambda pair: pair[0])
    return {
        "title": "Share of pictures that are like the others" if is_share else "Distance from real pictures",
        "keys": [("one", f"{figure_label(last, by)}, {last.weights} weights")],
        "svg": chart(
            [Curve(steps=[one.step for one in evaluations], values=values, dots=len(values) < MAX_MARKED_GRIDS)],
            label=f"{'Likeness' if is_share else 'Distance'} of generated and real pictures over the steps",
            limits=(0, 1) if is_share else (min(0.0, *values), max(0.001, *values) * 1.1),
            percent=is_share,
        ),
        "about": _ABOUT_SHARE.get(by, _ABOUT_DISTANCE).format(pictures=last.pictures),
        "reading": f"Best: {shown(best[0])} at step {best[1].step:,}. Last: {shown(values[-1])}, precision "
        f"{last.precision:.0%}, recall {last.recall:.0%}.",
    }


def _speed(records: Sequence[Record]) -> Chart:
    return {
        "title": "Speed",
        "keys": [("one", "images a second")],
        "svg": chart(
            [Curve(steps=_steps(records), values=[r.images_per_sec for r in records])],
            label="Images per second over the steps",
            limits=(0, None),
        ),
        "about": "How many real pictures a second the networks trained on, without the time for samples and "
        "checkpoints. It should be flat: dips are other programs, heat, or slow data.",
        "reading": f"Half of the time it was above {median_speed(records):,.0f}.",
    }


def _data_wait(records: Sequence[Record]) -> Chart:
    waits = [r.data_wait_fraction for r in records]
    return {
        "title": "Waiting for data",
        "keys": [("one", "share of the time")],
        "svg": chart(
            [Curve(steps=_steps(records), values=waits)],
            label="Share of the time spent waiting for pictures, over the steps",
            limits=(0, max(0.1, *waits) * 1.05),
            percent=True,
        ),
        "about": "The share of the time in which training stood still because the next pictures were not read "
        "or decoded yet. Near 0 is right: then the networks, not the disk, set the pace.",
        "reading": f"In the mean: {statistics.fmean(waits):.1%}.",
    }
