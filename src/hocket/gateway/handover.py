"""A socket that outlives the process: who starts hocket listens, and hands the socket to each process in turn.

This is systemd's protocol (sd_listen_fds(3)); other supervisors and container runtimes speak it too. While nobody
accepts, connections wait in the socket's queue, which is the parent's: so no restart refuses one.
"""

from __future__ import annotations

import os
import socket

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
    return sockets
