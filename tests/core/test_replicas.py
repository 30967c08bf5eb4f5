"""Windows and replicas: where a call goes, and what happens when replicas come, go and rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.commands import Dispatch, Reject, WakeAt
from hocket.core.events import CallCancelled, CallFinished, ReplicaAdded, ReplicaRemoved, SettingsChanged, Tick
from tests.core.bare import Bare, arrive, fail, sent

Make = Callable[..., Bare]


def test_a_window_is_never_overfilled(core: Make) -> None:
    """An engine that gets more than it batches queues inside itself, where hocket cannot reorder."""
    bare = core(windows={"r": 3})
    assert bare.feed(*arrive(0.0, *(f"a{i}" for i in range(9)))) == sent("a0", "a1", "a2")
    assert bare.scheduler.engines["e"].replicas["r"].inflight == 3


def test_the_least_loaded_replica_takes_it_and_the_first_listed_on_ties(core: Make) -> None:
    """Two cards of different size: a quarter of the big one's window is less load than half of the small one's."""
    bare = core(windows={"small": 2, "big": 4})
    orders = bare.feed(*arrive(0.0, *(f"a{i}" for i in range(6))))
    assert [c.replica for c in orders if isinstance(c, Dispatch)] == ["small", "big", "big", "small", "big", "big"]


def test_a_replica_that_returns_keeps_its_place(core: Make) -> None:
    """A restart must not make the second replica the first for good."""
    bare = core(windows={"r": 1, "q": 1})
    bare.feed(ReplicaRemoved(0.0, "e", "r"), ReplicaAdded(1.0, "e", "r", 1))
    assert bare.feed(*arrive(1.0, "a1")) == sent("a1")


def test_a_replica_that_flaps_with_an_equal_load_beside_it(core: Make) -> None:
    """Its stale entry in the index has the key of its new one; they once were compared, which raised TypeError."""
    bare = core(windows={"r": 2, "q": 2})
    for at in range(1, 40):
        bare.feed(ReplicaRemoved(float(at), "e", "r"), ReplicaAdded(float(at), "e", "r", 2))
    assert bare.feed(*arrive(40.0, "a1", "a2")) == [*sent("a1"), *sent("a2", to="q")]


def test_calls_wait_for_an_engine_that_has_no_replica_yet(core: Make) -> None:
    """The gateway is up before the engine has loaded its weights: clients wait, none is refused."""
    bare = core(windows={})
    assert bare.feed(*arrive(0.0, "b1", "a1")) == []
    assert bare.feed(ReplicaAdded(5.0, "e", "r", 1)) == sent("a1")


def test_no_call_goes_to_a_removed_replica_and_its_own_may_still_end(core: Make) -> None:
    """A replica is drained for an update: what it works on ends well, nothing new comes."""
    bare = core(windows={"r": 1, "q": 1})
    bare.feed(*arrive(0.0, "a1", "a2", "a3"), ReplicaRemoved(1.0, "e", "r"))
    assert bare.feed(CallFinished(2.0, "a1")) == []
    assert bare.feed(CallFinished(3.0, "a2")) == sent("a3", to="q")


def test_a_replica_that_returns_still_holds_its_calls(core: Make) -> None:
    """A health check flaps while calls run: the process is the same, so a second window would overfill it."""
    bare = core(windows={"r": 2})
    bare.feed(*arrive(0.0, "a1", "a2", "a3"))
    assert bare.feed(ReplicaRemoved(1.0, "e", "r"), ReplicaAdded(2.0, "e", "r", 2)) == []
    assert bare.feed(CallFinished(3.0, "a1")) == sent("a3")


def test_a_replica_that_died_fails_its_calls_one_by_one_and_they_move(core: Make) -> None:
    """The process was killed: removal is told first, then each connection's reset. Both calls live on elsewhere."""
    bare = core(windows={"r": 2, "q": 2})
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "a4"), ReplicaRemoved(1.0, "e", "r", died=True))
    assert bare.feed(fail(1.0, "a1", "reset"), fail(1.0, "a3", "reset")) == []
    assert bare.feed(CallFinished(2.0, "a2"), CallFinished(3.0, "a4")) == sent("a1", "a3", to="q")


