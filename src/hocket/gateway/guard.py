"""Who may come in at all: what holds before a tenant is asked for.

A gateway without tenants trusts whoever reaches it, and only this machine does. A web page in a browser on this machine
does too: it can send requests here, also under a name of its own that leads to 127.0.0.1. So an open gateway answers
only requests that were meant for a loopback address, and that no page from elsewhere sent.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from urllib.parse import urlsplit

from aiohttp import web

from hocket.gateway.openai import ApiError
from hocket.settings import Settings, is_loopback

MAX_KNOWN = 64
"values of Host that are remembered as good: clients of one gateway use a few"


class Guard:
    """Checks requests against the settings of now."""

    def __init__(self, settings: Settings) -> None:
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        self._open = not settings.tenants
        self._admin = None if settings.admin_key_sha256 is None else bytes.fromhex(settings.admin_key_sha256)
        self._known: set[str] = set()

    def check(self, http: web.BaseRequest) -> None:
        """Raise ApiError 403 for a request that an open gateway must not serve."""
        if not self._open:
            return
        host = http.headers.get("Host", "")
        if host not in self._known:
            if host and not _local(f"//{host}"):
                message = f"this gateway has no tenants and answers only to a loopback name, not to '{host[:100]}'"
                raise ApiError(403, message, code="foreign_host")
            if len(self._known) < MAX_KNOWN:
                self._known.add(host)
        origin = http.headers.get("Origin")
        if origin is not None and not _local(origin):
            message = f"this gateway has no tenants and serves no web page of another machine ('{origin[:100]}')"
            raise ApiError(403, message, code="foreign_origin")

    def admin(self, http: web.BaseRequest) -> None:
        """Raise ApiError 401 or 403 unless the request may operate the gateway."""
        if self._admin is None:
            if not self._open:
                message = "with tenants, /admin wants a key: set admin_key_sha256; or send the process SIGHUP"
                raise ApiError(403, message, code="admin_off")
            return
        scheme, _, key = http.headers.get("Authorization", "").partition(" ")
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, self._admin):
            raise ApiError(401, "this is not the admin key: Authorization: Bearer KEY", code="invalid_admin_key")


def _local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
