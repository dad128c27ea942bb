"""The manifests for Kubernetes: their fields, what the standard "restricted" asks for, the jobs inside them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kuberay_schema
import kubernetes_validate
import pytest
import yaml

from tamis.pipeline.job.job_file import load_job

KUBERAY = Path(__file__).parents[2] / "deploy" / "kuberay"
KUBERNETES = "1.32"
RENDERED = ["overlays/cpu-small", "overlays/gpu-8x", "nightly", "raycronjob"]
NOT_OBJECTS = {"kustomization.yaml", "job.yaml"}

Manifest = dict[str, Any]


@cache
def written() -> tuple[Manifest, ...]:
    """All manifests as they are in the folder, patches left out."""
    files = [path for path in sorted(KUBERAY.rglob("*.yaml")) if path.name not in NOT_OBJECTS]
    return tuple(manifest for path in files for manifest in yaml.safe_load_all(path.read_text()))


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, which renders the overlays")
    done = subprocess.run(["kubectl", "kustomize", KUBERAY / folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def all_of(name: str) -> tuple[Manifest, ...]:
    return written() if name == "as written" else rendered(name)


everywhere = pytest.mark.parametrize("name", ["as written", *RENDERED])


def job_specs(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    """The specs of all RayJobs, those of schedules included, unless it is filled in by kustomize."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "RayJob":
            yield spec
        elif manifest["kind"] == "RayCronJob" and spec["jobTemplate"]:
            yield spec["jobTemplate"]


def templates(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Every pod template, by a name for it."""
    found = {}
    for manifest in manifests:
        if manifest["kind"] == "CronJob":
            found["nightly"] = manifest["spec"]["jobTemplate"]["spec"]["template"]
    for spec in job_specs(manifests):
        found["submitter"] = spec["submitterPodTemplate"]
        found["head"] = spec["rayClusterSpec"]["headGroupSpec"]["template"]
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            found[f"worker {group['groupName']}"] = group["template"]
    return found


@everywhere
def test_every_manifest_has_the_fields_that_were_published(name: str) -> None:
    for manifest in all_of(name):
        if manifest["apiVersion"].startswith("ray.io/"):
            jsonschema.validate(manifest, kuberay_schema.of(manifest["kind"]))
        else:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@everywhere
def test_every_pod_of_ray_is_one_of_kubernetes(name: str) -> None:
    for role, template in templates(all_of(name)).items():
        pod = {"apiVersion": "v1", "kind": "Pod"} | template
        pod["metadata"] = {"name": role.replace(" ", "-")} | template["metadata"]
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_schemas_refuse_what_they_do_not_know() -> None:
    [job] = [manifest for manifest in written() if manifest["kind"] == "RayJob"]
    for wrong in ({"backOffLimit": 2}, {"activeDeadlineSeconds": 0}, {"submissionMode": "k8s"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(job | {"spec": job["spec"] | wrong}, kuberay_schema.of("RayJob"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "imag": ""}]},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@everywhere
def test_every_pod_is_restricted(name: str) -> None:
    """Pod Security Standards, "restricted", and beyond it a read-only root and limits that are requests."""
    for role, template in templates(all_of(name)).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, role
        assert spec["securityContext"]["runAsUser"] > 0, role
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, role
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, role
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, role
            assert context["capabilities"] == {"drop": ["ALL"]}, role
            assert context["readOnlyRootFilesystem"] is True, role
            assert container["resources"]["requests"] == container["resources"]["limits"], role
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), role
            assert ":latest" not in container["image"], role
            assert ":" in container["image"], role
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim"}, role
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}, role


@everywhere
def test_the_run_ends_retries_and_cleans_up(name: str) -> None:
    for spec in job_specs(all_of(name)):
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0
        assert spec["backoffLimit"] > 0
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["entrypoint"].startswith("tamis curate --address auto /etc/tamis/job.yaml")
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["rayVersion"] == ray_pin()


@everywhere
def test_only_workers_ask_for_gpus_and_all_have_shared_memory(name: str) -> None:
    for role, template in templates(all_of(name)).items():
        [container] = template["spec"]["containers"]
        asks = "nvidia.com/gpu" in container["resources"]["limits"]
        assert asks == (role == "worker gpu"), role
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        if role.startswith(("head", "worker")):
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
            assert mounts["/models"]["readOnly"] is True


@everywhere
def test_the_network_policy_speaks_of_every_pod(name: str) -> None:
    policies = [each for each in all_of(name) if each["kind"] == "NetworkPolicy"]
    [labels] = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies]
    for role, template in templates(all_of(name)).items():
        assert labels.items() <= template["metadata"]["labels"].items(), role


def ray_pin() -> str:
    lines = (KUBERAY.parents[1] / "constraints.txt").read_text().splitlines()
    [pin] = [line.removeprefix("ray==") for line in lines if line.startswith("ray==")]
    return pin


@pytest.mark.parametrize("path", sorted(KUBERAY.rglob("job.yaml")), ids=lambda path: path.parent.name)
def test_the_jobs_are_valid(path: Path) -> None:
    job = load_job(str(path), {})
    assert job.model.name.startswith("/models/")  # the volume: nothing is downloaded


@pytest.mark.parametrize("folder", RENDERED)
def test_the_mounted_job_fits_the_cluster(folder: str, tmp_path: Path) -> None:
    """The job in the rendered ConfigMap asks for as many workers as its cluster may have GPUs, or CPU pods."""
    manifests = rendered(folder)
    [text] = [each["data"]["job.yaml"] for each in manifests if "job.yaml" in each.get("data", {})]
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(str(tmp_path / "job.yaml"), {})
    [spec] = job_specs(manifests)
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    each = int(container["resources"]["limits"].get("nvidia.com/gpu", 1))
    most = job.workers if isinstance(job.workers, int) else job.workers.max
    assert most == group["maxReplicas"] * each


def test_the_base_job_fits_its_cluster() -> None:
    job = load_job(str(KUBERAY / "base" / "job.yaml"), {})
    [spec] = job_specs(written())
    assert job.workers.max == spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


def test_nights_do_not_overlap() -> None:
    [cron] = [each for each in written() if each["kind"] == "CronJob"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_pattern_of_the_nights_does_not_run_by_itself() -> None:
    [job] = [each for each in rendered("nightly") if each["kind"] == "RayJob"]
    assert job["spec"]["suspend"] is True
    assert job["spec"]["entrypoint"].endswith("/etc/tamis/job.yaml --date {day}")


def test_the_job_of_the_nights_takes_what_is_new() -> None:
    job = load_job(str(KUBERAY / "nightly" / "job.yaml"), {"schedule.date": "2024-02-29"})
    assert job.output == "s3://bucket/nights/2024-02-29"


def test_the_schedule_of_kuberay_has_the_whole_job() -> None:
    kinds = [each["kind"] for each in rendered("raycronjob")]
    assert (kinds.count("RayCronJob"), kinds.count("RayJob")) == (1, 0)
    [spec] = job_specs(rendered("raycronjob"))
    assert not spec.get("suspend")
