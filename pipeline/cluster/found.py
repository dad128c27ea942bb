"""Which cluster `--address auto` means. It may be one that another user started on this machine, so it is named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

import psutil

from tamis.pipeline.errors import ClusterError
from tamis.pipeline.terminal.voice import say

AUTO = "auto"

_FLAG = "--gcs-address="


def found(where: str) -> str:
    """The address to join for `where`. For `auto` it is the cluster of this machine, and a line says which one that is
    and who started it. Raises ClusterError if there is none, if several run and none of them is the latest that
    `ray start` noted down, or if the address is that of a job server."""
    if where != AUTO:
        _check_no_job_server(where)
        return where
    from ray._private import services

    told = os.environ.get("RAY_ADDRESS")
    if told and told != AUTO:
        _check_no_job_server(told)
        say(f"auto: joining the Ray cluster at {told}, as RAY_ADDRESS says")
        return told
    address = _choose(services.find_gcs_addresses(), services.find_bootstrap_address(None))
    say(f"auto: joining the Ray cluster at {address}, started by {_by(starters(address))}")
    return address


def _check_no_job_server(address: str) -> None:
    """ClusterError for the address that `ray job` wants, which may stand in RAY_ADDRESS, too."""
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            "--address or RAY_ADDRESS is that of a Ray job server (http://...): hand it this command by "
            "`ray job submit --address http://... -- tamis ...`, or give the address of the cluster itself (HOST:6379)"
        )


def _choose(running: Iterable[str], noted: str | None) -> str:
    """running: the clusters that have a node on this machine. noted: the latest that `ray start` noted down."""
    addresses = sorted(running)
    if noted in addresses:
        return str(noted)
    if len(addresses) == 1:
        return addresses[0]
    if not addresses:
        raise ClusterError(
            "no Ray cluster runs on this machine, which --address auto looks for; give its address (HOST:PORT), or "
            "leave --address and RAY_ADDRESS out to start Ray here"
        )
    each = "; ".join(f"{address}, started by {_by(starters(address))}" for address in addresses)
    raise ClusterError(f"several Ray clusters run on this machine ({each}); name one: --address {addresses[0]}")


def starters(address: str) -> list[str]:
    """The users whose processes on this machine are nodes of the cluster."""
    users = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if command and "raylet" in os.path.basename(command[0]) and f"{_FLAG}{address}" in command:
                users.add(process.username())
    return sorted(users)


def _by(users: list[str]) -> str:
    """For a message: who that is, and whether it is the user who reads it."""
    me = psutil.Process().username()
    if not users:
        return "a user that cannot be told"
    return " and ".join("you" if user == me else f"another user, {user}" for user in users)
