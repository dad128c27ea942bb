"""The fields of KubeRay's RayJob and RayCronJob, as a JSON schema that refuses every other one.

Written down from the types of the ray.io/v1 API, which the published CRDs are made of: rayjob_types.go,
raycluster_types.go and raycronjob_types.go in ray-operator/apis/ray/v1 of github.com/ray-project/kuberay (Apache-2.0),
and from the API reference at docs.ray.io ("KubeRay CRD API reference", 1.6.2). Only what tamis may use is here: fields
that came after 1.5.1 are left out (but RayCronJob's), and so are deprecated ones. Pods are Kubernetes' own, checked by
its own schemas.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
YES_OR_NO = {"type": "boolean"}
TEXT = {"type": "string"}
KUBERNETES = {"type": "object"}
"""Validated apart, by the schemas of Kubernetes."""


def fields(required: list[str] | None = None, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


AUTOSCALER = fields(
    resources=KUBERNETES,
    image=TEXT,
    imagePullPolicy=TEXT,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    securityContext=KUBERNETES,
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
)

CLUSTER = fields(
    ["headGroupSpec"],
    suspend=YES_OR_NO,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    autoscalerOptions=AUTOSCALER,
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=YES_OR_NO,
    gcsFaultToleranceOptions={"type": "object"},
    rayVersion=TEXT,
    headGroupSpec=fields(
        ["template", "rayStartParams"],
        template=KUBERNETES,
        headService=KUBERNETES,
        enableIngress=YES_OR_NO,
        rayStartParams=TEXTS,
        serviceType=TEXT,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ["groupName", "template", "minReplicas", "maxReplicas", "rayStartParams"],
            suspend=YES_OR_NO,
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            idleTimeoutSeconds=COUNT,
            rayStartParams=TEXTS,
            template=KUBERNETES,
            scaleStrategy={"type": "object"},
            numOfHosts=COUNT,
        ),
    },
)

JOB = fields(
    activeDeadlineSeconds=COUNT | {"minimum": 1},
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=KUBERNETES,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=fields(backoffLimit=COUNT),
    managedBy=TEXT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=YES_OR_NO,
    suspend=YES_OR_NO,
)

CRON_JOB = fields(["jobTemplate", "schedule"], jobTemplate=JOB, schedule=TEXT, suspend=YES_OR_NO)

SPECS = {"RayJob": JOB, "RayCronJob": CRON_JOB}


def of(kind: str) -> Schema:
    """The schema of a whole manifest of this kind."""
    named = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": KUBERNETES}
    return fields(["apiVersion", "kind", "metadata", "spec"], **named, spec=SPECS[kind])
