"""How should G be told the class? `python -m benchmarks.experiments.conditional_norm` tries two ways, and both at once.

A one-hot vector beside the noise (Mirza & Osindero 2014), as the package has it; or a scale and a shift of BatchNorm
for each class (de Vries et al. 2017, arXiv:1707.00683), as Miyato & Koyama 2018 have it beside their projection
discriminator. By the reference: scikit-learn's digits, batches of 16, networks of width 16, `fast`'s rates.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from benchmarks.conditions import conditions
from benchmarks.experiments.digits import digits, digits_labels
from benchmarks.experiments.trials import Judge, append_line, mean_and_range, read_lines, run_seeds_command
from fastdcgan.evaluation.distances import distances
from fastdcgan.evaluation.features import generated_features
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import Size

CLASSES, SIDE, WIDTH, BATCH, LATENT_DIM = 10, 32, 16, 16, 100
MEASURED_AT = (16_000, 48_000)
"""Images."""

JUDGED = 1000

WAYS = ("one-hot", "BatchNorm", "both")


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm whose scale and shift are those of each picture's class, which `ConditionalGenerator` says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels).requires_grad_(False)  # with a scale of 1 and a shift of 0
        self.scale, self.shift = nn.Embedding(CLASSES, channels), nn.Embedding(CLASSES, channels)
        self.labels_B = torch.zeros(1, dtype=torch.int64)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        scale_BC, shift_BC = self.scale(self.labels_B), self.shift(self.labels_B)
        scaled_BCHW: Tensor = self.norm(x_BCHW) * scale_BC[..., None, None] + shift_BC[..., None, None]
        return scaled_BCHW


class ConditionalGenerator(nn.Module):
    """The reference's G, with the class in its BatchNorm, beside the noise, or both."""

    def __init__(self, layers: list[reference.Layer], way: str) -> None:
        super().__init__()
        self.plain = reference.Generator(layers, 0 if way == "BatchNorm" else CLASSES)
        self.norms: list[ConditionalBatchNorm2d] = []
        if way != "one-hot":
            for place, layer in enumerate(self.plain.layers):
                if isinstance(layer, nn.BatchNorm2d):
                    self.norms.append(ConditionalBatchNorm2d(layer.num_features))
                    self.plain.layers[place] = self.norms[-1]

    def initialise(self) -> None:
        """As the reference's; scales of all classes from N(1, 0.02), shifts at 0."""
        reference.initialise(self)
        for norm in self.norms:
            nn.init.ones_(norm.norm.weight)
            nn.init.normal_(norm.scale.weight, mean=1.0, std=0.02)
            nn.init.zeros_(norm.shift.weight)

    def forward(self, z_BL: Tensor, labels_B: Tensor) -> Tensor:
        for norm in self.norms:
            norm.labels_B = labels_B
        pictures_BCHW: Tensor = self.plain(z_BL, labels_B) if self.plain.classes else self.plain(z_BL)
        return pictures_BCHW


def train(way: str, seed: int, judge: Judge) -> list[dict[str, float]]:
    """Train once, and measure after each of `MEASURED_AT`."""
    torch.manual_seed(seed)
    layers_g, layers_d = reference.layers_of_size(SIDE, SIDE, width=WIDTH, latent_dim=LATENT_DIM)
    G, D = ConditionalGenerator(layers_g, way), reference.Discriminator(layers_d, CLASSES)
    G.initialise()
    reference.initialise(D)
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), lr=1.2e-3, betas=(0.5, 0.99)) for n in (G, D))
    source, labels_N = digits(Size(SIDE, SIDE)), torch.from_numpy(digits_labels())
    real_NCHW = torch.from_numpy(np.asarray(source.pictures_NHWC)).permute(0, 3, 1, 2) / 127.5 - 1
    points, seen = [], 0
    for images in MEASURED_AT:
        while seen < images:
            for rows_B in torch.randperm(len(labels_N)).split(BATCH)[: len(labels_N) // BATCH]:
                z_BL = torch.randn(BATCH, LATENT_DIM)
                reference.train_step(G, D, adam_g, adam_d, real_NCHW[rows_B], z_BL, labels_B=labels_N[rows_B])
                seen += BATCH
                if seen >= images:
                    break
        points.append({"images": seen, **measured(G, judge)})
    return points


def measured(G: ConditionalGenerator, judge: Judge) -> dict[str, float]:
    """Kernel distance of all classes together; share of pictures that are of their class; variety within classes.

    By a nearest-neighbour classifier of the real digits, and by pixels' standard deviation within a class as a share of
    what it is in the real digits.
    """
    from sklearn.neighbors import KNeighborsClassifier

    with torch.random.fork_rng():
        torch.manual_seed(0)
        z_NL, labels_N = torch.randn(JUDGED, LATENT_DIM), torch.arange(JUDGED) % CLASSES
    found = distances(generated_features(G, z_NL, judge.extractor, labels_N=labels_N), judge.real.features)
    G.eval()
    with torch.no_grad():
        made_NP = ((G(z_NL, labels_N).mean(1) + 1) * 127.5).flatten(1).numpy()
    G.train()
    real_NP = np.asarray(digits(Size(SIDE, SIDE)).pictures_NHWC).mean(-1).reshape(-1, SIDE * SIDE)
    real_labels_N = digits_labels()
    classifier = KNeighborsClassifier(3).fit(real_NP, real_labels_N)
    right = float((classifier.predict(made_NP) == labels_N.numpy()).mean())

    def spread(pictures_NP: Any, classes_N: Any) -> float:
        return float(np.mean([pictures_NP[classes_N == each].std(0).mean() for each in range(CLASSES)]))

    variety = spread(made_NP, labels_N.numpy()) / spread(real_NP, real_labels_N)
    return {"kernel": found.kernel, "right": right, "variety": variety}


def run(out: Path, seeds: int) -> None:
    """Take the trainings that a file doesn't hold yet, and add a line of JSON for each."""
    torch.set_num_threads(1)
    done = [(line["way"], line["seed"]) for line in read_lines(out)]
    judge = Judge.of(digits(Size(SIDE, SIDE)), JUDGED)
    wanted = [(way, seed) for seed in range(seeds) for way in WAYS]
    for way, seed in track([one for one in wanted if one not in done], description=out.name):
        append_line(out, {"way": way, "seed": seed, "points": train(way, seed, judge), "conditions": conditions()})


def show(out: Path) -> None:
    """Print a table of what a file holds."""
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for line in read_lines(out):
        for point in line["points"]:
            found[line["way"], int(point["images"])].append(point)
    table = Table("G is told by", "images", "seeds", "kernel distance", "of their class", "variety within classes")
    for (way, images), points in found.items():
        figures = (mean_and_range([point[name] for point in points]) for name in ("kernel", "right", "variety"))
        table.add_row(way, f"{images:,}", str(len(points)), *figures)
    Console(width=120).print(table)


if __name__ == "__main__":
    run_seeds_command(run, show, Path("conditional_norm.jsonl"))
