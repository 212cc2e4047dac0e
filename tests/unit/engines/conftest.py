"""RunEngine on a fake opencode."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines import commands
from chutes_opencode.engines import run as run_module
from chutes_opencode.engines.base import Evidence
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.events import Event
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.process import Command, Exit, ProcessTimeout
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest

CAPTURES = Path(__file__).parents[2] / "captures" / "opencode-1.18.33"
SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
KEY = "cpk_unit.test.key.of.nobody"


def fresh_export(text: str = "Hello") -> dict[str, Any]:
    """An export whose only turn was made now (in the year 3000, to be sure)."""
    info = {"role": "assistant", "finish": "stop", "time": {"created": 32503680000000}}
    return {
        "info": {"id": SESSION},
        "messages": [{"info": info, "parts": [{"type": "text", "text": text}]}],
    }


@dataclass
class FakeOpenCode:
    """Stands for the process: takes the command, leaves the files that opencode would leave."""

    stdout: str = (CAPTURES / "run_ok.jsonl").read_text("utf-8")
    stderr: str = ""
    guard: str = '{"id": 1, "kind": "request", "time": 1.0, "model": "ok/short"}\n'
    export: Any = field(default_factory=fresh_export)
    returncode: int = 0
    import_returncode: int = 0
    hangs: frozenset[str] = frozenset()
    commands: dict[str, Command] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    works: Callable[[FakeOpenCode], Awaitable[object]] | None = None

    def leave(self, command: Command) -> None:
        """Write what the run writes; keep what it was given, which is gone afterwards."""
        root = command.stdout.parent
        self.commands["run"] = command
        for path in root.rglob("*"):
            if path.is_file():
                self.files[str(path.relative_to(root))] = path.read_bytes().decode()
        command.stdout.write_text(self.stdout)
        command.stderr.write_text(self.stderr)
        (root / "guard" / "guard.jsonl").write_text(self.guard)
        data = root / "home/.local/share/opencode"
        data.mkdir(parents=True, exist_ok=True)
        (data / "opencode.db").write_text("a database")

    async def start(self, command: Command) -> Self:
        self.leave(command)
        return self

    async def wait(self) -> Exit:
        if self.works is not None:
            await self.works(self)
        if "run" in self.hangs:
            await self.gone.wait()
        return Exit(self.returncode, 0.5)

    async def end(self) -> None:
        self.gone.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.end()

    async def run_to_end(self, command: Command, *, timeout_seconds: float) -> Exit:
        name = command.argv[1]
        self.commands[name] = command
        if name in self.hangs:
            raise ProcessTimeout(f"opencode did not end within {timeout_seconds:g} s")
        if name == "import":
            self.files["history"] = Path(command.argv[2]).read_text()
            command.stderr.write_text("no such shape")
            return Exit(self.import_returncode, 0.1)
        text = self.export if isinstance(self.export, str) else json.dumps(self.export)
        command.stdout.write_text(text)
        return Exit(0, 0.1)


class Stage:
    """An engine on a fake opencode, in folders of its own."""

    def __init__(self, folder: Path, opencode: FakeOpenCode) -> None:
        self.temp = folder / "temp"
        self.temp.mkdir(exist_ok=True)
        self.opencode = opencode
        self.sessions = SessionStore(folder / "sessions")
        self.events: list[Event] = []
        self.engine = RunEngine(
            binary=Binary(Path("/opt/opencode"), "1.18.33"),
            target=lambda: Target(find_provider("chutes"), "http://127.0.0.1:1/v1"),
            key=lambda: KEY,
            inherited={"PATH": "/bin"},
            temp_root=self.temp,
            sessions=self.sessions,
        )

    def run(self, *, accept: bool = True, terms: Terms | None = None, **fields: Any) -> Evidence:
        request = PromptRequest(**{"prompt": "Say hi", "model": "ok/short"} | fields)
        running = self.engine.run(request, self.events.append, lambda _seen: accept, terms)
        return asyncio.run(running)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    def make(**fields: Any) -> Stage:
        opencode = FakeOpenCode(**fields)
        monkeypatch.setattr(run_module, "Supervised", opencode)
        monkeypatch.setattr(commands, "run_to_end", opencode.run_to_end)
        return Stage(tmp_path, opencode)

    return make
