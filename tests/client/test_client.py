"""The client package through the official openai client, against a real server."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import AsyncOpenAI, OpenAI

import hocket
from hocket.client.http import Outbox, Reporter

ASK = {"model": "small", "messages": [{"role": "user", "content": "?"}]}


def sync_client(url: str, **options) -> OpenAI:
    return hocket.instrument(OpenAI(base_url=url, api_key="k", **{"max_retries": 0, **options}))


def async_client(url: str, **options) -> AsyncOpenAI:
    return hocket.instrument(AsyncOpenAI(base_url=url, api_key="k", **{"max_retries": 0, **options}))


def test_a_call_outside_a_job_says_nothing(gateway):
    with sync_client(gateway.url) as client:
        client.chat.completions.create(**ASK)
    assert gateway.calls == [{}]
    assert gateway.reports == []


def test_a_job_is_opened_carried_by_each_call_and_closed(gateway):
    with sync_client(gateway.url) as client:
        with hocket.job("review", urgency=1, deadline_s=2.5) as job:
            client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    identity = {"app": "review", "job": job.id, "urgency": "1", "deadline-ms": "2500"}
    assert gateway.calls == [identity, {}]
    opened = {"job": job.id, "app": "review", "urgency": 1, "deadline_ms": 2500}
    assert gateway.reports == [("POST", "/jobs", opened), ("DELETE", f"/jobs/{job.id}", None)]
    assert gateway.authorized == {"Bearer k"}


def test_a_job_that_raises_is_aborted(gateway):
    with sync_client(gateway.url), pytest.raises(KeyError), hocket.job("review") as job:
        raise KeyError
    assert gateway.reports[-1] == ("DELETE", f"/jobs/{job.id}?abort=true", None)


def test_stages_nest_and_a_parent_is_the_stage_around(gateway):
    with sync_client(gateway.url) as client, hocket.job("a"):
        with hocket.stage("plan"):
            client.chat.completions.create(**ASK)
            with hocket.stage("research"):
                client.chat.completions.create(**ASK)
        with hocket.stage("answer", parent="research"):
            client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    places = [(call.get("stage"), call.get("parent")) for call in gateway.calls]
    assert places == [("plan", None), ("research", "plan"), ("answer", "research"), (None, None)]


def test_tools_report_their_runs_and_parent_what_they_call(gateway):
    with sync_client(gateway.url) as client:

        @hocket.tool
        def search(query: str) -> str:
            """Look it up."""
            client.chat.completions.create(**ASK)
            return query.upper()

        @hocket.tool("run tests")
        def check() -> None:
            raise ZeroDivisionError

        assert search("outside") == "OUTSIDE"
        assert gateway.reports == []
        with hocket.job("a") as job, hocket.stage("plan"):
            assert search("q") == "Q"
            with pytest.raises(ZeroDivisionError):
                check()
    assert search.__name__ == "search" and search.__doc__ == "Look it up."
    assert gateway.calls[-1]["parent"] == "search" and "stage" not in gateway.calls[-1]
    runs = gateway.reports[1:-1]
    tools = f"/jobs/{job.id}/tools/"
    assert [path for _, path, _ in runs] == [
        f"{tools}{verb}" for verb in ("search:start", "search:end", "run%20tests:start", "run%20tests:end")
    ]
    first, second = runs[0][2]["run"], runs[2][2]["run"]
    assert first != second
    assert [body for _, _, body in runs] == [
        {"run": first, "parent": "plan"},
        {"run": first},
        {"run": second, "parent": "plan"},
        {"run": second},
    ]


async def test_async_jobs_keep_apart_though_they_interleave(gateway):
    async with async_client(gateway.url) as client:

        @hocket.tool
        async def look() -> None:
            await asyncio.sleep(0.005)

        async def run(app: str) -> str:
            async with hocket.job(app) as job:
                for name in ("one", "two"):
                    async with hocket.stage(name):
                        await client.chat.completions.create(**ASK)
                        await look()
            return job.id

        ids = await asyncio.gather(*(run(f"app{n}") for n in range(8)))
    for n, job in enumerate(ids):
        calls = [call for call in gateway.calls if call["job"] == job]
        assert [(call["app"], call["stage"]) for call in calls] == [(f"app{n}", "one"), (f"app{n}", "two")]
        about = [path for _, path, body in gateway.reports if job in path or (body or {}).get("job") == job]
        assert [path.rpartition(":")[2] for path in about[1:-1]] == ["start", "end", "start", "end"]
        assert about[0] == "/jobs" and about[-1] == f"/jobs/{job}"


async def test_a_plain_with_in_a_coroutine_reports_in_the_background_in_order(gateway):
    async with async_client(gateway.url) as client:
        with hocket.job("a") as job:
            await client.chat.completions.create(**ASK)
            with hocket.tool("t"):
                pass
        for _ in range(200):
            if len(gateway.reports) == 4:
                break
            await asyncio.sleep(0.01)
    assert [method for method, _, _ in gateway.reports] == ["POST", "POST", "POST", "DELETE"]
    assert gateway.calls[0]["job"] == job.id


async def test_an_async_job_with_only_a_sync_client(gateway):
    with sync_client(gateway.url) as client:
        async with hocket.job("a") as job:
            await asyncio.to_thread(client.chat.completions.create, **ASK)
    assert gateway.calls[0]["job"] == job.id
    assert [method for method, _, _ in gateway.reports] == ["POST", "DELETE"]


def test_streams_retries_and_options_behave_as_before(gateway):
    gateway.fail_first = 1
    with sync_client(gateway.url, max_retries=1) as client, hocket.job("a") as job:
        chunks = list(client.with_options(timeout=5).chat.completions.create(**ASK, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["yes"] * 3
    assert [call["job"] for call in gateway.calls] == [job.id] * 2


async def test_async_streams_carry_identity(gateway):
    async with async_client(gateway.url) as client, hocket.job("a") as job:
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert len([chunk async for chunk in stream]) == 3
    assert gateway.calls[0]["job"] == job.id


def test_headers_that_the_application_set_win(gateway):
    with sync_client(gateway.url) as client, hocket.job("a"):
        client.chat.completions.create(**ASK, extra_headers={"x-hocket-job": "mine"})
    assert gateway.calls[0]["job"] == "mine" and gateway.calls[0]["app"] == "a"


def test_threads_see_the_job_through_wrap_only(gateway):
    with sync_client(gateway.url) as client, hocket.job("a") as job, hocket.stage("fan"):

        def ask() -> None:
            client.chat.completions.create(**ASK)

        with ThreadPoolExecutor(4) as pool:
            wrapped = hocket.wrap(ask)
            for future in [pool.submit(wrapped) for _ in range(8)]:
                future.result()
        bare = threading.Thread(target=ask)
        bare.start()
        bare.join()
    assert gateway.calls == [{"app": "a", "job": job.id, "stage": "fan"}] * 8 + [{}]


def test_instrumenting_twice_changes_nothing(gateway):
    client = sync_client(gateway.url)
    assert hocket.instrument(client) is client
    assert len(client._client.event_hooks["request"]) == 1
    client.close()


def test_a_named_client_is_reported_through_rather_than_the_last(gateway, plain_engine):
    with sync_client(gateway.url) as first, sync_client(plain_engine.url), hocket.job("a", client=first):
        pass
    assert len(gateway.reports) == 2


def test_a_plain_engine_is_used_as_it_is_with_one_warning(plain_engine, caplog):
    with sync_client(plain_engine.url) as client:
        for _ in range(3):
            with hocket.job("a"), hocket.tool("t"):
                assert client.chat.completions.create(**ASK).choices[0].message.content == "yes"
    assert [record.message for record in caplog.records] == [
        f"{plain_engine.url}/jobs answers 404: no hocket gateway; jobs are not reported"
    ]


def test_nobody_there_breaks_only_the_calls(caplog):
    with sync_client("http://127.0.0.1:9/v1"):
        for _ in range(3):
            with hocket.job("a"), hocket.tool("t"):
                pass
    assert len(caplog.records) == 1 and "calls go on without" in caplog.text


async def test_nobody_there_breaks_only_the_calls_async(caplog):
    async with async_client("http://127.0.0.1:9/v1"):
        for _ in range(3):
            async with hocket.job("a"), hocket.tool("t"):
                pass
    assert len(caplog.records) == 1


def test_a_job_needs_no_client():
    with hocket.job("a"), hocket.stage("s"), hocket.tool("t"):
        assert hocket.headers()["x-hocket-parent"] == "t"
    assert hocket.headers() == {}


def test_names_that_a_header_cannot_hold_are_encoded(gateway):
    with sync_client(gateway.url) as client, hocket.job("prüfung", id="j\r\nx-evil: 1\udc00/é"), hocket.stage("a b"):
        client.chat.completions.create(**ASK)
    call = gateway.calls[0]
    assert call["app"] == "pr%C3%BCfung" and call["stage"] == "a b"
    assert call["job"] == "j%0D%0Ax-evil: 1?/%C3%A9"
    assert gateway.reports[0][2]["job"] == call["job"]
    assert re.fullmatch(r"/jobs/j%250D[^/?]*%2F[^/?]*", gateway.reports[1][1])


def test_wrong_use_is_told():
    with pytest.raises(TypeError, match="openai or httpx client, not dict"):
        hocket.instrument({})
    for wrong in ({"urgency": 5}, {"urgency": "high"}, {"deadline_s": 0}, {"deadline_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            hocket.job("a", **wrong)
    job = hocket.job("a")
    with job, pytest.raises(RuntimeError, match="open already"):
        job.__enter__()
    with job:  # closed in between: it may be entered again
        pass


def test_a_block_left_in_another_context_does_not_raise(gateway):
    import contextvars

    with sync_client(gateway.url):
        job = hocket.job("a")
        contextvars.copy_context().run(job.__enter__)
        job.__exit__(None, None, None)
    assert [method for method, _, _ in gateway.reports] == ["POST", "DELETE"]


def test_importing_hocket_imports_little():
    code = "import hocket, sys; heavy = {'httpx', 'httpx2', 'openai', 'asyncio', 'aiohttp'} & set(sys.modules); "
    code += "hocket.job; print(sorted(heavy), [m for m in sys.modules if m.startswith('hocket')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ['hocket', ")
    assert "hocket.core" not in done.stdout and "hocket.errors" not in done.stdout


def test_other_hosts_are_told_nothing(gateway, plain_engine):
    """A client that goes elsewhere, too, or follows a link, sends identity to the gateway only."""
    with sync_client(gateway.url) as client, hocket.job("a"):
        client.with_options(base_url=plain_engine.url).chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    assert plain_engine.calls == [{}]
    assert gateway.calls[0]["app"] == "a"


def test_an_http_client_that_serves_two_gateways_tells_both(gateway, plain_engine):
    import httpx2

    with httpx2.Client() as http, hocket.job("a"):
        for url in (gateway.url, plain_engine.url):
            hocket.instrument(http, base_url=url)
            http.post(f"{url}/chat/completions", json=ASK)
    assert [call["app"] for call in gateway.calls + plain_engine.calls] == ["a", "a"]


def test_an_http_client_must_be_told_where_the_gateway_is():
    import httpx2

    with httpx2.Client() as http, pytest.raises(ValueError, match="where is the gateway"):
        hocket.instrument(http)


def test_a_call_waits_for_the_reports_before_it(gateway):
    with sync_client(gateway.url) as client:
        reporter = Reporter.of(client)
        for n in range(20):
            Outbox.send(reporter, ("POST", f"/jobs/j/tools/t{n}:start", {}))
        client.chat.completions.create(**ASK)
        assert len(gateway.reports) == 20
    assert [path for _, path, _ in gateway.reports] == [f"/jobs/j/tools/t{n}:start" for n in range(20)]


def test_what_was_reported_last_is_sent_before_the_interpreter_ends(gateway):
    code = f"""
import hocket
from hocket.client.http import Outbox, Reporter
from openai import OpenAI
client = hocket.instrument(OpenAI(base_url={gateway.url!r}, api_key="k"))
for n in range(5):
    Outbox.send(Reporter.of(client), ("DELETE", f"/jobs/{{n}}"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert [path for _, path, _ in gateway.reports] == [f"/jobs/{n}" for n in range(5)]


def test_a_report_that_hangs_holds_calls_up_for_a_moment_only(gateway, monkeypatch):
    monkeypatch.setattr("hocket.client.http.ORDER_S", 0.5)
    hold = threading.Event()

    class Hanging:
        def send(self, *_: object) -> None:
            hold.wait(30)

    with sync_client(gateway.url) as client:
        Outbox.send(Hanging(), ("POST", "/jobs"))
        began = time.monotonic()
        client.chat.completions.create(**ASK)
        assert time.monotonic() - began < 10
        hold.set()
        assert Outbox.flush()
