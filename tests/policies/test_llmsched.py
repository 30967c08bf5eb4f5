"""`llmsched` on beliefs by hand: SRTF, the sets of MSRF, the coin, the sample; and whole, on a learned network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hocket.assembly import build
from hocket.beliefs.profile import Network, Profile, encode_profile
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.latency import Latency
from hocket.core.rng import Rng
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.core.state import CallState
from hocket.errors import InputError
from hocket.policies import check_parameters, compose
from hocket.policies.llmsched import LlmSched
from tests.beliefs.networks import variable
from tests.policies import contract

EXPLORE, EXPLOIT = 0.0, 0.999


@dataclass
class Posterior:
    remaining_s: float
    interval_s: tuple[float, float]
    gains: dict[str, float]

    def gain(self, stage: str, nearest: int) -> float:
        return self.gains.get(stage, 0.0)


@dataclass
class Belief:
    posterior: Posterior | None
    remaining_s: float = 1e9
    interval_s: tuple[float, float] = (1e9, 1e9)


@dataclass(eq=False)
class Engine:
    name: str = "e"


@dataclass(eq=False)
class Job:
    id: str
    number: int
    belief: Belief

    @property
    def waiting(self) -> int:
        return len(self.calls)

    calls: dict[int, Call] = field(default_factory=dict)


@dataclass(eq=False)
class Call:
    number: int
    job: Job
    stage: str
    engine: Engine = field(default_factory=Engine)
    node: str = "where it waits"
    state: CallState = CallState.QUEUED

    @property
    def id(self) -> str:
        return f"{self.job.id}.{self.stage}.{self.number}"


class Queue:
    """What waits at one engine; the core's side of a chooser."""

    def __init__(self, policy: Any, coins: Iterable[float] = (), engine: str = "e") -> None:
        self.policy = policy
        self.coins = list(coins)
        self.engine = Engine(engine)
        self.waiting: dict[str, Job] = {}
        self.keys: dict[Job, tuple[Any, ...]] = {}
        self.count = 0

    def add(
        self, job: str, mean: float, interval: tuple[float, float], stages: dict[str, float], tasks: int = 1
    ) -> Belief:
        """A job whose ready stages have these gains, `tasks` calls each."""
        known = self.waiting[job] = Job(job, len(self.waiting) + 1, Belief(Posterior(mean, interval, stages)))
        for stage in stages:
            self.arrive(known, stage, tasks)
        return known.belief

    def arrive(self, job: Job, stage: str, tasks: int = 1) -> None:
        for _ in range(tasks):
            self.count += 1
            job.calls[self.count] = Call(self.count, job, stage, self.engine)
        self.touch(job)

    def touch(self, job: Job) -> None:
        """A fact about the job has changed: the core asks for its key, then and only then."""
        self.keys[job] = self.policy.key(next(iter(job.calls.values())), self)

    def random(self) -> float:
        return self.coins.pop(0)

    def first(self) -> Call:
        return min((c for job in self.jobs() for c in job.calls.values()), key=lambda c: (*self.keys[c.job], c.number))

    def jobs(self) -> list[Job]:
        return list(self.waiting.values())

    def calls(self, job: Job) -> list[Call]:
        return [] if self.waiting.get(job.id) is not job else [*job.calls.values()][::-1]

    def pick(self) -> str:
        call = self.policy.pick(self, self, self)
        del call.job.calls[call.number]
        if not call.job.calls:
            del self.waiting[call.job.id]
        return f"{call.job.id}.{call.stage}"


def test_exploiting_is_shortest_expected_remaining_time() -> None:
    queue = Queue(LlmSched(), [EXPLOIT] * 3)
    queue.add("long", 30.0, (0.0, 60.0), {"a": 100.0})
    queue.add("short", 10.0, (0.0, 60.0), {"a": 0.0})
    queue.add("middle", 20.0, (0.0, 60.0), {"a": 50.0})
    assert [queue.pick() for _ in range(3)] == ["short.a", "middle.a", "long.a"]


def test_exploring_takes_what_tells_most_inside_a_set() -> None:
    queue = Queue(LlmSched(), [EXPLORE] * 4)
    queue.add("a", 10.0, (5.0, 20.0), {"x": 1.0, "y": 7.0})
    queue.add("b", 11.0, (6.0, 15.0), {"z": 3.0})
    queue.add("c", 12.0, (14.0, 18.0), {"w": 9.0})
    assert [queue.pick() for _ in range(4)] == ["c.w", "a.y", "b.z", "a.x"]


