"""A real HTTP proxy between a client and its store, which passes everything on unchanged and now and then fails.

The client takes the proxy for the store. The Host header goes through as it came, so the client's signature, made for
the proxy's address, stays valid. Bodies stream: memory does not grow with the size of an object.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from faults import INSTEAD, Fault, Faults, Request
from http_relay import CHUNK, Head, read_head, relay_body, relay_bytes, reset
from server_process import LOOPBACK

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = {204, 304}


class _Reset(Exception):
    """The client's connection is to be reset now."""


class FaultProxy:
    """Runs in a thread of its own between `with` and its end. `faults` may be exchanged at any time.

    requests: every request so far, in the order in which they came; injected: how often each fault was.
    """

    def __init__(self, upstream: str, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.requests: list[Request] = []
        self.injected: Counter[Fault] = Counter()
        address = urlsplit(upstream)
        self._upstream = (str(address.hostname), int(address.port or 80))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._clients: set[asyncio.Task[None]] = set()
        self._server: Any = None
        self.endpoint = ""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://{LOOPBACK}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def count(self, method: str, *, ranged: bool | None = None, query: str = "") -> int:
        """Requests with this method, `query` in their query, and with (without) a Range header."""
        return sum(
            request.method == method
            and query in request.query
            and (ranged is None or ranged == (request.range is not None))
            for request in list(self.requests)
        )

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, LOOPBACK, 0, limit=CHUNK)

    async def _close(self) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while (head := await read_head(reader)) is not None:
                if not await self._exchange(head, reader, writer):
                    break
        except (_Reset, ConnectionError, asyncio.IncompleteReadError):
            reset(writer)
        except asyncio.CancelledError:
            reset(writer)  # the proxy ends; asyncio would log the cancellation of a connection as an error
        finally:
            self._clients.discard(task)
            writer.close()

    async def _exchange(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Whether the client's connection may go on."""
        path, _, query = head.first[1].partition("?")
        request = Request(head.first[0], path, query, head.headers.get("range"))
        self.requests.append(request)
        fault = self.faults.draw(request)
        if fault is Fault.RESET_BEFORE:
            self._inject(request, fault)
            raise _Reset
        if "100-continue" in head.headers.get("expect", "").lower() and fault not in INSTEAD:
            # The store is not asked: S3 signatures leave this header out, and clients send the body at once then.
            writer.write(_CONTINUE)
        if fault in INSTEAD or fault is Fault.FORBIDDEN_HEAD:
            return await self._answer_instead(request, fault, head, reader, writer)
        up_reader, up_writer = await asyncio.open_connection(*self._upstream, limit=CHUNK)
        try:
            up_writer.write(head.without("expect"))
            sending = asyncio.create_task(self._send(request, fault, head, reader, up_writer))
            try:
                whole = await self._receive(request, fault, up_reader, writer, sending)
                # An answer that came before the end of the body leaves the connection in the middle of it.
                return whole and sending.done() and sending.exception() is None
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            up_writer.close()

    async def _send(
        self, request: Request, fault: Fault | None, head: Head, reader: asyncio.StreamReader, up: asyncio.StreamWriter
    ) -> None:
        if head.length and fault is Fault.RESET_MIDWAY:
            request.bytes_up = await relay_bytes(reader, up, head.length // 2)
            self._inject(request, fault)
            raise _Reset
        if head.length or head.chunked:
            request.bytes_up = await relay_body(reader, up, head)
            if head.length is not None and request.bytes_up < head.length:
                raise _Reset
        await up.drain()

    async def _receive(
        self,
        request: Request,
        fault: Fault | None,
        up: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sending: asyncio.Task[None],
    ) -> bool:
        reading = asyncio.create_task(read_head(up))
        await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and isinstance(sending.exception(), _Reset):
            reading.cancel()
            raise _Reset
        head = await reading
        if head is None:
            raise _Reset
        bodiless = request.method == "HEAD" or head.status in _BODILESS
        length = 0 if bodiless else head.length
        if fault is Fault.LOST_ANSWER or (fault is Fault.RESET_MIDWAY and not length):
            self._inject(request, fault)
            raise _Reset
        if fault is Fault.STALL and not length:
            self._inject(request, fault)
            await asyncio.sleep(self.faults.stall)
        request.status = head.status
        writer.write(head.raw)
        if fault in {Fault.STALL, Fault.TRUNCATED, Fault.RESET_MIDWAY} and length:
            request.bytes_down = await relay_bytes(up, writer, length // 2)
            self._inject(request, fault)
            if fault is Fault.RESET_MIDWAY:
                raise _Reset
            if fault is Fault.TRUNCATED:
                return False
            await asyncio.sleep(self.faults.stall)
            request.bytes_down += await relay_bytes(up, writer, length - request.bytes_down)
        elif not bodiless:
            request.bytes_down = await relay_body(up, writer, head)
        await writer.drain()
        ends_with_connection = length is None and not head.chunked
        short = length is not None and request.bytes_down < length
        closes = head.headers.get("connection", "").lower() == "close"
        return not (ends_with_connection or short or closes)

    async def _answer_instead(
        self, request: Request, fault: Fault, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        status, code = INSTEAD.get(fault, (403, "AccessDenied"))
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>'
        self._inject(request, fault)
        request.status = status
        lines = [f"HTTP/1.1 {status} {code}", "Content-Type: application/xml", "Connection: close"]
        sent = "" if request.method == "HEAD" else body
        writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", sent]).encode())
        await writer.drain()
        if "expect" not in head.headers and head.length:
            # The client is still sending. To close now would reset the connection before it reads the answer.
            left = head.length
            while left > 0 and (data := await reader.read(min(CHUNK, left))):
                left -= len(data)
        return False

    def _inject(self, request: Request, fault: Fault) -> None:
        request.fault = fault
        self.injected[fault] += 1
