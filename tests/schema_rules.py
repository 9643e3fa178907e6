"""For each rule between fields one object that keeps it and one that breaks it, as small changes of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schema_samples import SAMPLES


@dataclass(frozen=True, slots=True)
class RuleCase:
    """One object that keeps a rule and one that breaks it."""

    kind: str
    message: str
    """The beginning of the rule's message."""
    field: str
    """Where the API server says it is wrong."""
    keeps: dict[str, Any]
    breaks: dict[str, Any]
    name_that_breaks: str = "sample"

    def __str__(self) -> str:
        return f"{self.kind} {self.message}"


def _case(
    kind: str, message: str, field: str, keeps: dict[str, Any], breaks: dict[str, Any], *, sample: int = 0
) -> RuleCase:
    base = SAMPLES[kind][sample]
    return RuleCase(kind, message, field, _merged(base, keeps), _merged(base, breaks))


def _merged(base: Any, patch: Any) -> Any:
    """A JSON merge patch: None removes."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    result = {key: value for key, value in base.items() if not (key in patch and patch[key] is None)}
    return {**result, **{key: _merged(base.get(key), value) for key, value in patch.items() if value is not None}}


def _volume(source: dict[str, Any]) -> dict[str, Any]:
    return {"pod": {"volumes": [{"name": "host", **source}]}}


def _toleration(**fields: Any) -> dict[str, Any]:
    return {"placement": {"tolerations": [fields]}}


def _event(**fields: Any) -> dict[str, Any]:
    return {"name": "grid-1", "start": "2026-12-01T16:00:00Z", "end": "2026-12-01T16:00:01Z", **fields}


def _point(**fields: Any) -> dict[str, Any]:
    point = SAMPLES["EnergyProfile"][0]["points"][0]
    return {"points": [{key: value for key, value in {**point, **fields}.items() if value is not None}]}


def _variant(reasoning: str) -> dict[str, Any]:
    return {"precision": "bf16", "reasoning": reasoning, "weightsMebibytes": 16000}


RULE_CASES: list[RuleCase] = [
    _case(
        "InferenceWorkload",
        "give a floor, a target, or both",
        "spec.quality",
        {"quality": {"target": None}},
        {"quality": {"floor": None, "target": None, "belowFloor": None}},
    ),
    _case(
        "InferenceWorkload",
        "remove the batch limit, the number of accelerators and the ports from args",
        "spec.pod.args",
        {"pod": {"args": ["--max-num-seqs-of-somebody-else", "8", "--kv-cache-dtype=fp8", "x=--port"]}},
        {"pod": {"args": ["--kv-cache-dtype=fp8", "--max_num_seqs=512"]}},
    ),
    # 9.5 and 56.7: as text the first would be the larger one.
    _case(
        "InferenceWorkload",
        "target must not be below floor",
        "spec.quality.target",
        {"quality": {"floor": "9.5", "target": "56.7"}},
        {"quality": {"floor": "56.7", "target": "9.5"}},
    ),
    _case(
        "InferenceWorkload",
        "belowFloor WhenCapped needs a floor",
        "spec.quality.belowFloor",
        {"quality": {"floor": None, "belowFloor": "Never"}},
        {"quality": {"floor": None, "belowFloor": "WhenCapped"}},
    ),
    _case(
        "InferenceWorkload",
        "pinned and names exclude each other",
        "spec.model.pinned",
        {"model": {"pinned": "", "names": ["a"]}},
        {"model": {"pinned": "a", "names": ["a"]}},
    ),
    _case(
        "InferenceWorkload",
        "say why, in a few words",
        "spec.optIn[0].reason",
        {"optIn": [{"feature": "HighReasoning", "reason": "why", "until": "2027-03-31"}]},
        {"optIn": [{"feature": "HighReasoning", "reason": "      x ", "until": "2027-03-31"}]},
    ),
    _case(
        "InferenceWorkload",
        "minReplicas must not be above maxReplicas",
        "spec.scaling.minReplicas",
        {"scaling": {"minReplicas": 20, "maxReplicas": 20}},
        {"scaling": {"minReplicas": 21, "maxReplicas": None}},
    ),
    _case(
        "InferenceWorkload",
        "reasoning above Low costs many times the energy",
        "spec.reasoning",
        {"reasoning": "Low", "optIn": None},
        {"reasoning": "Medium", "optIn": [{"feature": "GenerativeModel", "reason": "why", "until": "2027-03-31"}]},
    ),
    _case(
        "InferenceWorkload",
        "a toleration without a key needs operator Exists",
        "spec.placement.tolerations[0].operator",
        _toleration(operator="Exists"),
        _toleration(value="x"),
    ),
    _case(
        "InferenceWorkload",
        "operator Exists does not look at a value",
        "spec.placement.tolerations[0].value",
        _toleration(key="a", operator="Equal", value="x"),
        _toleration(key="a", operator="Exists", value="x"),
    ),
    _case(
        "InferenceWorkload",
        "tolerationSeconds needs effect NoExecute",
        "spec.placement.tolerations[0].tolerationSeconds",
        _toleration(key="a", operator="Exists", effect="NoExecute", tolerationSeconds=1),
        _toleration(key="a", operator="Exists", tolerationSeconds=1),
    ),
    _case(
        "InferenceWorkload",
        "set value or valueFrom, not both",
        "spec.pod.env[0]",
        {"pod": {"env": [{"name": "EMPTY"}]}},
        {"pod": {"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
    ),
    _case(
        "InferenceWorkload",
        "set exactly one of secretKeyRef and configMapKeyRef",
        "spec.pod.env[0].valueFrom",
        {"pod": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
        {"pod": {"env": [{"name": "A", "valueFrom": {}}]}},
    ),
    _case(
        "InferenceWorkload",
        "remove nvidia.com/... from requests",
        "spec.pod.resources.requests",
        {"pod": {"resources": {"requests": {"ephemeral-storage": "1Gi"}}}},
        {"pod": {"resources": {"requests": {"nvidia.com/gpu": 1}}}},
    ),
    _case(
        "InferenceWorkload",
        "remove nvidia.com/... from limits",
        "spec.pod.resources.limits",
        {"pod": {"resources": {"limits": {"memory": "1Gi"}}}},
        {"pod": {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}},
    ),
    _case(
        "InferenceWorkload",
        "a volume needs exactly one of",
        "spec.pod.volumes[0]",
        _volume({"emptyDir": {}}),
        _volume({"emptyDir": {}, "configMap": {"name": "c"}}),
    ),
    _case(
        "InferenceWorkload",
        "every name in volumeMounts must be the name of a volume",
        "spec.pod.volumeMounts",
        {"pod": {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}},
        {"pod": {"volumeMounts": [{"name": "scrtch", "mountPath": "/scratch"}]}},
    ),
    _case(
        "InferenceWorkload",
        "volumes called lowbeam-tmp or lowbeam-shm are Lowbeam's own",
        "spec.pod.volumes",
        {"pod": {"volumes": [{"name": "lowbeam-weights", "emptyDir": {}}], "volumeMounts": None}},
        {"pod": {"volumes": [{"name": "lowbeam-shm", "emptyDir": {}}], "volumeMounts": None}},
    ),
    _case(
        "InferenceWorkload",
        "labels below lowbeam.dev/ are Lowbeam's own",
        "spec.pod.labels",
        {"pod": {"labels": {"example.org/team": "a"}}},
        {"pod": {"labels": {"lowbeam.dev/workload": "other"}}},
    ),
    _case(
        "InferenceWorkload",
        "every key in labels must be letters, digits",
        "spec.pod.labels",
        {"pod": {"labels": {f"{'d' * 253}/{'n' * 63}": "", "a.b-c_D": "x.Y-z_0"}}},
        {"pod": {"labels": {"n" * 64: ""}}},
    ),
    _case(
        "InferenceWorkload",
        "every key in annotations must be letters, digits",
        "spec.pod.annotations",
        {"pod": {"annotations": {"Example.org/note": "any text, of course"}}},
        {"pod": {"annotations": {"note/of/mine": ""}}},
    ),
    _case(
        "InferenceWorkload",
        "every key in nodeSelector must be letters, digits",
        "spec.placement.nodeSelector",
        {"placement": {"nodeSelector": {"topology.kubernetes.io/zone": "a"}}},
        {"placement": {"nodeSelector": {"-zone": "a"}}},
    ),
    _case(
        "PowerCap",
        "every key in nodeSelector must be letters, digits",
        "spec.scope.nodePool.nodeSelector",
        {"scope": {"nodePool": {"nodeSelector": {f"key{index}.example.org/rack": "7" for index in range(31)}}}},
        {"scope": {"nodePool": {"nodeSelector": {"rack/row 7": "7"}}}},
    ),
    _case(
        "PowerCap",
        "every key in nodeSelector must be letters, digits",
        "spec.scope.nodePool.nodeSelector",
        {"scope": {"nodePool": {"nodeSelector": {f"{'d' * 253}/rack": "7"}}}},
        {"scope": {"nodePool": {"nodeSelector": {f"{'d' * 254}/rack": "7"}}}},
    ),
    _case(
        "PowerCap",
        "every key in matchLabels must be letters, digits",
        "spec.scope.namespaces.selector.matchLabels",
        {"scope": {"namespaces": {"selector": {"matchLabels": {"example.org/team": "b"}}}}},
        {"scope": {"namespaces": {"selector": {"matchLabels": {"Example.org/team": "b"}}}}},
        sample=2,
    ),
    _case(
        "PowerCap",
        "set exactly one of cluster, nodePool and namespaces",
        "spec.scope",
        {},
        {"scope": {"nodePool": {"nodeSelector": {"a": "b"}}}},
        sample=1,
    ),
    _case(
        "PowerCap",
        "a namespaces scope needs at least one entry in names, or a selector",
        "spec.scope.namespaces",
        {"scope": {"namespaces": {"names": []}}},
        {"scope": {"namespaces": {"names": [], "selector": None}}},
        sample=2,
    ),
    _case(
        "PowerCap",
        "shedTargetPercent must be below softShedPercent",
        "spec.thresholds.shedTargetPercent",
        {"thresholds": {"shedTargetPercent": 96}},
        {"thresholds": {"shedTargetPercent": 97}},
        sample=1,
    ),
    _case(
        "PowerCap",
        "the thresholds must rise",
        "spec.thresholds",
        {"thresholds": {"hardShedPercent": 97, "emergencyPercent": 97}},
        {"thresholds": {"hardShedPercent": 106}},
    ),
    _case(
        "PowerCap",
        "lateSeconds must be below staleSeconds",
        "spec.telemetry.lateSeconds",
        {"telemetry": {"lateSeconds": 14}},
        {"telemetry": {"lateSeconds": 15}},
        sample=1,
    ),
    _case(
        "PowerCap",
        "overheadWatts is needed for basis Node and Wall",
        "spec.overheadWatts",
        {"basis": "GPU"},
        {"basis": "Node"},
        sample=1,
    ),
    _case(
        "PowerCap",
        "nothing is left for accelerators",
        "spec.watts",
        {"watts": 1053, "overheadWatts": 1000},
        {"watts": 1052, "overheadWatts": 1000},
    ),
    _case(
        "PowerCap",
        "restore.gatePercent must be below thresholds.softShedPercent",
        "spec.restore.gatePercent",
        {"restore": {"gatePercent": 96}},
        {"restore": {"gatePercent": 97}},
    ),
    _case(
        "PowerCap",
        "restore.committedPercent must not be above thresholds.hardShedPercent",
        "spec.restore.committedPercent",
        {"restore": {"committedPercent": 100}},
        {"restore": {"committedPercent": 98}, "thresholds": {"hardShedPercent": 97}},
    ),
    _case(
        "PowerCap",
        "set exactly one of watts and percent",
        "spec.schedule[0]",
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 480, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 480}]},
    ),
    _case(
        "PowerCap",
        "set exactly one of watts and percent",
        "spec.events[0]",
        {"events": [_event(watts=9000)]},
        {"events": [_event(watts=9000, percent=75)]},
    ),
    _case(
        "PowerCap",
        "cron needs five fields",
        "spec.schedule[0].cron",
        {"schedule": [{"name": "night", "cron": "5 22,23 * JAN-MAR/2 MON#1", "durationMinutes": 60, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "*/5 22 * * *", "durationMinutes": 60, "percent": 50}]},
    ),
    _case(
        "PowerCap",
        "cron needs five fields",
        "spec.schedule[0].cron",
        {"schedule": [{"name": "night", "cron": "59 22 * * 7", "durationMinutes": 60, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "@daily", "durationMinutes": 60, "percent": 50}]},
    ),
    _case(
        "PowerCap",
        "end must be after start",
        "spec.events[0].end",
        {"events": [_event(percent=75)]},
        {"events": [_event(percent=75, end="2026-12-01T17:00:00+01:00")]},
    ),
    _case(
        "PowerCap",
        "an entry of schedule leaves nothing for accelerators",
        "spec.schedule",
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 60, "watts": 1053}]},
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 60, "watts": 1052}]},
    ),
    _case(
        "PowerCap",
        "an entry of events leaves nothing for accelerators",
        "spec.events",
        {"events": [_event(watts=1053)]},
        {"events": [_event(watts=1052)]},
    ),
    _case("PowerCap", "a cap cannot be its own parent", "spec.parent", {"parent": "other"}, {"parent": "sample"}),
    _case(
        "ModelCard",
        "reasoningControl must say what to send for every reasoning mode",
        "spec.reasoningControl",
        {"variants": [_variant("Off"), _variant("High")]},
        {"variants": [_variant("Off"), _variant("Low")]},
    ),
    _case(
        "ModelCard",
        "reasoningControl must say what to send for every reasoning mode",
        "spec.reasoningControl",
        {"variants": [_variant("High")], "reasoningControl": None},
        {"variants": [_variant("Off"), _variant("High")], "reasoningControl": None},
    ),
    _case(
        "ModelCard",
        "parameter is needed to switch by TemplateFlag, Effort or Budget",
        "spec.reasoningControl.parameter",
        {"reasoningControl": {"switch": "Budget", "parameter": "thinking_budget"}},
        {"reasoningControl": {"switch": "Effort", "parameter": None}},
    ),
    _case(
        "ModelCard",
        "parameter is needed to switch by TemplateFlag, Effort or Budget",
        "spec.reasoningControl.parameter",
        {"reasoningControl": {"switch": "Prompt", "parameter": None}},
        {"reasoningControl": {"switch": "Prompt"}},
    ),
    _case(
        "ModelCard",
        "activeParametersMillions must not be above",
        "spec.activeParametersMillions",
        {"activeParametersMillions": 8200},
        {"activeParametersMillions": 8201},
    ),
    RuleCase(
        "AcceleratorClass",
        "the name of a class must have at most 63 characters",
        "metadata",
        SAMPLES["AcceleratorClass"][0],
        SAMPLES["AcceleratorClass"][0],
        name_that_breaks="n" * 64,
    ),
    _case(
        "AcceleratorClass",
        "maxWatts must be above zero and not below idleWatts",
        "spec.maxWatts",
        {"idleWatts": "70", "maxWatts": "70.0"},
        {"idleWatts": "70", "maxWatts": "8", "minWatts": None},
    ),
    _case(
        "AcceleratorClass",
        "minWatts must not be above maxWatts",
        "spec.minWatts",
        {"minWatts": "700.0"},
        {"minWatts": "1000"},
    ),
    _case(
        "AcceleratorClass",
        "bareIdleWatts must not be above idleWatts",
        "spec.bareIdleWatts",
        {"bareIdleWatts": "70.0"},
        {"bareIdleWatts": "70.1"},
    ),
    _case(
        "EnergyProfile",
        "uncertaintyPercent is needed for basis Modelled",
        "spec.uncertaintyPercent",
        {"basis": "Published", "uncertaintyPercent": None},
        {"basis": "Published"},
    ),
    _case(
        "EnergyProfile", "watts must be above zero", "spec.points[0].watts", _point(watts="0.1"), _point(watts="0.0")
    ),
    _case(
        "EnergyProfile",
        "requestsPerSecond must be above zero",
        "spec.points[0].requestsPerSecond",
        _point(requestsPerSecond="0.000001"),
        _point(requestsPerSecond="0"),
    ),
    _case(
        "EnergyProfile",
        "latencyP95Milliseconds must not be below",
        "spec.points[0].latencyP95Milliseconds",
        _point(latencyP95Milliseconds=4000),
        _point(latencyP95Milliseconds=3999),
    ),
    _case(
        "EnergyProfile",
        "give interTokenP50Microseconds and interTokenP95Microseconds together",
        "spec.points[0].interTokenP95Microseconds",
        _point(interTokenP50Microseconds=None, interTokenP95Microseconds=None),
        _point(interTokenP50Microseconds=None),
    ),
]
