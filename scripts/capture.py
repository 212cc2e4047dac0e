"""Record opencode's real output against the simulator, one file for each case.

Ids and times differ each time; the folder of the run is written as /workspace. What `opencode
serve` says (`serve_*`) was recorded by hand and is left alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chutes_opencode import Simulator, load_settings, parse_session_id
from chutes_opencode.opencode.binary import find_binary
from chutes_opencode.settings import inherited_environment

CAPTURES = Path(__file__).parents[1] / "tests" / "captures"
LOGS = ("--print-logs", "--log-level", "ERROR")
TOOL = {"tool": "bash", "arguments": {"command": "echo hi; pwd", "description": "x"}}
SCRIPT = json.dumps({"steps": [TOOL, {"text": "done"}]})
SCENARIO = {"rules": [{"model": "sim/fault/429-retry-after-seconds", "retry_after": "0"}]}


@dataclass(frozen=True)
class Case:
    """A run of opencode and the files that keep what it printed.

    Attributes:
        model: What `--model` gets.
        stdout: File for standard output; None: not kept.
        stderr: File for standard error; None: appended to `stdout` if there is any.
        arguments: Further arguments of `opencode run`.
        message: The prompt.
        export: File for `opencode export` of the session.
    """

    model: str
    stdout: str | None = None
    stderr: str | None = None
    arguments: tuple[str, ...] = ()
    message: str = "hello"
    export: str | None = None


CASES = {
    "ok": Case("chutes/sim/echo", "run_ok.jsonl", export="export_ok.json"),
    "tool": Case("chutes/sim/script", "run_tool.jsonl", message=SCRIPT),
    "reasoning": Case(
        "chutes/sim/reasoning", "run_reasoning_thinking.jsonl", None, ("--thinking",)
    ),
    "402": Case("chutes/sim/fault/402-quota", "run_402.jsonl"),
    "429": Case(
        "chutes/sim/fault/429-retry-after-seconds",
        None,
        "run_429_print-logs_ERROR.stderr.txt",
        LOGS,
    ),
    "content-filter": Case("chutes/sim/fault/finish-content-filter", "run_content_filter.jsonl"),
    "unknown-agent": Case("chutes/sim/echo", "run_unknown_agent.txt", None, ("--agent", "nope")),
    "unknown-model": Case("chutes/nope", "run_unknown_model.txt"),
    "unknown-model-logs": Case(
        "chutes/nope",
        "run_unknown_model_print-logs.jsonl",
        "run_unknown_model_print-logs_ERROR.stderr.txt",
        LOGS,
    ),
    "unknown-provider": Case("nope/nope", "run_unknown_provider.txt"),
    "no-slash": Case("nope", "run_model_noslash.txt"),
}


class Recorder:
    """Runs opencode in a home of its own and writes what it prints."""

    def __init__(self, binary: Path, simulator: Simulator, folder: Path, out: Path) -> None:
        """Write opencode's config into `folder`; captures go to `out`."""
        self._binary, self._folder, self._out = binary, folder, out
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir()
        self._env = inherited_environment() | {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "OPENCODE_CONFIG_CONTENT": json.dumps(_config(simulator)),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
        }

    def record(self, case: Case) -> None:
        """Run one case."""
        arguments = ["run", "--format", "json", "--title", "t", "--model", case.model]
        if "--agent" not in case.arguments:
            arguments += ["--agent", "chat"]
        stdout, stderr = self._run([*arguments, *case.arguments], case.message)
        if case.stderr is not None:
            self._write(case.stderr, stderr)
        elif stderr:
            stdout += f"\n--stderr--\n{stderr}"
        if case.stdout is not None:
            self._write(case.stdout, stdout)
        session_id = parse_session_id(stdout)
        if case.export is not None and session_id is not None:
            self._write(case.export, self._run(["export", session_id], "")[0])

    def _run(self, arguments: list[str], message: str) -> tuple[str, str]:
        out, err = self._folder / "out", self._folder / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            subprocess.run(
                [str(self._binary), *arguments],
                input=message.encode(),
                stdout=stdout,
                stderr=stderr,
                env=self._env,
                cwd=self._folder / "work",
                timeout=120,
                check=False,
            )
        return out.read_text(), err.read_text()

    def _write(self, name: str, text: str) -> None:
        folder = str(self._folder)
        text = text.replace(folder, "/workspace").replace(folder.lstrip("/"), "workspace")
        (self._out / name).write_text(text)
        print(f"{name}: {len(text)} characters")


def _config(simulator: Simulator) -> dict[str, Any]:
    models = {case.model.removeprefix("chutes/") for case in CASES.values()} - {"nope", "nope/nope"}
    return {
        "enabled_providers": ["chutes"],
        "agent": {"chat": {"mode": "primary", "prompt": "P"}},
        "share": "disabled",
        "provider": {
            "chutes": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": simulator.base_url, "apiKey": simulator.api_token},
                "models": {name: {"name": name, "reasoning": True} for name in sorted(models)},
            }
        },
    }


def main() -> None:
    """Record the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the files")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    settings = load_settings()
    search_path = inherited_environment().get("PATH", "")
    binary = find_binary(settings.opencode_bin, search_path, settings.home / "opencode")
    out = options.out or CAPTURES / f"opencode-{binary.version}"
    out.mkdir(parents=True, exist_ok=True)
    with Simulator(SCENARIO) as simulator, tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(binary.path, simulator, Path(folder).resolve(), out)
        for name in options.cases or CASES:
            recorder.record(CASES[name])


if __name__ == "__main__":
    main()
