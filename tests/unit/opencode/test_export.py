"""The block for the user's own opencode.json."""

from __future__ import annotations

import json

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.opencode.export import export_block, render_block
from chutes_opencode.opencode.models import model_entry

CHUTES = find_provider("chutes")
URL = "https://host.example/v1"


def test_a_block_brings_the_models_and_hides_opencodes_own_list_of_them() -> None:
    models = (Model("org/a", 1000, 300, Price(1.0, 2.0)), Model("b:latency"))

    block = export_block(CHUTES, models, URL, "CHUTES_API_TOKEN")

    assert block == {
        "$schema": "https://opencode.ai/config.json",
        "provider": {
            "chutes": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Chutes",
                "options": {"baseURL": URL, "apiKey": "{env:CHUTES_API_TOKEN}"},
                "whitelist": ["org/a", "b:latency"],
                "models": {"org/a": model_entry(models[0]), "b:latency": model_entry(models[1])},
            }
        },
    }


def test_a_local_server_gets_no_key_and_limits_by_name() -> None:
    block = export_block(find_provider("ollama"), [Model("llama-128k")], URL, None)

    entry = block["provider"]["ollama"]
    assert entry["options"] == {"baseURL": URL}
    assert entry["models"]["llama-128k"]["limit"] == {"context": 131_072, "output": 4096}


def test_only_the_key_is_expanded_in_what_is_written() -> None:
    names = ("{env:HOME}", "{file:/etc/hostname}", '"apiKey": "{env:HOME}', "\\{")
    block = export_block(CHUTES, [Model(name) for name in names], URL, "KEY")

    text = render_block(block)

    assert json.loads(text) == block
    assert text.count("{env:") == text.count('"apiKey": "{env:KEY}"') == 1
    assert "{file:" not in text
    assert text.endswith("}\n")
