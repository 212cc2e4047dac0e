"""Answers that fit a schema: the instruction to the model, our own validation, the repair turn.

Pure, and the same on every engine. `jsonschema` and `pydantic` are imported on use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from chutes_opencode.errors import ConfigurationError, StructuredOutputError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
    from pydantic import BaseModel
    from referencing import Registry, Resource

INSTRUCTION = """\
Answer with one JSON value that is valid against the JSON Schema below. Write the JSON value only: \
no explanation before or after it, no code fence.

<json_schema>
{schema}
</json_schema>"""
"""What is appended to a prompt, an empty line between, when it has an output schema."""

REPAIR = """\
This answer does not fit the JSON Schema:

<answer>
{answer}
</answer>

What is wrong with it:
{errors}

{instruction}"""
"""The prompt of the repair turn. It repeats everything, so that it needs no session."""

# A model needs the first errors, not the ten thousandth; a message quotes the value it is about.
_MAX_ERRORS = 20
_MAX_ERROR_CHARS = 500

# Places in a text at which a JSON value is looked for: prose is full of brackets.
_MAX_STARTS = 200

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_START = re.compile(r"[{\[]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer came to.

    Attributes:
        value: The validated value: plain JSON, or an instance of the pydantic class.
        errors: What is wrong, one sentence each; empty: nothing is.
    """

    value: Any = None
    errors: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the answer fits."""
        return not self.errors

    def require(self, text: str) -> Any:
        """Return the value of the answer `text`.

        Raises:
            StructuredOutputError: It does not fit.
        """
        if self.errors:
            raise StructuredOutputError(
                raw_message="the answer does not fit the schema: " + "; ".join(self.errors[:3]),
                partial_text=text,
                validation_errors=self.errors,
            )
        return self.value


@dataclass(frozen=True, slots=True)
class Schema:
    """An output schema, checked.

    Attributes:
        json_schema: The JSON Schema.
        model: The pydantic class that it was made from, if any.
    """

    json_schema: Mapping[str, Any]
    model: type[BaseModel] | None = None

    @classmethod
    def from_any(cls, output_schema: object) -> Schema:
        """Take a JSON Schema (a dict) or a pydantic class.

        Raises:
            ConfigurationError: It is neither, or no valid JSON Schema.
        """
        if isinstance(output_schema, Schema):
            return output_schema
        if isinstance(output_schema, Mapping):
            return cls(_checked(output_schema))
        from pydantic import BaseModel

        if isinstance(output_schema, type) and issubclass(output_schema, BaseModel):
            return cls(_checked(_schema_of(output_schema)), output_schema)
        raise _bad(f"it must be a dict or a pydantic class, not {type(output_schema).__name__}")

    @property
    def instruction(self) -> str:
        """What tells the model the schema: `INSTRUCTION`, filled in."""
        return INSTRUCTION.format(schema=_dump(self.json_schema))

    def instruct(self, prompt: str) -> str:
        """Return `prompt` with the instruction after it."""
        return f"{prompt}\n\n{self.instruction}"

    def parse(self, text: str) -> Parsed:
        """Find the JSON value in an answer and validate it.

        The whole text, then each fenced block, then each balanced object or array is tried; the
        first that fits counts, else the first that is JSON is reported on.
        """
        first: Parsed | None = None
        for value in _candidates(text):
            parsed = self._validate(value)
            if parsed.ok:
                return parsed
            first = first or parsed
        return first or Parsed(errors=("the answer holds no JSON value",))

    def repair_prompt(self, text: str, errors: tuple[str, ...]) -> str:
        """Return the prompt that asks for a corrected answer.

        Args:
            text: The answer that does not fit.
            errors: What is wrong with it.
        """
        listed = "\n".join(f"- {error}" for error in errors)
        return REPAIR.format(answer=text, errors=listed, instruction=self.instruction)

    def _validate(self, value: Any) -> Parsed:
        try:
            errors = _schema_errors(self.json_schema, value)
            if errors or self.model is None:
                return Parsed(None if errors else value, errors)
            return _instance(self.model, value)
        except RecursionError:
            return Parsed(errors=("the answer is nested too deeply",))


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        return model.model_json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation, AttributeError) as error:
        raise _bad(f"{model.__name__} has no JSON Schema: {error}") from error


def _checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a schema that can be used, references included."""
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        text = _dump(schema)
        text.encode()  # a lone surrogate could not be sent
        copy: dict[str, Any] = json.loads(text)
        _validator_class(copy).check_schema(copy)
        _resolve_references(copy, _registry().resolver_with_root(_resource(copy)))
        _schema_errors(copy, None)
    except SchemaError as error:
        raise _bad(f"{error.json_path}: {error.message[:_MAX_ERROR_CHARS]}") from error
    except (TypeError, ValueError) as error:
        raise _bad(f"it is not JSON: {error}") from error
    except Unresolvable as error:
        raise _bad(f"a reference leads nowhere: {error}") from error
    except RecursionError as error:
        raise _bad("it refers to itself without end") from error
    return copy


