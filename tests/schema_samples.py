"""Valid specs of each kind; together they set every field, so that every bound can be tried (`test_api_kinds.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowbeam.api.v1alpha1 import API_VERSION

SOURCE = {"citation": "a test", "date": "2026-11", "note": "made up"}

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "InferenceWorkload": [
        {
            "task": "text-generation",
            "load": {"requestsPerMinute": 1200, "inputTokens": 300, "outputTokens": 200},
            "quality": {"benchmark": "mmlu-pro", "floor": "56.7", "target": "60", "belowFloor": "WhenCapped"},
            "latency": {
                "endToEndMilliseconds": 5000,
                "timeToFirstTokenMilliseconds": 1000,
                "interTokenMilliseconds": 50,
            },
            "model": {"names": ["qwen3-8b", "qwen3-14b"], "licences": ["apache-2.0", "mit"]},
            "reasoning": "High",
            "optIn": [
                {"feature": "HighReasoning", "reason": "exam grading", "until": "2027-03-31"},
                {"feature": "GenerativeModel", "reason": "free answers", "until": "2027-03-31"},
            ],
            "priority": 500,
            "replicas": 3,
            "scaling": {"minReplicas": 2, "maxReplicas": 20},
            "energy": {"maxJoulesPerRequest": "40.5", "maxWatts": 3000},
            "placement": {
                "acceleratorClasses": ["h100-sxm", "l4"],
                "nodeSelector": {"zone": "a"},
                "tolerations": [
                    {
                        "key": "gpu",
                        "operator": "Equal",
                        "value": "yes",
                        "effect": "NoExecute",
                        "tolerationSeconds": 60,
                    },
                ],
            },
            "pod": {
                "image": "localhost/hostbase:1",
                "command": ["python", "-m", "worker"],
                "args": ["--gpu-memory-utilization=0.9"],
                "env": [
                    {"name": "A", "value": "b"},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                    {"name": "CONF", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k", "optional": False}}},
                ],
                "resources": {"requests": {"cpu": "500m", "memory": "8Gi"}, "limits": {"cpu": 2}},
                "volumes": [
                    {"name": "host", "hostPath": {"path": "/usr", "type": "Directory"}},
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
                    {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                    {"name": "conf", "configMap": {"name": "conf"}},
                    {"name": "secret", "secret": {"secretName": "token"}},
                ],
                "volumeMounts": [{"name": "host", "mountPath": "/usr", "subPath": "lib", "readOnly": True}],
                "modelPath": "/models/qwen3-8b",
                "serviceAccountName": "worker",
                "imagePullSecrets": [{"name": "registry"}],
                "labels": {"team": "a"},
                "annotations": {"note": "b"},
                "runtimeClassName": "nvidia",
            },
            "engine": "VLLM",
            "mode": "Advise",
        },
        {
            "task": "text-classification",
            "load": {"requestsPerMinute": 0, "inputTokens": 1, "outputTokens": 0},
            "model": {"pinned": "albert-xxlarge"},
        },
    ],
    "PowerCap": [
        {
            "parent": "cluster",
            "scope": {"nodePool": {"nodeSelector": {"rack": "7"}}},
            "watts": 12000,
            "schedule": [
                {
                    "name": "evening-peak",
                    "cron": "0 17 * * 1-5",
                    "timeZone": "Europe/Rome",
                    "durationMinutes": 180,
                    "watts": 9000,
                    "rampSeconds": 600,
                },
                {"name": "nights", "cron": "0 22 * * *", "durationMinutes": 480, "percent": 50},
            ],
            "events": [
                {
                    "name": "grid-1",
                    "start": "2026-12-01T16:00:00Z",
                    "end": "2026-12-01T18:00:00Z",
                    "percent": 75,
                    "rampSeconds": 0,
                },
                {"name": "grid-2", "start": "2026-12-02T16:00:00Z", "end": "2026-12-02T18:00:00Z", "watts": 9000},
            ],
            "basis": "Wall",
            "overheadWatts": 1000,
            "meterTolerancePercent": 5,
            "levers": ["Batch", "Replicas"],
            "mode": "Observe",
            "thresholds": {
                "softShedPercent": 97,
                "hardShedPercent": 100,
                "emergencyPercent": 105,
                "shedTargetPercent": 94,
            },
            "restore": {
                "gatePercent": 88,
                "committedPercent": 94,
                "windowSeconds": 60,
                "dwellSeconds": 120,
                "jitterSeconds": 30,
                "stepSeconds": 30,
                "rampPercentPerMinute": 5,
                "coveragePercent": 95,
            },
            "telemetry": {"lateSeconds": 5, "staleSeconds": 15},
            "onInfeasible": "PauseLowest",
        },
        {"scope": {"cluster": {}}, "watts": 12000},
        {
            "scope": {"namespaces": {"names": ["a", "b"], "selector": {"matchLabels": {"team": "a"}}}},
            "watts": 500,
        },
    ],
    "ModelCard": [
        {
            "modelPath": "Qwen/Qwen3-8B",
            "tasks": ["text-generation"],
            "licence": "apache-2.0",
            "totalParametersMillions": 8200,
            "activeParametersMillions": 8200,
            "contextTokens": 32768,
            "keyValueBytesPerToken": 147456,
            "generative": True,
            "variants": [
                {
                    "precision": "bf16",
                    "reasoning": "High",
                    "weightsMebibytes": 16000,
                    "modelPath": "Qwen/Qwen3-8B-FP8",
                    "quality": [
                        {
                            "benchmark": "mmlu-pro",
                            "metric": "accuracy-percent",
                            "score": "56.7",
                            "setting": "our harness, 0-shot",
                            "confidence": "Recalled",
                            "source": SOURCE,
                        }
                    ],
                }
            ],
            "reasoningControl": {
                "switch": "TemplateFlag",
                "parameter": "enable_thinking",
                "values": [{"reasoning": "Off", "value": "false"}, {"reasoning": "High", "value": "true"}],
            },
            "predecessors": ["qwen3-1.7b"],
            "benchmarks": [{"name": "our-tickets", "metric": "accuracy-percent", "setting": "2,000 tickets"}],
            "source": SOURCE,
        }
    ],
    "AcceleratorClass": [
        {
            "productLabels": ["NVIDIA-H100-80GB-HBM3"],
            "memoryMebibytes": 81559,
            "computeCapability": "9.0",
            "precisions": ["bf16", "fp8"],
            "idleWatts": "70",
            "maxWatts": "700",
            "memoryBandwidthGigabytesPerSecond": 3350,
            "denseTeraflopsBf16": 989,
            "denseTeraflopsFp16": 989,
            "denseTeraflopsFp8": 1979,
            "denseTeraopsInt8": 1979,
            "minWatts": "70",
            "bareIdleWatts": "70",
            "source": SOURCE,
        }
    ],
    "EnergyProfile": [
        {
            "model": "qwen3-8b",
            "precision": "bf16",
            "reasoning": "Off",
            "task": "text-generation",
            "acceleratorClass": "h100-sxm",
            "accelerators": 1,
            "engine": "vllm-0.11.1",
            "inputTokens": 300,
            "outputTokens": 200,
            "points": [
                {
                    "batch": 8,
                    "watts": "486",
                    "requestsPerSecond": "1.5",
                    "latencyP50Milliseconds": 4000,
                    "latencyP95Milliseconds": 5000,
                    "interTokenP50Microseconds": 8000,
                    "interTokenP95Microseconds": 9000,
                }
            ],
            "basis": "Modelled",
            "uncertaintyPercent": 20,
            "series": "vllm-0.5",
            "source": SOURCE,
        }
    ],
}
"""Specs of each kind that together set every field."""


def object_of(kind: str, spec: Mapping[str, Any], name: str = "sample") -> dict[str, Any]:
    """A whole object around a spec; namespaced kinds live in `default`."""
    metadata = {"name": name, "namespace": "default"} if kind == "InferenceWorkload" else {"name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
