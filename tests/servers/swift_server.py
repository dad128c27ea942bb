"""A real S3 store on this machine's disk: OpenStack Swift with its s3api, from PyPI; no root and no container.

One copy on one device. Objects lie in files, with their metadata in user attributes of the file system, so that what
was acknowledged survives `kill -9`. Signatures, MD5 and ranges are checked as S3 does; create-if-absent is not atomic.
"""

from __future__ import annotations

import getpass
import os
import secrets
import sys
import tempfile
from pathlib import Path

from object_store import S3
from server_process import LOOPBACK, ServerProcess, free_ports

BACKENDS = ("object", "container", "account")
MIDDLEWARE = (
    *("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "s3api", "tempauth", "copy"),
    *("symlink", "slo", "versioned_writes"),
)
ACCOUNT, USER = "store", "tester"


def unusable(folder: Path) -> str | None:
    """Why Swift cannot keep its objects in `folder`; None if it can."""
    if not hasattr(os, "setxattr"):
        return "Swift needs Linux's extended attributes"
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        try:
            os.setxattr(probe.name, "user.swift.probe", b"x" * 200)
        except OSError as error:
            return f"Swift needs user extended attributes, which {folder} does not have ({error.strerror})"
    return None


class SwiftServer:
    """A store in `folder`. Its address and account stay the same over any number of kills and starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(("proxy", *BACKENDS), free_ports(4), strict=True))
        self._running: list[ServerProcess] = []
        endpoint = f"http://{LOOPBACK}:{self._ports['proxy']}"
        self.s3 = S3(endpoint, f"{ACCOUNT}:{USER}", secrets.token_hex(16))
        for name in ("etc", "objects/disk", "cache", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._configure()

    def start(self) -> S3:
        """Returns when every server answers; about a second."""
        scripts = Path(sys.executable).parent
        try:
            for kind, port in self._ports.items():
                command = [
                    sys.executable,
                    str(scripts / f"swift-{kind}-server"),
                    str(self._file(f"{kind}-server.conf")),
                ]
                self._running.append(ServerProcess(command, port, self._folder / "log" / f"{kind}.log"))
            for server in self._running:
                server.wait()
        except BaseException:
            self.kill()
            raise
        return self.s3

    def kill(self) -> None:
        """kill -9 of all its processes. What it holds stays in the folder."""
        while self._running:
            self._running.pop().kill()

    def _file(self, name: str) -> Path:
        return self._folder / "etc" / name

    def _configure(self) -> None:
        self._file("swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
            "[storage-policy:0]\nname = single\ndefault = yes\n"
            # Long keys and metadata of S3 clients, in headers.
            "[swift-constraints]\nmax_header_size = 16384\n"
        )
        for kind in BACKENDS:
            self._file(f"{kind}-server.conf").write_text(
                f"{self._defaults(kind)}devices = {self._folder / 'objects'}\nmount_check = false\n"
                f"disable_fallocate = true\n[pipeline:main]\npipeline = {kind}-server\n"
                f"[app:{kind}-server]\nuse = egg:swift#{kind}\nrecon_cache_path = {self._folder / 'cache'}\n"
            )
            self._write_ring(kind)
        filters = {name: f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in MIDDLEWARE}
        filters["tempauth"] += f"user_{ACCOUNT}_{USER} = {self.s3.secret_key} .admin\n"
        filters["s3api"] += f"location = {self.s3.region}\ns3_acl = no\nmin_segment_size = 5242880\n"
        filters["versioned_writes"] += "allow_object_versioning = true\n"
        self._file("proxy-server.conf").write_text(
            f"{self._defaults('proxy')}[pipeline:main]\npipeline = {' '.join(MIDDLEWARE)} proxy-server\n"
            "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nallow_account_management = true\n"
            + "".join(filters.values())
        )

    def _defaults(self, kind: str) -> str:
        # workers = 0: serves in the process itself; with children, a kill of the parent leaves the port taken.
        return (
            f"[DEFAULT]\nbind_ip = {LOOPBACK}\nbind_port = {self._ports[kind]}\nworkers = 0\n"
            f"user = {getpass.getuser()}\nswift_dir = {self._folder / 'etc'}\nlog_level = WARNING\n"
        )

    def _write_ring(self, kind: str) -> None:
        from swift.common.ring import RingBuilder

        # 16 partitions, one copy. Where an object lies does not depend on the port, so new ports find the old objects.
        ring = RingBuilder(4, 1, 1)
        place = {"ip": LOOPBACK, "port": self._ports[kind], "device": "disk"}
        place |= {"replication_ip": place["ip"], "replication_port": place["port"], "meta": ""}
        ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, **place})
        ring.rebalance(seed="tests")
        ring.get_ring().save(str(self._file(f"{kind}.ring.gz")))
