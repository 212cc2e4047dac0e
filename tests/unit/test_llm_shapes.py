"""What `ChutesOpenCodeLLM` refuses at once, whatever it would be used for."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.llm import ChutesOpenCodeLLM


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("system_message", b"x"),
        ("params", {"seed": 1}),
        ("tools", 5),
        ("builtin_tools", "no"),
        ("permission", []),
        ("work_dir", 5),
        ("work_dir", ""),
        ("env", [("A", "b")]),
        ("agent_name", 5),
        ("limits", {"max_requests": 1}),
        ("context", "yes"),
        ("relay", "no"),
        ("fallback_models", "a"),
        ("cache", 5),
        ("cache", ""),
        ("settings", {}),
        ("log_dir", 5),
        ("on_event", 5),
        ("extra_cli_args", "--auto"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"^configuration on unknown: {name} (must be|is)"
    ):
        ChutesOpenCodeLLM(**{name: value})
