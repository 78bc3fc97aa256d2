"""What a run can be asked for. The command line is generated from these dataclasses: their docstrings are its help.

`None` means "choose for me"; `TrainConfig.resolved()` makes those choices, so that what is written to `config.json`
has no open ends. The budget, and a batch for few pictures, are chosen in `training/run.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastdcgan.gan.architecture import Architecture, architecture

ObjectiveName = Literal["bce", "minimax", "hinge", "lsgan", "rpgan"]
RecipeName = Literal["dcgan", "fast", "small-data", "large-batch"]
MetricName = Literal["kernel", "frechet", "precision", "recall"]
AugmentName = Literal["colour", "translation", "cutout"]
PrecisionRequest = Literal["auto", "fp32", "bf16", "fp16"]
Fit = Literal["crop", "pad", "stretch"]

MAX_DATA_THREADS = 1024
"""More threads than the system grants would end the process in DALI, without a word."""

FEWEST_EVALUATED = 50
"""Pictures whose quality can be measured: of fewer every figure is noise."""

METRICS: tuple[MetricName, ...] = get_args(MetricName)

DEFAULT_METRIC: MetricName = "kernel"
"""Unbiased, so that few pictures will do."""

TRACKERS = ("tensorboard", "wandb", "trackio")

CHANGEABLE = {"changeable": True}
"""Marks a field that alters what is learned, but that a run may go on with another value of, by --from-step."""

DEFAULT_DATA = "faces"

UNKNOWN_DATA = "unknown"
"""Stands in config.json for the pictures that imported weights were trained on."""

FREE = {"identity": False}
"""Marks a field that may change between a run and its continuation: it does not alter what is learned per step."""

AS_BEFORE = {"as_before": True}
"""Marks a field whose default is what was done before there was such an option: a configuration without it has that."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The networks."""

    arch: str | None = None
    """dcgan28, dcgan64, dcgan96, dcgan128x64 ...: dcganR or dcganHxW for every size that pictures can have. Default:
    dcgan64; dcgan32 for cifar10, and for the embedded faces, which have to learn within minutes on a laptop; dcgan28
    for fashion-mnist."""

    resolution: int | str | None = None
    """Size of the pictures in pixels: 96 for squares, 128x64 (height x width) for rectangles. A side is 4 to 7 pixels
    doubled at least twice, and at most 512: 48, 64, 80, 96, 112, 128, 160, 192, 224, 256 ... Of a rectangle that is the
    shorter side, and the longer one is divisible as often and at most 4 times as long. Default: what the architecture's
    name says."""

    channels: int | None = None
    """1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for dcgan28 and for fashion-mnist."""

    width: int | None = None
    """Feature maps at the finest hidden level, doubling at each coarser one. Default: 64; 32 for dcgan28."""

    latent_dim: int | None = None
    """Size of the noise vector z. Default: 100; 50 for dcgan28."""

    conditional: bool = field(default=False, metadata=AS_BEFORE)
    """Learn the classes of the pictures, which their subfolders, a dataset.json or their data set name: G can then be
    told which one to draw. D is a projection discriminator (Miyato & Koyama 2018); in G a one-hot vector of the class
    stands beside the noise."""

    @classmethod
    def of(cls, arch: Architecture) -> "ModelConfig":
        """The request, without open ends, for a geometry."""
        return cls(
            arch=arch.name,
            resolution=arch.resolution.short,
            channels=arch.channels,
            width=arch.width,
            latent_dim=arch.latent_dim,
            conditional=bool(arch.classes),
        )

    def architecture(self) -> Architecture:
        """The geometry this asks for, without the classes of the data. Raises ValueError if there is none."""
        return architecture(
            self.arch or DEFAULTS.arch,
            resolution=self.resolution,
            channels=self.channels,
            width=self.width,
            latent_dim=self.latent_dim,
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The pictures."""

    data: str | None = None
    """A folder of images (searched recursively for JPEG, PNG, WebP, GIF, TIFF, AVIF ...), a .zip or .tar of images,
    in shards too (`'/photos/train-{000..127}.tar'`, in quotes; `*` too), or a .npy, .npz or folder of .npy; `cifar10`,
    `celeba` or `fashion-mnist`, which are downloaded, or `faces`: cartoon portraits drawn by this package.
    Default: faces; with --init-from the pictures of that run."""

    fit: Fit = field(default="crop", metadata=AS_BEFORE)
    """How pictures of another shape than the network's are brought to it. crop: scaled to cover it; what sticks out on
    both sides is cut off. pad: scaled to fit into it, with black borders (transparent ones for 4 channels). stretch:
    distorted. `fastdcgan data` says how much of the pictures each would cost."""

    flip: bool = False
    """Mirror each picture left to right with probability one half."""

    batch_size: int | None = None
    """The global batch: pictures an iteration, over all processes. Default: 128, but 16 to 64 for fewer than 19,200
    pictures, so that they are enough steps; 16 for the embedded faces."""

    drop_duplicates: bool = field(default=False, metadata=AS_BEFORE)
    """Leave out pictures that are copies of others, byte for byte. `fastdcgan data` counts them."""

    value_range: str = field(default="auto", metadata=AS_BEFORE)
    """Of .npy and .npz files: LO,HI are the values that become black and white; what lies outside is clipped. auto:
    bytes as they are, other numbers from their least to their greatest, without what lies far out."""

    decoder: Literal["auto", "dali", "pillow"] = field(default="auto", metadata=FREE)
    """Who decodes a folder's files: NVIDIA DALI where it is installed, else Pillow."""

    data_cache: Literal["auto", "on", "off"] = field(default="auto", metadata=FREE)
    """on: decode every picture once into a file of pixels in the cache folder, and read that ever after. auto: so where
    it takes no more than half of the disk's free space. off: decode a picture whenever it is read."""

    data_memory: float | None = field(default=None, metadata=FREE)
    """GiB of a GPU's memory that packed pictures may take; 0: none. Default: half of what is free."""

    data_threads: int | None = field(default=None, metadata=FREE)
    """Threads that decode pictures, per process. Default: as many as there are cores, at most 8."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """How the two networks learn from each other."""

    recipe: RecipeName | None = field(default=None, metadata=FREE)
    """Sets options that aren't named beside it. dcgan: none, they are the paper's. fast: --objective
    rpgan --lr 1.2e-3 --beta2 0.99 --ema-ramp 0.3. small-data: the last three, and --augment colour,translation,cutout.
    large-batch: those of fast, but --batch-size 16 times the usual, and --lr with its square root, up to 3.2e-3.
    Default: fast, with --flip --beta1 0.3 for the embedded faces; of a run begun by --init-from, that of the other
    one."""

    objective: ObjectiveName = "bce"
    """bce: the non-saturating loss, G maximises log D(G(z)). minimax: G minimises log(1 - D(G(z))). hinge. lsgan:
    least squares. rpgan: each fake picture is judged beside a real one; the recipe fast sets it. With --r1 and --r2
    it is R3GAN's (Huang et al. 2024)."""

    label_smoothing: float = field(default=0.0, metadata=CHANGEABLE)
    """One-sided: D's target for real pictures is 1 minus this. In [0, 0.5)."""

    lr: float = field(default=2e-4, metadata=CHANGEABLE)
    """Adam's learning rate, for both networks; the recipe fast sets 1.2e-3."""

    lr_g: float | None = field(default=None, metadata=AS_BEFORE | CHANGEABLE)
    """That of G alone. Default: that of both."""

    lr_d: float | None = field(default=None, metadata=AS_BEFORE | CHANGEABLE)
    """That of D alone: two time scales, Heusel et al. 2017. Default: that of both."""

    beta1: float = field(default=0.5, metadata=CHANGEABLE)
    """Adam's decay of the gradient's mean."""

    beta2: float = field(default=0.999, metadata=CHANGEABLE)
    """Adam's decay of the gradient's square; the recipe fast sets 0.99."""

    d_steps: int = field(default=1, metadata=AS_BEFORE)
    """Updates of D for one of G, each with a batch of pictures and noise of its own. A step is one update of G; all of
    its pictures count as images and towards epochs."""

    augment: str = field(default="none", metadata=AS_BEFORE)
    """Random changes of every picture that D sees, real or fake, so that it can't learn a few real ones by heart
    (DiffAugment, Zhao et al. 2020): colour, translation, cutout, joined by commas; or none."""

    spectral_norm: bool = field(default=False, metadata=AS_BEFORE)
    """Divide each of D's weights by its largest singular value, so that D is steep nowhere (Miyato et al. 2018). D then
    has no BatchNorm, which would undo it."""

    lecam: float = field(default=0.0, metadata=AS_BEFORE)
    """Weight of a term in D's loss that holds its logits near what they were on the other kind of pictures: where
    pictures are few, they run apart (LeCam, Tseng et al. 2021). 0: none."""

    r1: float = field(default=0.0, metadata=AS_BEFORE)
    """Weight gamma of the R1 penalty, which holds D flat around real pictures (Mescheder et al. 2018): gamma / 2 times
    the mean squared length of D's gradient there. 0: none."""

    r2: float = field(default=0.0, metadata=AS_BEFORE)
    """Weight of the R2 penalty: the same around G's pictures. 0: none."""

    r1_every: int = field(default=16, metadata=AS_BEFORE)
    """Steps between updates of D by these penalties, each as much stronger (Karras et al. 2020)."""

    ema: float = field(default=0.999, metadata=FREE)
    """Pictures are made with a moving average of G, which keeps this much of itself at each step; less at first, by
    its ramp. 0: with G itself. What is learned is the same."""

    ema_ramp: float = field(default=0.05, metadata=FREE)
    """The average's half-life is at most this part of the steps so far, in (0, 1]: it forgets how the run began.
    The recipe fast sets 0.3."""

    batch_norm: Literal["sync", "local"] = "sync"
    """What BatchNorm normalises over where there are several processes. sync: the global batch, so that what is learned
    does not depend on their number. local: each process's share, which saves an all-reduce a layer."""

    accumulate: int = field(default=1, metadata=CHANGEABLE)
    """Parts that the global batch is taken in, for less memory: gradients are averaged over them, and each network is
    updated once. BatchNorm normalises over a part."""

    def augmentation(self) -> tuple[AugmentName, ...]:
        """The names in `augment`, in the order of their use. Raises ValueError if there are others."""
        known: tuple[AugmentName, ...] = get_args(AugmentName)
        names = {name.strip() for name in self.augment.split(",")}
        if names == {"none"}:
            return ()
        if names - set(known):
            raise ValueError(f"--augment {self.augment}: must be {', '.join(known)}, joined by commas, or none")
        return tuple(name for name in known if name in names)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How a step is carried out. Nothing here changes what is computed, only how fast and how precisely."""

    device: str = field(default="auto", metadata=FREE)
    """auto: CUDA, else MPS, else the CPU; or cpu, cuda, mps, or cuda:N for one of several, counted from 0."""

    plan: Literal["auto", "default"] = field(default="auto", metadata=FREE)
    """Which of the ways to carry out a step is used here. auto: the one that a run was begun with, else the fastest as
    measured here before (`fastdcgan tune`), else, for a run of more than five minutes, it is measured now, in about
    half a minute. default: by the rules that --precision and --compile state."""

    precision: PrecisionRequest = "auto"
    """Autocast precision. auto: bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32; or the
    plan's."""

    compile: Literal["auto", "on", "step", "replay", "off"] = field(default="auto", metadata=FREE)
    """on: torch.compile both networks. step: the whole iteration, optimizers included, as one graph, replayed without
    launches on CUDA (not for fp16): predicted to be the fastest on GPUs, but not measured there yet. replay: nothing is
    compiled; the iteration is recorded once and repeated, on CUDA as a graph (not fp16). auto: on for CUDA; on CPUs,
    where Inductor's BatchNorm measured slower than eager's, replay for one process with our own kernels. off: an
    operator at a time."""

    compress_gradients: Literal["off", "bf16"] = "off"
    """What gradients cross between processes as. bf16: half the bytes, for a slow network; they are rounded and added
    up as bf16. off: as they are."""

    exact_ranks: int | None = field(default=None, metadata=FREE)
    """A power of two. The same bits come out on 1, 2, 4 ... processes up to this many: every sum over a batch is taken
    in one order. For CPUs, in fp32, with one thread a process and PyTorch's kernels, so slower. Default: sums are taken
    as is fastest, and a step's last bits differ."""

    threads: int | None = field(default=None, metadata=FREE)
    """Threads for arithmetic on a CPU, per process. Default: OMP_NUM_THREADS, else this process's share of the
    cores."""

    rank_timeout: float = field(default=300.0, metadata=FREE)
    """Seconds after which a process that no longer answers the others is given up, and the run ends with an error."""

    def check_device(self) -> None:
        """Whether it is a name of a device, here or elsewhere. Raises ValueError if it isn't."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,3}))?", self.device):
            raise ValueError(f"--device {self.device}: must be auto, cpu, cuda, cuda:N (cuda:0, cuda:1 ...) or mps")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run: how long, where to, and what to keep."""

    out: Path | None = field(default=None, metadata=FREE)
    """The run's folder. Default: runs/<date>-<arch>."""

    images: int | None = field(default=None, metadata=FREE)
    """Stop after this many training images (rounded up to a whole batch). Default: as many as --epochs says."""

    epochs: int | None = field(default=None, metadata=FREE)
    """Stop after this many passes over the data. Default: 20, or as many as give 50,000 images if that is more, unless
    --images is given; the embedded faces have a budget of a few minutes. A run that was begun without either keeps its
    budget."""

    seed: int = 0
    """Initial weights, noise and the order of the data are functions of this."""

    init_from: str | None = field(default=None, metadata=FREE)
    """Begin a new run with the weights of another one: RUN, its newest checkpoint; RUN@STEP or RUN@best. The networks
    must be of one size; all else may differ. Default: new weights."""

    fresh_optimizer: bool = field(default=False, metadata=FREE)
    """With --init-from: without Adam's moments of that run."""

    from_step: str | None = field(default=None, metadata=FREE)
    """Go on in the run's folder from the checkpoint of this step, or latest: learning rate, betas, label smoothing and
    parts of a batch may be others from there on. What came after that step is set aside. Default: the newest
    checkpoint, with the options that it was trained with."""

    resume: Literal["auto", "off"] = field(default="auto", metadata=FREE)
    """auto: go on from the last checkpoint in --out if there is one. off: refuse a folder that already holds a run."""

    log_every: int = field(default=10, metadata=FREE)
    """Steps between lines in metrics.jsonl. Numbers leave the device only then."""

    sample_every: int | None = field(default=None, metadata=FREE)
    """Steps between sample grids. Default: about 20 grids a run."""

    checkpoint_every: int | None = field(default=None, metadata=FREE)
    """Steps between checkpoints. Default: about 10 a run, and at least every 1,000 steps."""

    evaluate_every: int | None = field(default=None, metadata=FREE)
    """Steps between measurements of how near pictures come to the training pictures, each with a checkpoint; the best
    of these is kept. Needs the extra `metrics`, and some 10 ms a picture on a CPU. Default: never."""

    evaluate_images: int = field(default=1000, metadata=FREE)
    """Pictures that are measured then, against as many real ones."""

    metric: MetricName | None = field(default=None, metadata=FREE)
    """Which of the measured figures says which checkpoint is the best: kernel or frechet, distances of which the least
    counts; precision or recall, of which the greatest. frechet needs more than 1,280 pictures. Default: kernel; for a
    run that goes on, what it had."""

    keep_checkpoints: int = field(default=3, metadata=FREE)
    """How many of the newest checkpoints to keep. Damaged ones don't count."""

    keep_every: int | None = field(default=None, metadata=FREE)
    """Keep the checkpoints whose step is a multiple of this, too. Default: none."""

    on_nan: Literal["stop", "rollback"] = field(default="stop", metadata=FREE)
    """When a loss or a gradient is NaN or infinite. stop: end with an error that says where. rollback: go back to the
    last checkpoint, and on with new noise."""

    rollbacks: int = field(default=3, metadata=FREE)
    """How often a run may do so."""

    track: str = field(default="tensorboard", metadata=FREE)
    """Where figures and sample grids also go, joined by commas: tensorboard (event files in the run's folder), wandb,
    trackio (which need the extras of these names; neither needs a network or an account). none: nowhere."""

    track_checkpoints: bool = field(default=False, metadata=FREE)
    """Also send each checkpoint to wandb or trackio, as a version of the run's model: weights and moments, as large as
    in the run's folder, of which older ones are not removed there."""

    quiet: bool = field(default=False, metadata=FREE)
    """Say only how it ended, and what went wrong. All else is in the run's run.log, as always."""

    profile: bool = field(default=False, metadata=FREE)
    """Record some steps with PyTorch's profiler, into the run's folder: traces for Perfetto and TensorBoard, memory,
    the costliest operators, and what binds the step."""

    profile_wait: int = field(default=10, metadata=FREE)
    """Steps before the profiler warms up: the first ones compile, and read ahead."""

    profile_warmup: int = field(default=3, metadata=FREE)
    """Steps that the profiler watches without recording them, as its own first ones are slow."""

    profile_active: int = field(default=5, metadata=FREE)
    """Steps that are recorded: 1 to 2 MB each, 0.1 MB compressed."""

    @property
    def best_by(self) -> MetricName:
        """The figure that says which checkpoint is the best."""
        return self.metric or DEFAULT_METRIC

    def trackers(self) -> tuple[str, ...]:
        """The names in `track`. Raises ValueError if there are others."""
        names = tuple(dict.fromkeys(name.strip() for name in self.track.split(",")))
        if names == ("none",):
            return ()
        for name in names:
            if name not in TRACKERS:
                raise ValueError(f"--track {self.track}: must be {', '.join(TRACKERS)}, joined by commas, or none")
        return names


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a DCGAN."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def resolved(self) -> "TrainConfig":
        """Every `None` that depends on the request alone replaced by its default, after checking all values.

        Raises:
            ValueError: naming the option, its value, and what it may be.
        """
        self._check()
        data = self.data.data or DEFAULT_DATA
        defaults = defaults_for(self)
        # Who names a resolution alone gets the network for it.
        name = self.model.arch or (defaults.arch if self.model.resolution is None else DEFAULTS.arch)
        arch = replace(self.model, arch=name, channels=self.model.channels or defaults.channels).architecture()
        return replace(
            self,
            model=replace(ModelConfig.of(arch), conditional=self.model.conditional),
            data=replace(self.data, data=data, batch_size=self.data.batch_size or defaults.batch_size),
            recipe=replace(self.recipe, recipe=self.recipe.recipe or "dcgan"),
        )

    @property
    def images_a_step(self) -> int:
        """Real pictures that a step takes, over all processes: a batch for each update of D. For a resolved request."""
        assert self.data.batch_size is not None, "the configuration is not resolved"
        return self.data.batch_size * self.recipe.d_steps

    @property
    def parts_a_step(self) -> int:
        """Parts that a step's pictures are taken in, one after the other: micro-batches of D's updates."""
        return self.recipe.d_steps * self.recipe.accumulate

    def _check(self) -> None:
        at_least_one = {
            "--batch-size": self.data.batch_size,
            "--accumulate": self.recipe.accumulate,
            "--d-steps": self.recipe.d_steps,
            "--r1-every": self.recipe.r1_every,
            "--data-threads": self.data.data_threads,
            "--threads": self.execution.threads,
            "--images": self.run.images,
            "--epochs": self.run.epochs,
            "--log-every": self.run.log_every,
            "--sample-every": self.run.sample_every,
            "--checkpoint-every": self.run.checkpoint_every,
            "--evaluate-every": self.run.evaluate_every,
            "--keep-checkpoints": self.run.keep_checkpoints,
            "--profile-active": self.run.profile_active,
            "--keep-every": self.run.keep_every,
            "--rollbacks": self.run.rollbacks,
        }
        for label, number in at_least_one.items():
            if number is not None and number < 1:
                raise ValueError(f"{label} {number}: must be at least 1")
        for label, number in (
            ("--profile-wait", self.run.profile_wait),
            ("--profile-warmup", self.run.profile_warmup),
        ):
            if number < 0:
                raise ValueError(f"{label} {number}: must be at least 0")
        if self.run.evaluate_images < FEWEST_EVALUATED:
            raise ValueError(f"--evaluate-images {self.run.evaluate_images}: must be at least {FEWEST_EVALUATED}")
        if (self.data.data_threads or 1) > MAX_DATA_THREADS:
            raise ValueError(f"--data-threads {self.data.data_threads}: must be at most {MAX_DATA_THREADS:,}")
        if self.run.images is not None and self.run.epochs is not None:
            raise ValueError("--images and --epochs are two ways to say how long to train: give one")
        if self.run.fresh_optimizer and self.run.init_from is None:
            raise ValueError("--fresh-optimizer says what not to take over by --init-from: name a run there")
        step = self.run.from_step
        if step is not None and step != "latest" and not (step.isascii() and step.isdecimal()):
            raise ValueError(f"--from-step {step}: must be the step of a checkpoint, or latest")
        if step is not None and self.run.out is None:
            raise ValueError(f"--from-step {step} goes on in a run: name its folder by --out")
        if not 0 <= self.run.seed < 2**63:
            raise ValueError(f"--seed {self.run.seed}: must be at least 0 and below 2**63")
        memory = self.data.data_memory
        if memory is not None and not 0 <= memory < float("inf"):
            raise ValueError(f"--data-memory {memory}: must be at least 0")
        timeout = self.execution.rank_timeout
        if not 1 <= timeout <= 86_400:
            raise ValueError(f"--rank-timeout {timeout}: must be at least 1 second and at most a day")
        recipe = self.recipe
        for label, rate in (("--lr", recipe.lr), ("--lr-g", recipe.lr_g), ("--lr-d", recipe.lr_d)):
            if rate is not None and not 0 < rate < float("inf"):
                raise ValueError(f"{label} {rate}: must be above 0")
        for label, beta in (("--beta1", recipe.beta1), ("--beta2", recipe.beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{label} {beta}: must be at least 0 and below 1")
        if not 0 <= recipe.ema < 1:
            raise ValueError(f"--ema {recipe.ema}: must be at least 0 and below 1")
        if not 0 < recipe.ema_ramp <= 1:
            raise ValueError(f"--ema-ramp {recipe.ema_ramp}: must be above 0 and at most 1")
        if not 0 <= recipe.label_smoothing < 0.5:
            named = recipe.label_smoothing
            meant = f"; for real labels of {named:g} it is {1 - named:g}" if 0.5 < named <= 1 else ""
            raise ValueError(f"--label-smoothing {named}: must be at least 0 and below 0.5{meant}")
        if recipe.label_smoothing and recipe.objective in ("hinge", "rpgan"):
            raise ValueError(
                f"--label-smoothing has no meaning for --objective {recipe.objective}, which has no labels"
            )
        recipe.augmentation()
        for label, weight in (("--r1", recipe.r1), ("--r2", recipe.r2), ("--lecam", recipe.lecam)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{label} {weight}: must be at least 0")
        parse_value_range(self.data.value_range)
        self.execution.check_device()
        self._check_exactness()
        trackers = self.run.trackers()
        if self.run.track_checkpoints and not {"wandb", "trackio"} & {*trackers}:
            raise ValueError(
                f"--track-checkpoints: needs what keeps them, as with --track {','.join((*trackers, 'wandb'))}"
            )
        self.model.architecture()

    def _check_exactness(self) -> None:
        shares, precision = self.execution.exact_ranks, self.execution.precision
        if shares is None:
            return
        if shares < 1 or shares & (shares - 1):
            raise ValueError(f"--exact-ranks {shares}: must be a power of two: 1, 2, 4, 8 ...")
        for said, what in (
            (precision not in ("auto", "fp32"), f"--precision {precision}"),
            (self.execution.compile not in ("auto", "off"), f"--compile {self.execution.compile}"),
            (self.execution.compress_gradients != "off", f"--compress-gradients {self.execution.compress_gradients}"),
            (self.recipe.batch_norm == "local", "--batch-norm local"),
            (self.model.conditional, "--conditional"),
            (self.recipe.spectral_norm, "--spectral-norm"),
            (self.recipe.r1 > 0, f"--r1 {self.recipe.r1}"),
            (self.recipe.r2 > 0, f"--r2 {self.recipe.r2}"),
            (self.recipe.lecam > 0, f"--lecam {self.recipe.lecam}"),
            ((self.execution.threads or 1) > 1, f"--threads {self.execution.threads}"),
        ):
            if said:
                raise ValueError(f"--exact-ranks {shares} does not go with {what}")


def parse_value_range(text: str) -> tuple[float, float] | None:
    """--value-range: None for auto. Raises ValueError."""
    if text == "auto":
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = float("nan")
    if not float("-inf") < low < high < float("inf"):
        raise ValueError(f"--value-range {text}: must be auto or LO,HI, two numbers, the lower one first")
    return low, high


@dataclass(frozen=True, kw_only=True)
class DataDefaults:
    """What is chosen, depending on the data, where the user chose nothing."""

    arch: str
    batch_size: int
    """Less for few pictures (`batch_for_few`)."""

    images: int | None
    """None: by how many pictures there are (`Schedule.of`)."""

    channels: int | None = None
    with_recipe: Mapping[str, Any] = field(default_factory=dict)
    """Options beside the recipe's, if none is named."""


DEFAULTS = DataDefaults(arch="dcgan64", batch_size=128, images=None)

# Faces within minutes on two old CPU cores: 32x32 is a sixth of the work, and small batches are more updates.
# A mirrored face is a face. With this beta1 batches of 16 are better, and batches of 128 worse (docs/recipes.md).
FACES_DEFAULTS = DataDefaults(arch="dcgan32", batch_size=16, images=36_000, with_recipe={"flip": True, "beta1": 0.3})

NAMED_DEFAULTS = {
    "faces": FACES_DEFAULTS,
    "cifar10": replace(DEFAULTS, arch="dcgan32"),
    "fashion-mnist": replace(DEFAULTS, arch="dcgan28", channels=1),
}
"""By the name of the data; `DEFAULTS` for all others."""


def defaults_for(request: TrainConfig) -> DataDefaults:
    """Those of a request's data."""
    return NAMED_DEFAULTS.get(request.data.data or DEFAULT_DATA, DEFAULTS)


DEFAULT_RECIPE: RecipeName = "fast"

_FASTER = {"lr": 1.2e-3, "beta2": 0.99, "ema_ramp": 0.3}

LARGE_BATCHES = 16
"""Usual batches in one of `large-batch`: faces in 64 soon stopped getting better (docs/recipes.md)."""

_HIGHEST_RATE = 3.2e-3
"""Of `large-batch`: with twice it, or 1.5 times it in wide networks, faces came to less (docs/recipes.md)."""


def set_by_default(request: TrainConfig, begun: TrainConfig | None = None) -> dict[str, Any]:
    """The options that a request's recipe sets where they aren't named; they may depend on those that are.

    Args:
        request: all that is named.
        begun: the configuration of the run that it goes on with or begins with, if there is one: if no recipe is
            named, its recipe stays, and what that set, also if the recipe sets something else today.
    """
    if request.recipe.recipe is not None:
        return set_by_recipe(request)
    name = (begun.recipe.recipe or "dcgan") if begun else DEFAULT_RECIPE
    smoothing = 0.0 if begun else request.recipe.label_smoothing  # a begun run keeps its objective, whatever is named
    recipe = replace(request.recipe, recipe=name, label_smoothing=smoothing)
    values = set_by_recipe(replace(request, recipe=recipe))
    if name == DEFAULT_RECIPE:
        values |= defaults_for(request).with_recipe
    own = flat(begun) if begun else values
    return {"recipe": name, **{option: own[option] for option in values}}


def set_by_recipe(request: TrainConfig) -> dict[str, Any]:
    """The options that a request's recipe sets, by their names."""
    # A loss of pairs has no labels to smooth.
    pairs = {} if request.recipe.label_smoothing else {"objective": "rpgan"}
    match request.recipe.recipe:
        case "fast":
            return {**pairs, **_FASTER}
        case "small-data":
            return {"augment": "colour,translation,cutout", **_FASTER}
        case "large-batch":
            usual = defaults_for(request).batch_size
            batch = request.data.batch_size or LARGE_BATCHES * usual
            rate = min(_FASTER["lr"] * max(1.0, batch / usual) ** 0.5, _HIGHEST_RATE)
            return {**pairs, **_FASTER, "batch_size": batch, "lr": float(f"{rate:.3g}")}
        case "dcgan" | None:
            return {}


def with_values(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """A configuration with other values, by the options' names."""
    return from_flat({**flat(config), **values})


def describe_recipe(config: TrainConfig) -> str:
    """What a recipe set, and what was named otherwise beside it; empty for the paper's."""
    ours, values = flat(config), set_by_recipe(config)
    parts = [_as_option(name, values[name]) for name in values if ours[name] == values[name]]
    if config.recipe.recipe == DEFAULT_RECIPE:
        beside = defaults_for(config).with_recipe
        parts += [_as_option(name, value) for name, value in beside.items() if ours[name] == value]
    if named := [_as_option(name, ours[name]) for name in values if ours[name] != values[name]]:
        parts.append(f"but {', '.join(named)}, as you named it")
    return f"{config.recipe.recipe}: {', '.join(parts)}" if parts else ""


def _as_option(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def flat(config: TrainConfig) -> dict[str, Any]:
    """Option name -> value over all groups, paths as text: what the user can say, as the user says it."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for group in asdict(config).values()
        for name, value in group.items()
    }


def from_flat(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `flat`, of this version or an earlier one.

    An option that is missing though it is free, or marked `AS_BEFORE`, came later than the table was written, and has
    its default: nothing learned depends on it, or it is what was done before.

    Raises:
        ValueError: for any other field that is missing, or one that is unknown or of another kind.
    """
    if not isinstance(values, dict):
        raise ValueError(f"the configuration is not a table of options but {_shown(values)}")
    if isinstance(values.get("out"), str):
        values = {**values, "out": Path(values["out"])}
    groups: dict[str, Any] = {}
    rest = dict(values)
    if "track" not in rest and isinstance(tensorboard := rest.pop("tensorboard", None), bool):
        rest["track"] = "tensorboard" if tensorboard else "none"
    for group in fields(TrainConfig):
        cls = GROUPS[group.name]
        missing = [
            f.name
            for f in fields(cls)
            if f.name not in rest and f.metadata.get("identity", True) and not f.metadata.get("as_before")
        ]
        if missing:
            raise ValueError(f"the configuration lacks {', '.join(missing)}")
        known = {name: kind for name, kind in get_type_hints(cls).items() if name in rest}
        if wrong := [name for name, kind in known.items() if not _is_of(rest[name], kind)]:
            may_be = _described(known[wrong[0]])
            raise ValueError(f"the configuration's {wrong[0]} can't be {_shown(rest[wrong[0]])}: it is {may_be}")
        groups[group.name] = cls(**{name: rest.pop(name) for name in known})
    if rest:
        raise ValueError(f"the configuration has unknown fields {', '.join(sorted(rest))}")
    return TrainConfig(**groups)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is what a field is declared to be; whole numbers will do for others."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) in UNIONS:
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is Path:
        return isinstance(value, Path)
    # not isinstance: True is an int to it
    return type(value) is kind or (kind is float and type(value) is int)


def _described(kind: Any) -> str:
    """What a field is declared to be, for people."""
    if get_origin(kind) in (Literal, *UNIONS):
        parts = [one if get_origin(kind) is Literal else _described(one) for one in get_args(kind)]
        return f"{', '.join(parts[:-1])} or {parts[-1]}"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}
    return names.get(kind, "None")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


UNIONS = (UnionType, Union)
"""What `int | None` is of, and what `Literal[...] | None` is of before Python 3.14."""

GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "recipe": RecipeConfig,
    "execution": ExecutionConfig,
    "run": RunConfig,
}


def differing_fields(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Options in which two runs differ so that one cannot go on from the other, as `--lr: 0.0002, now 0.001`."""
    ours, theirs = flat(old), flat(new)
    return [f"--{name.replace('_', '-')}: {ours[name]}, now {theirs[name]}" for name in differing_names(old, new)]


def differing_names(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The names of the fields that `differing_fields` describes."""
    ours, theirs = flat(old), flat(new)
    identity = [f.name for group in GROUPS.values() for f in fields(group) if f.metadata.get("identity", True)]
    return [name for name in identity if ours[name] != theirs[name]]


def may_change(name: str) -> bool:
    """Whether a run may go on with another value of a field, by --from-step."""
    return any(f.name == name and f.metadata.get("changeable") for group in GROUPS.values() for f in fields(group))