def test_news_of_replicas_that_are_not_there_is_no_error(core: Make) -> None:
    """A supervisor reports a death twice."""
    bare = core()
    assert bare.feed(ReplicaRemoved(0.0, "e", "r"), ReplicaRemoved(1.0, "e", "r"), ReplicaRemoved(1.0, "e", "x")) == []


def test_an_unknown_engine_is_a_bug_of_the_driver(core: Make) -> None:
    """Replicas come from the same settings as engines."""
    with pytest.raises(ValueError, match="unknown engine 'f'; known: e"):
        core().feed(ReplicaAdded(0.0, "f", "r", 1))


def test_a_window_that_widens_lets_calls_in_and_one_that_narrows_lets_them_end(core: Make) -> None:
    """An operator turns the knob while calls run: nothing is thrown out."""
    bare = core(windows={"r": 1})
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "a4", "a5"))
    assert bare.feed(ReplicaAdded(1.0, "e", "r", 4)) == sent("a2", "a3", "a4")
    assert bare.feed(ReplicaAdded(2.0, "e", "r", 1)) == []
    assert bare.feed(CallFinished(3.0, "a1"), CallFinished(3.0, "a2"), CallFinished(3.0, "a3")) == []
    assert bare.feed(CallFinished(4.0, "a4")) == sent("a5")


def test_429_lets_the_replica_rest_and_the_others_work(core: Make) -> None:
    """One replica is shared with somebody else and says so; its call moves over, and it is left alone until then."""
    bare = core(windows={"r": 1, "q": 1})
    bare.feed(*arrive(0.0, "a1", "a2"))
    assert bare.feed(fail(1.0, "a1", 429, retry_after_s=4.0)) == [WakeAt(5.0)]
    assert bare.feed(CallFinished(2.0, "a2")) == sent("a1", to="q")
    assert bare.feed(*arrive(4.0, "a3")) == []
    assert bare.feed(Tick(5.0)) == sent("a3")


def test_a_429_without_retry_after_rests_for_a_second(core: Make) -> None:
    """Most engines send none."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"))
    assert bare.feed(fail(1.0, "a1", 429)) == [WakeAt(2.0)]
    assert bare.feed(Tick(2.0)) == sent("a1")


def test_a_shorter_rest_does_not_cut_a_longer_one(core: Make) -> None:
    """Eight calls were in flight and all were refused, with different waits."""
    bare = core(windows={"r": 2})
    bare.feed(*arrive(0.0, "a1", "a2"))
    assert bare.feed(fail(1.0, "a1", 429, retry_after_s=9.0), fail(1.0, "a2", 429, retry_after_s=2.0)) == [WakeAt(10.0)]
    assert bare.feed(Tick(3.0)) == []
    assert bare.feed(Tick(10.0)) == sent("a1", "a2")


def test_a_tick_that_comes_early_changes_nothing_and_asks_again(core: Make) -> None:
    """A loop's timer fires a tick of its clock too early: the rest must not be lost with it."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), fail(1.0, "a1", 429, retry_after_s=2.0))
    assert bare.feed(Tick(2.984375)) == []  # the WakeAt(3.0) is still under way
    assert bare.feed(Tick(3.0)) == sent("a1")


def test_a_call_that_is_refused_over_and_over_ends_with_the_replicas_own_answer(core: Make) -> None:
    """A quota is used up for the day: waiting on would only hold the client."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"))
    for turn in range(5):
        bare.feed(fail(10.0 * turn, "a1", 429))
        assert bare.feed(Tick(10.0 * turn + 1.0)) == sent("a1")
    assert bare.feed(fail(99.0, "a1", 429)) == [WakeAt(100.0), Reject("a1", 429, "upstream_status")]


def test_delays_do_not_use_up_the_one_retry(core: Make) -> None:
    """Refused for load first, then the connection breaks: that is the first real failure."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), fail(1.0, "a1", 429), Tick(2.0))
    assert bare.feed(fail(3.0, "a1", "reset")) == sent("a1")


