"""The command line: `fastdcgan VERB` and `python train.py`."""

from collections.abc import Sequence
from functools import partial

import tyro

from fastdcgan.cli import verbs
from fastdcgan.cli.endings import reported
from fastdcgan.cli.parsing import read

VERBS = {
    "to train": (verbs.train, verbs.generate),
    "your pictures": (verbs.data, verbs.pack),
    "a run's results": (verbs.report, verbs.evaluate, verbs.interpolate, verbs.profile),
    "other programs": (verbs.import_weights, verbs.export),
    "speed": (verbs.tune, verbs.roofline, verbs.scale),
    "this machine": (verbs.doctor,),
}
"""By what they are for, in the order in which they are met."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fastdcgan`."""
    groups = [f"  {purpose:<17}{', '.join(verb.__name__ for verb in group)}" for purpose, group in VERBS.items()]
    parse = partial(
        tyro.extras.subcommand_cli_from_dict,
        {verb.__name__: verb for group in VERBS.values() for verb in group},
        prog="fastdcgan",
        description="\n".join(["The fastest honest way to train a DCGAN.", *groups]),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    with reported():
        read(lambda registry: parse(registry=registry))()


def train_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `train.py`: the verb `train`, as launchers want it."""
    parse = partial(tyro.cli, verbs.train, prog="train.py", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    with reported():
        read(lambda registry: parse(registry=registry))()
