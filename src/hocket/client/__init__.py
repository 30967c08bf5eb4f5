"""What an application imports, if it wants to: it tells a hocket gateway which calls belong together.

    import hocket
    from openai import OpenAI

    client = hocket.instrument(OpenAI(base_url="http://127.0.0.1:8080/v1"))

    @hocket.tool
    def search(query): ...

    with hocket.job("research", urgency=1):
        with hocket.stage("plan"):
            plan = client.chat.completions.create(...)
        found = search(plan)
        with hocket.stage("answer"):
            answer = client.chat.completions.create(...)

`job`, `stage` and `tool` set a context variable; an instrumented client reads it and adds the `x-hocket-*` headers to
each request. `async with`, `AsyncOpenAI` and coroutine tools work alike. Threads do not inherit context variables:
hand them `hocket.wrap(function)`.

The application never depends on the gateway: if that is down, or is a plain engine, calls go on as they are and one
warning is logged (logger `hocket.client`). This package imports nothing but the standard library; what
knows a framework (`hocket.client.langgraph`, `hocket.client.openai_agents`) is imported by those who use it.
"""

from hocket.client.context import headers, job, stage, tool, wrap
from hocket.client.http import instrument

__all__ = ["headers", "instrument", "job", "stage", "tool", "wrap"]
