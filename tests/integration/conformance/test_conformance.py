"""Whichever engine runs a prompt, its result is the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.integration.conformance.differences import GENERAL, Difference
from tests.integration.conformance.plain import differences, fits
from tests.integration.conformance.play import Outcome
from tests.integration.conformance.scenario import Scenario
from tests.integration.conformance.scenarios import SCENARIOS

Outcomes = Mapping[tuple[str, str], Outcome]

BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}
PLAYED = [(scenario.name, engine) for scenario in SCENARIOS for engine in scenario.engines]
OTHERS = [(name, engine) for name, engine in PLAYED if engine != BY_NAME[name].reference]

pytestmark = pytest.mark.timeout(3600)  # the first test waits until all has been played


def exceptions(name: str, engine: str) -> list[Difference]:
    """Return what may differ in a scenario on an engine."""
    return [one for one in (*BY_NAME[name].differs, *GENERAL) if engine in one.engines]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_reference_comes_to_the_end_that_the_scenario_is_about(
    name: str, outcomes: Outcomes
) -> None:
    scenario = BY_NAME[name]
    last = outcomes[name, scenario.reference].answers[-1]

    assert last.result is not None
    assert (type(last.error).__name__ if last.error else "") == scenario.ends
    assert scenario.says in (None, last.result.result)


@pytest.mark.parametrize(("name", "engine"), OTHERS)
def test_an_engine_does_as_the_reference_does(name: str, engine: str, outcomes: Outcomes) -> None:
    reference, other = (outcomes[name, one].plain for one in (BY_NAME[name].reference, engine))

    found = dict(differences(reference, other))

    excused = exceptions(name, engine)
    assert {
        path: how for path, how in found.items() if not any(fits(path, one.path) for one in excused)
    } == {}
    idle = [one for one in BY_NAME[name].differs if engine in one.engines and one.always]
    idle = [one for one in idle if not any(fits(path, one.path) for path in found)]
    assert idle == [], "exceptions that are none any more"


@pytest.mark.parametrize(("name", "engine"), PLAYED)
def test_what_is_told_is_what_was_billed(name: str, engine: str, outcomes: Outcomes) -> None:
    outcome = outcomes[name, engine]
    results = [answer.result for answer in outcome.answers if answer.result is not None]
    told = [
        sum(result.usage.input + result.usage.cache_read for result in results),
        sum(result.usage.output + result.usage.reasoning for result in results),
        sum(result.cost_usd or 0.0 for result in results),
        sum(result.usage.num_requests for result in results),
    ]
    billed = [
        sum(entry.input_tokens for entry in outcome.bill),
        sum(entry.output_tokens for entry in outcome.bill),
        sum(entry.cost_usd for entry in outcome.bill),
        len(outcome.requests),
    ]

    if BY_NAME[name].estimated:
        assert any(result.usage.estimated for result in results)
    else:
        assert told == pytest.approx(billed, abs=1e-12)
