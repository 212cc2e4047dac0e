"""Counting prompts never costs one."""

from __future__ import annotations

import logging

import pytest
from ray.util import metrics as ray_metrics

from chutes_opencode.distributed.metrics import PromptMetrics
from chutes_opencode.results import QueryResult

RESULT = QueryResult(result="", returncode=0, stderr="", stream_result="", success=True)


def test_what_goes_wrong_in_ray_is_logged_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = PromptMetrics()

    def fail(*_: object) -> None:
        raise RuntimeError("the metrics agent is gone")

    monkeypatch.setattr(ray_metrics.Counter, "inc", fail)
    with caplog.at_level(logging.ERROR):
        metrics.observe(RESULT)

    assert "a prompt could not be counted" in caplog.text
