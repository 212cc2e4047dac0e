"""The parts of an estimate: ranges of tokens and dollars, and the models that are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from chutes_opencode.catalog.catalog import Catalog
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.names import qualified, renamed
from chutes_opencode.errors import ConfigurationError, ModelNotFoundError

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM


@dataclass(frozen=True, slots=True)
class Range:
    """A number that is not known exactly.

    Attributes:
        low: Hardly less.
        expected: What it will be near to.
        high: Hardly more.
    """

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    def __add__(self, other: Range) -> Range:
        """Add end to end."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    @classmethod
    def sum(cls, ranges: Iterable[Range]) -> Range:
        """Add several."""
        return sum(ranges, Range())

    @classmethod
    def cost(cls, tokens_in: Range, tokens_out: Range, price: Price) -> Self:
        """Return the US dollars of tokens."""

        def dollars(count_in: float, count_out: float) -> float:
            return (count_in * price.input + count_out * price.output) / 1e6

        return cls(
            dollars(tokens_in.low, tokens_out.low),
            dollars(tokens_in.expected, tokens_out.expected),
            dollars(tokens_in.high, tokens_out.high),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that a batch asks for.

    Attributes:
        name: As it is written in the batch, or the instance's own.
        model: What that means; None: the provider has no such model.
        missing: Why it has not; "": it has.
        suggestions: Ids of models to ask for instead.
        renamed_to: Its new id; the old one is understood for a while.
        lacks_tools: Whether it is known to take no tools, though there are some.
    """

    name: str
    model: Model | None = None
    missing: str = ""
    suggestions: tuple[str, ...] = ()
    renamed_to: str = ""
    lacks_tools: bool = False

    @property
    def id(self) -> str:
        """The id that is sent; "": there is none."""
        return "" if self.model is None else self.model.id


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What one model's tasks will use; the numbers of `Estimate`.

    Attributes:
        asked: The model.
        tasks: How many tasks ask it.
        input_tokens: Of all of them that can be sent.
        output_tokens: The same.
        cost_usd: US dollars; None: its price is unknown.
        overhead_tokens: What opencode adds to each prompt; part of `input_tokens`.
        too_long: Ids of the first items that do not fit its context.
        too_long_count: How many do not.
        refused: The first items that cannot be sent, each with the reason.
        refused_count: How many cannot; no number above is about them.
    """

    SHOWN: ClassVar[int] = 5

    asked: Asked
    tasks: int
    input_tokens: Range
    output_tokens: Range
    cost_usd: Range | None
    overhead_tokens: int
    too_long: tuple[str, ...] = ()
    too_long_count: int = 0
    refused: tuple[str, ...] = ()
    refused_count: int = 0


class AskedModels:
    """Looks up the models of a batch, each once.

    Attributes:
        problems: What is wrong with the list itself, a sentence each.
    """

    def __init__(self, llm: ChutesOpenCodeLLM) -> None:
        """Fetch the list, if it is old; without a network an old one, or none, will do."""
        options = llm.options
        self._catalog = Catalog(options.provider, settings=llm.settings)
        self._own = options.model or llm.settings.default_model
        self._has_tools = bool(options.builtin_tools or options.tools)
        self._has_tools &= options.engine != "direct"
        self._listing = self._catalog.models()
        self._known: dict[str, Asked] = {}
        self.problems = self._listing.problems

    def get(self, name: str | None) -> Asked:
        """Return what a model string means.

        Args:
            name: As the batch has it; None or "": the instance's own.

        Raises:
            ConfigurationError: Neither names one.
        """
        asked = name or self._own
        if not asked or not asked.strip():
            provider = self._catalog.provider.id
            names = ", ".join(qualified(provider, model.id) for model in self._listing[:5])
            raise ConfigurationError(
                raw_message="no model is named" + (f"; there are for example {names}"),
                hint="Name one with --model (model=), or a `model` in each item.",
            )
        if asked not in self._known:
            self._known[asked] = self._look_up(asked)
        return self._known[asked]

    def _look_up(self, name: str) -> Asked:
        try:
            model = self._catalog.resolve(name)
        except ModelNotFoundError as error:
            return Asked(name, missing=error.raw_message, suggestions=error.suggestions)
        new = ""
        if "tee_renames" in self._catalog.provider.quirks:
            new = renamed(model.id, self._listing) or ""
        told = bool(model.features) or bool(model.price)
        lacks = self._has_tools and told and "tools" not in model.features
        return Asked(name, model, renamed_to=new, lacks_tools=lacks)
