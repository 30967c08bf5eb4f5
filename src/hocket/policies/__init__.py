"""Policies: the catalog of names, and compositions of them.

To add one: write its class in `orderings.py` (or a module of its own), give it a row here and a page in
docs/reference/policies. Every ordering of the catalog runs through the contract suite in tests/policies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from hocket.core.ordering import Ordering
from hocket.core.queue import check_nesting
from hocket.core.routing import Affinity, LeastLoaded, Routing
from hocket.errors import InputError
from hocket.policies.carbyne import Carbyne
from hocket.policies.fair_share import FairShare
from hocket.policies.hocket import Hocket
from hocket.policies.informed import Argus, Gittins, Justitia, Srtf
from hocket.policies.llmsched import LlmSched
from hocket.policies.orderings import Atlas, CallFcfs, Fair, FairJobs, Fcfs, Las, Plas, Sjf
from hocket.policies.urgency import Urgency

ORDERINGS: dict[str, Callable[..., Ordering]] = {
    "fcfs": Fcfs,
    "call-fcfs": CallFcfs,
    "urgency": Urgency,
    "fair-share": FairShare,
    "fair": Fair,
    "fair-jobs": FairJobs,
    "las": Las,
    "plas": Plas,
    "atlas": Atlas,
    "sjf": Sjf,
    "srtf": Srtf,
    "gittins": Gittins,
    "justitia": Justitia,
    "carbyne": Carbyne,
    "argus": Argus,
    "llmsched": LlmSched,
    "hocket": Hocket,
}
"which call next: name -> constructor, whose keyword arguments are its parameters"

RECIPES: dict[str, tuple[str, ...]] = {
    "default": ("urgency:strict=0:ratio=1.25:within_s=3600", "fair-share:applications=0", "hocket"),
}
"names for compositions"

ROUTINGS: dict[str, Callable[[], Routing]] = {
    "least-loaded": LeastLoaded,
    "affinity": Affinity,
}
"which replica: name -> constructor"


Value = float | list[float]
Parameters = Mapping[str, Mapping[str, Value]]
"policy -> its parameters, where they are not the defaults"


def compose(
    names: Sequence[str], extra: Mapping[str, Ordering] | None = None, parameters: Parameters | None = None
) -> list[Ordering]:
    """The orderings that `names` stand for, recipes spelled out. A name's own parameters go before `parameters`.

    Raises InputError for a bad name or nesting, and for parameters that one of them does not have or cannot take.
    """
    extra, parameters = extra or {}, parameters or {}
    spelled = spell_out(names)
    if not spelled:
        raise InputError(f"a policy needs at least one ordering; known: {', '.join(known())}")
    orderings: list[Ordering] = []
    for part in spelled:
        name, own = _split(part)
        if name in RECIPES:
            parts = " > ".join(RECIPES[name])
            raise InputError(f"policy '{part}': '{name}' is a recipe and has no parameters; write it out: {parts}")
        if name not in extra and name not in ORDERINGS:
            raise InputError(f"unknown policy '{name}'; known: {', '.join([*known(), *extra])}")
        try:
            made = [extra[name]] if name in extra else _made(name, {**parameters.get(name, {}), **own})
        except InputError as error:
            raise InputError(f"policy '{part}': {error}" if own else str(error)) from None
        orderings += made
    try:
        check_nesting(orderings)
    except ValueError as error:
        raise InputError(f"policy {' > '.join(names)}: {error}") from None
    return orderings


def check_parameters(parameters: Parameters) -> None:
    """Raise InputError, which begins with the key, unless each policy has these parameters and can take them."""
    for name, values in parameters.items():
        if name not in ORDERINGS:
            raise InputError(f"`policies.{name}`: no such policy; known: {', '.join(ORDERINGS)}")
        _made(name, values)


def _split(part: str) -> tuple[str, dict[str, Value]]:
    """A part of a composition, and the parameters in it: 'urgency:strict=0+3' -> ('urgency', {'strict': [0, 3]})."""
    name, *pairs = part.split(":")
    parameters: dict[str, Value] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            values = [float(value) for value in text.split("+")]
        except ValueError:
            raise InputError(f"policy '{part}': '{pair}' is no NAME=NUMBER; write {name}:NAME=NUMBER") from None
        parameters[key.strip()] = values if len(values) > 1 else values[0]
    return name.strip(), parameters


def _made(name: str, parameters: Mapping[str, Value]) -> list[Ordering]:
    """The ordering of this name, and those of a finer scope that come with it."""
    make = ORDERINGS[name]
    taken = list(inspect.signature(make).parameters) if parameters else []
    for key in parameters:
        if key not in taken:
            has = f"it has {', '.join(taken)}" if taken else "it has none"
            raise InputError(f"`policies.{name}.{key}`: no such parameter; {has}")
    try:
        ordering = make(**parameters)
        return [ordering, *getattr(ordering, "within", ())]
    except TypeError:
        raise InputError(f"`policies.{name}`: a list where a number belongs, or the other way round") from None
    except ValueError as error:
        raise InputError(f"`policies.{name}`: {error}") from None


def spell_out(names: Sequence[str]) -> tuple[str, ...]:
    """The same policy without recipes, whose meaning may change with a version."""
    return tuple(part for name in names for part in RECIPES.get(name, (name,)))


def parse_policy(text: str) -> tuple[str, ...]:
    """The parts of one policy of the command line: 'urgency:strict=0>las' -> ('urgency:strict=0', 'las')."""
    return tuple(name.strip() for name in text.split(">") if name.strip())


def routing(name: str) -> Callable[[], Routing]:
    """The constructor of a routing policy. Raises InputError for an unknown name."""
    if name not in ROUTINGS:
        raise InputError(f"unknown routing '{name}'; known: {', '.join(ROUTINGS)}")
    return ROUTINGS[name]


def known() -> list[str]:
    """All names that a policy may use."""
    return [*ORDERINGS, *RECIPES]
