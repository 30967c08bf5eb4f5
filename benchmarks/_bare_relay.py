"""The bare relay: what hocket's stack does when it does nothing but relay. aiohttp's server in, its client out.

    python benchmarks/_bare_relay.py PORT ENGINE_URL

No identity, no queue, no history, no metrics, no retry, no limits. It drops the hop-by-hop headers, as any relay must.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"})
NOT_UPSTREAM = HOP_BY_HOP | {"host", "authorization", "accept-encoding"}


async def main(port: int, engine: str) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept-Encoding"],
    )
    urls: dict[str, URL] = {}

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        url = urls.get(request.path)
        if url is None:
            url = urls[request.path] = URL(engine + request.path)
        body = await request.read()
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in NOT_UPSTREAM)
        async with session.request(request.method, url, data=body, headers=headers) as upstream:
            back = CIMultiDict((k, v) for k, v in upstream.headers.items() if k.lower() not in HOP_BY_HOP)
            if upstream.content_length is not None:
                return web.Response(status=upstream.status, headers=back, body=await upstream.read())
            response = web.StreamResponse(status=upstream.status, headers=back)
            await response.prepare(request)
            while chunk := await upstream.content.readany():
                await response.write(chunk)
            return response

    runner = web.ServerRunner(web.Server(relay, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
