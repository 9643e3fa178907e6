"""The rules between the fields of every kind: of each what keeps and what breaks it."""

from __future__ import annotations

from typing import Any

from rule_cases import RuleCase, rule_case
from schema_samples import SAMPLES
from workload_rules import WORKLOAD_RULE_CASES


def _event(**fields: Any) -> dict[str, Any]:
    return {"name": "grid-1", "start": "2026-12-01T16:00:00Z", "end": "2026-12-01T16:00:01Z", **fields}


def _point(**fields: Any) -> dict[str, Any]:
    point = SAMPLES["EnergyProfile"][0]["points"][0]
    return {"points": [{key: value for key, value in {**point, **fields}.items() if value is not None}]}


def _variant(reasoning: str) -> dict[str, Any]:
    return {"precision": "bf16", "reasoning": reasoning, "weightsMebibytes": 16000}


RULE_CASES: list[RuleCase] = [
    *WORKLOAD_RULE_CASES,
    rule_case(
        "PowerCap",
        "every key in nodeSelector must be letters, digits",
        "spec.scope.nodePool.nodeSelector",
        {"scope": {"nodePool": {"nodeSelector": {f"key{index}.example.org/rack": "7" for index in range(31)}}}},
        {"scope": {"nodePool": {"nodeSelector": {"rack/row 7": "7"}}}},
    ),
    rule_case(
        "PowerCap",
        "every key in nodeSelector must be letters, digits",
        "spec.scope.nodePool.nodeSelector",
        {"scope": {"nodePool": {"nodeSelector": {f"{'d' * 253}/rack": "7"}}}},
        {"scope": {"nodePool": {"nodeSelector": {f"{'d' * 254}/rack": "7"}}}},
    ),
    rule_case(
        "PowerCap",
        "every key in matchLabels must be letters, digits",
        "spec.scope.namespaces.selector.matchLabels",
        {"scope": {"namespaces": {"selector": {"matchLabels": {"example.org/team": "b"}}}}},
        {"scope": {"namespaces": {"selector": {"matchLabels": {"Example.org/team": "b"}}}}},
        sample=2,
    ),
    rule_case(
        "PowerCap",
        "set exactly one of cluster, nodePool and namespaces",
        "spec.scope",
        {},
        {"scope": {"nodePool": {"nodeSelector": {"a": "b"}}}},
        sample=1,
    ),
    rule_case(
        "PowerCap",
        "a namespaces scope needs at least one entry in names, or a selector",
        "spec.scope.namespaces",
        {"scope": {"namespaces": {"names": []}}},
        {"scope": {"namespaces": {"names": [], "selector": None}}},
        sample=2,
    ),
    rule_case(
        "PowerCap",
        "shedTargetPercent must be below softShedPercent",
        "spec.thresholds.shedTargetPercent",
        {"thresholds": {"shedTargetPercent": 96}},
        {"thresholds": {"shedTargetPercent": 97}},
        sample=1,
    ),
    rule_case(
        "PowerCap",
        "the thresholds must rise",
        "spec.thresholds",
        {"thresholds": {"hardShedPercent": 97, "emergencyPercent": 97}},
        {"thresholds": {"hardShedPercent": 106}},
    ),
    rule_case(
        "PowerCap",
        "lateSeconds must be below staleSeconds",
        "spec.telemetry.lateSeconds",
        {"telemetry": {"lateSeconds": 14}},
        {"telemetry": {"lateSeconds": 15}},
        sample=1,
    ),
    rule_case(
        "PowerCap",
        "overheadWatts is needed for basis Node and Wall",
        "spec.overheadWatts",
        {"basis": "GPU"},
        {"basis": "Node"},
        sample=1,
    ),
    rule_case(
        "PowerCap",
        "nothing is left for accelerators",
        "spec.watts",
        {"watts": 1053, "overheadWatts": 1000},
        {"watts": 1052, "overheadWatts": 1000},
    ),
    rule_case(
        "PowerCap",
        "restore.gatePercent must be below thresholds.softShedPercent",
        "spec.restore.gatePercent",
        {"restore": {"gatePercent": 96}},
        {"restore": {"gatePercent": 97}},
    ),
    rule_case(
        "PowerCap",
        "restore.committedPercent must not be above thresholds.hardShedPercent",
        "spec.restore.committedPercent",
        {"restore": {"committedPercent": 100}},
        {"restore": {"committedPercent": 98}, "thresholds": {"hardShedPercent": 97}},
    ),
    rule_case(
        "PowerCap",
        "set exactly one of watts and percent",
        "spec.schedule[0]",
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 480, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 480}]},
    ),
    rule_case(
        "PowerCap",
        "set exactly one of watts and percent",
        "spec.events[0]",
        {"events": [_event(watts=9000)]},
        {"events": [_event(watts=9000, percent=75)]},
    ),
    rule_case(
        "PowerCap",
        "cron needs five fields",
        "spec.schedule[0].cron",
        {"schedule": [{"name": "night", "cron": "5 22,23 * JAN-MAR/2 MON#1", "durationMinutes": 60, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "*/5 22 * * *", "durationMinutes": 60, "percent": 50}]},
    ),
    rule_case(
        "PowerCap",
        "cron needs five fields",
        "spec.schedule[0].cron",
        {"schedule": [{"name": "night", "cron": "59 22 * * 7", "durationMinutes": 60, "percent": 50}]},
        {"schedule": [{"name": "night", "cron": "@daily", "durationMinutes": 60, "percent": 50}]},
    ),
    rule_case(
        "PowerCap",
        "end must be after start",
        "spec.events[0].end",
        {"events": [_event(percent=75)]},
        {"events": [_event(percent=75, end="2026-12-01T17:00:00+01:00")]},
    ),
    rule_case(
        "PowerCap",
        "an entry of schedule leaves nothing for accelerators",
        "spec.schedule",
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 60, "watts": 1053}]},
        {"schedule": [{"name": "night", "cron": "0 22 * * *", "durationMinutes": 60, "watts": 1052}]},
    ),
    rule_case(
        "PowerCap",
        "an entry of events leaves nothing for accelerators",
        "spec.events",
        {"events": [_event(watts=1053)]},
        {"events": [_event(watts=1052)]},
    ),
    rule_case("PowerCap", "a cap cannot be its own parent", "spec.parent", {"parent": "other"}, {"parent": "sample"}),
    rule_case(
        "ModelCard",
        "reasoningControl must say what to send for every reasoning mode",
        "spec.reasoningControl",
        {"variants": [_variant("Off"), _variant("High")]},
        {"variants": [_variant("Off"), _variant("Low")]},
    ),
    rule_case(
        "ModelCard",
        "reasoningControl must say what to send for every reasoning mode",
        "spec.reasoningControl",
        {"variants": [_variant("High")], "reasoningControl": None},
        {"variants": [_variant("Off"), _variant("High")], "reasoningControl": None},
    ),
    rule_case(
        "ModelCard",
        "parameter is needed to switch by TemplateFlag, Effort or Budget",
        "spec.reasoningControl.parameter",
        {"reasoningControl": {"switch": "Budget", "parameter": "thinking_budget"}},
        {"reasoningControl": {"switch": "Effort", "parameter": None}},
    ),
    rule_case(
        "ModelCard",
        "parameter is needed to switch by TemplateFlag, Effort or Budget",
        "spec.reasoningControl.parameter",
        {"reasoningControl": {"switch": "Prompt", "parameter": None}},
        {"reasoningControl": {"switch": "Prompt"}},
    ),
    rule_case(
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
    rule_case(
        "AcceleratorClass",
        "maxWatts must be above zero and not below idleWatts",
        "spec.maxWatts",
        {"idleWatts": "70", "maxWatts": "70.0"},
        {"idleWatts": "70", "maxWatts": "8", "minWatts": None},
    ),
    rule_case(
        "AcceleratorClass",
        "minWatts must not be above maxWatts",
        "spec.minWatts",
        {"minWatts": "700.0"},
        {"minWatts": "1000"},
    ),
    rule_case(
        "AcceleratorClass",
        "bareIdleWatts must not be above idleWatts",
        "spec.bareIdleWatts",
        {"bareIdleWatts": "70.0"},
        {"bareIdleWatts": "70.1"},
    ),
    rule_case(
        "EnergyProfile",
        "uncertaintyPercent is needed for basis Modelled",
        "spec.uncertaintyPercent",
        {"basis": "Published", "uncertaintyPercent": None},
        {"basis": "Published"},
    ),
    rule_case(
        "EnergyProfile", "watts must be above zero", "spec.points[0].watts", _point(watts="0.1"), _point(watts="0.0")
    ),
    rule_case(
        "EnergyProfile",
        "requestsPerSecond must be above zero",
        "spec.points[0].requestsPerSecond",
        _point(requestsPerSecond="0.000001"),
        _point(requestsPerSecond="0"),
    ),
    rule_case(
        "EnergyProfile",
        "latencyP95Milliseconds must not be below",
        "spec.points[0].latencyP95Milliseconds",
        _point(latencyP95Milliseconds=4000),
        _point(latencyP95Milliseconds=3999),
    ),
    rule_case(
        "EnergyProfile",
        "give interTokenP50Microseconds and interTokenP95Microseconds together",
        "spec.points[0].interTokenP95Microseconds",
        _point(interTokenP50Microseconds=None, interTokenP95Microseconds=None),
        _point(interTokenP50Microseconds=None),
    ),
]
