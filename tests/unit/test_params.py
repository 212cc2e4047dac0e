"""Sampling parameters by the names of OpenAI's chat body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.request import Params


@pytest.mark.parametrize(
    ("base", "body", "made"),
    [
        (Params(), {}, Params()),
        (Params(seed=1), {"temperature": 0}, Params(seed=1, temperature=0)),
        (Params(stop="a"), {"stop": ["b", "c"]}, Params(stop=("b", "c"))),
        (Params(), {"min_p": 0.1}, Params(extra_body={"min_p": 0.1})),
        (
            Params(extra_body={"a": 1, "b": 1}),
            {"b": 2, "extra_body": {"c": 3}},
            Params(extra_body={"a": 1, "b": 2, "c": 3}),
        ),
        (Params(extra_body={"seed": 1}), {"seed": 2}, Params(seed=2)),
    ],
)
def test_what_is_updated_goes_over_the_rest(
    base: Params, body: Mapping[str, Any], made: Params
) -> None:
    assert base.updated(body) == made


def test_an_extra_body_is_a_mapping() -> None:
    with pytest.raises(ConfigurationError, match="extra_body must be an object"):
        Params().updated({"extra_body": [1]})
