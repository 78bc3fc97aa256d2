"""A line of evaluations.jsonl, as `train` writes it."""

from fastdcgan.evaluation.records import Evaluation

ONE = Evaluation(
    step=10,
    images=160,
    weights="average",
    pictures=100,
    seed=0,
    repeat=0,
    extractor="a toy",
    frechet_label="Fréchet distance, toy",
    kernel_label="kernel distance, toy",
    real="0123",
    frechet=12.5,
    kernel=-0.25,
    kernel_std=0.125,
    precision=0.5,
    recall=0.75,
    seconds=1.5,
    training=True,
)
