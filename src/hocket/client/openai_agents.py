"""The OpenAI Agents SDK: each run is a job, its agents are stages, its function tools are tool runs.

    from hocket.client import openai_agents

    client = openai_agents.instrument(AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none"))
    agents.set_default_openai_client(client, use_for_tracing=False)

The SDK tells every trace and span to the processors that are registered, and keeps the current span in a context
variable. So the request hook of the client's HTTP client can ask which agent is calling: nothing is wrapped or passed
on. It needs the SDK's tracing; with `set_tracing_disabled(True)` calls go out without an identity. To have tracing and
send nothing to OpenAI, say `agents.set_trace_processors([])` before.

- application: `RunConfig(workflow_name=...)`, or the name of the `trace(...)` around several runs
- job: the trace; or the `hocket.job` around it, if there is one
- stage: the agent
- parent: the tool whose answer the agent reads, the agent that handed over, or the tool that runs the agent
"""

from __future__ import annotations

from typing import Any, TypeVar

from agents.tracing import Span, Trace, TracingProcessor, add_trace_processor, get_current_span, get_current_trace

from hocket.client import http
from hocket.client.context import Place, Where, job, parent_in, sources, tool_ended, tool_started, where
from hocket.client.http import Outbox, Reporter, harmless, log

C = TypeVar("C")


def instrument(client: C, base_url: str | None = None, *, report_through: Any = None) -> C:
    """Make an `AsyncOpenAI` that agents use known to hocket. Returns it; a second call changes nothing.

    Jobs and tool runs are reported by a thread, through a plain `OpenAI` of the same address and key;
    `report_through` is one to use instead, where proxies or certificates of your own are needed.
    Raises TypeError for anything else, ValueError where nothing says where the gateway is.
    """
    http.instrument(client, base_url)
    if report_through is None:
        from openai import OpenAI

        url, key = base_url or getattr(client, "base_url", None), getattr(client, "api_key", None)
        report_through = OpenAI(base_url=url, api_key=key if isinstance(key, str) and key else "none")
    http.instrument(report_through, base_url)
    _processor.reporter = Reporter.of(report_through, synchronous=True)
    return client


class _Span(Place):
    """A trace, a run of the agents' loop, an agent, or a tool."""

    __slots__ = ("opened", "outer")

    def __init__(self, outer: _Span | None, stage: str | None, cause: str | None) -> None:
        here = where()
        within = here.job if outer is None else outer.job
        super().__init__(within, stage, cause, max(here.depth, 0 if outer is None else outer.depth) + 1)
        self.outer = outer
        self.opened = False


class _Processor(TracingProcessor):
    """Follows the spans. Its methods are called in the event loop: they wait for nothing."""

    def __init__(self) -> None:
        self.reporter: Reporter | None = None
        self._spans: dict[str, _Span] = {}
        "of each trace and span that goes on: where its code is"
        self._warned = False

    def where(self) -> Where | None:
        """Where the running code is, by the SDK's context variables."""
        span = get_current_span()
        found = self._spans.get(span.span_id) if span is not None else None
        if found is None and (trace := get_current_trace()) is not None:
            found = self._spans.get(trace.trace_id)
            if trace.trace_id == "no-op" and not self._warned:
                self._warned = True
                log.warning("the Agents SDK's tracing is disabled: its calls go out without their job and agent")
        return None if found is None else found.where()

    @harmless
    def on_trace_start(self, trace: Trace) -> None:
        root = _Span(None, None, parent_in(where()))
        if root.job is None:
            root.job, root.opened = job(trace.name, id=trace.trace_id), True
            Outbox.send(self.reporter, root.job.opening())
        self._spans[trace.trace_id] = root

    @harmless
    def on_trace_end(self, trace: Trace) -> None:
        root = self._spans.pop(trace.trace_id)
        if root.opened and root.job is not None:
            Outbox.send(self.reporter, root.job.closing(failed=False))

    @harmless
    def on_span_start(self, span: Span[Any]) -> None:
        outer = self._spans.get(span.parent_id or span.trace_id)
        if outer is None:
            return
        self._spans[span.span_id] = outer  # a turn, a generation, a guardrail: no place of its own
        match span.span_data.type:
            case "task":
                self._spans[span.span_id] = _Span(outer, None, outer.last)
            case "agent":
                self._spans[span.span_id] = _Span(outer, span.span_data.name, outer.last)
            case "function" if outer.job is not None:
                name = span.span_data.name
                self._spans[span.span_id] = _Span(outer, None, name)
                Outbox.send(self.reporter, tool_started(outer.job, name, span.span_id, outer.last))

    @harmless
    def on_span_end(self, span: Span[Any]) -> None:
        place = self._spans.pop(span.span_id, None)
        if place is None or place.outer is None:
            return
        match span.span_data.type:
            case "task" | "agent" if place.used:
                place.outer.after(place.last)
            case "function" if place.job is not None:
                place.outer.after(span.span_data.name)
                Outbox.send(self.reporter, tool_ended(place.job, span.span_data.name, span.span_id))

    def shutdown(self) -> None:
        """Nothing to do: what is to be sent, the outbox sends at the interpreter's end."""

    def force_flush(self) -> None:
        """Wait until what was reported is sent."""
        Outbox.flush()


_processor = _Processor()
add_trace_processor(_processor)
sources.append(_processor.where)
