"""What a network says of the rest of one job, step by step, on networks by hand."""

from __future__ import annotations

import pytest

from hocket.beliefs.posterior import Bound, JobPosterior, calibration
from hocket.beliefs.profile import Network, Variable
from hocket.beliefs.record import Record, Step
from hocket.core.latency import Latency
from tests.beliefs.networks import variable

TOKEN = Latency(d0=1.0)
"a call takes a second for each token after the first"


def bound(*variables: Variable, batch: int = 1, pace: Latency = TOKEN) -> Bound:
    return Bound(Network(variables=list(variables)), lambda stage, model: ("e", pace), lambda engine: batch)


class Told:
    """A job that is told step by step."""

    def __init__(self, network: Bound, features: dict[str, float] | None = None) -> None:
        self.record = Record([], features or {})
        self.ended: list[int] = []
        self.posterior = JobPosterior(network, self.record, self.ended)

    def begin(self, stage: str, *after: int, model: str | None = "m", prompt: int = 10) -> int:
        self.record.steps.append(Step(stage, model, prompt, 0, 0.0, list(after)))
        return len(self.record.steps) - 1

    def end(self, index: int, output: int = 0, duration: float = 0.0) -> None:
        self.record.steps[index].output_tokens = output
        self.record.steps[index].duration_s = duration
        self.ended.append(index)

    @property
    def rest(self) -> tuple[float, float, float]:
        return (self.posterior.remaining_s, *self.posterior.interval_s)


def two_stages() -> list[Variable]:
    """write: 11 or 21 tokens alike. fix: absent in half of the jobs; else as large as write."""
    write = variable("write", [11.0, 21.0], [0.5, 0.5, 0.0])
    fix = variable("fix", [11.0, 21.0], [0.5, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0], ["write"], over=[])
    return [write, fix]


def test_completed_stages_are_evidence_and_the_whole_job_counts() -> None:
    told = Told(bound(*two_stages()))
    assert told.rest == pytest.approx((15.0 + 7.5, 10.0, 40.0), abs=1e-5)  # fix: support from absent to 20 s
    write = told.begin("write")
    assert told.rest == pytest.approx((22.5, 10.0, 40.0), abs=1e-5)
    told.end(write, 12)  # in the bin of 11
    assert told.rest == pytest.approx((5.0, 0.0, 10.0), abs=1e-5)
    fix = told.begin("fix", write)  # it is there: no longer absent, and 10 s for certain
    assert told.rest == pytest.approx((10.0, 10.0, 10.0), abs=1e-5)
    told.end(fix, 11)
    assert told.rest == (0.0, 0.0, 0.0)


def test_a_stage_that_did_not_come_in_time_is_absent() -> None:
    write, fix = two_stages()
    fix.over = ["answer 1"]
    told = Told(bound(write, fix, variable("answer", [6.0], [1.0, 0.0])))
    told.end(told.begin("write"), 11)
    assert told.rest == pytest.approx((5.0 + 5.0, 5.0, 15.0), abs=1e-5)
    told.begin("answer", 0)
    assert told.rest == pytest.approx((5.0, 5.0, 5.0), abs=1e-5)
    late = told.begin("fix", 0)  # what never happened before, happens
    assert told.rest == pytest.approx((15.0, 15.0, 15.0), abs=1e-5)
    told.end(late, 11)
    assert told.rest == pytest.approx((5.0, 5.0, 5.0), abs=1e-5)


def test_evidence_flows_back() -> None:
    """fix began while write still runs: write is as large as it will be."""
    told = Told(bound(*two_stages()))
    told.begin("write")
    told.end(told.begin("fix"), 21)
    assert told.rest == pytest.approx((20.0, 20.0, 20.0), abs=1e-5)


def wide(*, grows: bool = False) -> list[Variable]:
    """map: two or four tasks of 11 or 21 tokens."""
    tasks = variable("map tasks", [2.0, 4.0], [0.5, 0.5, 0.0], fact="tasks", stage="map", grows=grows)
    size = variable("map", [11.0, 21.0], [0.5, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0], ["map tasks"])
    return [tasks, size]


def test_one_task_tells_of_its_siblings() -> None:
    told = Told(bound(*wide()))
    assert told.rest == pytest.approx((3 * 15.0, 2 * 10.0, 4 * 20.0), abs=1e-5)
    tasks = [told.begin("map") for _ in range(3)]
    assert told.rest == pytest.approx((3 * 15.0, 3 * 10.0, 3 * 20.0), abs=1e-5), "all that there will be"
    told.end(tasks[0], 20)
    assert told.rest == pytest.approx((2 * 20.0, 2 * 20.0, 2 * 20.0), abs=1e-5)
    told.end(tasks[1], 20)
    told.end(tasks[2], 20)
    assert told.rest == (0.0, 0.0, 0.0)


def test_tasks_that_come_one_after_another_may_go_on() -> None:
    told = Told(bound(*wide(grows=True)))
    first = told.begin("map")
    assert told.rest == pytest.approx((3 * 15.0, 2 * 10.0, 4 * 20.0), abs=1e-5)
    told.end(first, 11)
    assert told.rest == pytest.approx((2 * 10.0, 10.0, 3 * 10.0), abs=1e-5)
    for _ in range(2):
        told.end(told.begin("map"), 11)
    assert told.posterior.interval_s == pytest.approx((0.0, 10.0), abs=1e-5), "three are in the bin of two"
    told.end(told.begin("map"), 11)
    assert told.rest == (0.0, 0.0, 0.0)


