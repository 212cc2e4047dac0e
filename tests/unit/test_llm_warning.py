"""What an instance tells its user besides the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.llm import ChutesOpenCodeLLM
from tests.unit.echo import set_up_echo


def test_an_opencode_newer_than_tested_is_a_warning_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_echo(tmp_path, monkeypatch, warning="9.9.9 is newer than tested")
    llm = ChutesOpenCodeLLM("m")

    for _ in range(2):
        llm.prompt("hi")

    assert capsys.readouterr().err.count("9.9.9 is newer than tested") == 1
