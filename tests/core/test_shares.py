"""Shares of the engines: who is next by what each tenant has had, and what comes of weights, idleness and ties."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.events import CallFinished, JobClosed, JobOpened, ReplicaAdded, SettingsChanged
from hocket.core.spec import EngineSpec, SchedulerSpec, TenantSpec
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]
OWNERS = {"a": "x", "b": "y", "c": "z"}
TWO = [EngineSpec("e", ["m"]), EngineSpec("f", ["n"])]


def share(bare: Bare, tenant: str, at: float) -> float:
    """Its dominant share over its weight."""
    shares = bare.scheduler.shares
    return shares.dominant(shares.root.below[tenant], at)


def test_who_has_had_less_goes_first(core: Make) -> None:
    bare = core("fair-share", owners=OWNERS)
    bare.feed(*arrive(0.0, "a1", "a2", "b1"))
    assert bare.feed(CallFinished(5.0, "a1")) == sent("b1")


def test_what_is_used_of_another_engine_counts(core: Make) -> None:
    """a has had nothing of f; but of e, all."""
    bare = core("fair-share", owners=OWNERS, engines=TWO)
    bare.feed(ReplicaAdded(0.0, "f", "q", 1), *arrive(0.0, "a1"), *arrive(0.0, "c1", "a2", "b1", model="n"))
    bare.feed(CallFinished(9.0, "a1"))
    assert bare.feed(CallFinished(9.0, "c1")) == sent("b1", to="q", engine="f")


def test_a_share_is_the_part_of_the_slots_averaged_with_a_half_life(core: Make) -> None:
    bare = core("fair-share:half_life_s=16", windows={"r": 4}, owners=OWNERS)
    bare.feed(*arrive(0.0, "a1", "a2", "b1"), *(CallFinished(16.0, call) for call in ("a1", "a2", "b1")))
    assert share(bare, "x", 16.0) == pytest.approx(0.5 * 0.5)
    assert share(bare, "y", 16.0) == pytest.approx(0.25 * 0.5)
    assert share(bare, "x", 48.0) == pytest.approx(0.5 * 0.5 / 4)


def test_weights_divide_and_new_ones_hold_for_what_was_had(core: Make) -> None:
    bare = core("fair-share:half_life_s=16", windows={"r": 2}, owners=OWNERS)
    bare.feed(*arrive(0.0, "a1", "b1"), *(CallFinished(16.0, call) for call in ("a1", "b1")))
    spec = SchedulerSpec([EngineSpec("e", ["m"])], ("fair-share:half_life_s=16",), tenants=[TenantSpec("x", 4.0)])
    bare.feed(SettingsChanged(16.0, spec))
    assert share(bare, "x", 16.0) == pytest.approx(share(bare, "y", 16.0) / 4)


def test_a_newcomer_has_no_credit_beyond_the_tolerance(core: Make) -> None:
    """a has filled the engine for minutes. b's first call goes next; then they take turns, as if it had been there."""
    bare = core("fair-share", owners=OWNERS)
    bare.feed(*arrive(0.0, *(f"a{n}" for n in range(40))))
    order = []
    for n in range(20):
        bare.feed(CallFinished(10.0 * n + 10.0, f"a{n}"))
    bare.feed(*arrive(205.0, *(f"b{n}" for n in range(20))))
    for n in range(20):
        held = next(call.id for call in bare.scheduler.calls.values() if call.replica is not None)
        order += [command.call[0] for command in bare.feed(CallFinished(210.0 + 10.0 * n, held))]  # type: ignore[union-attr]
    assert order[0] == "b"
    assert 8 <= order.count("b") <= 13
    assert "bbbb" not in "".join(order) and "aaaa" not in "".join(order)


def test_near_ties_go_by_what_follows(core: Make) -> None:
    """a has had a little more than b, and its job came first: with a tolerance that decides."""

    def next_of(tolerance: float) -> str:
        bare = core(f"fair-share:tolerance={tolerance}", "fcfs", windows={"r": 2}, owners=OWNERS)
        bare.feed(*arrive(0.0, "a1"), *arrive(1.0, "b1"), *arrive(2.0, "b2", "a2"))
        bare.feed(CallFinished(20.0, "a1"))
        return next(call.id for call in bare.scheduler.calls.values() if call.id in ("a2", "b2") and call.replica)

    assert next_of(0.0) == "b2"
    assert next_of(0.25) == "a2"


def test_applications_of_a_tenant_share_its_part_unless_told_otherwise(core: Make) -> None:
    """Two applications of one tenant; one has used the engine so far."""

    def next_of(policy: str) -> list[object]:
        bare = core(policy, "fcfs", apps={"a": "big", "b": "other"}, owners={"a": "x", "b": "x"})
        bare.feed(*arrive(0.0, "a1", "a2", "b1"))
        return list(bare.feed(CallFinished(9.0, "a1")))

    assert next_of("fair-share") == sent("b1")
    assert next_of("fair-share:applications=0") == sent("a2")


def test_applications_without_jobs_are_forgotten(core: Make) -> None:
    """Their names come from clients, who may send any number."""
    bare = core("fair-share", jobs="")
    for n in range(50):
        bare.feed(JobOpened(0.0, f"{n}", f"app-{n}"))
    tenant = bare.scheduler.shares.root.below["default"]
    assert len(tenant.below) == 50
    bare.feed(*(JobClosed(1.0, f"{n}") for n in range(50)))
    assert not tenant.below


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("tolerance=-1", "tolerance: -1"),
        ("half_life_s=0", "half_life_s: 0"),
        ("half_life_s=1e300", "half_life_s: 1e.300"),  # shares would be too small for a logarithm
        ("applications=2", "applications: 2"),
    ],
)
def test_parameters_are_checked(core: Make, wrong: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        core(f"fair-share:{wrong}")
