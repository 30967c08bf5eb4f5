"""Networks learned from jobs whose law is known."""

from __future__ import annotations

import random
import sys
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from hocket.beliefs.inference import Inference
from hocket.beliefs.learn import BINS
from hocket.beliefs.network import VARIABLES, learn_network
from hocket.beliefs.profile import Network, Node, Variable
from hocket.beliefs.record import Record, Step
from hocket.errors import InputError

pytest.importorskip("pyagrum")


def llm(stage: str, output: int, *after: int, prompt: int = 100) -> Step:
    return Step(stage, "m", prompt, output, 0.0, list(after))


def tool(stage: str, seconds: float, *after: int) -> Step:
    return Step(stage, None, 0, 0, seconds, list(after))


def nodes(*names: str) -> list[Node]:
    return [Node(name=name, kind="llm") for name in names]


def by_name(network: Network) -> dict[str, Variable]:
    return {variable.name: variable for variable in network.variables}


def repaired(count: int, seed: int = 0) -> list[Record]:
    """write, test, and while it fails: repair, test. Long programs fail more often, up to four times."""
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        size = rng.choice([50, 200])
        steps = [llm("write", size + rng.randrange(20)), tool("test", rng.random(), 0)]
        for _ in range(4):
            if rng.random() < (0.2 if size == 50 else 0.8):
                steps.append(llm("repair", size + rng.randrange(20), len(steps) - 1))
                steps.append(tool("test", rng.random(), len(steps) - 1))
            else:
                break
        records.append(Record(steps))
    return records


def test_a_network_keeps_time_and_its_bounds() -> None:
    network = learn_network(repaired(400), nodes("write", "test", "repair"))
    names = [variable.name for variable in network.variables]
    assert len(names) <= VARIABLES
    for index, variable in enumerate(network.variables):
        assert len(variable.parents) <= 2
        assert set(variable.parents) <= set(names[:index]), "a parent is earlier"
        assert len(variable.centres) <= BINS
        assert len(variable.cuts) == len(variable.centres) - 1
        assert all(a < b for a, b in pairwise(variable.centres))
        assert min(variable.table) > 0.0, "smoothed"
        rows = np.array(variable.table).reshape(-1, len(variable.centres) + 1)
        np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-4)
    assert names.index("write") < names.index("test") < names.index("repair") < names.index("test 2")


def test_a_loop_is_unrolled_with_absence_as_a_state() -> None:
    """P(no repair) is 1/2; of the jobs with a first one, four in five that are long have a second."""
    records = repaired(4000)
    network = learn_network(records, nodes("write", "test", "repair"))
    inference = Inference(network)
    place = inference.names.index
    rows = inference.marginals(inference.unknown)
    last = len(by_name(network)["repair"].centres)
    assert rows[place("repair"), last] == pytest.approx(0.5, abs=0.03)
    evidence = list(inference.unknown)
    long = len(by_name(network)["write"].centres) - 1
    evidence[place("write")] = (long, long)
    rows = inference.marginals(tuple(evidence))
    assert rows[place("repair"), last] == pytest.approx(0.2, abs=0.06), "long programs fail more often"
    evidence[place("repair")] = (last, last)
    rows = inference.marginals(tuple(evidence))
    absent = len(by_name(network)["repair 2"].centres)
    assert rows[place("repair 2"), absent] > 0.97, "without a first repair there is no second"


def test_rounds_beyond_the_budget_are_told_together() -> None:
    """Fifty rounds: the first ones have variables, the last of them stands for all that follow, and grows."""
    records = [
        Record([llm("step", 10 + i, *([i - 1] if i else [])) for i in range(20 + job % 31)]) for job in range(60)
    ]
    network = learn_network(records, nodes("step"), variables=8)
    found = [(v.name, v.fact, v.turn) for v in network.variables if v.stage]
    assert len(network.variables) <= 8
    assert found[0] == ("step", "tokens", 0)
    (tasks,) = [v for v in network.variables if v.fact == "tasks"]
    assert tasks.grows
    assert tasks.turn == max(v.turn for v in network.variables)
    assert tasks.centres[-1] == pytest.approx(50 - tasks.turn, abs=3)


def test_a_wide_stage_is_its_number_and_its_size() -> None:
    rng = random.Random(0)
    records = []
    for _ in range(300):
        width = rng.choice([2, 8])
        split = llm("split", 10 * width)
        records.append(
            Record(
                [
                    split,
                    *(llm("part", 100 - width, 0) for _ in range(width)),
                    llm("join", 5 * width, *range(1, width + 1)),
                ]
            )
        )
    network = learn_network(records, nodes("split", "part", "join"))
    variables = by_name(network)
    assert variables["part tasks"].centres == [2.0, 8.0]
    assert not variables["part tasks"].grows, "they begin together"
    assert variables["part"].centres == [92.0, 98.0]
    assert "part tasks" in variables["part"].parents
    assert len(network.variables) <= 5
    inference = Inference(network)
    evidence = list(inference.unknown)
    evidence[inference.names.index("split")] = (1, 1)
    rows = inference.marginals(tuple(evidence))
    assert rows[inference.names.index("part tasks"), 1] > 0.98
    assert rows[inference.names.index("join"), 1] > 0.95


