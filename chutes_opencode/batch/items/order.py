"""The lines of a file in a random order, and rows without those that are known to be bad."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from chutes_opencode.batch.items.formats import MAX_LINE, Rows, json_row, raw_lines
from chutes_opencode.batch.items.sources import open_file

_Numbered = TypeVar("_Numbered", bound=tuple[Any, ...])


def without(rows: Iterable[_Numbered], numbers: Iterable[int]) -> Iterator[_Numbered]:
    """Yield rows but for some.

    Args:
        rows: Tuples that begin with a number, ascending.
        numbers: Those of the rows to leave out, ascending.
    """
    left_out = iter(numbers)
    next_one = next(left_out, None)
    for row in rows:
        while next_one is not None and next_one < row[0]:
            next_one = next(left_out, None)
        if row[0] != next_one:
            yield row


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """A random order of the lines of a file of JSON lines, in 16 bytes a line.

    Attributes:
        path: The file.
        offsets: Where each line begins, in this order.
        numbers: Its number, 1 for the file's first.
    """

    path: Path
    offsets: array[int]
    numbers: array[int]

    @classmethod
    def of(
        cls, path: Path, seed: int, *, left_out: Iterable[int] = (), limit: int | None = None
    ) -> RandomOrder:
        """Shuffle a file's lines; the same seed makes the same order.

        Args:
            path: The file.
            seed: Of the order.
            left_out: Numbers of lines to leave out, ascending; blank ones are no lines.
            limit: Lines to keep: the first ones of the order, whatever the limit is.

        Raises:
            ConfigurationError: It cannot be read.
        """
        offsets, numbers = array("Q"), array("Q")
        with open_file(path) as file:
            for number, offset, line in without(raw_lines(file, path.name), left_out):
                if line is not None and line.strip():
                    offsets.append(offset)
                    numbers.append(number)
        for values in (offsets, numbers):  # as many, by the same seed: in the same way
            random.Random(seed).shuffle(values)
            del values[len(values) if limit is None else limit :]
        return cls(path, offsets, numbers)

    def rows(self) -> Rows:
        """Yield the rows in this order.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        with open_file(self.path) as file:
            for offset, number in zip(self.offsets, self.numbers, strict=True):
                file.seek(offset)
                yield number, json_row(number, file.readline(MAX_LINE + 1))
