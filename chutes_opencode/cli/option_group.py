"""Options that several commands share: the fields of one dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any, get_type_hints

Command = Callable[..., None]


def grouped(command: Command) -> Command:
    """Return a command for Typer whose options are those of `command` and of its group.

    Args:
        command: A function of which one parameter is a dataclass: the group. Typer is shown the
            fields in that parameter's place, each with its `typer.Option`. (Its own form of this
            does not exist: it knows only the parameters of functions.)
    """
    hints: dict[str, Any] = get_type_hints(command, include_extras=True)
    name = next(name for name, hint in hints.items() if is_dataclass(hint))
    group = hints[name]
    shown: list[Parameter] = []
    for own in inspect.signature(command).parameters.values():
        shown += _options(group) if own.name == name else [own.replace(annotation=hints[own.name])]

    @wraps(command)
    def told(**given: Any) -> None:
        values = {each.name: given.pop(each.name) for each in fields(group)}
        command(**given, **{name: group(**values)})

    told.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=Parameter.KEYWORD_ONLY) for each in shown]
    )
    return told


def _options(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            each.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(group)
    ]