def test_what_is_over_is_found() -> None:
    """Once the answer has begun, no branch comes any more; of two branches side by side neither ends the other."""
    rng = random.Random(0)
    records = []
    for _ in range(100):
        steps = [llm("plan", 20)]
        steps += [llm(name, rng.randrange(5, 50), 0) for name in ("left", "right") if rng.random() < 0.7]
        records.append(Record([*steps, llm("answer", 30, *range(len(steps)))]))
    over = {v.name: v.over for v in learn_network(records, nodes("plan", "left", "right", "answer")).variables}
    assert over["left"] == ["answer 1"]
    assert over["right"] == ["answer 1"]
    assert over["answer"] == []


def test_the_request_is_a_parent_where_it_tells() -> None:
    rng = random.Random(0)
    records = []
    for _ in range(400):
        hard = float(rng.random() < 0.5)
        answer = llm("answer", int(100 + 300 * hard) + rng.randrange(50), prompt=rng.randrange(50, 500))
        records.append(Record([answer], {"hard": hard, "noise": rng.random()}))
    variables = by_name(learn_network(records, nodes("answer")))
    assert "request noise" not in variables
    assert variables["answer"].parents == ["request hard"]


def test_the_first_prompt_is_a_fact_of_the_request() -> None:
    records = [Record([llm("answer", 5 * n, prompt=10 * n)]) for n in range(1, 200)]
    assert by_name(learn_network(records, nodes("answer")))["answer"].parents == ["request prompt_tokens"]


def test_stages_that_find_no_room_are_pooled() -> None:
    """Forty stages, each in fewer jobs than the one before: calls of the rare ones are pooled, rare tools left out."""
    records = []
    for job in range(200):
        steps = [llm("plan", 10)]
        there = [n for n in range(40) if job % (n + 1) == 0]
        steps += [llm(f"s{n}", 10 + job % 7, 0) if n % 2 else tool(f"s{n}", 1.0 + job, 0) for n in there]
        records.append(Record(steps))
    known = nodes("plan", *(f"s{n}" for n in range(40)))
    network = learn_network(records, known)
    variables = by_name(network)
    assert len(variables) <= VARIABLES
    assert {"plan", "s0", "s1"} <= variables.keys()
    assert {"s38", "s39"} <= set(network.left_out)
    assert variables["*"].fact == "tokens"
    assert set(network.left_out).isdisjoint(v.stage for v in network.variables)


def test_a_planner_is_said_to_be_one() -> None:
    records = [Record([llm("plan", 10 + job % 9), llm("ab"[job % 2], 20 + job % 5, 0)]) for job in range(80)]
    steps = Node(name="steps", kind="dynamic", candidates=["a", "b"], planner="plan")
    variables = by_name(learn_network(records, [*nodes("plan", "a", "b"), steps]))
    assert variables["plan"].reveals == ["a", "b"]
    assert variables["a"].reveals == []


def test_the_same_records_give_the_same_network() -> None:
    records, known = repaired(300), nodes("write", "test", "repair")
    assert msgspec.json.encode(learn_network(records, known)) == msgspec.json.encode(learn_network(records, known))


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_few_jobs_are_enough_to_begin(count: int) -> None:
    network = learn_network(repaired(count), nodes("write", "test", "repair"))
    inference = Inference(network)
    np.testing.assert_allclose(inference.marginals(inference.unknown).sum(axis=1), 1.0)


def test_more_jobs_foretell_new_ones_better() -> None:
    """Mean log-probability of the number of repairs of jobs that were not learned from."""

    def foretold(count: int) -> float:
        network = learn_network(repaired(count, seed=1), nodes("write", "test", "repair"))
        inference = Inference(network)
        place = {name: index for index, name in enumerate(inference.names)}
        logs = []
        for record in repaired(300, seed=2):
            size = record.steps[0].output_tokens
            write, repair = network.variables[place["write"]], network.variables[place["repair"]]
            state = int(np.searchsorted(write.cuts, size))
            evidence = list(inference.unknown)
            evidence[place["write"]] = (state, state)
            absent = inference.marginals(tuple(evidence))[place["repair"], len(repair.centres)]
            logs.append(np.log(absent if len(record.steps) == 2 else 1.0 - absent))
        return float(np.mean(logs))

    assert foretold(1000) > foretold(10)
    assert foretold(1000) > np.log(0.5) + 0.1, "better than the share over all jobs"


def test_without_records_there_is_nothing_to_learn() -> None:
    with pytest.raises(InputError, match="no recorded jobs"):
        learn_network([], nodes("write"))


def test_without_pyagrum_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyagrum", None)
    with pytest.raises(InputError, match=r"pip install 'hocket\[bayes\]'"):
        learn_network(repaired(20), nodes("write", "test", "repair"))
