"""Two machines' networks on one: network namespaces joined by a cable, each with a loopback of its own.

For root, or for a user who may make user namespaces; `why_not` says what is missing. The machine's own network stays as
it is, and all of this is gone when the processes in it are.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

LOOPBACK = "127.0.0.1"
ADDRESSES = ("10.77.16.1", "10.77.16.2")
"""Of the two ends of the cable. Nobody else can reach them."""

_HOLD = "ip link set lo up && echo up && exec cat"
"""A namespace lives as long as a process in it: this one until its input ends, also if the tests are killed."""

_LISTEN = """
import socket, sys
listening = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128)
socket.send_fds(socket.socket(fileno=0), [b"."], [listening.fileno()])
"""


def why_not() -> str | None:
    """Why this machine cannot have such networks; None if it can."""
    if missing := [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"no {', no '.join(missing)} here"
    try:
        with Networks():
            return None
    except (OSError, RuntimeError) as error:
        return str(error)


class Networks:
    """Between `with` and its end. relayed: ports of this machine's loopback that answer on both loopbacks, too."""

    def __init__(self, relayed: Sequence[int] = ()) -> None:
        self._relayed = relayed
        self._holders: list[subprocess.Popen[str]] = []
        self._relays: list[_Relay] = []

    def __enter__(self) -> Networks:
        try:
            user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
            self._hold(["unshare", *user, "--net"])
            # In the first one's user namespace, whose root then owns both ends of the cable.
            self._hold([*self._enter(0, net=False), "unshare", "--net"])
            first, second = ([*self._enter(number), "ip"] for number in range(2))
            end = f"type veth peer name cable netns {self._holders[1].pid}".split()
            _run(first, "link add cable", *end)
            for side, (here, there) in zip((first, second), (ADDRESSES, ADDRESSES[::-1]), strict=True):
                _run(side, f"addr add {here}/24 dev cable")
                _run(side, "link set cable up")
                # Ray learns a node's address from the route that a packet to elsewhere would take.
                _run(side, f"route add default via {there}")
            for number in range(2):
                self._relays += [_Relay(self._enter(number), port) for port in self._relayed]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self._relays:
            relay.close()
        for holder in self._holders:
            holder.kill()
            holder.communicate()

    def inside(self, number: int) -> list[str]:
        """The beginning of a command that runs in that network."""
        return self._enter(number)

    def _enter(self, number: int, *, net: bool = True) -> list[str]:
        flags = ["--net"] if net else []
        if os.geteuid() != 0:
            flags += ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._holders[number].pid}", *flags] if flags else []

    def _hold(self, command: Sequence[str]) -> None:
        held = subprocess.Popen(
            [*command, "sh", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._holders.append(held)
        assert held.stdout is not None
        assert held.stderr is not None
        if held.stdout.readline() != "up\n":
            raise RuntimeError(f"no network namespace: {held.stderr.read().strip()}")


class _Relay:
    """Listens in a network, and passes every connection on to the same port of this machine's loopback."""

    def __init__(self, enter: Sequence[str], port: int) -> None:
        self._port = port
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [*enter, sys.executable, "-c", _LISTEN, LOOPBACK, str(port)]
            subprocess.run(command, stdin=theirs, check=True)
            _, [listening], _, _ = socket.recv_fds(ours, 1, 1)
        self._listening = socket.socket(fileno=listening)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            socket.create_connection((LOOPBACK, self._port)) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while ready.get_map():
                for key, _ in ready.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    if data := source.recv(1 << 18):
                        target.sendall(data)
                    else:
                        ready.unregister(source)
                        target.shutdown(socket.SHUT_WR)


def _run(tool: Sequence[str], words: str, *more: str) -> None:
    done = subprocess.run([*tool, *words.split(), *more], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {words}: {done.stderr.strip()}")
