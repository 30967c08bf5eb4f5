"""Who may come in, and for what: the one place where hosts, keys and roles are checked.

A gateway without tenants trusts whoever reaches it, and only this machine does; so it is with operators at a listener
of their own on loopback. A web page in a browser on this machine reaches it too: it can send requests here, also under
a name of its own that leads to 127.0.0.1. So where no key is asked for, only requests are answered that were meant for
a loopback address, and that no page from elsewhere sent.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import hdrs, web

from hocket.gateway.identity import OPEN_TENANT
from hocket.gateway.identity.keyring import Keyring
from hocket.gateway.openai import ApiError
from hocket.settings import Settings, TenantSettings, is_loopback, parse_address
from hocket.settings.keys import Role

MAX_KNOWN = 64
"values of Host that are remembered as good: clients of one gateway use a few"
HOLDERS: dict[Role, frozenset[Role]] = {
    "call": frozenset({"call"}),
    "observe": frozenset({"observe", "admin"}),
    "admin": frozenset({"admin"}),
}
"what is asked for -> the roles whose keys open it"


class Guard:
    """Checks requests against the settings and the keys of now. `apart`: at the operators' own listener."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        self._open = not settings.tenants
        apart = settings.admin_listen is not None and is_loopback(parse_address(settings.admin_listen)[0])
        #: of the main listener and of the operators': whether being on this machine is enough
        self._trusts = (self._open, apart)
        self._known: set[str] = set()

    def check(self, http: web.BaseRequest, apart: bool = False) -> None:
        """Raise ApiError 403 for a request that a listener which trusts this machine must not serve."""
        if not self._trusts[apart]:
            return
        host = http.headers.get(hdrs.HOST, "")
        if host not in self._known:
            if host and not _local(f"//{host}"):
                raise _foreign_host(host)
            if len(self._known) < MAX_KNOWN:
                self._known.add(host)
        if not http.raw_path.startswith("/") and not _local(http.raw_path):  # as a proxy is asked: it names the host
            raise _foreign_host(http.raw_path)
        origin = http.headers.get(hdrs.ORIGIN)
        if origin is not None and not _local(origin):
            message = f"this gateway asks for no key and serves no web page of another machine ('{origin[:100]}')"
            raise ApiError(403, message, code="foreign_origin")

    def tenant(self, http: web.BaseRequest) -> TenantSettings:
        """Who pays for a request. Raises ApiError 401 or 403."""
        if self._open:
            return OPEN_TENANT
        return self._admit(http, "call") or OPEN_TENANT

    def operator(self, http: web.BaseRequest, role: Role, apart: bool = False) -> None:
        """Raise ApiError 401 or 403 unless the request may `observe` or `admin` the gateway.

        Where there is a key of that role it is asked for; where there is none, whoever is on this machine may.
        """
        if role in self._keyring.roles or not self._trusts[apart]:
            self._admit(http, role)

    def _admit(self, http: web.BaseRequest, role: Role) -> TenantSettings | None:
        holder = self._keyring.holder(http.headers.get(hdrs.AUTHORIZATION))
        if holder.role not in HOLDERS[role]:
            message = f"this key is for '{holder.role}', and here '{role}' is asked for; see `hocket keys new --role`"
            raise ApiError(403, message, code="wrong_role")
        return holder.tenant


def _foreign_host(host: str) -> ApiError:
    message = f"this gateway asks for no key and answers only to a loopback name, not to '{host[:100]}'"
    return ApiError(403, message, code="foreign_host")


def _local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
