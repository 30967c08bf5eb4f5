"""The ports: one for applications and, where the settings want it, one for operators alone; TLS on both of them.

A certificate is replaced without closing a port: each new connection takes the one that holds then, whole, with the
authorities of its clients. So nothing is lost on a reload, and a certificate that cannot be read changes nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
from functools import partial
from typing import Any, Protocol

from aiohttp import web

from hocket.errors import InputError
from hocket.gateway.handover import accept_rest, inherited, shared
from hocket.gateway.server import Server
from hocket.settings import Settings, TlsSettings, is_loopback, parse_address

BACKLOG = 1024


class Handler(Protocol):
    """What answers a request. `apart`: it came to the operators' own listener."""

    async def __call__(self, http: web.BaseRequest, apart: bool) -> web.StreamResponse: ...


class Certificate(ssl.SSLContext):
    """A context that may be replaced while it serves."""

    now: ssl.SSLContext

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        """A new connection. Every event loop makes its server's connections by this."""
        return self.now.wrap_bio(*args, **more)


class Listeners:
    """Opens and shuts the ports. `handle`: what answers a request; `close_s`: how long clients may take at the end."""

    def __init__(self, settings: Settings, handle: Handler, close_s: float) -> None:
        self._settings = settings
        self._certificate: Certificate | None = None
        self._server = Server(partial(handle, apart=False), settings)
        self._apart = Server(partial(handle, apart=True), settings)
        self._runners = [
            web.ServerRunner(server, handle_signals=False, shutdown_timeout=close_s)
            for server in (self._server, self._apart)
        ]
        self._sites: list[web.BaseSite] = []
        self._common: list[tuple[socket.socket, web.ServerRunner]] = []
        #: whether another process may listen on the same addresses, and takes who comes when this one has shut them
        self.shared = settings.reuse_port

    @property
    def open(self) -> int:
        """Connections that are there."""
        return self._server.open + self._apart.open

    @property
    def urls(self) -> list[str]:
        """Base URLs: of the main listener, and of the operators'. They may have been given a free port."""
        scheme = "http" if self._certificate is None else "https"
        found = [runner.addresses[0][:2] for runner in self._runners if runner.addresses]
        return [f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}" for host, port in found]

    async def start(self) -> None:
        """Listen. Raises InputError where an address is taken, or a certificate cannot be used."""
        settings = self._settings
        if settings.tls is not None:
            self._certificate = Certificate(ssl.PROTOCOL_TLS_SERVER)
            self._certificate.now = context_of(settings.tls)
        given = inherited(settings)
        self.shared = self.shared or bool(given)
        for runner, key in zip(self._runners, ("listen", "admin_listen"), strict=True):
            address = getattr(settings, key)
            if address is None:
                continue
            host, port = parse_address(address)
            await runner.setup()
            tls = self._certificate
            site: web.BaseSite
            try:
                if given:
                    site = web.SockSite(runner, given.pop(0), backlog=BACKLOG, ssl_context=tls)
                elif settings.reuse_port:
                    common = shared(host, port, BACKLOG)
                    self._common.append((common, runner))
                    site = web.SockSite(runner, common.dup(), backlog=BACKLOG, ssl_context=tls)
                else:
                    site = web.TCPSite(runner, host, port, backlog=BACKLOG, ssl_context=tls)
                await site.start()
            except OSError as error:
                why = os.strerror(error.errno).lower() if error.errno else str(error)
                raise InputError(
                    f"{key} {address}: {why}; stop what uses the address, or choose another"
                    f"{' with --port' if key == 'listen' else ''}"
                ) from None
            self._sites.append(site)

    def read(self, settings: Settings) -> ssl.SSLContext | None:
        """What other settings' certificate is. Changes nothing. Raises InputError where they cannot hold here."""
        if (settings.tls is None) != (self._settings.tls is None):
            raise InputError("tls: cannot be turned on or off while the gateway runs; restart it")
        reached = [host for host, *_ in self._runners[0].addresses if not is_loopback(host)]
        if reached and not settings.tenants:  # a socket that was handed over need not be where `listen` says
            raise InputError(
                f"tenants: the gateway listens on {reached[0]}, which others reach: without tenants anyone could use "
                "the engines; put them back, or restart with a socket on 127.0.0.1"
            )
        return None if settings.tls is None else context_of(settings.tls)

    def change(self, settings: Settings, context: ssl.SSLContext | None) -> None:
        """Other settings hold for connections from now on. `context`: from `read`."""
        self._settings = self._server.settings = self._apart.settings = settings
        if self._certificate is not None and context is not None:
            self._certificate.now = context

    async def shut(self) -> None:
        """Take no new connections."""
        for site in self._sites:
            await site.stop()
        self._sites.clear()
        for common, runner in self._common:
            await accept_rest(common, runner.server, self._certificate)
        self._common.clear()

    async def close(self) -> None:
        """End all connections."""
        for runner in self._runners:
            await runner.cleanup()


def context_of(tls: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 and later. Raises InputError that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # an empty password, for else OpenSSL would ask for one on the terminal
        context.load_cert_chain(tls.cert, tls.key, password="")
    except ssl.SSLError as error:
        raise InputError(
            f"tls: {tls.cert} and {tls.key} are no certificate and its key without a password ({error.reason}); "
            "check that both are PEM and of one pair"
        ) from None
    except OSError as error:
        raise InputError(
            f"tls: {_missing(tls.cert, tls.key)}: cannot be read ({error.strerror}); check the path"
        ) from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise InputError(f"tls.client_ca: {tls.client_ca} holds no certificate ({error.reason})") from None
        except OSError as error:
            raise InputError(f"tls.client_ca: {tls.client_ca}: cannot be read ({error.strerror})") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _missing(*paths: str) -> str:
    """The first that cannot be read: OpenSSL does not say which."""
    return next((path for path in paths if not os.access(path, os.R_OK)), paths[0])
