"""What a model string means: OpenCode's prefix, routing suffixes, lists, old names. Pure.

An id keeps the provider's spelling; `<provider>/<id>` is its name in OpenCode. Both are accepted
everywhere. Ids may hold slashes, colons and commas, and may begin with the provider's own id, so
an exact id always wins over every other reading.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.quirks import Quirk
from chutes_opencode.errors import ModelNotFoundError

ROUTING_SUFFIXES = (":latency", ":throughput")
TEE_SUFFIX = "-TEE"


def qualified(provider_id: str, model_id: str) -> str:
    """Return a model's name in OpenCode: `<provider>/<id>`, whatever the id begins with."""
    return f"{provider_id}/{model_id}"


def bare(provider_id: str, name: str) -> str:
    """Return the id in an OpenCode name: exactly one prefix less; without one, `name` itself."""
    return name.removeprefix(f"{provider_id}/")


# --- looking up ----------------------------------------------------------------------------------


def find(
    asked: str,
    models: Iterable[Model],
    *,
    provider_id: str,
    quirks: frozenset[Quirk] = frozenset(),
) -> Model | None:
    """Find the model that a string names.

    Tried in this order: an exact id; the id behind `<provider>/`; a routing suffix (`id:latency`);
    an old name (`X` of `X-TEE`); a comma list, each member by the same rules.

    Args:
        asked: What the caller wrote; white space around it and around members is nobody's.
        models: What the provider lists.
        provider_id: The prefix that may stand before an id.
        quirks: The provider's: they say which of the readings it understands.

    Returns:
        The model, its `id` being what to send: the caller's spelling without the prefix. For a
        list, what holds whichever member serves it: smallest limits, dearest price, common
        abilities. None where it, or a member, is unknown.
    """
    by_id = {model.id: model for model in models}

    def find_one(name: str) -> Model | None:
        spellings = dict.fromkeys((name, bare(provider_id, name)))
        for reading in _readings(quirks):
            for spelling in spellings:
                if found := by_id.get(reading(spelling)):
                    return replace(found, id=spelling)
        return None

    found = by_id.get(asked) or by_id.get(bare(provider_id, asked)) or find_one(asked.strip())
    if found or "," not in asked or "model_lists" not in quirks:
        return found
    members = [find_one(name) for name in _members(asked)]
    known = [member for member in members if member is not None]
    return combine(known) if known and len(known) == len(members) else None


def _readings(quirks: frozenset[Quirk]) -> Sequence[Callable[[str], str]]:
    """Return what a string may be taken for, in order, as functions to the id to look for."""
    routed = _without_suffix if "routing_suffixes" in quirks else str
    readings: list[Callable[[str], str]] = [str, routed]
    if "tee_renames" in quirks:
        readings.append(lambda name: routed(name) + TEE_SUFFIX)
    return readings


def _without_suffix(name: str) -> str:
    for suffix in ROUTING_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _members(asked: str) -> list[str]:
    return [name for part in asked.split(",") if (name := part.strip())]


def combine(members: Sequence[Model]) -> Model:
    """Return what can be relied on of a list of models, whichever of them answers.

    Args:
        members: At least one; of a single one everything stays as it is.
    """
    if len(members) == 1:
        return members[0]
    quantizations = {member.quantization for member in members}
    return Model(
        id=",".join(member.id for member in members),
        context_length=_smallest(member.context_length for member in members),
        max_output_length=_smallest(member.max_output_length for member in members),
        price=_dearest([member.price for member in members]),
        input_modalities=_common([member.input_modalities for member in members]),
        output_modalities=_common([member.output_modalities for member in members]),
        features=_common([member.features for member in members]),
        sampling_parameters=_common([member.sampling_parameters for member in members]),
        quantization=quantizations.pop() if len(quantizations) == 1 else None,
        confidential_compute=all(member.confidential_compute for member in members),
    )


