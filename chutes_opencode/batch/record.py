"""One line of a run's results: what an item came to, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chutes_opencode.results import Usage

OK, FAILED, CUT = "ok", "failed", "cut"


@dataclass(frozen=True, slots=True)
class RecordedError:
    """Why an item failed.

    Attributes:
        type: Class name of the error.
        message: Its `raw_message`, secrets masked.
        hint: What to do.
        status: HTTP status, if there was one.
        exit_code: opencode's exit code, -1 if none.
        request_id: The provider's id of the request.
        partial_text: What the model had written.
    """

    type: str
    message: str
    hint: str = ""
    status: int | None = None
    exit_code: int = -1
    request_id: str | None = None
    partial_text: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What an item came to.

    Attributes:
        id: The item's.
        model: The model string that was asked.
        sample: The sample's number.
        content_hash: The item's.
        status: "ok", "failed", or "cut": ended by us, so that it runs again with the next resume
            (never in results.jsonl).
        result: The answer's text.
        structured: The validated value where a schema was given.
        diff: What the agent changed in the item's repository, as a git patch; None: no repository.
        error: Why it failed; None: it did not.
        usage: Tokens of all attempts.
        failed_usage: What of that was asked in vain.
        cost_usd: US dollars of all attempts; None if the price is unknown.
        served_model: Model that answered, where the provider names it.
        finish_reason: Why the last turn ended.
        attempts: How many tries it took, single requests not counted.
        num_retries: Model requests and prompts that were tried again.
        session_id: opencode's session id.
        started_at: Seconds since the epoch.
        duration_s: Seconds from the call to its end, waits included.
        queued_s: Seconds of that spent waiting for a free place.
        first_token_s: Seconds from the first model request to its first byte; None: none came.
        metadata: The item's.
        transcript: Where the transcript is: "FILE:OFFSET" below `transcripts/`, or, of a result in
            a shard, "SHARD/FILE:OFFSET" below that one's; None: not kept.
    """

    id: str
    model: str
    sample: int = 0
    content_hash: str = ""
    status: str = OK
    result: str = ""
    structured: Any = None
    diff: str | None = None
    error: RecordedError | None = None
    usage: Usage = field(default_factory=Usage)
    failed_usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    served_model: str | None = None
    finish_reason: str | None = None
    attempts: int = 0
    num_retries: int = 0
    session_id: str | None = None
    started_at: float = 0.0
    duration_s: float = 0.0
    queued_s: float = 0.0
    first_token_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    transcript: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others of the batch: id, model, sample."""
        return self.id, self.model, self.sample
