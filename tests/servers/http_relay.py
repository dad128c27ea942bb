"""HTTP/1.1 as it goes over a connection: heads that are parsed as far as a relay needs, bodies that stream through."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

CHUNK = 256 << 10
"""Bytes of a body that are held at a time; the streams hold a few of them."""


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a message, with the bytes as they came."""

    raw: bytes
    first: list[str]
    headers: dict[str, str]

    @property
    def length(self) -> int | None:
        """Bytes of the body that follows; None if it comes in chunks or ends with the connection."""
        if self.chunked:
            return None
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.first[1])

    def without(self, header: str) -> bytes:
        """The raw head without the lines of one header."""
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(line for line in lines if line.partition(b":")[0].lower() != header.encode())


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """None when the connection ends instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Head(raw, first.split(" ", 2), headers)


async def relay_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int | None) -> int:
    """Pass `count` bytes on, or all up to the end of the connection. How many went; fewer if the sender left."""
    done = 0
    while count is None or done < count:
        data = await reader.read(CHUNK if count is None else min(CHUNK, count - done))
        if not data:
            break
        writer.write(data)
        await writer.drain()
        done += len(data)
    return done


async def relay_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head) -> int:
    """Pass a body on as its head says it comes. Bytes of the body, framing included."""
    if not head.chunked:
        return await relay_bytes(reader, writer, head.length)
    done = 0
    while True:
        line = await reader.readline()
        writer.write(line)
        size = int(line.partition(b";")[0].strip() or b"0", 16)
        if not size:
            break
        done += await relay_bytes(reader, writer, size + 2)
    while (line := await reader.readline()).strip():  # trailers
        writer.write(line)
    writer.write(line)
    await writer.drain()
    return done


def reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, so that the other side sees RST and not an end."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:  # else the client, killed, was quicker
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
