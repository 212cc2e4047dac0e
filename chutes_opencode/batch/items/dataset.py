"""A dataset, checked before anything is spent, and its tasks: streamed, in order or shuffled."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Unpack

import orjson

from chutes_opencode.base_error import Details
from chutes_opencode.batch.fingerprints import Fingerprints, fingerprint
from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.items.formats import Row, json_rows
from chutes_opencode.batch.items.layout import Layout, check_columns
from chutes_opencode.batch.items.lines import BadRowError, parse_row
from chutes_opencode.batch.items.openai_lines import RequestLineError, is_request, item_row
from chutes_opencode.batch.items.order import RandomOrder, without
from chutes_opencode.batch.items.sources import Source, open_file
from chutes_opencode.batch.items.spool import Spool
from chutes_opencode.errors import ConfigurationError

KEPT_BAD_ROWS = 100
"""Bad rows of which the reason is kept; all are counted."""

NAMED_BAD_ROWS = 10
# A file of which so many rows, from its first on, are no items is not read on to its end.
HOPELESS_ROWS = 1000
MAX_COLUMNS = 1000
PROGRESS_ROWS = 1000


class BadItemsError(ConfigurationError):
    """Rows of a dataset are no items; nothing has been spent.

    Attributes:
        bad: The first of them.
        count: How many there are.
    """

    default_hint = "Correct them, or leave them out with --skip-bad."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        bad: tuple[BadRowError, ...] = (),
        count: int = 0,
        **details: Unpack[Details],
    ) -> None:
        """Take the arguments of all errors, then the rows."""
        self.bad = tuple(bad)
        self.count = count
        super().__init__(node_id, exit_code, raw_message, **details)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that was read once from end to end.

    Attributes:
        source: Where the rows are read again: what was given, or the file they were kept in.
        layout: How they become items.
        models: Models that each item is asked for; none: the instance's.
        samples: How often.
        shuffle: Seed of the order; None: the order of the source.
        count: Items, `limit` considered.
        task_count: Prompts: items x models x samples; an item with a model of its own is asked
            of that one only.
        hash: Of the ids and contents of the items that were read, in the order of the source.
        bad: The first rows that are no items.
        bad_count: How many there are.
        columns: Columns that were seen.
    """

    source: Source
    layout: Layout
    models: tuple[str, ...]
    samples: int
    shuffle: int | None
    count: int
    task_count: int
    hash: str
    bad: tuple[BadRowError, ...]
    bad_count: int
    columns: tuple[str, ...]
    _bad_lines: array[int] = field(repr=False)
    _order: RandomOrder | None = field(repr=False)

    @classmethod
    def check(
        cls,
        source: Source,
        layout: Layout,
        *,
        spool: Path,
        models: Sequence[str] = (),
        samples: int = 1,
        limit: int | None = None,
        shuffle: int | None = None,
        skip_bad: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> Dataset:
        """Read a dataset: every row parsed, ids told apart, the layout's columns found.

        Args:
            source: Its rows; without a shuffle they are read up to the limit only.
            layout: How they become items; its folder is the source's where it names none.
            spool: File to keep the rows in, if they cannot be read again as they have to be.
            models: Models to ask each item for.
            samples: How often to ask each.
            limit: Items at most.
            shuffle: Seed of a random order; the limit's items are taken of that.
            skip_bad: Whether rows that are no items are left out.
            on_progress: Called with the number of rows read, now and then and at the end.

        Raises:
            BadItemsError: Rows are no items; names the first ones.
            ConfigurationError: There is no item, a column that the layout names is in no row, or
                the source cannot be read.
        """
        _check_numbers(samples=samples, limit=limit)
        models = tuple(dict.fromkeys(models))
        layout = layout if layout.folder else replace(layout, folder=source.folder)
        kept = not source.rereadable or (shuffle is not None and source.format != "jsonl")
        check = _Check(source, layout, models, skip_bad)
        with Spool(spool) if kept else nullcontext() as keeper:
            check.read(limit if shuffle is None else None, keeper, on_progress)
            check.judge()
        if kept:
            rows = partial(json_rows, partial(open_file, spool), spool.name)
            source = replace(source, rows=rows, rereadable=True, path=spool)
        order = None
        if shuffle is not None and source.path is not None:  # else it would have been kept
            order = RandomOrder.of(source.path, shuffle, left_out=check.bad_lines, limit=limit)
        dataset = cls(
            source=source,
            layout=layout,
            models=models,
            samples=samples,
            shuffle=shuffle,
            count=check.good if limit is None else min(limit, check.good),
            task_count=0,
            hash=check.digest.hexdigest()[:32],
            bad=tuple(check.bad),
            bad_count=len(check.bad_lines),
            columns=tuple(check.columns),
            _bad_lines=check.bad_lines,
            _order=order,
        )
        return replace(dataset, task_count=dataset._task_count(check.own_models, check.good))

    def items(self) -> Iterator[BatchItem]:
        """Yield the items, reading the source again.

        Raises:
            ConfigurationError: It is not any more what was checked.
        """
        parse = _Parser(self.layout, self.models)
        if self._order is None:
            rows = without(self.source.rows(), self._bad_lines)
        else:
            rows = self._order.rows()
        seen = 0
        for number, row in islice(rows, self.count):
            try:
                item = parse(number, row, files_must_exist=False)
            except BadRowError as error:
                raise self._changed(str(error)) from None
            seen += 1
            yield item
        if seen < self.count:
            raise self._changed(f"it has {seen} items, no more {self.count}")

    def tasks(self) -> Iterator[Task]:
        """Yield the prompts, all of an item together.

        Raises:
            ConfigurationError: As `items`.
        """
        models = self.models or ("",)
        for item in self.items():
            for model in models if item.model is None else (item.model,):
                for sample in range(self.samples):
                    yield Task(item, model, sample)

    def _task_count(self, own_models: int, good: int) -> int:
        """Return the number of prompts, of items `own_models` of which name a model."""
        if self.count < good and own_models and len(self.models) > 1:
            own_models = sum(item.model is not None for item in self.items())
        each = max(1, len(self.models))
        return (own_models + (self.count - own_models) * each) * self.samples

    def _changed(self, how: str) -> ConfigurationError:
        return ConfigurationError(
            raw_message=f"{self.source.name} has changed since it was checked: {how}",
            hint="Run the same command again: what is done is not done again.",
        )


class _Parser:
    """Makes items of rows, and of OpenAI's request lines where nothing else is asked for.

    Each request line has to name a model, OpenAI's as a rule: models that the batch names win.
    """

    def __init__(self, layout: Layout, models: Sequence[str]) -> None:
        self._layout = layout
        self._models = models
        self._requests = layout.template is None and layout.prompt_column is None
        self._of_requests = replace(layout, id_column=None)

    def takes_as_request(self, row: Row) -> bool:
        return self._requests and is_request(row)

    def __call__(
        self, number: int, row: Row | BadRowError, *, files_must_exist: bool = True
    ) -> BatchItem:
        """Return the row's item; raises `BadRowError`."""
        if isinstance(row, BadRowError):
            raise row
        layout = self._layout
        if self.takes_as_request(row):
            layout = self._of_requests
            try:
                row = item_row(row)
            except RequestLineError as error:
                raise BadRowError(number, str(error)) from None
            if self._models:
                row = {name: value for name, value in row.items() if name != "model"}
        return parse_row(row, line=number, layout=layout, files_must_exist=files_must_exist)


class _Check:
    """The first pass over a dataset, and what it found."""

    def __init__(
        self, source: Source, layout: Layout, models: Sequence[str], skip_bad: bool
    ) -> None:
        self.good = self.own_models = 0
        self.bad: list[BadRowError] = []
        self.bad_lines = array("Q")
        self.columns: dict[str, None] = {}
        self.digest = sha256()
        self._ids = Fingerprints()
        self._source, self._layout, self._skip_bad = source, layout, skip_bad
        self._parse = _Parser(layout, models)

    def read(
        self, limit: int | None, keeper: Spool | None, on_progress: Callable[[int], object] | None
    ) -> None:
        """Read all rows, or up to the limit's items."""
        count = 0
        for count, (number, row) in enumerate(self._source.rows(), 1):
            try:
                self._take(number, row, keeper)
            except BadRowError as error:
                self.bad_lines.append(number)
                if len(self.bad) < KEPT_BAD_ROWS:  # anew: its traceback would hold the row
                    self.bad.append(BadRowError(error.line, error.reason))
            if on_progress is not None and not count % PROGRESS_ROWS:
                on_progress(count)
            hopeless = not (self.good or self._skip_bad) and count == HOPELESS_ROWS
            if self.good == limit or hopeless:
                break
        if on_progress is not None and count % PROGRESS_ROWS:
            on_progress(count)
        self._ids = Fingerprints()  # the memory is the order's now

    def judge(self) -> None:
        """Refuse a dataset that cannot be run."""
        if self.columns and (not self.good or len(self.columns) < MAX_COLUMNS):
            check_columns(self._layout, self.columns)
        count, name = len(self.bad_lines), self._source.name
        listed = "".join(f"\n  {error}" for error in self.bad[:NAMED_BAD_ROWS])
        more = f"\n  and {count - NAMED_BAD_ROWS} more" if count > NAMED_BAD_ROWS else ""
        if count and not self._skip_bad:
            rows = f"{count} of {count + self.good} rows of {name}"
            raise BadItemsError(
                raw_message=f"{rows} cannot be asked:{listed}{more}",
                bad=tuple(self.bad),
                count=count,
            )
        if not self.good:
            raise ConfigurationError(
                raw_message=f"there are no items in {name}" + (f":{listed}{more}" if count else ""),
                hint="Give at least one prompt.",
            )

    def _take(self, number: int, row: Row | BadRowError, keeper: Spool | None) -> None:
        if isinstance(row, BadRowError):
            raise row
        self._see_columns(row)
        item = self._parse(number, row)
        if (id_of := fingerprint(item.id)) in self._ids:
            raise BadRowError(number, _twice(item))
        if keeper:
            keeper.write(number, row)
        self._ids.add(id_of)
        self.good += 1
        self.own_models += item.model is not None
        self.digest.update(orjson.dumps([item.id, item.content_hash]))

    def _see_columns(self, row: Row) -> None:
        if self._source.tabular and not self.columns and not self._parse.takes_as_request(row):
            check_columns(self._layout, list(row), complete=True)
        if len(self.columns) < MAX_COLUMNS and not self.columns.keys() >= row.keys():
            self.columns.update(dict.fromkeys(islice(row, MAX_COLUMNS)))


def _twice(item: BatchItem) -> str:
    if item.id == item.content_hash:
        return "it asks the same as an earlier row, and neither has an id"
    return f"an earlier row has the id {item.id!r:.100}, too"


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or number < 1):
            raise ConfigurationError(raw_message=f"{name} must be at least 1, not {number!r}")
