"""How many tokens a prompt has before opencode adds anything, by the relay's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chutes_opencode.arguments import check_prompt, effective_system, split_messages
from chutes_opencode.attachments import IMAGE_TYPES, read_files, split_files
from chutes_opencode.options import Options
from chutes_opencode.prepare import RULES_FILES
from chutes_opencode.relay.estimate import input_tokens
from chutes_opencode.request import FilePart, Params
from chutes_opencode.structured import Schema


def prompt_tokens(
    arguments: Mapping[str, Any], options: Options, modalities: Sequence[str], model: str
) -> int:
    """Count the input tokens of a prompt's first request: system message, chat, files, schema.

    The rule is that of `relay.estimate`: 4 bytes a token, each message rounded up; an image 256,
    a PDF file 1,024. A rules file (AGENTS.md) of a named folder counts where the instance sends it.

    Args:
        arguments: Those of the prompt (`PromptArguments`, and `prompt`).
        options: The instance's.
        modalities: What the model takes.
        model: Its id, for messages.

    Raises:
        OpenCodeError: The prompt cannot be sent.
    """
    text, own_system, history = split_messages(
        arguments.get("prompt", ""), arguments.get("messages")
    )
    check_prompt(text)
    system = own_system
    if system is None:
        system = effective_system(arguments.get("system_message", options.system_message))
    files = read_files(arguments.get("files") or ())
    frames, attachments = split_files(files, modalities, model)
    schema = arguments.get("output_schema")
    if schema is not None:
        text = Schema.from_any(schema).instruct(text)
    content = [{"type": "text", "text": frames + text}, *map(_part, attachments)]
    rules = _rules(arguments.get("work_dir") or options.work_dir) if options.project_rules else ""
    messages = [
        *([{"role": "system", "content": (system or "") + rules}] if system or rules else []),
        *({"role": row.role, "content": row.text} for row in history),
        {"role": "user", "content": content},
    ]
    return input_tokens({"messages": messages})


def output_limit(arguments: Mapping[str, Any], options: Options) -> int | None:
    """Return the largest number of output tokens that a prompt asks for; None: it names none."""
    params: Params = arguments.get("params") or options.params
    body = params.extra_body or {}
    asked = params.max_tokens or body.get("max_completion_tokens") or body.get("max_tokens")
    return asked if isinstance(asked, int) else None


def _part(file: FilePart) -> dict[str, str]:
    return {"type": "image_url" if file.media_type in IMAGE_TYPES else "file"}


def _rules(folder: str | Path | None) -> str:
    paths = [Path(folder) / name for name in RULES_FILES] if folder is not None else []
    path = next((path for path in paths if path.is_file()), None)
    return "" if path is None else path.read_text(encoding="utf-8", errors="replace")
