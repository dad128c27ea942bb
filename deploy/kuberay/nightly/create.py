"""Create tonight's RayJob from a suspended one, and wait for its end. Standard library only.

    python create.py NAME        runs in a pod, with the rights of nightly/role.yaml

`{day}` in the entrypoint becomes today's date (UTC), so that a retry after midnight works on the same day. If a run of
an earlier night goes on, nothing is created. Exit codes: 0 done or left alone, 1 the run failed.
"""

from __future__ import annotations

import copy
import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LABEL = "tamis/nightly"
ENDED = {"Complete", "Failed"}
"""States of spec.jobDeploymentStatus after which nothing changes."""


class Api:
    """The RayJobs of one namespace."""

    def __init__(self, url: str, namespace: str, token: Path, context: ssl.SSLContext | None = None) -> None:
        self._url = f"{url}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token = token
        self._context = context

    def __call__(self, path: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        headers["Authorization"] = f"Bearer {self._token.read_text().strip()}"  # it is renewed while this runs
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def tonight(pattern: dict[str, Any], day: str) -> dict[str, Any]:
    """The RayJob to create, from the suspended one."""
    name = pattern["metadata"]["name"]
    spec = copy.deepcopy(pattern["spec"])
    spec.pop("suspend", None)
    spec["entrypoint"] = spec["entrypoint"].replace("{day}", day)
    labels = pattern["metadata"].get("labels", {}) | {LABEL: name}
    metadata = {"generateName": f"{name}-{day}-", "labels": labels}
    return {"apiVersion": pattern["apiVersion"], "kind": "RayJob", "metadata": metadata, "spec": spec}


def run(api: Api, name: str, day: str, pause: float = 30.0) -> int:
    """Create tonight's run, unless one goes on, and give its exit code when it has ended."""
    before = api("?" + urllib.parse.urlencode({"labelSelector": f"{LABEL}={name}"}))["items"]
    for job in before:
        if _state(job) not in ENDED:
            print(f"{job['metadata']['name']} still goes on; nothing is created", flush=True)
            return 0
    made = api(body=tonight(api(f"/{name}"), day))["metadata"]["name"]
    print(f"created {made}", flush=True)
    failures = 0
    while True:
        time.sleep(pause)
        try:
            job = api(f"/{made}")
            failures = 0
        except OSError as error:  # the API server restarts now and then
            failures += 1
            if failures == 10:
                raise
            print(f"the Kubernetes API did not answer ({error})", flush=True)
            continue
        if _state(job) in ENDED:
            ended = job["status"].get("jobStatus", "without a status")
            print(f"{made}: {ended}", flush=True)
            return 0 if ended == "SUCCEEDED" else 1


def _state(job: dict[str, Any]) -> str:
    return str(job.get("status", {}).get("jobDeploymentStatus", ""))


if __name__ == "__main__":
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    there = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    trusted = ssl.create_default_context(cafile=str(SECRETS / "ca.crt"))
    jobs = Api(there, (SECRETS / "namespace").read_text().strip(), SECRETS / "token", trusted)
    sys.exit(run(jobs, sys.argv[1], datetime.now(UTC).date().isoformat()))