def test_a_replica_that_returns_while_it_rests_goes_on_resting(core: Make) -> None:
    """It asked for the rest itself, and may be the same process."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), fail(1.0, "a1", 429, retry_after_s=5.0))
    assert bare.feed(ReplicaRemoved(2.0, "e", "r"), ReplicaAdded(3.0, "e", "r", 1)) == []
    assert bare.feed(Tick(6.0)) == sent("a1")


def test_a_dead_replica_does_not_draw_the_calls(core: Make) -> None:
    """Connections to one of two replicas are refused. It fails fast, so it is always the least loaded."""
    bare = core(windows={"dead": 4, "q": 2})
    answered = []
    for turn in range(64):
        at = turn / 8
        todo = bare.feed(Tick(at), *arrive(at, f"a{turn}"))
        while todo:
            match todo.pop(0):
                case Dispatch(call, replica="dead"):
                    todo += bare.feed(fail(at, call, "connect"))
                case Dispatch(call):
                    todo += bare.feed(CallFinished(at, call))
                    answered.append(call)
                case Reject() as lost:
                    raise AssertionError(lost)
    assert len(answered) == 64


def test_a_retry_goes_to_another_replica_if_one_has_room(core: Make) -> None:
    """A replica out of memory answers 500 to everything, at once; the second attempt must not be wasted on it."""
    bare = core(windows={"broken": 4, "q": 4})
    bare.feed(*arrive(0.0, "a1", "a2"))
    assert bare.feed(fail(1.0, "a1", 500)) == sent("a1", to="q")
    # and with nobody else, to the same one
    bare.feed(ReplicaRemoved(2.0, "e", "q"), *arrive(2.0, "a3"))
    assert bare.feed(fail(3.0, "a3", 500)) == sent("a3", to="broken")


def test_a_cancelled_call_frees_its_slot_on_the_replica_that_holds_it(core: Make) -> None:
    """Clients time out in crowds: each frees one slot, of the right replica."""
    bare = core(windows={"r": 1, "q": 1})
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "a4"))
    assert bare.feed(CallCancelled(1.0, "a2")) == sent("a3", to="q")
    assert bare.feed(CallCancelled(1.0, "a1")) == sent("a4", to="r")


def test_after_a_reload_a_choice_costs_what_it_did_before(core: Make) -> None:
    """The new index of replicas counts them: one that believed itself empty would be swept at every call."""
    bare = core(windows={f"r{n}": 2 for n in range(40)})
    bare.feed(SettingsChanged(1.0, bare.scheduler.spec))
    assert bare.scheduler.engines["e"].routing._open.size == 40


def test_a_retry_waits_for_as_long_as_a_call_may(core: Make) -> None:
    """What it waited before its first dispatch does not count, nor does the core wake up for it."""
    bare = core(queue_timeout_s=4.0)
    bare.feed(*arrive(0.0, "a1", "b1"), CallFinished(1.0, "a1"), *arrive(2.0, "c1"))
    bare.feed(fail(3.0, "b1", 429, retry_after_s=9.0))
    assert bare.feed(Tick(4.0)) == [WakeAt(12.0), WakeAt(6.0)]
    assert bare.feed(Tick(6.0)) == [Reject("c1", 503, "queue_timeout", 6.0 + 1.0), WakeAt(7.0)]
    assert bare.feed(Tick(7.0)) == [Reject("b1", 503, "queue_timeout", 5.0 + 1.0)], "the rest, and what a call took"


def test_a_window_of_nothing_takes_no_calls_even_where_hocket_only_observes(core: Make) -> None:
    """Its load is a division by its window."""
    bare = core(windows={"r": 0, "q": 0, "p": 2}, observe=True)
    assert bare.feed(*arrive(0.0, "a1", "a2", "a3")) == sent("a1", "a2", "a3", to="p")