def test_no_gain_overrides_the_order_of_disjoint_sets() -> None:
    queue = Queue(LlmSched(), [EXPLORE] * 3)
    queue.add("later", 30.0, (21.0, 60.0), {"x": 1e6})
    queue.add("a", 10.0, (5.0, 20.0), {"x": 0.0})
    queue.add("b", 11.0, (6.0, 15.0), {"x": 1.0})
    assert [queue.pick() for _ in range(3)] == ["b.x", "a.x", "later.x"]


def test_sets_are_chains_and_a_bound_that_is_met_is_no_gap() -> None:
    """a meets b, b overlaps c: one set, whatever a and c have to do with each other. d lies strictly above."""
    queue = Queue(LlmSched(), [EXPLORE] * 4)
    queue.add("a", 1.0, (0.0, 4.0), {"x": 1.0})
    queue.add("b", 2.0, (4.0, 9.0), {"x": 2.0})
    queue.add("c", 3.0, (8.0, 12.0), {"x": 3.0})
    queue.add("d", 4.0, (12.5, 13.0), {"x": 4.0})
    assert [queue.pick() for _ in range(4)] == ["c.x", "b.x", "a.x", "d.x"]


def test_of_equal_gain_the_least_work_then_the_earliest_goes_first() -> None:
    queue = Queue(LlmSched(), [EXPLORE] * 3)
    queue.add("b", 2.0, (0.0, 9.0), {"x": 1.0})
    queue.add("a", 1.0, (0.0, 9.0), {"x": 1.0})
    queue.add("c", 2.0, (0.0, 9.0), {"x": 1.0})
    assert [queue.pick() for _ in range(3)] == ["a.x", "b.x", "c.x"]


@pytest.mark.parametrize(
    ("sample", "tasks", "run"), [(0.3, 10, 3), (0.7, 10, 7), (0.01, 10, 1), (1.0, 4, 4), (0.5, 3, 2)]
)
def test_a_fraction_of_an_explored_stage_is_run_for_one_coin(sample: float, tasks: int, run: int) -> None:
    queue = Queue(LlmSched(sample=sample), [EXPLORE, EXPLOIT])
    queue.add("wide", 90.0, (0.0, 99.0), {"map": 5.0}, tasks)
    queue.add("short", 1.0, (0.0, 99.0), {"ask": 0.0})
    assert [queue.pick() for _ in range(run)] == ["wide.map"] * run
    assert len(queue.coins) == 1, "one decision"
    assert queue.pick() == "short.ask"
    assert queue.coins == []


def test_the_earliest_tasks_are_the_sample() -> None:
    queue = Queue(LlmSched(sample=0.5), [EXPLORE])
    queue.add("wide", 9.0, (0.0, 9.0), {"map": 5.0}, 4)
    queue.pick()
    queue.pick()
    assert list(queue.waiting["wide"].calls) == [3, 4]


def test_a_sample_that_is_gone_ends_and_a_new_decision_is_made() -> None:
    queue = Queue(LlmSched(sample=1.0), [EXPLORE, EXPLOIT])
    queue.add("wide", 90.0, (0.0, 99.0), {"map": 5.0}, 4)
    queue.add("short", 1.0, (0.0, 99.0), {"ask": 0.0})
    assert queue.pick() == "wide.map"
    del queue.waiting["wide"]  # its client is gone
    assert queue.pick() == "short.ask"


def test_engines_are_explored_apart() -> None:
    policy = LlmSched(sample=1.0)
    one, other = Queue(policy, [EXPLORE], "one"), Queue(policy, [EXPLORE], "other")
    one.add("a", 9.0, (0.0, 9.0), {"x": 1.0}, 2)
    other.add("b", 9.0, (0.0, 9.0), {"y": 1.0}, 2)
    assert [queue.pick() for queue in (one, other, one, other)] == ["a.x", "b.y", "a.x", "b.y"]


