"""What tyro makes of verbs and their options: paragraphs that fill their lines, and errors of one line."""

import inspect
import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache, partial, wraps
from itertools import groupby
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro
from rich.text import Text
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from fastdcgan.config import TrainConfig, set_by_default, with_values

Verb = Callable[..., None]

Parse = Callable[[ConstructorRegistry], Verb]
"""The command line, by how options are made from a verb's signature, and from the dataclasses in it."""


def _registry(recipe: dict[str, Any]) -> ConstructorRegistry:
    """How options are made, where a recipe sets some of their defaults."""
    registry = ConstructorRegistry()
    registry.struct_rule(partial(_options, recipe))
    return registry


def _options(recipe: dict[str, Any], info: StructTypeInfo) -> StructConstructorSpec | None:
    """The fields of a dataclass, or the parameters of a verb, with their docstrings as paragraphs.

    None stands for what is chosen for the user: the docstring ends with "Default: ", and what that is. tyro by itself
    would say "(default: None)", take the word None, and break lines where the docstring does.
    """
    described: Callable[..., Any] = info.type
    if not described.__module__.startswith("fastdcgan."):
        return None
    texts, kinds = _documented(described)
    fields = []
    for name, parameter in inspect.signature(described).parameters.items():
        default = getattr(info.default, name, parameter.default)
        if isinstance(default, TrainConfig) and recipe:
            default = with_values(default, recipe)
        kind, text = kinds[name], texts.get(name)
        if default is None and text:
            text, _, chosen = text.partition(" Default: ")
            said = tyro.conf.arg(help_behavior_hint=f"(default: {chosen.removesuffix('.')})")
            kind = Annotated[kind, tyro.conf.DisallowNone, said]
        fields.append(
            StructFieldSpec(
                name=name,
                type=kind,
                default=MISSING_NONPROP if default is parameter.empty else default,
                helptext=text,
            )
        )
    make = _for_later(described) if inspect.isfunction(described) else described
    return StructConstructorSpec(instantiate=make, fields=tuple(fields))


@cache
def _documented(described: Callable[..., Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Texts and types of the options, by name. tyro asks for each dataclass dozens of times."""
    parsed = docstring_parser.parse_from_object(described)
    texts = {option.arg_name: " ".join((option.description or "").split()) for option in parsed.params}
    return texts, get_type_hints(described, include_extras=True)


def _for_later(verb: Verb) -> Callable[..., Verb]:
    """What is read is called outside of tyro, which has errors of its own to tell."""

    @wraps(verb)
    def bound(**options: object) -> Verb:
        return partial(verb, **options)

    return bound


def read(parse: Parse) -> Verb:
    """Parse the command line: the verb with its options, ready to be called.

    A recipe is options that aren't named: those are known once the command line has been parsed, which is then parsed
    once more, with the recipe's values as their defaults.

    Raises:
        ValueError: it can't be understood, in one line.
        SystemExit: help was asked for, and has been printed.
    """
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            verb = parse(_registry({}))
            named = verb.keywords if isinstance(verb, partial) else {}
            request = None if named.get("run") else named.get("config")  # a run has its own recipe
            values = _set_by_default(request) if isinstance(request, TrainConfig) else {}
            return parse(_registry(values)) if values else verb
    except SystemExit as end:
        if not end.code:
            raise
    raise ValueError(_without_box(told.getvalue()))


def _set_by_default(request: TrainConfig) -> dict[str, Any]:
    """What a request's recipe sets; of a run that is gone on with or begun with, what its own did, if none is named."""
    if request.run.init_from is None and not (request.run.out and request.run.out.exists()):
        return set_by_default(request)
    from fastdcgan.runs.folder import begun_config  # loads torch

    return set_by_default(request, begun_config(request))


def _without_box(box: str) -> str:
    """tyro's complaint in a line: its message and what it suggests, without the help of options."""
    found = (re.fullmatch("[│ ] (.*?)│?", row) for row in Text.from_ansi(box).plain.splitlines())
    rows = [row[1].rstrip() for row in found if row]
    parts = []
    for is_rule, section in groupby(rows, key=lambda row: not row.strip("─-")):
        part = " ".join(row.strip() for row in section if not row.startswith(" " * 8))
        if not is_rule and not part.startswith(("Argument helptext", "For full helptext")):
            parts.append(part[:1].lower() + part[1:])
    message = "; ".join(parts).removeprefix("error parsing ")
    return re.sub(r"no type matching .*?<class '\w+'>: ", "", message)  # of int | None: what int says
