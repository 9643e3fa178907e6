"""The rules between the fields of an InferenceWorkload: of each what keeps and what breaks it."""

from __future__ import annotations

from typing import Any

from rule_cases import RuleCase, rule_case


def _volume(source: dict[str, Any]) -> dict[str, Any]:
    return {"pod": {"volumes": [{"name": "host", **source}]}}


def _toleration(**fields: Any) -> dict[str, Any]:
    return {"placement": {"tolerations": [fields]}}


WORKLOAD_RULE_CASES: list[RuleCase] = [
    rule_case(
        "InferenceWorkload",
        "give a floor, a target, or both",
        "spec.quality",
        {"quality": {"target": None}},
        {"quality": {"floor": None, "target": None, "belowFloor": None}},
    ),
    rule_case(
        "InferenceWorkload",
        "remove the batch limit, the number of accelerators and the ports from args",
        "spec.pod.args",
        {"pod": {"args": ["--max-num-seqs-of-somebody-else", "8", "--kv-cache-dtype=fp8", "x=--port"]}},
        {"pod": {"args": ["--kv-cache-dtype=fp8", "--max_num_seqs=512"]}},
    ),
    # 9.5 and 56.7: as text the first would be the larger one.
    rule_case(
        "InferenceWorkload",
        "target must not be below floor",
        "spec.quality.target",
        {"quality": {"floor": "9.5", "target": "56.7"}},
        {"quality": {"floor": "56.7", "target": "9.5"}},
    ),
    rule_case(
        "InferenceWorkload",
        "belowFloor WhenCapped needs a floor",
        "spec.quality.belowFloor",
        {"quality": {"floor": None, "belowFloor": "Never"}},
        {"quality": {"floor": None, "belowFloor": "WhenCapped"}},
    ),
    rule_case(
        "InferenceWorkload",
        "pinned and names exclude each other",
        "spec.model.pinned",
        {"model": {"pinned": "", "names": ["a"]}},
        {"model": {"pinned": "a", "names": ["a"]}},
    ),
    rule_case(
        "InferenceWorkload",
        "say why, in a few words",
        "spec.optIn[0].reason",
        {"optIn": [{"feature": "HighReasoning", "reason": "why", "until": "2027-03-31"}]},
        {"optIn": [{"feature": "HighReasoning", "reason": "      x ", "until": "2027-03-31"}]},
    ),
    rule_case(
        "InferenceWorkload",
        "minReplicas must not be above maxReplicas",
        "spec.scaling.minReplicas",
        {"scaling": {"minReplicas": 20, "maxReplicas": 20}},
        {"scaling": {"minReplicas": 21, "maxReplicas": None}},
    ),
    rule_case(
        "InferenceWorkload",
        "reasoning above Low costs many times the energy",
        "spec.reasoning",
        {"reasoning": "Low", "optIn": None},
        {"reasoning": "Medium", "optIn": [{"feature": "GenerativeModel", "reason": "why", "until": "2027-03-31"}]},
    ),
    rule_case(
        "InferenceWorkload",
        "a toleration without a key needs operator Exists",
        "spec.placement.tolerations[0].operator",
        _toleration(operator="Exists"),
        _toleration(value="x"),
    ),
    rule_case(
        "InferenceWorkload",
        "operator Exists does not look at a value",
        "spec.placement.tolerations[0].value",
        _toleration(key="a", operator="Equal", value="x"),
        _toleration(key="a", operator="Exists", value="x"),
    ),
    rule_case(
        "InferenceWorkload",
        "tolerationSeconds needs effect NoExecute",
        "spec.placement.tolerations[0].tolerationSeconds",
        _toleration(key="a", operator="Exists", effect="NoExecute", tolerationSeconds=1),
        _toleration(key="a", operator="Exists", tolerationSeconds=1),
    ),
    rule_case(
        "InferenceWorkload",
        "set value or valueFrom, not both",
        "spec.pod.env[0]",
        {"pod": {"env": [{"name": "EMPTY"}]}},
        {"pod": {"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
    ),
    rule_case(
        "InferenceWorkload",
        "set exactly one of secretKeyRef and configMapKeyRef",
        "spec.pod.env[0].valueFrom",
        {"pod": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
        {"pod": {"env": [{"name": "A", "valueFrom": {}}]}},
    ),
    rule_case(
        "InferenceWorkload",
        "remove nvidia.com/... from requests",
        "spec.pod.resources.requests",
        {"pod": {"resources": {"requests": {"ephemeral-storage": "1Gi"}}}},
        {"pod": {"resources": {"requests": {"nvidia.com/gpu": 1}}}},
    ),
    rule_case(
        "InferenceWorkload",
        "remove nvidia.com/... from limits",
        "spec.pod.resources.limits",
        {"pod": {"resources": {"limits": {"memory": "1Gi"}}}},
        {"pod": {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}},
    ),
    rule_case(
        "InferenceWorkload",
        "a volume needs exactly one of",
        "spec.pod.volumes[0]",
        _volume({"emptyDir": {}}),
        _volume({"emptyDir": {}, "configMap": {"name": "c"}}),
    ),
    rule_case(
        "InferenceWorkload",
        "every name in volumeMounts must be the name of a volume",
        "spec.pod.volumeMounts",
        {"pod": {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}},
        {"pod": {"volumeMounts": [{"name": "scrtch", "mountPath": "/scratch"}]}},
    ),
    rule_case(
        "InferenceWorkload",
        "volumes called lowbeam-tmp or lowbeam-shm are Lowbeam's own",
        "spec.pod.volumes",
        {"pod": {"volumes": [{"name": "lowbeam-weights", "emptyDir": {}}], "volumeMounts": None}},
        {"pod": {"volumes": [{"name": "lowbeam-shm", "emptyDir": {}}], "volumeMounts": None}},
    ),
    rule_case(
        "InferenceWorkload",
        "labels below lowbeam.dev/ are Lowbeam's own",
        "spec.pod.labels",
        {"pod": {"labels": {"example.org/team": "a"}}},
        {"pod": {"labels": {"lowbeam.dev/workload": "other"}}},
    ),
    rule_case(
        "InferenceWorkload",
        "every key in labels must be letters, digits",
        "spec.pod.labels",
        {"pod": {"labels": {f"{'d' * 253}/{'n' * 63}": "", "a.b-c_D": "x.Y-z_0"}}},
        {"pod": {"labels": {"n" * 64: ""}}},
    ),
    rule_case(
        "InferenceWorkload",
        "every key in annotations must be letters, digits",
        "spec.pod.annotations",
        {"pod": {"annotations": {"Example.org/note": "any text, of course"}}},
        {"pod": {"annotations": {"note/of/mine": ""}}},
    ),
    rule_case(
        "InferenceWorkload",
        "every key in nodeSelector must be letters, digits",
        "spec.placement.nodeSelector",
        {"placement": {"nodeSelector": {"topology.kubernetes.io/zone": "a"}}},
        {"placement": {"nodeSelector": {"-zone": "a"}}},
    ),
]
