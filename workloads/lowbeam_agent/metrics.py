"""`lowbeam_agent_*` for Prometheus, from the newest sample. A figure that a board does not tell has no series.

Nor has any board once the sample is old: to Prometheus, a figure is as old as its scrape.

`lowbeam_agent_device_power_watts` has the labels of NVIDIA's exporter (UUID, namespace, pod, container), so that what
reads the one can read the other: a board that several containers share has a series of the whole board's watts for each
of them. All other series are one per board.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lowbeam.api.wire import DeviceHolder, LimitOrigin
from lowbeam_agent.sampler import FRESH_SECONDS, Sampler

_NOBODY = DeviceHolder(namespace="", pod="", container="")
"""Prometheus drops empty labels: a board that nobody holds has none of them."""


class AtScrape:
    """A collector that shows the sampler's newest sample."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def describe(self) -> Iterator[Metric]:
        """Nothing: the series are known at the scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The series of now."""
        sample, age_s = self._sampler.last, self._sampler.age_s
        watts = GaugeMetricFamily(
            "lowbeam_agent_device_power_watts",
            "Power of a board, once for each container that holds it",
            labels=["UUID", "namespace", "pod", "container"],
        )
        limit = GaugeMetricFamily(
            "lowbeam_agent_device_power_limit_watts",
            "Power limit of a board: enforced now, by default, and the range it takes",
            labels=["UUID", "kind"],
        )
        joules = CounterMetricFamily("lowbeam_agent_device_energy_joules", "Energy since driver load", labels=["UUID"])
        origin = GaugeMetricFamily(
            "lowbeam_agent_device_limit_origin",
            "1 for who set the limit: default, agent, or other (a limit that no record of the agent explains)",
            labels=["UUID", "origin"],
        )
        for board in sample.devices if age_s < FRESH_SECONDS else ():
            if board.watts is not None:
                for holder in board.holders or (_NOBODY,):
                    watts.add_metric([board.uuid, holder.namespace, holder.pod, holder.container], board.watts)
            for kind, value in (
                ("enforced", board.power_limit_watts),
                ("default", board.default_limit_watts),
                ("min", board.min_limit_watts),
                ("max", board.max_limit_watts),
            ):
                if value is not None:
                    limit.add_metric([board.uuid, kind], value)
            if board.joules_total is not None:
                joules.add_metric([board.uuid], board.joules_total)
            if board.limit_origin is not None:
                for known in LimitOrigin:
                    origin.add_metric([board.uuid, known.value], float(known is board.limit_origin))
        yield from (watts, limit, joules, origin)
        age = GaugeMetricFamily("lowbeam_agent_sample_age_seconds", "Age of the last reading")
        age.add_metric([], age_s)
        yield age
        if sample.pods_listed_at_seconds is not None:
            pods = GaugeMetricFamily("lowbeam_agent_pods_age_seconds", "Age of the kubelet's answer behind the pods")
            pods.add_metric([], max(0.0, time.time() - sample.pods_listed_at_seconds))
            yield pods