def test_without_a_network_recorded_jobs_say_what_is_left() -> None:
    queue = Queue(LlmSched(), [EXPLOIT, EXPLORE])
    known = queue.add("known", 5.0, (5.0, 5.0), {"x": 0.0}, 2)
    unknown = queue.add("unknown", 0.0, (0.0, 0.0), {"x": 9.0})
    unknown.posterior, unknown.remaining_s, unknown.interval_s = None, 3.0, (3.0, 4.0)
    queue.touch(queue.waiting["unknown"])
    assert known.posterior is not None
    assert queue.pick() == "unknown.x"
    unknown = queue.add("unknown", 0.0, (0.0, 0.0), {"x": 9.0})
    unknown.posterior, unknown.remaining_s, unknown.interval_s = None, 6.0, (6.0, 7.0)
    queue.touch(queue.waiting["unknown"])
    assert queue.pick() == "known.x"


def test_what_moved_since_the_last_exploration_is_noticed() -> None:
    """A belief that moved, and a stage of which the last call was sent."""
    queue = Queue(LlmSched(sample=0.01), [EXPLORE] * 5)
    a = queue.add("a", 1.0, (0.0, 9.0), {"x": 5.0, "y": 4.0}, 2)
    b = queue.add("b", 1.0, (0.0, 9.0), {"z": 3.0}, 4)
    assert a.posterior is not None
    assert b.posterior is not None
    assert [queue.pick() for _ in range(3)] == ["a.x", "a.x", "a.y"]
    b.posterior.gains["z"] = 6.0
    queue.touch(queue.waiting["b"])
    assert queue.pick() == "b.z"
    b.posterior.interval_s = (9.5, 12.0)
    queue.touch(queue.waiting["b"])
    assert queue.pick() == "a.y"


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_one_coin_a_decision_says_whether_to_explore(epsilon: float) -> None:
    rng = Rng(1)
    coins = [rng.random() for _ in range(1000)]
    queue = Queue(LlmSched(epsilon=epsilon, sample=1e-6), coins)
    queue.add("short", 1.0, (0.0, 99.0), {"x": 0.0}, 1001)
    queue.add("telling", 50.0, (0.0, 99.0), {"x": 1.0}, 1001)
    assert [queue.pick() == "telling.x" for _ in coins] == [coin < epsilon for coin in coins]


