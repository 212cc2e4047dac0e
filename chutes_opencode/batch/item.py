"""One prompt of a batch, checked: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What one row of a dataset asks for.

    Attributes:
        id: Given, or the content hash.
        prompt: The user's message; "": the last of `messages` is it.
        messages: A chat in OpenAI's form, or None.
        system: System message instead of the batch's; None: the batch's.
        model: Model instead of the batch's; None: the batch's.
        params: Sampling parameters over the batch's, by the names of OpenAI's chat body
            (`temperature`, `max_tokens`, …; unknown ones are sent as they are).
        files: Paths that go with the prompt.
        work_dir: The agent's folder; None: the batch's.
        output_schema: JSON Schema that the answer must fit; None: the batch's.
        repo: Path or URL of a git repository: the agent works in a worktree of its own.
        commit: What is checked out there; None: the repository's HEAD.
        metadata: Passed through to the result.
        content_hash: Of all that is asked (not of id and metadata): 32 hexadecimal digits.
        line: Where it stands in its source, 1 for the first.
    """

    id: str
    prompt: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None
    system: str | None = None
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    work_dir: str | None = None
    output_schema: Mapping[str, Any] | None = None
    repo: str | None = None
    commit: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    content_hash: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to run: an item, with the model and the sample that it is asked for.

    Attributes:
        item: What is asked.
        model: The model string; "": that of the instance.
        sample: 0 for the first sample of the item.
    """

    item: BatchItem
    model: str = ""
    sample: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others of the batch: id, model, sample."""
        return self.item.id, self.model, self.sample
