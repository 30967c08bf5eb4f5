"""Calls that name nothing: which go on from which is seen in their messages."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.core.events import JobClosed, JobOpened
from hocket.gateway.answers import ResponseMeter, StreamMeter
from tests.gateway.identity_world import (
    RESPONSES,
    TEXT,
    Turn,
    World,
    answer,
    assistant,
    inferring,
    system,
    tool,
)


def stream(*texts: str) -> list[bytes]:
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode() for text in texts]
    return [*events, b"data: [DONE]\n\n"]


async def test_a_conversation_is_one_job() -> None:
    world = World()
    one = world.chat(system("You help."), "What is up?").end(answer(assistant("Much.")))
    two = world.chat(system("You help."), "What is up?", assistant("Much."), "Say more.").end(answer(assistant("No.")))
    three = world.chat(
        system("You help."), "What is up?", assistant("Much."), "Say more.", assistant("No."), "Do."
    ).end()
    assert one.job == two.job == three.job
    assert one.stage == two.stage == three.stage and one.stage.startswith("stage-")
    assert [one.parent, two.parent, three.parent] == [None, one.stage, one.stage]
    assert len(world.of(JobOpened)) == 1


async def test_the_same_prompt_twice_is_two_jobs_and_their_answers_tell_them_apart() -> None:
    world = World()
    one = world.chat("Throw a die.").end(answer(assistant("Two.")))
    other = world.chat("Throw a die.").end(answer(assistant("It is a six.")))
    assert one.job != other.job
    assert world.chat("Throw a die.", assistant("It is a six."), "Again.").end().job == other.job
    assert world.chat("Throw a die.", assistant("Two."), "Again.").end().job == one.job


@pytest.mark.parametrize("streamed", [False, True])
async def test_two_jobs_that_match_equally_are_neither(streamed: bool) -> None:
    world = World()

    def throw() -> Turn:
        turn = world.chat("Throw a die.")
        return turn.end_streamed(stream("T", "wo.")) if streamed else turn.end(answer(assistant("Two.")))

    one, other = throw(), throw()
    third = world.chat("Throw a die.", assistant("Two."), "Again.").end(answer(assistant("Three.")))
    assert len({one.job, other.job, third.job}) == 3
    more = world.chat("Throw a die.", assistant("Two."), "Again.", assistant("Three."), "Thanks.").end()
    assert more.job == third.job, "from there on it is known"


async def test_what_a_stream_said_is_known_before_its_end_is() -> None:
    world = World()
    world.chat("Throw a die.").end(answer(assistant("Two.")))
    other = world.chat("Throw a die.")
    meter = other.place.listen(StreamMeter())
    for chunk in stream("A ", "six."):
        meter.feed(chunk)
    assert world.chat("Throw a die.", assistant("A six."), "Again.").job == other.job


async def test_of_two_that_match_the_one_that_still_lives_goes_on() -> None:
    world = World(identity=inferring("inferred", idle_s=10.0))
    world.chat("Throw a die.").end(answer(assistant("Two.")))
    await world.sleep(11.0)
    other = world.chat("Throw a die.").end(answer(assistant("Two.")))
    assert world.open == {other.job}
    assert world.chat("Throw a die.", assistant("Two."), "Again.").end().job == other.job


async def test_equal_streams_are_told_apart_by_what_they_said() -> None:
    world = World()
    one, other = world.chat("Throw a die."), world.chat("Throw a die.")
    # chunks end anywhere
    whole = b"".join(stream("S", "ix", "."))
    one.end_streamed(stream("Two", "."))
    other.end_streamed([whole[i : i + 7] for i in range(0, len(whole), 7)])
    assert world.chat("Throw a die.", assistant("Six."), "Again.").end().job == other.job
    assert world.chat("Throw a die.", assistant("Two."), "Again.").end().job == one.job


async def test_an_echoed_tool_call_goes_on_although_the_history_was_cut() -> None:
    world = World()
    tools = [{"type": "function", "function": {"name": "look"}}]
    one = world.chat("Look it up, please.", tools=tools).end(answer(assistant(None, "call_a", "call_b")))
    assert world.open == {one.job}
    await world.sleep(100.0)
    assert world.open == {one.job}, "a tool is at work"
    two = world.chat("(history)", assistant(None, "call_a", "call_b"), tool("call_a"), tool("call_b"), tools=tools)
    assert (two.job, two.parent) == (one.job, one.stage)
    other = world.chat("(history)", assistant(None, "call_c"), tool("call_c"), tools=tools)
    assert other.job != one.job


async def test_where_an_engine_counts_its_tool_calls_the_messages_decide() -> None:
    world = World()
    tools = [{"type": "function", "function": {"name": "look"}}]
    one = world.chat("Look at a.", tools=tools).end(answer(assistant(None, "look:0")))
    other = world.chat("Look at b.", tools=tools).end(answer(assistant(None, "look:0")))
    for turn, text in ((other, "b"), (one, "a")):
        more = world.chat(f"Look at {text}.", assistant(None, "look:0"), tool("look:0"), tools=tools).end()
        assert more.job == turn.job
    assert world.chat("cut", assistant(None, "look:0"), tool("look:0"), tools=tools).job not in {one.job, other.job}


async def test_tool_calls_of_a_stream_are_remembered() -> None:
    world = World()
    tools = [{"type": "function", "function": {"name": "look"}}]
    chunks = [
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_s","type":"function",',
        b'"function":{"name":"look","arguments":""}}]}}]}\n\ndata: {"choices":[{"index":0,"delta":{"tool_calls":',
        b'[{"index":0,"function":{"arguments":"{}"}}]}}]}\n\ndata: [DONE]\n\n',
    ]
    one = world.chat("Look.", tools=tools, stream=True).end_streamed(chunks)
    two = world.chat("cut", assistant(None, "call_s"), tool("call_s"), tools=tools)
    assert (two.job, two.parent) == (one.job, one.stage)


async def test_how_a_text_is_written_does_not_matter() -> None:
    world = World()
    one = world.chat("Sing a song to me, will you?").end(answer(assistant(" La\nla é. ")))
    parts = {"role": "user", "content": [{"type": "text", "text": "Sing a song to me, will you?", "cache_control": {}}]}
    said = {"content": [{"text": "La\nla é.", "type": "text"}], "role": "assistant", "refusal": None}
    assert world.chat(parts, said, "Again.").end().job == one.job


async def test_an_image_is_part_of_what_was_said() -> None:
    world = World()

    def look(url: str) -> dict[str, object]:
        image = {"type": "image_url", "image_url": {"url": url}}
        return {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}

    one, other = world.chat(look("data:a")).end(), world.chat(look("data:b")).end()
    assert world.chat(look("data:b"), assistant("B"), "Sure?").end().job == other.job
    assert world.chat(look("data:a"), assistant("A"), "Sure?").end().job == one.job


async def test_agents_that_take_turns_over_one_conversation_are_stages_of_one_job() -> None:
    world = World()
    triage = world.chat(system("You triage."), "My bill is wrong.").end(answer(assistant("To billing.")))
    billing = world.chat(system("You do bills."), "My bill is wrong.", assistant("To billing."), "Go on.").end()
    assert billing.job == triage.job
    assert billing.stage != triage.stage and billing.parent == triage.stage


async def test_another_application_that_asks_the_same_is_another_job() -> None:
    world = World()
    one = world.chat("The same question.", headers={"x-hocket-app": "a"}).end(answer(assistant("Yes.")))
    other = world.chat("The same question.", assistant("Yes."), "So?", headers={"x-hocket-app": "b"}).end()
    assert one.job != other.job


async def test_a_retry_is_the_same_stage_and_no_new_job() -> None:
    world = World()
    first = world.chat("Try.").end()
    again = world.chat("Try.", headers={"x-stainless-retry-count": "1"}).end(answer(assistant("Done.")))
    assert (again.job, again.stage, again.parent, again.arrived.retry) == (first.job, first.stage, None, 1)
    two = world.chat("Try.", assistant("Done."), "More.").end()
    again = world.chat("Try.", assistant("Done."), "More.", headers={"x-stainless-retry-count": "2"}).end()
    assert (again.job, again.parent, again.arrived.retry) == (first.job, two.parent, 2)
    assert world.chat("Try.", headers={"x-stainless-retry-count": "0"}).end().job != first.job


async def test_the_name_of_a_stage_is_stable() -> None:
    world = World()
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "ask")]

    def stage(prompt: str, **more: object) -> str:
        turn = world.chat(system(prompt), "x", **more).end()
        assert turn.stage == f"stage-{turn.arrived.prefix}"
        return turn.stage

    assert stage("You plan. Today is 2026-11-22.") == stage("You  plan.\nToday is 2027-01-03.") == "stage-c3d75a53"
    assert stage("You plan.") != stage("You plan.", tools=tools)
    assert stage("You plan.", tools=tools) == stage("You plan.", tools=tools[::-1])
    named = world.chat(system("You plan."), "x", headers={"x-hocket-stage": "plan"}).end()
    assert (named.stage, named.arrived.prefix) == ("plan", stage("You plan.").removeprefix("stage-"))
    bare = world.chat("x").end()
    assert (bare.stage, bare.arrived.prefix) == ("call", None)


async def test_tenants_do_not_meet() -> None:
    world = World()
    one = world.chat("Hello there.").end(answer(assistant("Hi.", "call_x")))
    world.tenant = type(world.tenant)(name="other", key_sha256="1" * 64)
    other = world.chat("Hello there.", assistant("Hi.", "call_x"), tool("call_x"), "More.").end()
    assert one.job != other.job


# ---------------------------------------------------------------- text prompts and responses


async def test_a_text_that_begins_with_an_earlier_one_goes_on_from_it() -> None:
    world = World()
    prompt = "Question: how far is the moon, and what is it made of?\nThought: I should look.\n"
    one = world.ask(prompt=prompt, path=TEXT).end({"choices": [{"text": "Look."}]})
    for length in (10, 500, 512, 1100):
        prompt += "x" * length + "\n"
        more = world.ask(prompt=prompt, path=TEXT).end({"choices": [{"text": "Look."}]})
        assert (more.job, more.parent) == (one.job, "call"), length
    assert world.ask(prompt="Short.", path=TEXT).job != world.ask(prompt="Short. More.", path=TEXT).job
    assert world.ask(prompt=[prompt, prompt + "y"], path=TEXT).job != one.job


async def test_token_ids_are_compared_number_by_number() -> None:
    world = World()
    ids = list(range(1000, 1060))
    one = world.ask(prompt=ids, path=TEXT).end()
    assert world.ask(prompt=[*ids[:-1], 10591], path=TEXT).end().job != one.job
    assert world.ask(prompt=[*ids, 7], path=TEXT).end().job == one.job


async def test_a_response_goes_on_from_the_one_that_it_names_or_repeats() -> None:
    world = World()
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_r", "name": "look", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    first = {"id": "resp_1", "output": [thought, call]}
    one = world.ask(input="Look.", instructions="You look.", path=RESPONSES).end(first)
    done = {"type": "function_call_output", "call_id": "call_r", "output": "found"}
    two = world.ask(input=[done], instructions="You look.", previous_response_id="resp_1", path=RESPONSES)
    assert (two.job, two.parent, two.stage) == (one.job, one.stage, one.stage)
    two.end({"id": "resp_2", "output": [{"type": "message", "role": "assistant", "content": "It is here."}]})
    three = world.ask(input="Thanks.", previous_response_id="resp_2", path=RESPONSES).end()
    assert three.job == one.job
    repeats = world.ask(input=[{"role": "user", "content": "Look."}, call, done], path=RESPONSES).end()
    assert repeats.job == one.job
    assert world.ask(input="Thanks.", previous_response_id="resp_unknown", path=RESPONSES).end().job != one.job


async def test_the_last_event_of_a_response_stream_is_remembered() -> None:
    world = World()
    last = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_s","output":[{"type":'
    last += b'"message","role":"assistant","content":[{"type":"output_text","text":"Here."}]}]}}\n\n'
    one = world.ask(input="Look.", path=RESPONSES, stream=True, tools=[{"type": "function", "name": "look"}])
    one.end_streamed([last[:60], last[60:]], named=True)
    assert world.ask(input="More.", previous_response_id="resp_s", path=RESPONSES).end().job == one.job


async def test_a_response_is_known_before_its_stream_has_ended() -> None:
    world = World()
    last = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_s","output":[]}}\n\n'
    one = world.ask(input="Look.", path=RESPONSES, stream=True)
    one.place.listen(ResponseMeter()).feed(last)
    assert world.ask(input="More.", previous_response_id="resp_s", path=RESPONSES).end().job == one.job


async def test_embeddings_are_no_conversation() -> None:
    world = World()
    one = world.ask(input="A text to embed that is long enough.", path="/v1/embeddings").end()
    other = world.ask(input="A text to embed that is long enough.", path="/v1/embeddings").end()
    assert one.job != other.job and not world.open


# ---------------------------------------------------------------- when such a job ends


async def test_a_job_that_nobody_named_waits_a_while_and_may_come_back() -> None:
    world = World(identity=inferring("inferred", idle_s=10.0))
    one = world.chat("Hello there.").end(answer(assistant("Hi.")))
    await world.sleep(9.0)
    world.chat("Hello there.", assistant("Hi."), "More.").end(answer(assistant("No.")))
    await world.sleep(9.0)
    assert world.open == {one.job}
    await world.sleep(2.0)
    assert not world.open
    assert [(event.job, event.reason) for event in world.of(JobClosed)] == [(one.job, "idle")]
    late = world.chat("Hello there.", assistant("Hi."), "More.", assistant("No."), "Please.")
    assert late.job == one.job and [event.job for event in world.of(JobOpened)] == [one.job] * 2
    await world.sleep(60.0)
    assert world.open == {one.job}, "its call is under way"


async def test_many_lone_calls_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hocket.gateway.places.MAX_LINGERING", 10)
    monkeypatch.setattr("hocket.gateway.places.MIN_LINGERING", 10)
    monkeypatch.setattr("hocket.gateway.places.MAX_HASHES", 50)
    monkeypatch.setattr("hocket.gateway.places.MIN_HASHES", 50)
    world = World()
    for i in range(200):
        world.chat(f"Question {i}").end(answer(assistant("Yes.", f"call_{i}")) if i % 2 else answer(assistant("Yes.")))
    past = world.places._pasts["default"]
    assert len(past.memory) <= 50
    assert len(world.open) <= 10 + 100


async def test_a_closed_job_is_not_gone_on_with() -> None:
    world = World()
    one = world.chat("Hello there.").end(answer(assistant("Hi.")))
    world.driver.close_job(one.job)
    assert world.chat("Hello there.", assistant("Hi."), "More.").end().job != one.job


async def test_without_inference_every_call_is_a_job_of_its_own() -> None:
    world = World(identity=inferring("headers"))
    one = world.chat("Hello there.").end(answer(assistant("Hi.")))
    assert not world.open
    assert world.chat("Hello there.", assistant("Hi."), "More.").end().job != one.job


@pytest.mark.parametrize(
    "messages",
    ['[{"content": 5}]', "[1]", '[{"role": "user", "content": [5]}]', '[{"role": ["x"]}]', "[]", '[{"role":"user"}]',
     '[{"role": "user", "content": "\\ud83d\\ude00"}]', '[{"tool_calls": [{"id": 3}]}]'],
)  # fmt: skip
async def test_odd_messages_are_the_engines_to_judge(messages: str) -> None:
    world = World()
    world.ask({"messages": msgspec.Raw(messages.encode())}).end({"choices": "odd"})
    world.ask({"messages": msgspec.Raw(messages.encode())}).end({"choices": [{"message": {"content": 5}}]})


# ---------------------------------------------------------------- whatever happens


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from(["Throw a die.", "Again."]),
            st.sampled_from(["Two.", "A six."]),
            st.sampled_from(["whole", "stream", "overlap"]),
        ),
        max_size=24,
    )
)
def test_two_conversations_are_never_one_job(steps: list[tuple[int, str, str, str]]) -> None:
    """Clients that say the same again and again, one after the other and at once, and get equal answers."""

    async def play() -> None:
        world = World()
        said: dict[int, list[Any]] = {}
        ids: dict[int, set[str]] = {}
        waiting: dict[int, tuple[Turn, Any]] = {}
        for client, question, text, how in steps:
            if client in waiting:
                turn, done = waiting.pop(client)
                turn.end(done)
            history = said.setdefault(client, [])
            turn = world.chat(*history, question)
            ids.setdefault(client, set()).add(turn.job)
            history += [{"role": "user", "content": question}, assistant(text)]
            if how == "stream":
                turn.end_streamed(stream(*text))
            elif how == "overlap":
                waiting[client] = turn, answer(assistant(text))
            else:
                turn.end(answer(assistant(text)))
        world.places.stop()
        seen: dict[str, int] = {}
        for client, jobs in ids.items():
            for job in jobs:
                assert seen.setdefault(job, client) == client, f"{job} is of two clients: {steps}"

    asyncio.run(play())
