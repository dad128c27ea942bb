"""A page in a real browser: headless Chromium, told what to do by its own protocol on loopback.

    async with opened(page, folder) as tab:
        await tab.run("document.title")

Needs no driver beside the browser: aiohttp comes with what the tests of the storages use.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_SECONDS = 60.0
_ENDING = 10.0
"""Seconds in which a browser that is told to end has ended, or it is killed."""


class Tab:
    """requests: the addresses that were asked for. complaints: what the console says of errors and refusals."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            else:
                self._on(said["method"], said["params"])

    def _on(self, event: str, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"]["exception"].get("description", "an exception"))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([each.get("value") for each in said["args"]]))
        elif event == "Page.loadEventFired":
            self._loaded.set()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, _SECONDS)
        assert "error" not in said, (method, said)
        return dict(said["result"])

    async def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=address)
        await asyncio.wait_for(self._loaded.wait(), _SECONDS)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page. AssertionError if it throws."""
        said = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def press(self, key: str) -> None:
        text = key if len(key) == 1 else ""
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def size(self, width: int, height: int = 900) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def colours(self, scheme: str) -> None:
        """scheme: light or dark."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, whole: bool = False) -> bytes:
        said = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(said["data"])


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Tab]:
    """An empty tab of a browser of its own, whose files lie in `folder`; it ends with the block."""
    assert CHROMIUM is not None
    profile = folder / "profile"
    browser = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort", browser)
        async with (
            aiohttp.ClientSession() as session,
            session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as made,
        ):
            address = (await made.json(content_type=None))["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Page", "Network", "Log", "Runtime"):
                    await tab.call(f"{domain}.enable")
                yield tab
            await listening
    finally:
        if browser.returncode is None:
            browser.terminate()
        try:
            await asyncio.wait_for(browser.wait(), _ENDING)
        except TimeoutError:
            browser.kill()
            await browser.wait()


async def _port(file: Path, browser: asyncio.subprocess.Process) -> int:
    """The port that the browser listens on, as soon as it says so."""
    until = time.monotonic() + _SECONDS
    while not (file.exists() and file.read_text().strip()):
        assert browser.returncode is None, "the browser has ended"
        assert time.monotonic() < until, "the browser does not begin"
        await asyncio.sleep(0.02)
    return int(file.read_text().split()[0])
