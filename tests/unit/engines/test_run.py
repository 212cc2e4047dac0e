"""RunEngine: what it gives to opencode, and what it makes of what opencode leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.engines import commands
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.events import StepEnd, TextDelta
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.process import Command
from chutes_opencode.request import ChatMessage, FilePart, McpServer

CAPTURES = Path(__file__).parents[2] / "captures" / "opencode-1.18.33"
SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
KEY = "cpk_unit.test.key.of.nobody"

MakeStage = Callable[..., Any]


def captured(name: str) -> str:
    return (CAPTURES / name).read_text("utf-8")


def fresh_export(text: str = "Hello") -> dict[str, Any]:
    """An export whose only turn was made now (in the year 3000, to be sure)."""
    info = {"role": "assistant", "finish": "stop", "time": {"created": 32503680000000}}
    return {
        "info": {"id": SESSION},
        "messages": [{"info": info, "parts": [{"type": "text", "text": text}]}],
    }


# --- what opencode is given -------------------------------------------------------------------


def test_the_command(stage: MakeStage) -> None:
    made = stage()

    made.run(agent_name="boss", extra_cli_args=("--variant", "high"))

    command = made.opencode.commands["run"]
    assert command.argv == (
        *("/opt/opencode", "run", "--format", "json", "--title", "prompt", "--thinking"),
        *("--model", "chutes/ok/short", "--agent", "boss"),
        *("--print-logs", "--log-level", "INFO", "--variant", "high"),
    )
    assert command.workspace == command.stdout.parent


@pytest.mark.parametrize(
    "prompt", ["Say hi", "--help", "-", "a\r\nb\x07", "é🙂", "{env:HOME}", " x "]
)
def test_the_prompt_goes_by_stdin_byte_for_byte(stage: MakeStage, prompt: str) -> None:
    made = stage()

    made.run(prompt=prompt)

    command = made.opencode.commands["run"]
    assert command.stdin == command.stdout.with_name("prompt")
    assert made.opencode.files["prompt"] == prompt
    assert prompt not in command.argv


def test_of_two_byte_order_marks_one_arrives(stage: MakeStage) -> None:
    made = stage()

    made.run(prompt="\ufeffSay hi")

    assert made.opencode.files["prompt"] == "\ufeff\ufeffSay hi"


def test_the_key_is_only_in_the_environment(stage: MakeStage) -> None:
    made = stage()

    made.run()

    assert made.opencode.commands["run"].env[KEY_VARIABLE] == KEY
    assert KEY not in " ".join(made.opencode.commands["run"].argv)
    assert not [name for name, text in made.opencode.files.items() if KEY in text]
    assert KEY_VARIABLE not in made.opencode.commands["export"].env


def test_the_guard_knows_limit_tools_and_system(stage: MakeStage) -> None:
    made = stage()

    made.run(
        max_requests=7,
        tools=(McpServer("a.b", url="http://h"),),
        system_message="Be brief.",
        context=False,
    )

    spec = json.loads(made.opencode.files["guard/guard.json"])
    assert spec["completionsUrl"] == "http://127.0.0.1:1/v1/chat/completions"
    assert (spec["maxRequests"], spec["toolPrefixes"]) == (7, ["a_b_"])
    assert (spec["system"], spec["context"]) == ("Be brief.", False)
    assert "export const Guard" in made.opencode.files["guard/guard.js"]


def test_attachments_go_as_files_of_ours_though_their_names_repeat(stage: MakeStage) -> None:
    made = stage()
    pictures = tuple(FilePart("a.png", content, "image/png") for content in (b"1", b"2"))

    made.run(attachments=pictures)

    argv = made.opencode.commands["run"].argv
    files = [Path(argv[at + 1]) for at, word in enumerate(argv) if word == "--file"]
    assert [file.name for file in files] == ["a.png", "a.png"]
    assert [made.opencode.files[f"attachments/{n}/a.png"] for n in (0, 1)] == ["1", "2"]


def test_history_is_imported_before_the_run_continues_it(stage: MakeStage) -> None:
    made = stage()

    made.run(history=(ChatMessage("user", "before"), ChatMessage("assistant", "yes")))

    document = json.loads(made.opencode.files["history"])
    argv = made.opencode.commands["run"].argv
    assert argv[argv.index("--session") + 1] == document["info"]["id"]


def test_history_that_opencode_refuses_is_an_error(stage: MakeStage) -> None:
    with pytest.raises(ConfigurationError, match="refused the history: no such shape"):
        stage(import_returncode=1).run(history=(ChatMessage("user", "before"),))


def test_an_import_that_hangs_is_an_error(stage: MakeStage) -> None:
    with pytest.raises(UnknownOpenCodeError, match="import of the history: opencode did not end"):
        stage(hangs=frozenset({"import"})).run(history=(ChatMessage("user", "before"),))


def test_an_import_that_takes_all_the_time_is_a_timeout(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_end(_command: Command, *, timeout_seconds: float) -> None:
        await asyncio.sleep(timeout_seconds)

    made = stage()
    monkeypatch.setattr(commands, "run_to_end", never_end)

    evidence = made.run(history=(ChatMessage("user", "before"),), timeout_seconds=0.05)

    assert (evidence.stopped, evidence.returncode) == ("timeout", -1)
    assert (evidence.transcript.messages, evidence.exchanges) == ((), ())


# --- what opencode leaves behind --------------------------------------------------------------


def test_the_export_is_the_transcript(stage: MakeStage) -> None:
    made = stage(export=fresh_export("Hello from the export"), returncode=3)

    evidence = made.run()

    assert evidence.transcript.session_id == SESSION
    assert evidence.transcript.text == "Hello from the export"
    assert (evidence.returncode, evidence.stopped, evidence.work_dir) == (3, None, None)
    assert made.opencode.commands["export"].argv[1:] == ("export", SESSION)


def test_what_the_model_writes_is_observed(stage: MakeStage) -> None:
    made = stage()

    made.run()

    assert [type(event) for event in made.events] == [TextDelta, StepEnd]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"export": "{ cut"}, id="no JSON"),
        pytest.param({"export": {"messages": []}}, id="no messages"),
        pytest.param({"export": json.loads(captured("export_ok.json"))}, id="only history"),
        pytest.param({"hangs": frozenset({"export"})}, id="no end"),
    ],
)
def test_without_a_usable_export_the_stream_is_the_transcript(
    stage: MakeStage, fields: dict[str, Any]
) -> None:
    assert stage(**fields).run().transcript.text == "Hello from ok/short"


def test_without_a_session_there_is_no_export(stage: MakeStage) -> None:
    made = stage(stdout="", stderr="Config is invalid\n", returncode=1)

    evidence = made.run()

    assert "export" not in made.opencode.commands
    assert (evidence.transcript.messages, evidence.stderr) == ((), "Config is invalid")


def test_the_runs_error_and_the_guards_record_are_evidence(stage: MakeStage) -> None:
    request = {"id": 1, "kind": "request", "time": 1.0, "model": "ok/short"}
    answer = {"id": 1, "kind": "response", "time": 2.0, "status": 402, "body": "no money"}
    guard = f"{json.dumps(request)}\n{json.dumps(answer)}\n"

    evidence = stage(stdout=captured("run_402.jsonl"), guard=guard).run()

    assert evidence.run_error is not None
    assert evidence.run_error["name"] == "APIError"
    assert [(e.status, e.body) for e in evidence.exchanges] == [(402, "no money")]


def test_a_turn_that_the_guard_did_not_see_is_not_trusted(stage: MakeStage) -> None:
    assert stage(guard="").run().stopped == "guard"


def test_an_attachment_after_which_nothing_happened_was_not_readable(stage: MakeStage) -> None:
    made = stage(guard="", stdout="", export={})

    seen = made.run(attachments=(FilePart("a.png", b"cut", "image/png"),))

    assert seen.stopped == "attachment"


@pytest.mark.parametrize(
    ("name", "media_type", "file_name"),
    [
        ("chart.png", "image/png", "chart.png"),
        ("photo", "image/png", "photo.png"),
        ("notes.txt", "application/pdf", "notes.txt.pdf"),
    ],
)
def test_an_attachment_has_the_extension_of_its_type(
    stage: MakeStage, name: str, media_type: str, file_name: str
) -> None:
    made = stage()

    made.run(attachments=(FilePart(name, b"bytes", media_type),))

    argv = made.opencode.commands["run"].argv
    assert Path(argv[argv.index("--file") + 1]).name == file_name


def test_secrets_are_masked_wherever_opencode_repeats_them(stage: MakeStage) -> None:
    made = stage(
        export=fresh_export(f"my key is {KEY}"),
        stdout=captured("run_402.jsonl").replace("Payment Required", KEY),
        stderr=f"words {KEY}\n",
    )

    assert KEY not in repr(made.run())


# --- its end ----------------------------------------------------------------------------------


def test_a_run_that_does_not_end_in_time_is_ended(stage: MakeStage) -> None:
    made = stage(hangs=frozenset({"run"}))

    evidence = made.run(timeout_seconds=0.05)

    assert evidence.stopped == "timeout"
    assert made.opencode.gone.is_set()
    assert evidence.transcript.text == "Hello from ok/short"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (captured("run_429_print-logs_ERROR.stderr.txt"), "failing"),
        ('! agent "x" not found. Falling back to default agent\n', "agent"),
    ],
)
def test_a_run_that_must_not_go_on_is_ended(stage: MakeStage, stderr: str, reason: str) -> None:
    made = stage(stderr=stderr, hangs=frozenset({"run"}))

    evidence = made.run()

    assert evidence.stopped == reason
    assert made.opencode.gone.is_set()
    assert "export" not in made.opencode.commands


@pytest.mark.parametrize("hangs", [frozenset(), frozenset({"run"})])
def test_nothing_is_left_in_the_temporary_folder(stage: MakeStage, hangs: frozenset[str]) -> None:
    made = stage(hangs=hangs)

    made.run(timeout_seconds=0.05)

    assert list(made.temp.iterdir()) == []


def test_a_process_that_cannot_start_is_a_typed_error(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage()

    async def start(_command: Command) -> None:
        raise PermissionError(13, "Permission denied", "/opt/opencode")

    monkeypatch.setattr(made.opencode, "start", start)
    with pytest.raises(ConfigurationError, match=r"could not be run: .*Permission denied"):
        made.run()

    assert list(made.temp.iterdir()) == []


def test_a_work_dir_that_is_no_folder_is_refused(stage: MakeStage, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        stage().run(work_dir=tmp_path / "none")


def test_a_callers_work_dir_is_used_and_told(stage: MakeStage, tmp_path: Path) -> None:
    made = stage()

    evidence = made.run(work_dir=tmp_path)

    assert made.opencode.commands["run"].cwd == tmp_path
    assert evidence.work_dir == tmp_path