def _resolve_references(node: Any, resolver: Any) -> None:
    """Look every reference up now: a validator would do so only when it comes by."""
    if isinstance(node, list):
        for item in node:
            _resolve_references(item, resolver)
    elif isinstance(node, dict):
        if isinstance(node.get("$id"), str):
            resolver = resolver.in_subresource(_resource(node))
        for key, item in node.items():
            if key == "$ref" and isinstance(item, str):
                resolver.lookup(item)
            elif key not in ("const", "enum", "default", "examples"):
                _resolve_references(item, resolver)


def _resource(schema: Mapping[str, Any]) -> Resource[Any]:
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    return Resource.from_contents(schema, default_specification=DRAFT202012)


def _registry() -> Registry[Any]:
    """The registry of the meta-schemas: a foreign `$ref` is not fetched from the network."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # has no types

    return cast("Registry[Any]", REGISTRY)


def _validator_class(schema: Mapping[str, Any]) -> type[Validator]:
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)


def _schema_errors(schema: Mapping[str, Any], value: Any) -> tuple[str, ...]:
    validator = _validator_class(schema)(schema, registry=_registry())
    found = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    return tuple(
        f"{error.json_path}: {error.message[:_MAX_ERROR_CHARS]}" for error in found[:_MAX_ERRORS]
    )


def _instance(model: type[BaseModel], value: Any) -> Parsed:
    from pydantic import ValidationError

    try:
        # From JSON text, so that a strict class takes what JSON can say of a date or a tuple.
        return Parsed(model.model_validate_json(json.dumps(value)))
    except ValidationError as error:
        return Parsed(
            errors=tuple(
                f"{_path(item['loc'])}: {item['msg'][:_MAX_ERROR_CHARS]}"
                for item in error.errors(include_url=False)[:_MAX_ERRORS]
            )
        )


def _path(location: tuple[int | str, ...]) -> str:
    """Spell a place as `jsonschema` does: `$.answers[0].text`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "$" + "".join(steps)


def _candidates(text: str) -> Iterator[Any]:
    for whole in (text, *(block[1] for block in _FENCE.finditer(text))):
        found, value = _load(whole)
        if found:
            yield value
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = 0
    for _ in range(_MAX_STARTS):
        start = _START.search(text, position)
        if start is None:
            return
        try:
            value, position = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            position = start.end()
        else:
            yield value


def _load(text: str) -> tuple[bool, Any]:
    try:
        return True, json.loads(text.strip(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False, None


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which are no JSON though Python reads them."""
    raise ValueError(f"{name} is not JSON")


def _dump(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, allow_nan=False)


def _bad(what: str) -> ConfigurationError:
    return ConfigurationError(raw_message=f"output_schema: {what}")
