"""A folder in which datasets are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.items.dataset import BadItemsError, Dataset
from chutes_opencode.batch.items.lines import Layout
from chutes_opencode.batch.items.sources import open_source


class Desk:
    """A folder with room for a dataset's file and its spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "items.jsonl"

    def file(self, *rows: object, name: str = "data.jsonl") -> Path:
        """Write rows as JSON lines; text is a line as it stands."""
        path = self.folder / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def check(self, given: Any, layout: Layout | None = None, **options: Any) -> Dataset:
        source = open_source(given, options.pop("format", None))
        return Dataset.check(source, layout or Layout(), spool=self.spool, **options)

    def bad(self, given: Any, layout: Layout | None = None, **options: Any) -> BadItemsError:
        with pytest.raises(BadItemsError) as caught:
            self.check(given, layout, **options)
        return caught.value


def ids(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items()]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "prompt": f"p{number}"} for number in range(count)]
