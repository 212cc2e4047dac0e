"""What may differ from the reference, and why: what more than one scenario needs.

Two results are equal but for the session's id, durations, stderr, the exchanges' timings, and ids,
dates and ports inside of headers and messages, which `plain.py` leaves out. All else that differs
stands here or in its scenario.
"""

from __future__ import annotations

from dataclasses import dataclass

RUN, SERVE, DIRECT = "run", "serve", "direct"
RUN_STRAIGHT, SERVE_STRAIGHT = "run without relay", "serve without relay"
STRAIGHT = (RUN_STRAIGHT, SERVE_STRAIGHT)
WARM = (SERVE, SERVE_STRAIGHT)
ENGINES = (RUN, SERVE, DIRECT, *STRAIGHT)
RELAYED = (RUN, SERVE, DIRECT)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that may differ from the reference, in `engines`, and does.

    Attributes:
        path: Where, with wildcards; as `plain.differences` names places.
        why: The reason.
        engines: Where it holds.
        always: Whether it is always there; else it is a race, or depends on the scenario.
    """

    path: str
    why: str
    engines: tuple[str, ...] = ENGINES
    always: bool = True


def differ(
    why: str, *paths: str, engines: tuple[str, ...] = ENGINES, always: bool = True
) -> tuple[Difference, ...]:
    """Return several places that differ for one reason."""
    return tuple(Difference(path, why, engines, always) for path in paths)


# --- what may differ everywhere -------------------------------------------------------------------

NAMED = ("/results/*", "/results/*/attempts/*", "/results/*/transcript")
ERRORS = ("/results/*/error", "/results/*/attempts/*/error", "/events/*/*/error")
COUNTED = ("/results/*/usage", "/results/*/attempts/*/usage")
GENERAL = (
    *differ(
        "a plain chat keeps nothing, so there is no session to name",
        *(f"{place}/session_id" for place in NAMED),
        engines=(DIRECT,),
        always=False,
    ),
    *differ(
        "without a process the exit code is 0 after a whole answer, else -1",
        "/results/*/returncode",
        *(f"{place}/exit_code" for place in ERRORS),
        engines=(DIRECT,),
        always=False,
    ),
    *differ(
        "only the relay books what a single request costs",
        "/results/*/exchanges/*/cost_usd",
        engines=STRAIGHT,
    ),
    *differ(
        "the guard tells the whole header",
        "/results/*/exchanges/*/content_type",
        engines=STRAIGHT,
        always=False,
    ),
)

# --- what may differ in more than one scenario ----------------------------------------------------

NOTHING_SAID = (
    *differ(
        "`opencode run` is not asked for a session in which the model has said nothing",
        "/results/*/transcript/messages",
        engines=(SERVE, DIRECT, SERVE_STRAIGHT),
    ),
    *differ(
        "so it counts no turn, where a warm server shows one without a word",
        *(f"{place}/num_turns" for place in COUNTED),
        engines=WARM,
    ),
)
OWN_ERROR = differ(
    "opencode leaves an error object of its own in the message that it could not end",
    "/results/*/transcript/messages/*/error",
    engines=(DIRECT,),
)
EMPTY_PART = differ(
    "opencode leaves an empty text where a step's stream broke",
    "/results/*/transcript/messages/*/parts",
    "/results/*/stream_result",
    engines=(DIRECT,),
)
TOKENS = (
    *(f"{place}/{name}" for place in COUNTED for name in ("input", "cache_read")),
    *(f"{place}/cost_usd" for place in ("/results/*", "/results/*/attempts/*")),
    *("/results/*/exchanges/*/usage", "/results/*/exchanges/*/cost_usd"),
    *("/results/*/transcript/messages/*/usage", "/results/*/transcript/messages/*/cost_usd"),
    "/events/*/*/usage",
)
PRIVATE_PATH = differ(
    "the length of a private folder's path, which the model is told of, is another one", *TOKENS
)
REFUSED_RULES = differ(
    "a refusal lists the rules to the model, and a session's come after those of its server",
    *TOKENS,
    *("/results/*/transcript/messages/*/parts/*/error", "/events/*/*/error"),
    *("/results/*/stream_result", "/requests/*/bodies/*/messages/*/content"),
    engines=WARM,
)
GUARDS_WORDS = differ(
    "without the relay it is the guard that refuses, in words of its own",
    "/results/*/exchanges/*/refused",
    engines=STRAIGHT,
)
