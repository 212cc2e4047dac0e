"""What prompts came to, as metrics of the Ray dashboard (and of Prometheus behind it)."""

from __future__ import annotations

import logging

from ray.util import metrics as _metrics

from chutes_opencode.results import QueryResult

# Upper bounds of the histograms' buckets, seconds: from an answer off the disk to an agent's hour.
_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
_KINDS = ("input", "output", "reasoning", "cache_read", "cache_write")

_log = logging.getLogger(__name__)


class PromptMetrics:
    """Counts the prompts of a process: one in each is enough.

    Ray puts `ray_` before each name and adds its own tags (node, worker):

    =========================================  ========================================
    chutes_opencode_prompts_total              model, status (ok, failed), error_class
    chutes_opencode_tokens_total               model, kind (input, output, reasoning,
                                               cache_read, cache_write)
    chutes_opencode_cost_usd_total             model
    chutes_opencode_wait_seconds (histogram)   model: waits for a place, pauses, backoff
    chutes_opencode_duration_seconds (same)    model: from call to end, waits included
    =========================================  ========================================
    """

    def __init__(self) -> None:
        """Announce the metrics."""
        counter, histogram = _metrics.Counter, _metrics.Histogram
        self._prompts = counter(
            "chutes_opencode_prompts_total",
            "Prompts that have ended.",
            ("model", "status", "error_class"),
        )
        self._tokens = counter(
            "chutes_opencode_tokens_total", "Tokens that were used.", ("model", "kind")
        )
        self._cost = counter("chutes_opencode_cost_usd_total", "US dollars.", ("model",))
        self._wait = histogram(
            "chutes_opencode_wait_seconds", "Seconds that a prompt waited.", _SECONDS, ("model",)
        )
        self._duration = histogram(
            "chutes_opencode_duration_seconds", "Seconds that a prompt took.", _SECONDS, ("model",)
        )

    def observe(self, result: QueryResult) -> None:
        """Count a prompt that has ended, well or not; what goes wrong here ends no prompt."""
        try:
            self._observe(result)
        except Exception:  # noqa: BLE001 - a paid answer is worth more than its count
            _log.exception("a prompt could not be counted")

    def _observe(self, result: QueryResult) -> None:
        model = {"model": result.model or "unknown"}
        error = "" if result.error is None else type(result.error).__name__
        status = "ok" if result.success else "failed"
        self._prompts.inc(1, {**model, "status": status, "error_class": error})
        for kind in _KINDS:
            if tokens := getattr(result.usage, kind):
                self._tokens.inc(tokens, {**model, "kind": kind})
        if result.cost_usd:
            self._cost.inc(result.cost_usd, model)
        waited = result.queued_s + sum(attempt.waited_s for attempt in result.attempts)
        self._wait.observe(waited, model)
        self._duration.observe(result.duration_s, model)
