"""LangGraph applications: each run of a graph is a job, its nodes are stages, its tools and retrievers are tool runs.

    from hocket.client import langgraph

    model = langgraph.instrument(ChatOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none", model="small"))

That line is all. LangChain tells every run to the handlers that are registered with `register_configure_hook`, and
keeps in a context variable which run the running code belongs to. So the request hook of the model's HTTP client, which
runs inside a node, can ask where it is: nothing is wrapped or passed on, and threads, tasks, streams, sub-graphs and
parallel branches are LangChain's own affair. What a node calls without LangChain (a plain `OpenAI` client, a function
marked with `hocket.tool`) is known just as well.

- application: the name of the graph, `builder.compile(name="research")`
- job: the outermost run; or the `hocket.job` around it, if there is one
- stage: the node; `outer/inner` for the nodes of a sub-graph, `tool/node` for those of a graph that a tool runs
- parent: what led here: of the nodes of the step before, the last; after a tool, the tool. Nodes that do nothing that
  hocket sees are passed over

Where several branches run side by side, what led where is in the graph's edges, which its runs do not tell:
`graph = langgraph.instrument(graph)` makes them known.
"""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Mapping
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from hocket.client import http
from hocket.client.context import Place, Where, job, parent_in, sources, tool_ended, tool_started, where
from hocket.client.http import Outbox, Reporter, harmless

T = TypeVar("T")

_EDGES = "hocket_edges"
"the key in the metadata of a graph's runs under which its edges are found"


def instrument(thing: T, base_url: str | None = None) -> T:
    """Make a model, or a compiled graph, known to hocket. Returns it; a graph as a copy that makes its edges known.

    A model is a `ChatOpenAI`, anything else of LangChain's with an openai client inside, or what `hocket.instrument`
    takes. Graphs need no line, if their models have one. A second call changes nothing.
    Raises TypeError for anything else, ValueError where nothing says where the gateway is.
    """
    if hasattr(thing, "get_graph") and hasattr(thing, "get_subgraphs"):
        return cast("T", _with_edges(thing))
    model = getattr(thing, "bound", thing)  # what bind_tools and with_config give
    clients = [client for name in ("root_client", "root_async_client") if (client := getattr(model, name, None))]
    if not clients:  # an embedding model
        clients = [found for name in ("client", "async_client") if (found := _client_of(getattr(model, name, None)))]
    for client in clients or [model]:
        http.instrument(client, base_url)
        _handler.reporter = Reporter.of(client, synchronous=True) or _handler.reporter
    return thing


def _client_of(resource: Any) -> Any:
    return getattr(resource, "_client", None)


def _with_edges(graph: Any) -> Any:
    before: dict[str, set[str]] = {}
    for edge in graph.get_graph().edges:
        before.setdefault(edge.target, set()).add(edge.source)
    key = str(next(_serial))
    _edges[key] = before
    return graph.with_config({"metadata": {_EDGES: key}})


_edges: dict[str, dict[str, set[str]]] = {}
"of each graph that was instrumented: node -> the nodes that can lead to it"
_serial = itertools.count(1)


class _Graph:
    """One run of a graph: which of its nodes are over."""

    def __init__(self, outer: _Run, before: Mapping[str, set[str]] | None) -> None:
        self.outer, self._before, self._cause = outer, before, outer.last
        self._ended: dict[str, _Run] = {}
        "by name, in the order of their ends; a node that ran again stands where it ended last"

    def cause_of(self, node: str, step: int) -> str | None:
        """What led to a node that starts in `step`: the last of those that did something."""
        earlier = [run for run in list(self._ended.values()) if run.step < step]  # other threads end nodes
        if self._before is not None:
            earlier = [run for run in earlier if run.name in self._before.get(node, ())]
        elif earlier:
            latest = max(run.step for run in earlier)
            earlier = [run for run in earlier if run.step == latest]
        if not earlier:
            return self._cause
        return ([run for run in earlier if run.used] or earlier)[-1].last

    def end(self, node: _Run) -> None:
        """A node is over."""
        self._ended.pop(node.name, None)
        self._ended[node.name] = node
        if node.used:
            self.outer.after(node.last)


class _Run(Place):
    """A run of LangChain's: an outermost one, a node of a graph, or a tool."""

    __slots__ = ("edges", "graph", "id", "name", "namespace", "opened", "path", "root", "step")
    root: _Run
    path: str

    def __init__(self, run_id: UUID, name: str, outer: _Run | None, *, stage: str | None, cause: str | None) -> None:
        here = where()
        super().__init__(
            job=here.job if outer is None else outer.root.job,
            stage=stage,
            cause=cause,
            depth=max(here.depth, 0 if outer is None else outer.depth) + 1,
        )
        self.id, self.name, self.root = run_id, name, self if outer is None else outer.root
        self.path = "" if outer is None else outer.path
        "before the names of the nodes of a graph that runs in here"
        self.namespace: str | None = None if outer is None else outer.namespace
        self.edges: str | None = None if outer is None else outer.edges
        self.graph: _Graph | None = None
        "whose node it is; None for others"
        self.step = 0
        self.opened = False

    def where(self) -> Where:
        return super().where()._replace(job=self.root.job)


