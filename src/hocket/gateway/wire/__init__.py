"""HTTP/1.1 to one replica: a pool of connections that stay open, parsed by httptools (Node's llhttp).

A general client would cost as much as the rest of the gateway (docs/decisions/http-client.md), and most of what it can
do must not happen here: cookies, redirects, proxies, decompression, a call's second attempt. What is left is this
folder. Bytes pass as they are; an answer is read as it comes, and no faster than whoever reads it.
"""

from hocket.gateway.wire.pool import MAX_HEAD, Pool
from hocket.gateway.wire.response import HIGH_WATER, Response, WireError

__all__ = ["HIGH_WATER", "MAX_HEAD", "Pool", "Response", "WireError"]
