"""What a look-up answers: the models, and how far they can be trusted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from chutes_opencode.catalog.comparison import Changes
from chutes_opencode.catalog.models import Model

Source = Literal["api", "cache", "fallback"]
"""Fetched for this very answer; kept from an earlier fetch; only what the registry names."""


@dataclass(frozen=True, slots=True)
class Listing(Sequence[Model]):
    """The models of a provider: a sequence of `Model` that knows where it is from.

    Attributes:
        models: The models that `model_filter` lets through.
        source: "api", "cache" or "fallback".
        age_s: Seconds since the list was fetched; None for a fallback.
        fetched_at: When that was, in seconds since 1970; None for a fallback.
        problems: What went wrong, a sentence each; empty when all is well.
        seconds: How long the look-up took.
        changes: For a refresh: what is different from the list before; None else, and where there
            was none before.
    """

    models: tuple[Model, ...] = ()
    source: Source = "fallback"
    age_s: float | None = None
    fetched_at: float | None = None
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    changes: Changes | None = None

    @overload
    def __getitem__(self, index: int) -> Model: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Model, ...]: ...

    def __getitem__(self, index: int | slice) -> Model | tuple[Model, ...]:
        """Return a model, or several as a tuple."""
        return self.models[index]

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.models)


@dataclass(frozen=True, slots=True)
class Difference:
    """What the provider lists now against what it listed before.

    Attributes:
        changes: False where nothing is different.
        since: When the earlier list was fetched, in seconds since 1970; None: there is none.
        problems: What went wrong, a sentence each.
    """

    changes: Changes = field(default_factory=Changes)
    since: float | None = None
    problems: tuple[str, ...] = ()


def describe_age(seconds: float) -> str:
    """Say an age as people do: "40 s", "12 min", "3.5 h", "9 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