def _smallest(lengths: Iterable[int | None]) -> int | None:
    return min((length for length in lengths if length is not None), default=None)


def _dearest(prices: Sequence[Price | None]) -> Price | None:
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    cached = [price.cache_read for price in known if price.cache_read is not None]
    return Price(
        input=max(price.input for price in known),
        output=max(price.output for price in known),
        # Where one tells no price of cached input it costs what input costs: that is the dearest.
        cache_read=max(cached) if len(cached) == len(known) else None,
    )


def _common(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(item for item in lists[0] if all(item in other for other in lists[1:]))


# --- what cannot be found ------------------------------------------------------------------------


def nearest(asked: str, models: Iterable[Model], count: int = 3) -> tuple[str, ...]:
    """Return the ids most like `asked`, best first; the maker's part only decides between equals.

    Args:
        asked: An id, with or without prefix and routing suffix.
        models: What there is.
        count: How many at most.
    """
    wanted = _without_suffix(asked.strip()).lower()
    by_name: dict[str, list[str]] = {}
    for model in models:
        by_name.setdefault(_last_part(model.id.lower()), []).append(model.id)
    close = difflib.get_close_matches(_last_part(wanted), by_name, n=count, cutoff=0.5)

    def likeness(model_id: str) -> float:
        return difflib.SequenceMatcher(None, wanted, model_id.lower()).ratio()

    ids = (i for name in close for i in sorted(by_name[name], key=likeness, reverse=True))
    return tuple(ids)[:count]


def _last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def renamed(asked: str, models: Iterable[Model]) -> str | None:
    """Return the new id of a model that was renamed `X` → `X-TEE`; None if that did not happen.

    Args:
        asked: The old id, without the provider's prefix; a routing suffix may be there.
        models: What the provider lists now.
    """
    ids = {model.id for model in models}
    old = _without_suffix(asked)
    return old + TEE_SUFFIX if old not in ids and old + TEE_SUFFIX in ids else None


def unknown_model(
    asked: str,
    models: Iterable[Model],
    *,
    provider_id: str,
    quirks: frozenset[Quirk] = frozenset(),
    hidden: Iterable[Model] = (),
) -> ModelNotFoundError:
    """Make the error for a string that `find` could not find; of a list its unknown members.

    Args:
        asked: What the caller wrote.
        models: What may be asked for.
        provider_id: The prefix with which ids are shown.
        quirks: The provider's.
        hidden: What the provider lists too, but `model_filter` hides.

    Returns:
        The error: message and hint show OpenCode names, `suggestions` holds plain ids.
    """
    models, hidden = tuple(models), tuple(hidden)

    def known(name: str, among: Iterable[Model]) -> bool:
        return find(name, among, provider_id=provider_id, quirks=quirks) is not None

    names = _members(asked) if "model_lists" in quirks else []
    names = [name for name in names if not known(name, models)] or [asked]
    name = names[0].strip()
    plain = bare(provider_id, name)
    new_id = renamed(plain, models)
    near = (new_id,) if new_id else nearest(plain, models)
    shown = [qualified(provider_id, model_id) for model_id in near]
    if known(name, hidden):
        message = f"model {name!r} is hidden by model_filter"
        hint = "Let model_filter include it, or ask for another model."
    elif new_id:
        message, hint = f"model {name!r} is now {shown[0]}", f"Ask for {shown[0]}."
    else:
        message = f"unknown model {name!r}" + (f"; nearest: {', '.join(shown)}" if shown else "")
        hint = _advice(plain, shown, "saved_aliases" in quirks)
    return ModelNotFoundError(raw_message=message, suggestions=near, model=asked, hint=hint)


def _advice(name: str, shown: Sequence[str], aliases: bool) -> str:
    advice = (
        f"Did you mean {' or '.join(shown)}?"
        if shown
        else "`chutes-opencode models list` shows what there is."
    )
    if aliases and "/" not in name:
        advice += " If it is an alias saved in your account, name it in extra_models."
    return advice
