"""An address that is listened on without a gap while one process takes over from another. There are two ways.

*Inherited*: who starts hocket listens, and hands the socket to each process in turn. This is systemd's protocol
(sd_listen_fds(3)); other supervisors and container runtimes speak it too. While nobody accepts, connections wait in the
socket's queue, which is the parent's: so no restart refuses one.

*Shared* (`reuse_port`): each process has a socket of its own, and the system shares out connections among them. What
one has in its queue when it closes is reset; so its queue is emptied first. A connection that comes in the microseconds
between is lost all the same, and its client has to try again, as OpenAI's clients do by themselves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from hocket.errors import InputError
from hocket.settings import Settings, is_loopback

FIRST = 3
"the number of the first descriptor that is handed on, after standard input, output and error"


def inherited(settings: Settings) -> list[socket.socket]:
    """The sockets that were handed to this process: of `listen` first, then of `admin_listen`. Raises InputError."""
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return []  # they were meant for a parent of this process
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=number) for number in range(FIRST, FIRST + count)]
    try:
        _check(sockets, settings)
    except InputError:
        for one in sockets:
            one.close()
        raise
    return sockets


def _check(sockets: list[socket.socket], settings: Settings) -> None:
    for one in sockets:
        one.set_inheritable(False)
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
            raise InputError(f"descriptor {one.fileno()} of LISTEN_FDS is no TCP socket; hand over only such")
        host = one.getsockname()[0]
        if not settings.tenants and not is_loopback(host):
            raise InputError(
                f"the socket that was handed over listens on {host}, which others reach, and no tenants are set: "
                "anyone could use the engines; list `tenants` with their keys, or listen on 127.0.0.1"
            )


def shared(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens beside those of other processes. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.create_server((host, port), family=family, backlog=backlog, reuse_port=True)
    one.setblocking(False)
    return one


async def accept_rest(
    one: socket.socket, protocol: Callable[[], asyncio.Protocol] | None, tls: ssl.SSLContext | None
) -> None:
    """Take in the connections that wait in a socket's queue, and close it."""
    rest = []
    try:
        while True:
            rest.append(one.accept()[0])
    except OSError:  # BlockingIOError: there are no more
        one.close()
    if protocol is not None:
        loop = asyncio.get_running_loop()
        made = (loop.connect_accepted_socket(protocol, connection, ssl=tls) for connection in rest)
        await asyncio.gather(*made, return_exceptions=True)
