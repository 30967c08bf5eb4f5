"""The gateway's OpenAPI 3.1 document, served at `/openapi.json` and kept in docs/reference/openapi.json.

It says what hocket itself reads and answers. Requests of calls may hold any further field, and what an engine answers
is the engine's: of that the document promises no more than that it passes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from hocket.gateway.idempotency import HEADER as IDEMPOTENCY_KEY
from hocket.gateway.idempotency import MAX_KEY
from hocket.gateway.identity import HEADERS
from hocket.gateway.identity.claim import MAX_NAME
from hocket.gateway.identity.explicit import MAX_DEADLINE_MS
from hocket.gateway.jobs import NewJob, ToolRun
from hocket.gateway.openai import ENDPOINTS, Endpoint
from hocket.gateway.standing import Standings

Json = dict[str, Any]

CODES: dict[int, tuple[str, ...]] = {
    400: (
        "invalid_json",
        "invalid_utf8",
        "invalid_body",
        "invalid_http",
        "invalid_type",
        "missing_required_parameter",
        "invalid_identity",
        "invalid_idempotency_key",
        "invalid_query",
        "invalid_settings",
    ),
    401: ("missing_api_key", "invalid_api_key"),
    403: ("foreign_host", "foreign_origin", "wrong_role"),
    404: (
        "model_not_found",
        "unknown_job",
        "unknown_tool_run",
        "unknown_response",
        "unknown_path",
        "unsupported_by_engine",
    ),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    409: (
        "job_closed",
        "job_of_another_app",
        "tool_run_exists",
        "job_aborted",
        "no_settings",
        "idempotency_answer_gone",
    ),
    413: ("body_too_large",),
    422: ("idempotency_key_reused",),
    429: ("too_many_calls", "too_many_jobs", "too_many_tokens", "too_many_bytes", "too_many_tool_runs", "queue_full"),
    431: ("headers_too_large",),
    500: ("internal_error",),
    502: ("upstream_connect", "upstream_reset", "upstream_timeout", "upstream_garbage"),
    503: (
        "upstream_connect",
        "upstream_reset",
        "upstream_timeout",
        "upstream_garbage",
        "queue_timeout",
        "overloaded",
        "queue_full",
        "shed",
        "deadline_unmeetable",
        "too_many_bytes",
        "too_many_calls",
        "too_many_jobs",
        "too_many_tokens",
        "shutdown",
        "too_many_connections",
    ),
}
"the codes of hocket's own errors by status; the table in docs/reference/api.md tells what they mean"

_MEANINGS = {
    200: "done",
    400: "the request is bad",
    401: "no key, or an unknown one",
    403: "the key is for something else; or no key is asked for, and only this machine is served",
    404: "there is no such thing",
    405: "the path takes another method",
    408: "the request did not come in time",
    409: "it contradicts what is known",
    413: "the body is too large",
    422: "the key came with another request before",
    429: "one of the tenant's own limits is reached",
    431: "the headers are too large",
    500: "a bug",
    502: "a replica failed",
    503: "not now",
}
_RESPONSES = {
    ("/v1/responses/{response}", "get"): "response",
    ("/v1/responses/{response}", "delete"): "delete_response",
    ("/v1/responses/{response}/cancel", "post"): "cancel_response",
}
_EVERYWHERE = (403, 408, 431, 500)
_ID = r"^[!-~]([ -~]*[!-~])?$"
_OBJECT: Json = {"type": "object"}


@cache
def document() -> bytes:
    """The document, as JSON with line breaks."""
    return msgspec.json.format(msgspec.json.encode(_document()), indent=1) + b"\n"


def _document() -> Json:
    template = "#/components/schemas/{name}"
    _, components = msgspec.json.schema_components((NewJob, ToolRun), ref_template=template)
    _, answers = msgspec.json.schema_components((Standings,), ref_template=template)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hocket",
            "version": "1",
            "description": "An OpenAI-compatible gateway that schedules the calls of LLM applications.",
        },
        "security": [{"key": []}, {}],
        "paths": {**_calls(), **_models(), **_straight(), **_jobs(), **_operators()},
        "components": {
            "schemas": {**_schemas(), **answers, **_named(components)},
            "parameters": _parameters(),
            "responses": {str(status): _error(status) for status in CODES},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "role call; wanted where tenants are set"},
                "observe": {"type": "http", "scheme": "bearer", "description": "role observe or admin"},
                "admin": {"type": "http", "scheme": "bearer", "description": "role admin"},
            },
        },
    }


# ---------------------------------------------------------------- paths


def _calls() -> Json:
    return {path: {"post": _call(endpoint)} for path, endpoint in ENDPOINTS.items()}


def _call(endpoint: Endpoint) -> Json:
    ok: Json = {"description": "the engine's answer", "content": {"application/json": {"schema": _OBJECT}}}
    if endpoint.streams:
        ok["content"]["text/event-stream"] = {}
    if endpoint.path == "/v1/responses":
        here = {"response": "$response.body#/id"}
        ok["links"] = {name: {"operationId": name, "parameters": here} for name in _RESPONSES.values()}
    return {
        "operationId": endpoint.path.removeprefix("/v1/").replace("/", "_"),
        "summary": f"A call, by its `{endpoint.input}`. It waits here until it is its turn.",
        "parameters": [_ref("parameters", name) for name in _parameters()],
        "requestBody": _json_body(_request(endpoint)),
        "responses": {
            "200": ok,
            **_errors(401, 403, 408, 409, 413, 429, 431),
            "default": {
                "description": "an error: hocket's own, or the engine's as it came",
                "content": {"application/json": {"schema": _OBJECT}},
            },
        },
    }


def _request(endpoint: Endpoint) -> Json:
    kinds: list[Json] = [{"type": "array"}]
    if endpoint.text:
        kinds.append({"type": "string"})
    if not endpoint.needed:
        kinds.append({"type": "null"})
    number: Json = {"type": ["integer", "null"]}
    properties: Json = {
        "model": {"type": "string"},
        endpoint.input: kinds[0] if len(kinds) == 1 else {"anyOf": kinds},
        "stream": {"type": ["boolean", "null"]},
        "max_tokens": number,
        "max_completion_tokens": number,
        "max_output_tokens": number,
        "metadata": {
            "type": ["object", "null"],
            "description": "`hocket-KEY` and `x-hocket-KEY` mean the same as the headers",
        },
    }
    required = ["model", endpoint.input] if endpoint.needed else ["model"]
    return {"type": "object", "required": required, "properties": properties}


def _models() -> Json:
    model = _ref("schemas", "Model")
    models = {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": model}},
    }
    return {
        "/v1/models": {"get": _operation("models", "The models that the settings list.", models, 401)},
        "/v1/models/{model}": {
            "parameters": [_path("model")],
            "get": _operation("model", "One of them.", model, 401, 404),
        },
    }


def _straight() -> Json:
    model = {"type": "object", "properties": {"model": {"type": ["string", "null"]}}}
    out: Json = {}
    for path in ("/tokenize", "/detokenize"):
        operation = _operation(path[1:], "As the engine does it; takes no slot.", _OBJECT, 400, 401, 404, 413, 502, 503)
        operation["responses"]["default"] = _of_engine("an error of the engine, as it came")
        out[path] = {"post": {**operation, "requestBody": _json_body(model)}}
    for (path, method), name in _RESPONSES.items():
        operation = _operation(name, "Asked of the replica that gave the response.", _OBJECT, 401, 404, 413, 502, 503)
        operation["responses"]["default"] = _of_engine("an error of the engine, as it came")
        out.setdefault(path, {"parameters": [_path("response")]})[method] = operation
    return out


def _jobs() -> Json:
    job, run = _ref("schemas", "Job"), _ref("schemas", "Run")
    opened = _operation("open_job", "Open a job.", _ref("schemas", "OpenedJob"), 400, 401, 409, 413, 429, 503)
    close = _operation("close_job", "Close a job.", _ref("schemas", "OpenedJob"), 400, 401, 404)
    abort = {"type": "string", "enum": ["true", "false", "1", "0"]}
    close["parameters"] = [{"name": "abort", "in": "query", "schema": abort, "description": "kill its open calls"}]
    paths: Json = {
        "/v1/jobs": {"post": {**opened, "requestBody": _json_body(_ref("schemas", "NewJob"))}},
        "/v1/jobs/{job}": {
            "parameters": [_path("job")],
            "get": _operation("job", "A job's state.", job, 401, 404),
            "delete": close,
        },
    }
    for verb, summary in {"start": "A tool run begins.", "end": "A tool run is over."}.items():
        full = [429] if verb == "start" else []
        operation = _operation(f"{verb}_tool", summary, run, 400, 401, 404, 409, 413, *full)
        operation["requestBody"] = {**_json_body(_ref("schemas", "ToolRun")), "required": False}
        path = f"/v1/jobs/{{job}}/tools/{{tool}}:{verb}"
        paths[path] = {"parameters": [_path("job"), _path("tool")], "post": operation}
    return paths


def _operators() -> Json:
    ready = _operation("ready", "Whether an engine has a replica.", _ref("schemas", "Ready"))
    ready["responses"]["503"] = {**ready["responses"]["200"], "description": "no engine has one"}
    text = {"description": "Prometheus metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    reload = _operation("reload", "Read the settings file again.", _ref("schemas", "Reloaded"), 400, 401, 409)
    jobs = _operation("jobs", "The jobs that are open, the oldest first.", _ref("schemas", "OpenJobs"), 401)
    tenants = _operation("tenants", "What each tenant has, and whom it waits for.", _ref("schemas", "Standings"), 401)
    paths: Json = {
        "/health": {"get": _operation("health", "200 while the process lives.", _ref("schemas", "Health"))},
        "/ready": {"get": ready},
        "/openapi.json": {"get": _operation("openapi", "This document.", _OBJECT)},
    }
    for item in paths.values():
        item["get"]["security"] = [{}]
    metrics = {"operationId": "metrics", "responses": {"200": text, **_errors(401, *_EVERYWHERE)}}
    observe: Json = {"security": [{"observe": []}, {}]}
    return {
        **paths,
        "/metrics": {"get": {**metrics, **observe}},
        "/admin/jobs": {"get": {**jobs, **observe}},
        "/admin/tenants": {"get": {**tenants, **observe}},
        "/admin/reload": {"post": {**reload, "security": [{"admin": []}, {}]}},
    }


# ---------------------------------------------------------------- parts


def _operation(name: str, summary: str, answer: Json, *errors: int) -> Json:
    ok = {"description": _MEANINGS[200], "content": {"application/json": {"schema": answer}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": ok, **_errors(*sorted({*errors, *_EVERYWHERE}))},
    }


def _errors(*statuses: int) -> Json:
    return {str(status): _ref("responses", str(status)) for status in statuses}


def _error(status: int) -> Json:
    text = {"type": "string"}
    fields = {
        "message": text,
        "type": text,
        "param": {"type": ["string", "null"]},
        "code": {"type": "string", "enum": list(CODES[status])},
    }
    error = {"type": "object", "required": list(fields), "properties": fields, "additionalProperties": False}
    schema = {"type": "object", "required": ["error"], "properties": {"error": error}, "additionalProperties": False}
    return {"description": _MEANINGS[status], "content": {"application/json": {"schema": schema}}}


def _of_engine(description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _OBJECT}}}


def _json_body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _path(name: str) -> Json:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": _ID}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _named(components: Json) -> Json:
    """The schemas of request bodies, with what their handlers check beyond the types."""
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": _ID}
    bounds: Json = {
        "app": name,
        "job": name,
        "run": name,
        "parent": name,
        "urgency": {"type": "integer", "minimum": 0, "maximum": 4},
        "deadline_ms": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
    }
    for schema in components.values():
        for key in schema["properties"]:
            optional = "default" in schema["properties"][key]
            schema["properties"][key] = {"anyOf": [bounds[key], {"type": "null"}]} if optional else bounds[key]
    return components


def _parameters() -> Json:
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": _ID}
    schemas: dict[str, tuple[Json, str]] = {
        "app": (name, "the application"),
        "job": (name, "the job"),
        "stage": (name, "the stage of the application's graph"),
        "parent": (name, "the stage that caused this one"),
        # a header is text: only so can an unlisted one be told from a bad one
        "urgency": ({"type": "string", "pattern": "^0{0,9}[0-4]$"}, "0 (emergency) to 4 (background)"),
        "idempotency-key": (
            {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": _ID},
            "of a request that comes again: it gets the first one's answer",
        ),
        "deadline-ms": ({"type": "string", "pattern": "^0{0,3}[1-9][0-9]{0,11}$"}, "milliseconds from now"),
    }
    names = {**HEADERS, "idempotency-key": str(IDEMPOTENCY_KEY)}
    return {
        key: {"name": names[key], "in": "header", "schema": schema, "description": text}
        for key, (schema, text) in schemas.items()
    }


def _schemas() -> Json:
    def known(**fields: Json) -> Json:
        return {"type": "object", "required": list(fields), "properties": fields}

    text: Json = {"type": "string"}
    count: Json = {"type": "integer", "minimum": 0}
    seconds: Json = {"type": "number", "minimum": 0}
    job = known(id=text, object={"const": "job"}, state={"enum": ["open", "closing", "closed"]})
    listed = known(id=text, object={"const": "job"}, tenant=text, app=text)
    more = {
        "app": text,
        "tenant": text,
        "urgency": {"type": "integer", "minimum": 0, "maximum": 4},
        "age_s": seconds,
        "service_s": seconds,
        "open_calls": count,
        "open_tools": count,
    }
    return {
        "Health": known(status={"const": "ok"}),
        "Ready": known(ready={"type": "boolean"}, engines_without_replica={"type": "array", "items": text}),
        "Reloaded": known(status={"const": "reloaded"}, engines={"type": "array", "items": text}),
        "Model": known(id=text, object={"const": "model"}, created=count, owned_by={"const": "hocket"}),
        "OpenJobs": known(object={"const": "list"}, data={"type": "array", "items": listed}, total=count),
        "OpenedJob": known(id=text, object={"const": "job"}),
        "Job": {**job, "properties": {**job["properties"], **more}},
        "Run": known(run=text, object={"const": "tool_run"}, job=text, name=text),
    }
