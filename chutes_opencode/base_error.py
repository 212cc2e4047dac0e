"""What every error carries, and how it travels between processes."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Self, SupportsIndex, TypedDict, Unpack

from chutes_opencode.masking import mask

if TYPE_CHECKING:
    from chutes_opencode.results import QueryResult


class Details(TypedDict, total=False):
    """The keyword arguments that every error takes."""

    status: int | None
    response_body: str | None
    request_id: str | None
    model: str | None
    hint: str
    result: QueryResult | None


class OpenCodeError(Exception):
    """Base of all errors.

    Attributes:
        node_id: The machine (or Ray node) on which it happened.
        error_type: The kind in one word, stable, for logs and JSON.
        exit_code: opencode's exit code; negative: the signal; -1 when there was none.
        raw_message: What the provider or opencode said, secrets masked.
        status: HTTP status of the upstream answer, None if there was none or it was not told.
        response_body: Body of that answer, secrets masked.
        request_id: The provider's id of the request, for its support.
        model: The model that was asked.
        hint: What to do, in one sentence.
        result: The partial `QueryResult`: what was paid for is never lost.
    """

    default_error_type: ClassVar[str] = "error"
    default_hint: ClassVar[str] = "Run `chutes-opencode doctor`; it names what is wrong."

    def __new__(cls, *args: Any, **_details: Any) -> Self:
        """Make it; out of one of ours by a class of another's that stands for it, with its cause.

        Ray raises an error of a task as one of a class that it derives from the error's own and
        makes from the error alone.
        """
        error = super().__new__(cls, *args)
        if args and isinstance(args[0], OpenCodeError) and issubclass(cls, type(args[0])):
            error.__cause__ = args[0].__cause__
        return error

    def __init__(
        self,
        node_id: str = "unknown",
        error_type: str | None = None,
        exit_code: int = -1,
        raw_message: str = "",
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments and the fields of `Details` by keyword."""
        self.node_id = node_id
        self.error_type = error_type or self.default_error_type
        self.exit_code = exit_code
        self.raw_message = mask(raw_message)
        self.status = details.get("status")
        body = details.get("response_body")
        self.response_body = None if body is None else mask(body)
        request_id = details.get("request_id")
        self.request_id = None if request_id is None else mask(request_id)
        self.model = details.get("model")
        self.hint = details.get("hint") or self.default_hint
        self.result = details.get("result")
        super().__init__(f"{self.error_type} on {node_id}: {self.raw_message[:200]}")

    def place(self, node_id: str, model: str | None) -> None:
        """Say where it happened, and to which model; what is known of it already stays.

        Args:
            node_id: The machine.
            model: The model of the call, for an error that names none; None: there is none.
        """
        self.node_id = node_id
        self.model = self.model or model
        self.args = (f"{self.error_type} on {node_id}: {self.raw_message[:200]}",)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Pickle what a class of another's stands for: nobody else could find that class."""
        stands_for = self.__dict__.get("cause")
        if isinstance(stands_for, OpenCodeError) and isinstance(self, type(stands_for)):
            return stands_for.__reduce_ex__(protocol)
        return super().__reduce_ex__(protocol)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, so that a subclass with new fields needs no code of its own.

        The state travels apart from the constructor's arguments: `result.error` may be this very
        error, and only state may hold such a circle.
        """
        state = {"fields": dict(self.__dict__), "cause": _portable(self.__cause__)}
        return (_blank, (type(self), self.args), state)

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        """Take the fields and the cause back."""
        if state:
            self.__dict__.update(state["fields"])
            if state["cause"] is not None:
                self.__cause__ = state["cause"]


def _blank(cls: type[OpenCodeError], args: tuple[Any, ...]) -> OpenCodeError:
    """Make an error without running its constructor."""
    error = cls.__new__(cls)
    error.args = args
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    """Return a cause that pickles: itself, or a plain stand-in that says what it was."""
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))
    except Exception:  # noqa: BLE001 - whatever a foreign class raises, the error must travel
        return RuntimeError(mask(f"{type(cause).__name__}: {cause}"))
    return cause


class TypedError(OpenCodeError):
    """A class of the tree: its type is its own, so the seed's signature leaves it out."""

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments; the type is the class's."""
        super().__init__(node_id, None, exit_code, raw_message, **details)
