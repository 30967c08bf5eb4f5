"""TLS of the gateway's own listeners: which files."""

from __future__ import annotations

from msgspec import Struct


class TlsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate for all listeners. The files are read again with the settings."""

    cert: str
    "PEM: the certificate, and after it those between it and the root"
    key: str
    "PEM: its private key, without a password"
    client_ca: str | None = None
    "PEM: only clients with a certificate of one of these authorities get in; None = any client"
