"""The models that the simulator serves, and what a model string of a request means.

Rows come from `data/models.json`: a recorded answer of Chutes (fields missing or null as they
were) and the `sim/…` models. One `sim/fault/<name>` row for each fault is made from the first of
them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from chutes_opencode.simulator.faults import fault_names

Row = Mapping[str, Any]

FAULT_PREFIX = "sim/fault/"
_SIZE_PREFIX = "sim/size/"
_SUFFIXES = (":latency", ":throughput")
_DEFAULT_CONTEXT = 131_072


class ModelTable:
    """Rows by id, and the rules by which an id or a list of ids finds its rows."""

    def __init__(self, extra_rows: Iterable[Row] = ()) -> None:
        """Take the packaged rows, then `extra_rows`; a later row replaces an earlier namesake.

        Extra rows without a text as id (broken on purpose) are listed but cannot be asked for.
        """
        extra = tuple(extra_rows)
        replaced = {row.get("id") for row in extra if isinstance(row.get("id"), str)}
        self.rows: tuple[Row, ...] = (
            *(row for row in packaged_rows() if row["id"] not in replaced),
            *extra,
        )
        self._by_id = {row["id"]: row for row in self.rows if isinstance(row.get("id"), str)}

    def listing(self) -> dict[str, Any]:
        """Body of `GET /v1/models`."""
        return {"object": "list", "data": list(self.rows)}

    def find(self, name: str) -> Row | None:
        """Row of one id: as written, without `:latency`/`:throughput`, or with `-TEE` added."""
        if row := self._by_id.get(name):
            return row
        bare = name
        for suffix in _SUFFIXES:
            bare = bare.removesuffix(suffix)
        if bare.startswith(_SIZE_PREFIX) and bare not in self._by_id:
            return {**self._by_id["sim/size/1000"], "id": bare}
        return self._by_id.get(bare) or self._by_id.get(f"{bare}-TEE")

    def candidates(self, name: str) -> tuple[Row, ...]:
        """Rows that may serve a model string, in order; more than one for a comma list."""
        if row := self.find(name):
            return (row,)
        rows = (self.find(part.strip()) for part in name.split(","))
        return tuple(row for row in rows if row is not None)

    def chute(self, name: str) -> Row | None:
        """Row of a chute id or a model id."""
        by_chute = (row for row in self.rows if row.get("chute_id") == name)
        return next(by_chute, None) or self.find(name)


def context_length(row: Row) -> int:
    """Tokens of input that the model takes: context_length, else max_model_len."""
    return int(row.get("context_length") or row.get("max_model_len") or _DEFAULT_CONTEXT)


def prices(row: Row) -> tuple[float, float, float]:
    """USD for a million tokens of input, cached input and output; unknown prices are 0.

    Without a price of its own cached input costs what input costs.
    """
    pricing = row.get("pricing") or {}
    prompt = float(pricing.get("prompt") or 0.0)
    cached = pricing.get("input_cache_read")
    return (
        prompt,
        prompt if cached is None else float(cached),
        float(pricing.get("completion") or 0.0),
    )


@cache
def packaged_rows() -> Sequence[Row]:
    """Rows of the package's data file and one row for each fault."""
    text = resources.files(__package__).joinpath("data/models.json").read_text(encoding="utf-8")
    rows: list[Row] = json.loads(text)["data"]
    template = next(row for row in rows if row["id"] == "sim/echo")
    faults = (_fault_row(template, name) for name in fault_names())
    return (*rows, *faults)


def _fault_row(template: Row, name: str) -> Row:
    model = FAULT_PREFIX + name
    chute_id = str(uuid.uuid5(uuid.NAMESPACE_URL, model))
    sizes = {"context_length": 200_000, "max_model_len": 200_000, "max_output_length": 65_536}
    return {**template, **sizes, "id": model, "root": model, "chute_id": chute_id}
