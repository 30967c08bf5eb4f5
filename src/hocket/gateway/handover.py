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
from hocket.settings import Settings, is_loopback, parse_address

FIRST = 3
"the number of the first descriptor that is handed on, after standard input, output and error"
HANDSHAKE_S = 2.0
"at the end: how long a connection that nobody had accepted may take to begin TLS"


def inherited(settings: Settings) -> list[socket.socket]:
    """The sockets that were handed to this process: of `listen` first, then of `admin_listen`. Raises InputError."""
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return []  # they were meant for a parent of this process
    count = os.environ.pop("LISTEN_FDS", "0")
    try:
        sockets = [socket.socket(fileno=number) for number in range(FIRST, FIRST + int(count))]
    except (ValueError, OSError):
        raise InputError(
            f"LISTEN_FDS is '{count}', but so many sockets from descriptor {FIRST} on are not there; "
            "see sd_listen_fds(3), or unset LISTEN_PID"
        ) from None
    try:
        _check(sockets, settings)
    except InputError:
        for one in sockets:
            one.close()
        raise
    return sockets


def _check(sockets: list[socket.socket], settings: Settings) -> None:
    for number, one in enumerate(sockets):
        one.set_inheritable(False)
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
            raise InputError(f"descriptor {one.fileno()} of LISTEN_FDS is no TCP socket; hand over only such")
        host = one.getsockname()[0]
        if not settings.tenants and not is_loopback(host):
            raise InputError(
                f"the socket that was handed over listens on {host}, which others reach, and no tenants are set: "
                "anyone could use the engines; list `tenants` with their keys, or listen on 127.0.0.1"
            )
        own = settings.admin_listen if number == 1 else None
        if own is not None and is_loopback(parse_address(own)[0]) and not is_loopback(host):
            raise InputError(
                f"the second socket that was handed over listens on {host}, which others reach, and admin_listen is "
                f"{own}, where being on this machine is enough; let them agree"
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
        patience_s = None if tls is None else HANDSHAKE_S
        made = (
            loop.connect_accepted_socket(protocol, connection, ssl=tls, ssl_handshake_timeout=patience_s)
            for connection in rest
        )
        await asyncio.gather(*made, return_exceptions=True)
