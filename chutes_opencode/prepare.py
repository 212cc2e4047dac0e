"""Turn a prompt and its arguments into a call: everything looked up, checked and resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from chutes_opencode.arguments import (
    PROMPT_SHAPES,
    PromptArguments,
    as_folder,
    check_names,
    check_prompt,
    check_text,
    effective_system,
    split_messages,
    tool_servers,
)
from chutes_opencode.attachments import read_files, split_files
from chutes_opencode.call import Call
from chutes_opencode.catalog.models import Model
from chutes_opencode.credentials import key_advice
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.node import node_id
from chutes_opencode.options import Options, check_params
from chutes_opencode.request import ChatMessage, PromptRequest, check_shapes
from chutes_opencode.retry import RetryPolicy
from chutes_opencode.runtime import Runtime
from chutes_opencode.spending import make_terms
from chutes_opencode.structured import Schema

RULES_FILES = ("AGENTS.md", "CLAUDE.md")


async def prepare(
    options: Options, runtime: Runtime, /, prompt: str = "", **given: Unpack[PromptArguments]
) -> Call:
    """Make the call of one prompt.

    Args:
        options: The instance's.
        runtime: Its means.
        prompt: The user's message.
        **given: What the prompt has of its own.

    Raises:
        OpenCodeError: Something in it cannot be sent; nothing has been spent.
    """
    check_names(given)
    check_shapes({"prompt": prompt, **given}, PROMPT_SHAPES)
    text, system, history = _said(options, prompt, given)
    sampling = given.get("params") or options.params
    check_params(sampling)
    model, stand_ins = await _models(options, runtime, given.get("model"))
    files = read_files(given.get("files") or ())
    frames, attachments = split_files(files, model.input_modalities, model.id)
    asked_schema = given.get("output_schema")
    schema = None if asked_schema is None else Schema.from_any(asked_schema)
    tools, folder = given.get("tools"), given.get("work_dir")
    servers = options.tools if tools is None else tool_servers(tools)
    work_dir = options.work_dir if folder is None else as_folder(folder)
    block = bool(options.builtin_tools or servers)
    keep = given.get("keep_session", False)
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
        work_dir=work_dir,
        rules_file=_rules_file(work_dir) if options.project_rules else None,
        session_id=given.get("session_id"),
        keep_session=as_folder(keep, "keep_session") if isinstance(keep, str) else keep,
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
            own_budget=given.get("budget"),
            inherited=runtime.inherited,
            sample_index=given.get("sample_index", 0),
        ),
        price=model.price,
        node_id=node_id(),
        policy=RetryPolicy(retries=runtime.settings.retries),
        deadline_seconds=runtime.settings.deadline_seconds,
        patterns=options.provider.patterns,
        key_hint=key_advice(options.provider),
        schema=schema,
        retry_after_tools=options.retry_after_tools,
    )


def _said(
    options: Options, prompt: str, given: PromptArguments
) -> tuple[str, str | None, tuple[ChatMessage, ...]]:
    """Return the prompt, the system message (None: opencode's own) and what was said before."""
    text, chat_system, history = split_messages(prompt, given.get("messages"))
    check_prompt(text)
    if history and given.get("session_id"):
        raise ConfigurationError(raw_message="messages and session_id exclude each other")
    own = given.get("system_message", options.system_message)
    system = effective_system(own if chat_system is None else chat_system)
    if system is None and options.context is False:
        raise ConfigurationError(
            raw_message="context=False needs a system message: opencode's own holds the block",
            hint="Pass system_message=, or leave context=False out.",
        )
    check_text("the system message", system or "")
    for number, message in enumerate(history):
        check_text(f"messages[{number}]", message.text)
    return text, system, history


async def _models(
    options: Options, runtime: Runtime, own: str | None
) -> tuple[Model, tuple[Model, ...]]:
    """Return the model to ask, and those that stand in for it."""
    asked = own if own is not None else options.model or runtime.settings.default_model
    model = await runtime.resolve(asked)
    return model, tuple([await runtime.resolve(name) for name in options.fallback_models])


def _rules_file(folder: Path | None) -> Path | None:
    """Return the folder's own rules file, if it has one."""
    candidates = [folder / name for name in RULES_FILES] if folder is not None else []
    return next((path.resolve() for path in candidates if path.is_file()), None)
