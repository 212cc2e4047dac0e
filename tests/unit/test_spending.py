"""What a prompt may spend, and where: the terms that options and settings come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import spending
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError, LimitExceededError
from chutes_opencode.limits import Budget
from chutes_opencode.options import Options
from chutes_opencode.relay.terms import ReplayKey, Terms
from chutes_opencode.request import Limits
from chutes_opencode.settings import Settings, load_settings
from chutes_opencode.spending import check_means, make_terms, process_budget

KEY = "cpk_unit.test.key.of.nobody"
CHUTES = find_provider("chutes")
CHEAP, DEAR = Price(1.0, 2.0), Price(10.0, 20.0)
MODELS = (Model("a", price=CHEAP), Model("b", price=DEAR), Model("c"))


def settings(folder: Path, **values: Any) -> Settings:
    return load_settings(
        environ={"HOME": str(folder)}, cwd=folder, **{"api_token": KEY, "retries": 5} | values
    )


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return settings(tmp_path)


def terms(
    settings: Settings,
    *,
    models: tuple[Model, ...] = MODELS,
    inherited: dict[str, str] | None = None,
    **fields: Any,
) -> Terms:
    options = Options(None, "", **{"provider": CHUTES} | fields)
    made = make_terms(options, settings, models, budgets=(), inherited=inherited or {})
    assert made is not None
    return made


# --- the terms ------------------------------------------------------------------------------------


def test_the_models_are_the_one_asked_for_and_its_stand_ins_with_their_prices(
    plain: Settings,
) -> None:
    made = terms(plain)

    assert (made.model, made.fallback_models) == ("a", ("b", "c"))
    assert made.prices == {"a": CHEAP, "b": DEAR, "c": None}
    assert terms(plain, models=MODELS[:1]).fallback_models == ()


def test_the_limits_are_the_instances(plain: Settings) -> None:
    made = terms(plain, limits=Limits(7, 8, 0.5, 99.0))

    assert (made.max_requests, made.max_tokens, made.max_cost_usd) == (7, 8, 0.5)
    assert (terms(plain).max_tokens, terms(plain).max_cost_usd) == (None, None)


def test_a_request_is_tried_as_often_as_a_step_may_be_and_repeated_sooner_than_a_prompt(
    plain: Settings,
) -> None:
    made = terms(plain)

    assert (made.tries_left, made.policy.retries) == (5, 5)
    assert made.policy.base_wait_s == spending.REQUEST_WAIT_S < 1


def test_the_budgets_are_those_that_are_shared(plain: Settings) -> None:
    shared = (Budget("max_total_cost_usd", 1.0),)

    made = make_terms(Options(None, "", CHUTES), plain, MODELS, budgets=shared, inherited={})

    assert made is not None
    assert made.budgets == shared


def test_the_way_is_the_providers(plain: Settings) -> None:
    provider = CHUTES.model_copy(update={"id": "mine", "auth": "x-api-key"})

    upstream = terms(plain, provider=provider).upstream

    assert (upstream.provider_id, upstream.base_url) == ("mine", plain.base_url)
    assert (upstream.auth, upstream.patterns) == ("x-api-key", provider.patterns)
    assert upstream.key() == KEY
    assert KEY not in repr(upstream)


def test_a_key_that_rotates_is_read_anew_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHUTES_API_TOKEN", "first-key-of-two")
    upstream = terms(load_settings(cwd=tmp_path)).upstream

    keys = [upstream.key()]
    monkeypatch.setenv("CHUTES_API_TOKEN", "second-key-of-two")
    keys.append(upstream.key())

    assert keys == ["first-key-of-two", "second-key-of-two"]


@pytest.mark.parametrize(
    ("inherited", "files"),
    [
        ({"PATH": "/bin"}, ()),
        ({"NODE_EXTRA_CA_CERTS": "/node.pem", "PATH": "/bin"}, ("/node.pem",)),
        ({"NODE_EXTRA_CA_CERTS": "/n.pem", "REQUESTS_CA_BUNDLE": "/r.pem"}, ("/r.pem", "/n.pem")),
        ({"REQUESTS_CA_BUNDLE": ""}, ()),
    ],
)
def test_the_callers_certificates_are_trusted(
    plain: Settings, inherited: dict[str, str], files: tuple[str, ...]
) -> None:
    assert terms(plain, inherited=inherited).upstream.ca_files == files


def test_answers_are_kept_where_the_caller_says(plain: Settings, tmp_path: Path) -> None:
    options = Options(None, "", CHUTES, cache=tmp_path)

    made = make_terms(options, plain, MODELS, budgets=(), inherited={}, sample_index=2)

    assert made is not None
    assert made.replay == ReplayKey(tmp_path, 2)
    assert terms(plain).replay is None


# --- without the relay ----------------------------------------------------------------------------


def test_without_the_relay_there_are_no_terms(plain: Settings) -> None:
    options = Options(None, "", CHUTES, relay=False)

    assert make_terms(options, plain, MODELS, budgets=(), inherited={}) is None


def test_a_limit_of_the_process_that_nobody_would_keep_is_refused(tmp_path: Path) -> None:
    options = Options(None, "", CHUTES, relay=False)
    limited = settings(tmp_path, max_process_cost_usd=0)

    with pytest.raises(ConfigurationError, match="max_process_cost_usd needs the relay"):
        make_terms(options, limited, MODELS, budgets=(), inherited={})


# --- the process's budget -------------------------------------------------------------------------


def test_without_a_limit_there_is_no_budget(plain: Settings) -> None:
    assert process_budget(plain) == ()


def test_all_instances_of_a_process_share_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = settings(tmp_path, max_process_cost_usd=123.5)
    other = settings(tmp_path, max_process_cost_usd=321.5)

    (budget,) = process_budget(limited)

    assert (budget.name, budget.max_cost_usd) == ("max_process_cost_usd", 123.5)
    assert process_budget(settings(tmp_path, max_process_cost_usd=123.5))[0] is budget
    assert process_budget(other)[0] is not budget

    monkeypatch.setattr(spending.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    assert process_budget(limited)[0] is not budget


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_cost_usd": 0.0}, "max_cost_usd"),
        ({"budgets": (Budget("max_total_cost_usd", 0.000001),)}, "max_total_cost_usd"),
    ],
)
def test_a_prompt_that_nothing_is_left_for_is_refused_before_it_starts(
    plain: Settings, changes: dict[str, Any], limit: str
) -> None:
    means = replace(terms(plain), **changes)

    with pytest.raises(LimitExceededError) as caught:
        check_means(means, "a prompt of some length")

    assert caught.value.limit == limit


def test_a_prompt_with_means_may_start(plain: Settings) -> None:
    check_means(replace(terms(plain), max_tokens=1, max_cost_usd=1.0), "a prompt")


def test_a_model_on_this_machine_may_take_as_long_as_the_attempt(plain: Settings) -> None:
    local = terms(plain.overridden(timeout_seconds=3600), provider=find_provider("ollama"))
    remote = terms(plain.overridden(timeout_seconds=3600))

    assert (local.idle_seconds, local.upstream.headers_seconds) == (3600, 3600)
    assert (remote.idle_seconds, remote.upstream.headers_seconds) == (120, 300)