class _Handler(BaseCallbackHandler):
    """Follows the runs. It sets nothing and waits for nothing, so it may run inline in coroutines."""

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_custom_event = True

    def __init__(self) -> None:
        self.reporter: Reporter | None = None
        self._runs: dict[UUID, tuple[_Run, str]] = {}
        "of each run that goes on: where its code is, and its own name"
        self._graphs: dict[UUID, _Graph] = {}
        "by the graph's run"

    def where(self) -> Where | None:
        """Where the running code is, by LangChain's context variable."""
        config = var_child_runnable_config.get()
        if config is None:
            return None
        run, _ = self._run(getattr(config.get("callbacks"), "parent_run_id", None))
        return None if run is None or run.root.job is None else run.where()

    def _run(self, run_id: UUID | None) -> tuple[_Run | None, str]:
        found = None if run_id is None else self._runs.get(run_id)
        return (None, "") if found is None else found

    # ---------------------------------------------------------------- chains: graphs, their nodes, and what is inside

    @harmless
    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        metadata: Mapping[str, Any] = more.get("metadata") or {}
        name, node = more.get("name") or "", metadata.get("langgraph_node")
        outer, outer_name = self._run(parent_run_id)
        if outer is None:
            here = where()
            outer = _Run(run_id, name, None, stage=here.stage, cause=here.parent)
            outer.last, outer_name = parent_in(here), name
            parent_run_id = run_id
        namespace = metadata.get("langgraph_checkpoint_ns")
        if node is None or namespace == outer.namespace:
            self._runs[run_id] = outer, name
            return
        assert parent_run_id is not None
        self._open(outer.root, outer_name)
        self._runs[run_id] = self._node(run_id, parent_run_id, outer, node, metadata), name

    def _node(self, run_id: UUID, graph_id: UUID, outer: _Run, name: str, metadata: Mapping[str, Any]) -> _Run:
        edges, step = metadata.get(_EDGES), metadata.get("langgraph_step", 0)
        graph = self._graphs.get(graph_id)
        if graph is None:
            before = None if edges is None or edges == outer.edges else _edges.get(edges)
            graph = self._graphs[graph_id] = _Graph(outer, before)
        path = f"{outer.path}/{name}" if outer.path else name
        run = _Run(run_id, name, outer, stage=path, cause=graph.cause_of(name, step))
        run.graph, run.step, run.path, run.edges = graph, step, path, edges
        run.namespace = metadata.get("langgraph_checkpoint_ns")
        return run

    def _open(self, root: _Run, app: str) -> None:
        """The outermost run becomes a job with its first node: a chain without a graph is none."""
        if root.job is None:
            root.job, root.opened = job(app or "LangGraph", id=str(root.id)), True
            Outbox.send(self.reporter, root.job.opening())

    @harmless
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id, failed=False)

    @harmless
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id, failed=True)

    def _end(self, run_id: UUID, failed: bool) -> None:
        self._graphs.pop(run_id, None)
        run, _ = self._run(run_id)
        self._runs.pop(run_id, None)
        if run is None or run.id != run_id:  # inside a node, and no place of its own
            return
        if run.graph is not None:
            run.graph.end(run)
        self._close(run, failed)

    def _close(self, run: _Run, failed: bool) -> None:
        if run.opened and run.job is not None:
            Outbox.send(self.reporter, run.job.closing(failed))

    # ---------------------------------------------------------------- tools and retrievers

    @harmless
    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        self._start_tool(run_id, parent_run_id, more.get("name") or (serialized or {}).get("name") or "tool")

    @harmless
    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        self._start_tool(run_id, parent_run_id, more.get("name") or (serialized or {}).get("name") or "retriever")

    def _start_tool(self, run_id: UUID, parent_run_id: UUID | None, name: str) -> None:
        outer, _ = self._run(parent_run_id)
        run = _Run(run_id, name, outer, stage=None, cause=name)
        run.path = name
        self._runs[run_id] = run, name
        if run.root.job is not None:
            parent = parent_in(where()) if outer is None else outer.last
            Outbox.send(self.reporter, tool_started(run.root.job, name, str(run_id), parent))

    @harmless
    def on_tool_end(self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any) -> None:
        self._end_tool(run_id, parent_run_id, failed=False)

    @harmless
    def on_tool_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        self._end_tool(run_id, parent_run_id, failed=True)

    on_retriever_end = on_tool_end  # type: ignore[assignment]  # only the name of what is ignored differs
    on_retriever_error = on_tool_error

    def _end_tool(self, run_id: UUID, parent_run_id: UUID | None, failed: bool) -> None:
        run, name = self._run(run_id)
        self._runs.pop(run_id, None)
        if run is None:
            return
        self._graphs.pop(run_id, None)
        outer, _ = self._run(parent_run_id)
        if outer is not None:
            outer.after(name)
        if run.root.job is not None and not run.opened:
            Outbox.send(self.reporter, tool_ended(run.root.job, name, str(run_id)))
        self._close(run, failed)


_handler = _Handler()
# the default makes it count in every thread and task; LangChain adds it to the handlers of every run
register_configure_hook(contextvars.ContextVar("hocket_langgraph", default=_handler), inheritable=True)
sources.append(_handler.where)
