"""A scripted engine and a load generator in one thread: sockets, epoll and bytes that were formatted beforehand.

Both must be much faster than any relay between them, so nothing is parsed but what ends a message. The engine answers
as vLLM's server does: keep-alive, a length for a whole answer, chunked encoding for a stream, one write an event.
"""

from __future__ import annotations

import gc
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

CHUNKS = 20
"content events of a stream"
KEY = "sk-relay-benchmark-0123456789abcdef0123456789abcdef"
"the client's API key"
WARM_S = 0.3
"of a run, before anything is counted"
_READ = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_USAGE = re.compile(rb'"include_usage":\s*true')
_END = b"0\r\n\r\n"


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: bytes, finish: bytes = b"null") -> bytes:
    return (
        b'data: {"id":"chatcmpl-7f3c2a91d0e84b6f","object":"chat.completion.chunk","created":1760000000,'
        b'"model":"small","choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n' % (delta, finish)
    )


_EVENTS = [
    _http_chunk(_event(b'{"content":" token"}', b'"stop"' if i == CHUNKS - 1 else b"null")) for i in range(CHUNKS)
]
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_STEPS = [_STREAM_HEAD + _EVENTS[0], *_EVENTS[1:], _http_chunk(b"data: [DONE]\n\n") + _END]
_USAGE_EVENT = _http_chunk(
    b'data: {"id":"chatcmpl-7f3c2a91d0e84b6f","object":"chat.completion.chunk","created":1760000000,"model":"small",'
    b'"choices":[],"usage":{"prompt_tokens":180,"total_tokens":200,"completion_tokens":20}}\n\n'
)
_STEPS_WITH_USAGE = [*_STEPS[:-1], _USAGE_EVENT, _STEPS[-1]]


def _whole(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\nserver: uvicorn\r\n"
        b"content-length: %d\r\ncontent-type: application/json\r\n\r\n%b" % (len(body), body)
    )


_ANSWER = _whole(
    b'{"id":"chatcmpl-7f3c2a91d0e84b6f","object":"chat.completion","created":1760000000,"model":"small","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"%b","tool_calls":[]},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":180,"total_tokens":200,"completion_tokens":20},"prompt_logprobs":null}'
    % (b" token" * 20)
)
_MODELS = _whole(b'{"object":"list","data":[{"id":"small","object":"model","created":1760000000,"owned_by":"vllm"}]}')
_HEALTH = _whole(b"{}")


def request(stream: bool, number: int) -> bytes:
    """A chat request as OpenAI's Python client sends it; each number asks something else."""
    body = msgspec.json.encode({
        "messages": [
            {"role": "system", "content": "You answer briefly and cite the paragraph. " * 12},
            {"role": "user", "content": f"Question {number}: what does the report say of this? " * 4},
        ],
        "model": "small",
        "max_tokens": 64,
        "temperature": 0.2,
        **({"stream": True} if stream else {}),
    })  # fmt: skip
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip, deflate\r\n"
        b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        b"User-Agent: OpenAI/Python 2.8.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.8.0\r\n"
        b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        b"X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer %b\r\nX-Stainless-Async: false\r\n"
        b"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


class Counted(msgspec.Struct):
    """What one run saw."""

    seconds: float
    latencies: list[float] = []
    "of complete, correct answers, seconds"
    answered: int = 0
    "the same, with those before and after the time that counts"
    wrong: list[bytes] = []
    "heads of answers that were none"
    unanswered: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


class _Served:
    """A connection of the engine."""

    __slots__ = ("buffer", "fd", "sock", "step", "steps")

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.buffer = b""
        self.step = 0
        self.steps = _STEPS


class _Client:
    """A connection of the load: one call at a time."""

    __slots__ = ("fd", "need", "number", "parts", "sent_at", "size", "sock", "tail")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.fd, self.number = sock, sock.fileno(), number
        self.reset()

    def reset(self) -> None:
        self.parts: list[bytes] = []
        self.size, self.need, self.tail, self.sent_at = 0, 0, b"", 0.0


