"""fastdcgan: the fastest honest way to train a DCGAN. What its packages are for, from the bottom up:

storage      files written whole or not at all, checksums, strict JSON, the cache folder, signals
gan          the DCGAN: geometry, networks, losses, the training step, and the reference that specifies them
kernels      C++ for CPUs and the modules that use it; BatchNorm over several processes
execution    how a step is executed: the plan, and what carries it out
limits       how fast it could be: this machine's ceilings, predictions for GPUs and for many of them
tuning       the measured choice of a plan: parity with the reference, timing in turns
data         where pictures come from: one file a source, behind one protocol
distributed  several processes: joining them through Accelerate, collectives, what they must agree on
runs         a run's folder, lock and checkpoints, and pictures made from them
evaluation   how near generated pictures come to real ones: features, distances, their records
telemetry    what a run shows: the terminal, the report, profiles, trackers
training     a whole run, composed of the above: resolve, join, validate, open, build, fit
doctor       what is here to train with, what is used, what is broken
export       a run's networks for other programs, and from them: ONNX, torch.export, the Hub, PyTorch's tutorial
api          all of that from Python: `train`, `Run`, `Generator`, `open_data`, as docs/api.md shows them

`private_torch` has all that is used of PyTorch's private names, and the versions it was checked with; `device` how to
copy to a GPU without waiting for it. `config` is what a run can be asked for, `cli` the verbs. docs/architecture.md
follows an image and an option through.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

if TYPE_CHECKING:
    from fastdcgan.api.data import open_data as open_data
    from fastdcgan.api.generator import Generator as Generator
    from fastdcgan.api.run import Run as Run
    from fastdcgan.api.training import StopTraining as StopTraining
    from fastdcgan.api.training import Tick as Tick
    from fastdcgan.api.training import train as train
    from fastdcgan.config import TrainConfig as TrainConfig

__version__ = "0.1.0"

_HOMES = {
    "train": "fastdcgan.api.training",
    "Tick": "fastdcgan.api.training",
    "StopTraining": "fastdcgan.api.training",
    "Run": "fastdcgan.api.run",
    "Generator": "fastdcgan.api.generator",
    "open_data": "fastdcgan.api.data",
    "TrainConfig": "fastdcgan.config",
}
"""Where each public name is. They are imported when they are first used: PyTorch alone takes seconds."""

__all__ = ["Generator", "Run", "StopTraining", "Tick", "TrainConfig", "open_data", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with catch_warnings():  # in a notebook without ipywidgets Accelerate's progress bars, which aren't used, regret it
        filterwarnings("ignore", "IProgress not found")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
