"""What a batch will need is looked up while others' prompts go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from chutes_opencode.background import Job
from chutes_opencode.batch.running import intake
from chutes_opencode.batch.running.intake import BatchOptions, look_up
from chutes_opencode.llm import ChutesOpenCodeLLM
from tests.patience import WAIT_SECONDS
from tests.unit.echo import set_up_echo


def test_a_new_opencode_is_asked_for_its_version_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_echo(tmp_path, monkeypatch)
    asked, others_went_on = threading.Event(), threading.Event()

    def find_binary(*_arguments: object) -> SimpleNamespace:
        asked.set()
        return SimpleNamespace(version="1.2.3" if others_went_on.wait(WAIT_SECONDS) else "late")

    async def another() -> None:
        others_went_on.set()

    async def main() -> str:
        with ChutesOpenCodeLLM(model="m") as llm:
            looking = Job(look_up(llm, BatchOptions()))
            assert await asyncio.to_thread(asked.wait, WAIT_SECONDS)
            await Job(another()).join()
            return (await looking.join()).opencode_version

    monkeypatch.setattr(intake, "find_binary", find_binary)

    assert asyncio.run(main()) == "1.2.3"
