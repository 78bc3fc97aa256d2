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

`private_torch` has all that is used of PyTorch's private names, and the versions it was checked with; `device` how to
copy to a GPU without waiting for it. `config` is what a run can be asked for, `cli` the verbs. docs/architecture.md
follows an image and an option through.
"""

__version__ = "0.1.0"
