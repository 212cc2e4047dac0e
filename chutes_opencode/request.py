"""The values that go in: frozen, comparable, picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from chutes_opencode.errors import ConfigurationError

Shape = tuple[tuple[type, ...], str]
"""What an argument may be, and how that is called in a message."""


def check_shapes(values: Mapping[str, object], shapes: Mapping[str, Shape]) -> None:
    """Refuse an argument of a wrong type before it is used, rather than somewhere below.

    Raises:
        ConfigurationError: Names the argument and what it may be.
    """
    for name, (types, wanted) in shapes.items():
        value = values.get(name)
        if name in values and not isinstance(value, types):
            raise ConfigurationError(
                raw_message=f"{name} must be {wanted}, not {type(value).__name__}",
                hint=f"Pass {name} as {wanted}.",
            )


@dataclass(frozen=True, slots=True)
class Params:
    """Sampling parameters of the model request; None leaves the provider's default.

    Attributes:
        temperature: Sampling temperature.
        top_p: Nucleus sampling mass.
        max_tokens: Largest number of output tokens.
        stop: One stop sequence or several.
        seed: Sampling seed, where the model supports one.
        reasoning_effort: "low", "medium", "high", … where the model supports it.
        extra_body: Further keys of the request body, sent as they are.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    extra_body: Mapping[str, Any] | None = None

    def updated(self, body: Mapping[str, Any]) -> Params:
        """Return these parameters with others over them.

        Args:
            body: By the names of OpenAI's chat body; what is no parameter here goes to
                `extra_body`, beside what a key of that name holds.

        Raises:
            ConfigurationError: The key `extra_body` is no mapping.
        """
        more = body.get("extra_body") or {}
        if not isinstance(more, Mapping):
            raise ConfigurationError(raw_message="params.extra_body must be an object")
        names = {field.name for field in fields(Params)} - {"extra_body"}
        known = {name: body[name] for name in names & body.keys()}
        if isinstance(known.get("stop"), list):
            known["stop"] = tuple(known["stop"])
        kept = {key: value for key, value in (self.extra_body or {}).items() if key not in known}
        rest = {key: body[key] for key in body if key not in names and key != "extra_body"}
        return replace(self, **known, extra_body={**kept, **rest, **more} or None)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a prompt may use at most, over all its attempts.

    Attributes:
        max_requests: Model requests, retries and sub-agents included.
        max_tokens: Tokens, input and output together (needs the relay).
        max_cost_usd: US dollars (needs the relay). Before each request its largest possible cost
            is set aside, so the limit holds, and one that could cross it is not sent.
        max_total_cost_usd: US dollars of all prompts of the instance in this process (needs the
            relay).
    """

    max_requests: int = 100
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_total_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class McpServer:
    """A tool server (Model Context Protocol) for the agent: remote by URL or local by command.

    Attributes:
        name: Prefix of its tools: the model sees `<name>_<tool>`.
        url: Streamable HTTP endpoint of a remote server.
        command: Program and arguments of a local one, started by opencode.
        headers: HTTP headers for a remote server.
        environment: Extra variables for a local one.
        timeout_seconds: How long its tool list may take.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of a prompt, read: text is framed into the prompt, the rest goes as an attachment.

    Attributes:
        name: Base name; the model never sees a path.
        content: The bytes.
        media_type: For example "image/png".
    """

    name: str
    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message of the history before the prompt: role "user" or "assistant", and its text."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One prompt as an engine takes it: everything resolved, nothing to look up.

    Attributes:
        prompt: The text that the model receives as the user's message, exactly.
        model: Model id in the provider's spelling.
        system_message: None: opencode's own prompt.
        agent_name: Name of the agent in opencode's config.
        history: Messages before the prompt.
        attachments: Images and PDF files.
        params: Sampling parameters.
        tools: MCP servers.
        builtin_tools: Whether opencode's own tools are offered.
        permission: opencode permission rules; None: everything inside `work_dir`, nothing outside.
        context: Whether opencode's environment block follows the system message.
        work_dir: The agent's folder; None: an empty one of its own.
        rules_file: A rules file (AGENTS.md) that the agent is given.
        session_id: Session to continue.
        keep_session: False, True, or the folder to keep it in.
        hold: Whether a next turn of the same call continues the session, until it is forgotten.
        alone: Whether it must share its process with no other prompt.
        env: Extra variables for the agent's tools.
        extra_cli_args: Further arguments of `opencode run`.
        max_requests: Model requests that this attempt may send.
        max_failures: Failed model requests in a row at which this attempt is ended; below it,
            opencode repeats the step by itself after some seconds.
        timeout_seconds: Seconds for this attempt.
    """

    prompt: str
    model: str
    system_message: str | None = "You are a helpful assistant."
    agent_name: str = "chutes"
    history: tuple[ChatMessage, ...] = ()
    attachments: tuple[FilePart, ...] = ()
    params: Params = field(default_factory=Params)
    tools: tuple[McpServer, ...] = ()
    builtin_tools: bool = True
    permission: Mapping[str, Any] | str | None = None
    context: bool = True
    work_dir: Path | None = None
    rules_file: Path | None = None
    session_id: str | None = None
    keep_session: bool | Path = False
    hold: bool = False
    alone: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    extra_cli_args: tuple[str, ...] = ()
    max_requests: int = 100
    max_failures: int = 2
    timeout_seconds: float = 600.0
