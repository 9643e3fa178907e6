"""What statuses say as series, from the mirror at the moment of the scrape: alerts and dashboards need no exporter of
custom resources.

Standbys tell them as well: they are what the objects say, whoever wrote it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lowbeam.api.v1alpha1 import reasons
from lowbeam.runtime.world import Objects

_VALUES = {"True": 1.0, "False": 0.0}
"""Unknown is not a number."""


class ObjectMetrics(Collector):
    """Conditions of workloads and caps, what a request is expected to take, how many objects the catalogue has."""

    def __init__(self, objects: Callable[[], Objects]) -> None:
        self._objects = objects

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """A series for what an object's status has, none for what it has not."""
        now = self._objects()
        text = "1 True, 0 False, NaN Unknown, as the status says"
        of_workloads = GaugeMetricFamily(
            "lowbeam_workload_condition", text, labels=["namespace", "workload", "condition"]
        )
        joules = GaugeMetricFamily(
            "lowbeam_workload_joules_per_request",
            "Expected energy of a request with what was chosen",
            labels=["namespace", "workload"],
        )
        stars = GaugeMetricFamily(
            "lowbeam_workload_stars", "Energy rating, 1 to 5; none where unrated", labels=["namespace", "workload"]
        )
        for raw in now.workloads:
            labels = raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
            _add(of_workloads, labels, raw)
            energy = raw.get("status", {}).get("energy", {})
            if "joulesPerRequest" in energy:
                joules.add_metric(labels, float(energy["joulesPerRequest"]))
            if rating := energy.get("stars", "").count("*"):
                stars.add_metric(labels, rating)
        yield from (of_workloads, joules, stars)
        of_caps = GaugeMetricFamily("lowbeam_cap_condition", text, labels=["cap", "condition"])
        for raw in now.power_caps:
            _add(of_caps, (raw["metadata"]["name"],), raw)
        yield of_caps
        in_catalogue = GaugeMetricFamily(
            "lowbeam_catalogue_objects", "Objects that add to the catalogue, by their Ready", labels=["kind", "ready"]
        )
        kinds = (
            ("ModelCard", now.model_cards),
            ("AcceleratorClass", now.accelerator_classes),
            ("EnergyProfile", now.energy_profiles),
        )
        for kind, objects in kinds:
            counts = Counter(_conditions(raw).get(reasons.READY, "Unknown") for raw in objects)
            for ready in ("True", "False", "Unknown"):
                in_catalogue.add_metric([kind, ready], counts[ready])
        yield in_catalogue


def _add(family: GaugeMetricFamily, labels: Iterable[str], raw: Mapping[str, Any]) -> None:
    for condition, status in sorted(_conditions(raw).items()):
        family.add_metric([*labels, condition], _VALUES.get(status, float("nan")))


def _conditions(raw: Mapping[str, Any]) -> dict[str, str]:
    return {it["type"]: it["status"] for it in raw.get("status", {}).get("conditions", ())}