class Wire:
    """The engine, at `port`, and the load, which `run` makes. Not thread-safe; times in seconds."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        self.port: int = self._listener.getsockname()[1]
        self.served = 0
        "requests for completions so far"
        self.gap_s = 0.0
        self.hold = 0
        "streams that must be open before one of them begins"
        self._engine: dict[int, _Served] = {}
        self._clients: dict[int, _Client] = {}
        self._hot: list[_Served] = []
        self._due: deque[tuple[float, _Served]] = deque()
        self._held: list[_Served] = []
        self._done: Callable[[_Client, float], None] = lambda client, now: None

    # ---------------------------------------------------------------- the loop

    def turn(self, timeout: float) -> None:
        """Serve what is ready; wait for it so long at most."""
        if self._hot:
            timeout = 0.0
        elif self._due:
            timeout = max(min(timeout, self._due[0][0] - time.perf_counter()), 0.0)
        clients, engine = self._clients, self._engine
        for fd, _ in self._epoll.poll(timeout, 1024):
            if (client := clients.get(fd)) is not None:
                self._answered(client)
            elif (served := engine.get(fd)) is not None:
                self._asked(served)
            else:
                self._accept()
        if self._hot:
            self._hot = [served for served in self._hot if self._stream_on(served)]
        if self._due:
            now = time.perf_counter()
            while self._due and self._due[0][0] <= now:
                _, served = self._due.popleft()
                if self._stream_on(served):
                    self._due.append((now + self.gap_s, served))

    def wait_for(self, blocking: Callable[[], None]) -> None:
        """Serve the engine's side while `blocking` runs in a thread. Raises what it raises."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(blocking)
            while not waiting.done():
                self.turn(0.05)
            waiting.result()

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._engine[sock.fileno()] = _Served(sock)
                self._epoll.register(sock, select.EPOLLIN)
        except BlockingIOError:
            pass

    # ---------------------------------------------------------------- the engine

    def _asked(self, served: _Served) -> None:
        try:
            data = os.read(served.fd, _READ)
        except OSError:
            data = b""
        if not data:
            del self._engine[served.fd]
            served.fd = -1
            served.sock.close()
            return
        if served.buffer:
            data = served.buffer + data
        head = data.find(b"\r\n\r\n")
        found = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
        if head < 0 or (found is not None and len(data) < head + 4 + int(found[1])):
            served.buffer = data
            return
        served.buffer = b""
        if data.startswith(b"GET"):
            os.write(served.fd, _MODELS if b"/models" in data[:40] else _HEALTH)
        elif _STREAM.search(data, head):
            self.served += 1
            served.step, served.steps = 0, _STEPS_WITH_USAGE if _USAGE.search(data, head) else _STEPS
            self._begin(served)
        else:
            self.served += 1
            os.write(served.fd, _ANSWER)

    def _begin(self, served: _Served) -> None:
        if self.hold:
            self._held.append(served)
            if len(self._held) < self.hold:
                return
            self.hold, begun, self._held = 0, self._held, []
        else:
            begun = [served]
        if self.gap_s:
            self._due.extend((0.0, one) for one in begun)
        else:
            self._hot.extend(begun)

    @staticmethod
    def _stream_on(served: _Served) -> bool:
        """Send one event; whether there are more. As an engine does it: one event of each running stream a step."""
        if served.fd < 0:
            return False
        try:
            os.write(served.fd, served.steps[served.step])
        except (BrokenPipeError, ConnectionResetError):
            return False
        served.step += 1
        return served.step < len(served.steps)

    # ---------------------------------------------------------------- the load

    def _answered(self, client: _Client) -> None:
        try:
            data = os.read(client.fd, _READ)
        except OSError:
            data = b""
        client.parts.append(data)
        client.size += len(data)
        if not client.need:
            head = data.find(b"\r\n\r\n")
            found = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
            client.need = head + 4 + int(found[1]) if found else -1
        if client.need < 0:
            client.tail = (client.tail + data)[-5:]
        if not data or (client.tail == _END if client.need < 0 else client.size >= client.need):
            self._done(client, time.perf_counter())

    def _connect(self, port: int, number: int) -> _Client:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        client = self._clients[sock.fileno()] = _Client(sock, number)
        self._epoll.register(sock, select.EPOLLIN)
        return client

    def _drop(self, client: _Client) -> None:
        del self._clients[client.fd]
        client.sock.close()

    def _disconnect(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)

    def run(self, port: int, *, stream: bool, connections: int, seconds: float, gap_s: float = 0.0) -> Counted:
        """A closed loop: each connection sends its next call when the last one was answered."""
        requests = [request(stream, number) for number in range(4 * connections)]
        counted = Counted(seconds)
        self.gap_s = gap_s
        begin = time.perf_counter() + WARM_S
        end = begin + seconds

        def send(client: _Client, now: float) -> None:
            client.reset()
            client.sent_at = now
            client.number += connections
            os.write(client.fd, requests[client.number % len(requests)])

        def done(client: _Client, now: float) -> None:
            if not _right(client.parts, stream):
                counted.wrong.append(b"".join(client.parts)[:400])
            else:
                counted.answered += 1
                if begin <= now < end:
                    counted.latencies.append(now - client.sent_at)
            client.sent_at = 0.0
            if not client.parts[-1]:
                self._drop(client)
                client = self._connect(port, client.number)
            if now < end and len(counted.wrong) < 1000:
                send(client, now)

        self._done = done
        gc.disable()
        try:
            for number in range(connections):
                send(self._connect(port, number), time.perf_counter())
            while time.perf_counter() < end:
                self.turn(0.1)
            while time.perf_counter() < end + 10 and any(client.sent_at for client in self._clients.values()):
                self.turn(0.1)
            counted.unanswered = sum(client.sent_at > 0 for client in self._clients.values())
        finally:
            self._disconnect()
            gc.enable()
        return counted

    def open_streams(self, port: int, count: int, gap_s: float, at_peak: Callable[[], None]) -> Counted:
        """So many streams at once: none begins before all are open. `at_peak` is called in their middle."""
        counted = Counted(0.0)
        self.gap_s, self.hold = gap_s, count
        begun, open_now, told = self.served, 0, False

        def done(client: _Client, now: float) -> None:
            nonlocal open_now
            open_now -= 1
            if _right(client.parts, stream=True):
                counted.latencies.append(now - client.sent_at)
            else:
                counted.wrong.append(b"".join(client.parts)[:400])
            self._drop(client)

        self._done = done
        began = time.perf_counter()
        try:
            for number in range(count):
                client = self._connect(port, number)
                client.sent_at = time.perf_counter()
                open_now += 1
                os.write(client.fd, request(True, number))
                while self.served - begun < number - 200 and time.perf_counter() < began + 120:
                    self.turn(0.1)
            while open_now and time.perf_counter() < began + 180:
                self.turn(0.1)
                if not told and self._due and self._due[0][1].step >= CHUNKS // 2:
                    told = True
                    at_peak()
            counted.unanswered = open_now
        finally:
            self.hold = 0
            self._held.clear()
            self._disconnect()
        counted.seconds = time.perf_counter() - began
        return counted


def _right(parts: Sequence[bytes], stream: bool) -> bool:
    """Whether an answer is complete: every event of a stream, all of the text of a whole one."""
    data = b"".join(parts)
    if not data.startswith(b"HTTP/1.1 200"):
        return False
    if not stream:
        return data.count(b" token") == CHUNKS
    if data.count(b'" token"') == CHUNKS and b"data: [DONE]" in data:
        return True
    body = _dechunked(data[data.find(b"\r\n\r\n") + 4 :])  # a relay may have cut an event in two
    return body.count(b'" token"') == CHUNKS and b"data: [DONE]" in body


def _dechunked(data: bytes) -> bytes:
    out, at = [], 0
    while (line := data.find(b"\r\n", at)) > at:
        size = int(data[at:line], 16)
        out.append(data[line + 2 : line + 2 + size])
        at = line + 4 + size
    return b"".join(out)