def test_a_stage_of_its_own_round_and_the_last_round_stands_for_all_further_ones() -> None:
    first = variable("think", [11.0], [1.0, 0.0])
    second = variable("think 2", [21.0], [0.5, 0.5], stage="think", turn=1)
    told = Told(bound(first, second))
    told.end(told.begin("think"), 11)
    assert told.rest == pytest.approx((10.0, 0.0, 20.0), abs=1e-5)
    again = told.begin("think", 0)
    assert told.rest == pytest.approx((20.0, 20.0, 20.0), abs=1e-5)
    told.end(again, 21)
    told.begin("think", again)  # a third one: never seen
    assert told.rest == pytest.approx((20.0, 20.0, 20.0), abs=1e-5)


def test_calls_of_unknown_stages_are_pooled_and_tools_are_not_counted() -> None:
    rest = variable("*", [11.0, 31.0], [0.5, 0.5, 0.0])
    tool = variable("look", [4.0, 9.0], [0.5, 0.5, 0.0], fact="duration")
    told = Told(bound(tool, rest))
    assert told.rest == pytest.approx((20.0, 10.0, 30.0), abs=1e-5)
    told.end(told.begin("nobody knows this", model=None), duration=3.0)
    told.end(told.begin("look", model=None), duration=4.0)
    told.end(told.begin("something new"), 11)
    assert told.rest == (0.0, 0.0, 0.0)


def test_a_call_that_was_lost_tells_nothing_and_is_not_to_be_done() -> None:
    told = Told(bound(*two_stages()))
    told.end(told.begin("write"), 0)
    assert told.rest == pytest.approx((7.5, 0.0, 20.0), abs=1e-5)


@pytest.mark.parametrize("reported", [True, False])
def test_the_request_tells(reported: bool) -> None:
    """A fact of the request, said when the job was opened, or read from its first call."""
    prompt = variable("request prompt_tokens", [100.0, 900.0], [0.5, 0.5, 0.0], fact="feature", stage="")
    answer = variable("answer", [11.0, 21.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0], [prompt.name])
    told = Told(bound(prompt, answer), {"prompt_tokens": 900.0} if reported else {})
    if not reported:
        assert told.rest == pytest.approx((15.0, 10.0, 20.0), abs=1e-5)
        told.begin("answer", prompt=800)
    assert told.rest == pytest.approx((20.0, 20.0, 20.0), abs=1e-5)


def test_what_smoothing_gives_is_not_possible() -> None:
    rare = variable("answer", [11.0, 1001.0], [0.995, 0.005, 0.0])
    assert Told(bound(rare)).posterior.interval_s == pytest.approx((10.0, 10.0))


def test_seconds_are_calibrated_to_the_batch() -> None:
    pace = Latency(d0=0.5, d1=0.5)
    assert calibration(pace, 1) == 1.0
    assert calibration(pace, 8) == 4.5
    assert calibration(Latency(q2=1.0), 8) == 1.0, "an engine that only prefills"
    alone, crowded = Told(bound(*two_stages(), pace=pace)), Told(bound(*two_stages(), pace=pace, batch=8))
    assert crowded.rest == pytest.approx(tuple(4.5 * seconds for seconds in alone.rest))
    for told in (alone, crowded):
        told.begin("write")
    assert crowded.posterior.gain("write") == pytest.approx(4.5 * alone.posterior.gain("write"))


def test_gain_is_information_times_the_sum_of_the_ranges() -> None:
    """x tells one bit of two stages that may last 10 or 20 s each: 1 x (10 + 10). The product would say 100."""
    same = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    copies = [variable(f"y{n}", [11.0, 21.0], same, ["x"]) for n in range(2)]
    told = Told(bound(variable("x", [11.0, 21.0], [0.5, 0.5, 0.0]), *copies))
    assert told.posterior.gain("x") == 0.0, "it has not begun"
    x = told.begin("x")
    assert told.posterior.gain("x") == pytest.approx(20.0, abs=1e-4)
    assert told.posterior.gain("x", 1) == pytest.approx(10.0, abs=1e-4)
    assert told.posterior.gain("nobody knows this") == 0.0
    told.end(x, 11)
    assert told.posterior.gain("x") == 0.0


def test_a_ready_stage_is_there() -> None:
    """Whether x exists would tell a bit of y; but it has begun, and then it tells nothing."""
    x = variable("x", [11.0], [0.5, 0.5])
    told = Told(bound(x, variable("y", [11.0, 21.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], ["x"])))
    told.begin("x")
    assert told.posterior.gain("x") == pytest.approx(0.0, abs=1e-6)


def test_a_task_that_ended_has_told_what_its_siblings_could() -> None:
    same = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    told = Told(bound(*wide(), variable("reduce", [11.0, 21.0], same, ["map"])))
    tasks = [told.begin("map") for _ in range(2)]
    assert told.posterior.gain("map") > 1.0
    told.end(tasks[0], 11)
    assert told.posterior.gain("map") == 0.0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([variable("a", [1.0], [1.0, 0.0], prompts=[])], "network.a: prompts and model"),
        ([variable("a", [1.0], [1.0, 0.0], model=None)], "network.a: prompts and model"),
        ([variable("a", [1.0], [1.0, 0.0], over=["b 1"])], "network.a: there is no round 1 of 'b'"),
        ([variable("a tasks", [1.0], [1.0, 0.0], fact="tasks", stage="a")], "no round 1 of 'a'"),
    ],
)
def test_what_is_no_network_of_stages_is_refused(variables: list[Variable], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(*variables)
