"""A run's folder, written as the store writes it, with whatever results a test wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chutes_opencode.batch.record import FAILED, Record, RecordedError
from chutes_opencode.batch.store.manifest import Manifest, write_manifest
from chutes_opencode.batch.store.record_json import record_line
from chutes_opencode.batch.store.transcripts import TranscriptShards, transcript_line
from chutes_opencode.results import (
    Attempt,
    Message,
    QueryResult,
    ReasoningPart,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)

STARTED = 1_760_000_000.0
EVIL = "</script><img src=x onerror=\"document.title='hacked'\"><b>'&\u2028"
PRICES = {"big/model": {"input": 0.4, "output": 1.75, "cache_read": 0.2}}


def record(number: int = 0, **fields: Any) -> Record:
    """Return an answer that took two seconds and cost a cent; fields as given."""
    known: dict[str, Any] = {
        "id": f"item-{number:03}",
        "model": "big/model",
        "result": f"The answer {number}.",
        "usage": Usage(input=100, output=50, cache_read=20, num_requests=1),
        "cost_usd": 0.01,
        "attempts": 1,
        "started_at": STARTED + number,
        "duration_s": 2.5,
        "queued_s": 0.5,
        "first_token_s": 0.4,
    }
    return Record(**{**known, **fields})


def failure(number: int = 0, kind: str = "RateLimitError", **fields: Any) -> Record:
    """Return a failure of a class; fields as given."""
    error = RecordedError(kind, f"{kind} of {number}", "Wait, then `try` again.", 429)
    return record(number, **{"status": FAILED, "result": "", "error": error, **fields})


def conversation(prompt: str, answer: str) -> QueryResult:
    """Return a result whose transcript has a prompt, a tool call that failed, and an answer."""
    call = ToolPart("bash", "c1", "error", {"command": prompt}, "", f"no such file: {prompt}")
    messages = (
        Message("user", (TextPart(prompt),)),
        Message("assistant", (ReasoningPart("Hm."), call)),
        Message("assistant", (TextPart(answer),)),
    )
    attempts = (Attempt(1, "serve", model="big/model", duration_s=2.0),)
    return QueryResult(
        answer, 0, "", "", transcript=Transcript("ses_1", messages), attempts=attempts
    )


def write_run(
    folder: Path,
    records: Iterable[Record],
    *,
    attempts: Sequence[Record] = (),
    prompts: Mapping[str, str] | None = None,
    **manifest: Any,
) -> Path:
    """Write a run.

    Args:
        folder: Is made.
        records: Lines of results.jsonl.
        attempts: Lines of attempts.jsonl.
        prompts: By the item's id: such items have a transcript.
        manifest: Fields of run.json.
    """
    folder.mkdir(parents=True)
    known: dict[str, Any] = {
        "run_id": "20251121-120000-a1b2c3",
        "created_at": STARTED,
        "dataset": {"source": "prompts.jsonl", "items": 4},
        "settings": {"model": "big/model", "params": {"seed": 1}},
        "prices": PRICES,
    }
    write_manifest(folder, Manifest(**{**known, **manifest}))
    shards = TranscriptShards(folder / "transcripts")
    with (folder / "results.jsonl").open("wb") as file:
        for each in records:
            kept = each
            if prompts and each.id in prompts:
                line = transcript_line(each, conversation(prompts[each.id], each.result))
                kept = replace(each, transcript=shards.add(line))
            file.write(record_line(kept))
    shards.commit()
    shards.close()
    (folder / "attempts.jsonl").write_bytes(b"".join(map(record_line, attempts)))
    return folder
