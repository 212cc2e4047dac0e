"""Turn a prompt and its arguments into a call: everything looked up, checked and resolved."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chutes_opencode.arguments import (
    PROMPT_SHAPES,
    as_folder,
    check_prompt,
    check_text,
    effective_system,
    split_messages,
    tool_servers,
)
from chutes_opencode.attachments import FileArgument, read_files, split_files
from chutes_opencode.call import Call
from chutes_opencode.credentials import key_advice
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.options import Options, check_params
from chutes_opencode.request import Params, PromptRequest, check_shapes
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.runtime import Runtime
from chutes_opencode.spending import make_terms
from chutes_opencode.structured import Schema

RULES_FILES = ("AGENTS.md", "CLAUDE.md")


async def prepare(
    options: Options,
    runtime: Runtime,
    prompt: str = "",
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    tools: Iterable[Any] | None = None,
    files: Iterable[FileArgument] | None = (),
    output_schema: Any = None,
    params: Params | None = None,
    work_dir: str | Path | None = None,
    session_id: str | None = None,
    keep_session: bool | str | Path = False,
    sample_index: int = 0,
) -> Call:
    """Make the call of one prompt; the arguments are those of `PromptArguments`.

    Raises:
        OpenCodeError: Something in it cannot be sent; nothing has been spent.
    """
    check_shapes(locals(), PROMPT_SHAPES)
    text, chat_system, history = split_messages(prompt, messages)
    check_prompt(text)
    if history and session_id:
        raise ConfigurationError(raw_message="messages and session_id exclude each other")
    system = effective_system(options.system_message if chat_system is None else chat_system)
    if system is None and options.context is False:
        raise ConfigurationError(
            raw_message="context=False needs a system message: opencode's own holds the block",
            hint="Pass system_message=, or leave context=False out.",
        )
    for name, value in [("the system message", system or "")] + [
        (f"messages[{number}]", message.text) for number, message in enumerate(history)
    ]:
        check_text(name, value)
    sampling = params or options.params
    check_params(sampling)
    model = await runtime.resolve(options.model or runtime.settings.default_model)
    stand_ins = [await runtime.resolve(name) for name in options.fallback_models]
    frames, attachments = split_files(read_files(files or ()), model.input_modalities, model.id)
    schema = None if output_schema is None else Schema.from_any(output_schema)
    servers = options.tools if tools is None else tool_servers(tools)
    folder = as_folder(work_dir) if work_dir is not None else options.work_dir
    block = bool(options.builtin_tools or servers)
    request = PromptRequest(
        prompt=frames + (schema.instruct(text) if schema else text),
        model=model.id,
        system_message=system,
        agent_name=options.agent_name,
        history=history,
        attachments=attachments,
        params=sampling,
        tools=servers,
        builtin_tools=options.builtin_tools,
        permission=options.permission,
        context=block if options.context is None else options.context,
        work_dir=folder,
        rules_file=_rules_file(folder) if options.project_rules else None,
        session_id=session_id,
        keep_session=as_folder(keep_session, "keep_session")
        if isinstance(keep_session, str)
        else keep_session,
        env=options.env,
        extra_cli_args=options.extra_cli_args,
        max_requests=options.limits.max_requests,
        timeout_seconds=runtime.settings.timeout_seconds,
    )
    return Call(
        request=request,
        terms=make_terms(
            options,
            runtime.settings,
            (model, *stand_ins),
            budgets=runtime.budgets,
            inherited=runtime.inherited,
            sample_index=sample_index,
        ),
        price=model.price,
        node_id=socket.gethostname(),
        policy=RetryPolicy(retries=runtime.settings.retries),
        deadline_seconds=runtime.settings.deadline_seconds,
        patterns=options.provider.patterns,
        key_hint=key_advice(options.provider),
        schema=schema,
        retry_after_tools=options.retry_after_tools,
    )


def _rules_file(folder: Path | None) -> Path | None:
    """Return the folder's own rules file, if it has one."""
    candidates = [folder / name for name in RULES_FILES] if folder is not None else []
    return next((path.resolve() for path in candidates if path.is_file()), None)