def test_jobs_that_are_gone_are_forgotten() -> None:
    policy = LlmSched(epsilon=0.5)
    queue = Queue(policy, [EXPLOIT, EXPLORE] * 500)
    for number in range(1000):
        queue.add(f"j{number}", 1.0, (0.0, 9.0), {"x": 1.0})
        queue.pick()
    assert len(policy._rows["e"]) + len(policy._moved["e"]) < 250


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epsilon": 1.5}, "`policies.llmsched`: epsilon: 1.5; use 0"),
        ({"epsilon": float("nan")}, "epsilon: nan"),
        ({"sample": 0.0}, "sample: 0.0; use a fraction above 0"),
        ({"informs": 7.0}, "informs: 7.0; use 1 to 6"),
        ({"informs": 2.5}, "informs: 2.5"),
        ({"r": 0.3}, "`policies.llmsched.r`: no such parameter; it has epsilon, sample, informs"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_parameters({"llmsched": parameters})
    assert message in str(error.value)


def test_parameters_of_what_has_none_and_of_nobody_are_refused() -> None:
    with pytest.raises(InputError, match=r"policies\.las\.epsilon`: no such parameter; it has none"):
        check_parameters({"las": {"epsilon": 0.1}})
    with pytest.raises(InputError, match=r"policies\.lsa`: no such policy"):
        check_parameters({"lsa": {}})


def test_a_composition_takes_parameters() -> None:
    _, policy = compose(["urgency", "llmsched"], parameters={"llmsched": {"epsilon": 0.5, "informs": 2.0}})
    assert isinstance(policy, LlmSched)
    assert (policy.epsilon, policy.sample, policy.informs) == (0.5, 0.3, 2)


# ---------------------------------------------------------------- whole


HALF = [0.5, 0.5, 0.0]


def plans() -> Network:
    """plan tells how large `work` will be, which has six tasks; a job is small or large, and nobody knows before."""
    same = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return Network(
        variables=[
            variable("plan", [5.0, 9.0], HALF),
            variable("work tasks", [6.0], [1.0, 0.0], fact="tasks", stage="work"),
            variable("work", [11.0, 101.0], same, ["plan"]),
        ]
    )


def asks() -> Network:
    """One call, small or large: less to be expected than of a plan, and nothing to be learned."""
    return Network(variables=[variable("ask", [11.0, 401.0], HALF)])


def profile(app: str, network: Network) -> str:
    return encode_profile(Profile(app=app, jobs=0, records=[], network=network)).decode()


def scheduler(seed: int = 0, **parameters: float) -> Scheduler:
    spec = SchedulerSpec(
        [EngineSpec("e", ["m"], latency=Latency(d0=1.0))],
        policy=("llmsched",),
        parameters={"llmsched": parameters},
        seed=seed,
    )
    return build(spec, profiles={"plans": profile("plans", plans()), "asks": profile("asks", asks())})


def story() -> list[ev.Event]:
    """Twelve jobs wait, one slot: nine plan, then six tasks of each work; every fourth asks."""
    events: list[ev.Event] = [ev.ReplicaAdded(0.0, "e", "r", 1)]
    for job in range(12):
        app, stage = ("asks", "ask") if job % 4 == 3 else ("plans", "plan")
        events.append(ev.JobOpened(0.0, f"j{job}", app))
        events.append(ev.CallArrived(0.0, f"j{job}.{stage}", f"j{job}", stage, "m", 10))
    return events


def follow(live: Scheduler, commands: list[Command], steps: int) -> list[str]:
    """End whatever runs, call after call; what was dispatched."""
    order = [command.call for command in commands if hasattr(command, "replica")]
    at = live.now
    for _ in range(steps):
        running = [call for call in live.calls.values() if call.replica is not None]
        if not running:
            break
        at += 1.0
        job, stage = running[0].job.id, running[0].stage
        size = {"plan": (5, 9), "work": (11, 101), "ask": (11, 401)}[stage][int(job[1:]) % 2]
        out = live.handle(ev.CallFinished(at, running[0].id, 10, size))
        if stage == "plan":
            for task in range(6):
                out += live.handle(ev.CallArrived(at, f"{job}.work{task}", job, "work", "m", 10))
        order += [command.call for command in out if hasattr(command, "replica")]
    return order


def played(live: Scheduler, steps: int = 100) -> list[str]:
    commands: list[Command] = []
    for event in story():
        commands += live.handle(event)
    order = follow(live, commands, steps)
    assert live.policy_error is None, live.policy_error
    return order


def test_a_plan_that_tells_is_explored_before_work_that_is_known() -> None:
    """Every plan that may still turn out to be small is asked before any work that is known to be large."""
    order = played(scheduler(epsilon=1.0))
    assert len(order) == 9 * 7 + 3
    last_plan = max(index for index, call in enumerate(order) if call.endswith("plan"))
    first_large = min(
        index for index, call in enumerate(order) if "work" in call and int(call[1 : call.index(".")]) % 2
    )
    assert last_plan < first_large


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    first = played(scheduler(3, epsilon=0.5))
    assert played(scheduler(3, epsilon=0.5)) == first
    assert sorted(played(scheduler(4, epsilon=0.5))) == sorted(first)
    assert any(played(scheduler(seed, epsilon=0.5)) != first for seed in range(4, 8))


@pytest.mark.parametrize("steps", range(0, 60, 7))
def test_a_snapshot_amid_an_exploration_goes_on(steps: int) -> None:
    live = scheduler(1, epsilon=0.7, sample=0.6)
    played(live, steps)
    state = json.loads(json.dumps(save(live)))
    again = scheduler(1, epsilon=0.7, sample=0.6)
    restore(again, state)
    assert save(again) == save(live)
    assert follow(again, [], 100) == follow(live, [], 100)


@pytest.mark.parametrize("parameters", [{"epsilon": 1.0}, {"epsilon": 0.5, "sample": 1.0}], ids=str)
@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_the_contract_is_kept_when_much_is_explored(clause: Any, parameters: dict[str, float]) -> None:
    """Above all that it goes on after a snapshot: what it remembers of waiting jobs is what it would make anew."""
    clause(lambda: LlmSched(**parameters), 5)


def test_an_exploration_is_part_of_the_snapshot() -> None:
    live = scheduler(1, epsilon=1.0, sample=1.0)
    played(live, 13)
    (chooser,) = save(live)["choosers"]
    assert chooser == {"e": [chooser["e"][0], "work", chooser["e"][2]]}
    assert chooser["e"][2] > 0
