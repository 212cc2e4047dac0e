"""The HTTP client of a running `opencode serve`.

Loop-bound, like the server that it talks to. A failure of the model or the provider is no error
here: `send` returns it as part of the message.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import httpx

USER = "opencode"
# With a title opencode does not ask the model for one.
TITLE = "prompt"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 120.0
"""For calls that ask no model; a folder new to the server takes a second, and many may wait."""
# Seen: opencode keeps an idle connection for longer than 25 s. We are the first to close it.
KEEP_SECONDS = 15.0
KEPT_CONNECTIONS = 64

Rules = Sequence[Mapping[str, str]]
"""opencode's permission rules of a session: `permission`, `pattern` and `action` each."""


class ServerGoneError(Exception):
    """Nobody answers: the connection was refused, reset or closed, or the time is up."""


class ApiError(Exception):
    """The server answers, but with an error.

    Attributes:
        status: HTTP status, 400 or more.
        body: What it said, where that was a JSON object.
    """

    def __init__(self, status: int, body: dict[str, Any] | None) -> None:
        """Take the answer."""
        self.status = status
        self.body = body
        super().__init__(f"opencode answered {status}: {body}")


class ServeApi:
    """Calls of one `opencode serve`; ended by `close`.

    Attributes:
        gone: Whether a call has found that nobody answers.
        password: Of the server.
    """

    def __init__(
        self, url: str, password: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: Like `http://127.0.0.1:4096`.
            password: Of the server.
            transport: How requests travel; None: over the network.
        """
        from chutes_opencode.connections import Connections

        told = base64.b64encode(f"{USER}:{password}".encode()).decode()
        self.gone = False
        self.password = password
        self._url = url
        self._headers = {"authorization": f"Basic {told}", "content-type": "application/json"}
        # No client around it, which would look for cookies, redirects and a proxy: a third of what
        # a call costs.
        self._transport = transport or Connections(
            None, kept=KEPT_CONNECTIONS, expiry_seconds=KEEP_SECONDS
        )
        self._closed = False

    async def create(self, directory: Path, rules: Rules) -> str:
        """Make a session.

        Args:
            directory: The agent's folder; the session remembers it.
            rules: What its tools may do, sub-agents included.

        Returns:
            Its id.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: The server refuses.
        """
        body = {"title": TITLE, "permission": [dict(rule) for rule in rules]}
        made = await self._call("POST", "/session", body=body, directory=directory)
        return str(made["id"])

    async def send(
        self,
        session_id: str,
        *,
        agent: str,
        provider_id: str,
        model_id: str,
        parts: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Send a user's message and wait, as long as it takes, for the agent to end.

        Never twice at once on a session: both calls would return the same answer. To cancel the
        call does not stop the agent; `abort` does.

        Returns:
            `{"info": …, "parts": […]}` of the last assistant message only; its `info.error` is what
            the model or the provider failed with.

        Raises:
            ServerGoneError: Nobody answers any more.
            ApiError: The server refuses: no such agent, model or session.
        """
        body = {
            "agent": agent,
            "model": {"providerID": provider_id, "modelID": model_id},
            "parts": [dict(part) for part in parts],
        }
        path = f"/session/{session_id}/message"
        answer: dict[str, Any] = await self._call("POST", path, body=body, patient=True)
        return answer

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        """Return all messages of a session, `{"info": …, "parts": […]}` each.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: No such session.
        """
        found: list[dict[str, Any]] = await self._call("GET", f"/session/{session_id}/message")
        return found

    async def info(self, session_id: str) -> dict[str, Any]:
        """Return what the server knows of a session, its messages left out.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: No such session.
        """
        found: dict[str, Any] = await self._call("GET", f"/session/{session_id}")
        return found

    async def replay(self, directory: Path, events: Sequence[Mapping[str, Any]]) -> None:
        """Tell the server what has happened in a session that it knows nothing of.

        Args:
            directory: The session's folder.
            events: In their order; see `history.replay_events`.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: The server does not understand them; the session may hold a part of them.
        """
        body = {"directory": str(directory), "events": [dict(event) for event in events]}
        # Some milliseconds for each message: a long session takes seconds.
        await self._call("POST", "/sync/replay", body=body, directory=directory, patient=True)

    async def abort(self, session_id: str) -> None:
        """Stop what a session is doing; its partial messages stay.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: No such session.
        """
        await self._call("POST", f"/session/{session_id}/abort")

    async def delete(self, session_id: str) -> None:
        """Delete a session; nothing happens when there is none.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: The server fails.
        """
        try:
            await self._call("DELETE", f"/session/{session_id}")
        except ApiError as error:
            if error.status != 404:
                raise

    async def add_tool_server(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        """Start a tool server (MCP) for the sessions of one folder, and only these.

        One that does not come up is no error here: its tools are missing then.

        Args:
            directory: The sessions' folder.
            name: Prefix of its tools.
            config: Its entry in opencode's config.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: The server refuses the entry.
        """
        body = {"name": name, "config": dict(config)}
        # As patient as the entry's own timeout is long.
        await self._call("POST", "/mcp", body=body, directory=directory, patient=True)

    async def remove_tool_server(self, directory: Path, name: str) -> None:
        """Stop a folder's tool server; nothing happens when there is none.

        Raises:
            ServerGoneError: Nobody answers.
            ApiError: The server fails.
        """
        try:
            path = f"/mcp/{quote(name, safe='')}/disconnect"
            await self._call("POST", path, directory=directory)
        except ApiError as error:
            if error.status != 404:
                raise

    async def healthy(self, seconds: float) -> bool:
        """Tell whether the server answers at all.

        Args:
            seconds: How long it may take.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._call("GET", "/global/health")
        except (ServerGoneError, ApiError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close the connections; call it when no call waits any more, or the server has ended."""
        self._closed = True
        await self._transport.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        patient: bool = False,
    ) -> Any:
        """Send a request and return the JSON of its answer."""
        import httpx

        query = "" if directory is None else f"?{urlencode({'directory': str(directory)})}"
        seconds = None if patient else ANSWER_SECONDS
        request = httpx.Request(
            method,
            f"{self._url}{path}{query}",
            headers=self._headers,
            # Escapes only: a half of a surrogate pair could not be sent as it is.
            content=None if body is None else json.dumps(body),
            extensions={"timeout": httpx.Timeout(seconds, connect=CONNECT_SECONDS).as_dict()},
        )
        try:
            answer = await self._answer(request)
        except httpx.TransportError as error:
            self.gone = True
            raise ServerGoneError(f"opencode serve does not answer: {error!r}") from error
        return _checked(answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read its whole answer."""
        if self._closed:
            raise ServerGoneError("the connection to opencode serve was closed")
        answer = await self._transport.handle_async_request(request)
        try:
            await answer.aread()
        finally:
            await answer.aclose()
        return answer


def _checked(answer: httpx.Response) -> Any:
    """Return the JSON of an answer that is one.

    Raises:
        ApiError: It is an error, or no JSON.
    """
    try:
        body = answer.json()
    except ValueError:
        raise ApiError(answer.status_code, None) from None
    if answer.status_code >= 400:
        raise ApiError(answer.status_code, body if isinstance(body, dict) else None)
    return body
