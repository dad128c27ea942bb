"""Azure Blob Storage on this machine's disk: Azurite, from npm. AZURITE in the environment says where it is."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
from pathlib import Path

from server_process import LOOPBACK, ServerProcess, free_ports

ACCOUNT = "tests"


def executable() -> str | None:
    """None if Azurite is not installed here."""
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


class AzuriteServer:
    """Blobs lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        [self._port] = free_ports(1)
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()
        self._running: ServerProcess | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For the clients."""
        endpoint = f"http://{LOOPBACK}:{self._port}/{ACCOUNT}"
        parts = {"DefaultEndpointsProtocol": "http", "AccountName": ACCOUNT, "AccountKey": self._key}
        parts["BlobEndpoint"] = endpoint
        return {"AZURE_STORAGE_CONNECTION_STRING": "".join(f"{name}={value};" for name, value in parts.items())}

    def start(self) -> AzuriteServer:
        command = [executable() or "azurite-blob", "--blobHost", LOOPBACK, "--blobPort", str(self._port)]
        command += ["--location", str(self._folder), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}"}
        self._running = ServerProcess(command, self._port, self._folder / "azurite.log", accounts)
        self._running.wait()
        return self

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running = None

    def make_bucket(self, name: str) -> str:
        """Its URL. Azure calls it a container."""
        from azure.storage.blob import BlobServiceClient

        connection = self.environment["AZURE_STORAGE_CONNECTION_STRING"]
        with BlobServiceClient.from_connection_string(connection) as service:
            service.create_container(name)
        return f"abfs://{name}"
