"""The programs in configs/ run as they stand."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode import Simulator
from tests.patience import PROCESS_SECONDS

pytestmark = pytest.mark.timeout(6 * PROCESS_SECONDS)  # five real prompts, one after the other

BOUNDED = Path(__file__).parents[2] / "configs" / "bounded.py"
ANSWER = re.compile(r"42   \((.*), (.*), (.*) USD\)")


@pytest.fixture
def run_bounded(run_python: Callable[..., subprocess.Popen[str]]) -> Callable[[], list[str]]:
    """Run configs/bounded.py; return the lines that it printed."""

    def run() -> list[str]:
        running = run_python(BOUNDED.read_text(encoding="utf-8"))
        said, complaints = running.communicate(timeout=5 * PROCESS_SECONDS)
        assert running.returncode == 0, complaints
        return said.splitlines()

    return run


def answers(lines: list[str]) -> list[tuple[str, str, float]]:
    """How, by which model and for how many dollars the question was answered."""
    found = [match.groups() for match in map(ANSWER.fullmatch, lines) if match]
    return [(how, model, float(usd)) for how, model, usd in found]


def test_bounded_shows_fallback_replay_and_limit(
    temp_folder: Path, run_bounded: Callable[[], list[str]]
) -> None:
    *lines, refused = run_bounded()

    by_fallback, asked, replayed = answers(lines)
    assert by_fallback[:2] == ("model requests: 2", "deepseek-ai/DeepSeek-V4-Flash-0731-TEE")
    assert asked[:2] == ("model requests: 1", "Qwen/Qwen3-32B-TEE")
    assert replayed == ("replayed", "Qwen/Qwen3-32B-TEE", 0.0)
    assert by_fallback[2] > 0
    assert asked[2] > 0
    assert refused.startswith("Not sent, because of max_cost_usd: ")


def test_bounded_asks_a_provider_once_for_the_same_answer(
    simulator: Simulator, run_bounded: Callable[[], list[str]]
) -> None:
    *lines, _ = run_bounded()

    assert [how for how, _, _ in answers(lines)] == ["model requests: 1", "replayed", "replayed"]
    assert simulator.bill.total.requests == 1
