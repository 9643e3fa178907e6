"""Where watts and load come from: our workers' control ports, other engines' metrics, node agents, and Prometheus.

    async with WorkerPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep) as poller:
        asyncio.create_task(poller.run())
        poller.set_endpoints([WorkerEndpoint(pod_uid, namespace, pod_name, "http://10.0.0.7:9465", token)])
        poller.samples(), poller.errors()                  # by pod uid: last good Sample, last SampleError
        await poller.change_profile(endpoint, ProfileChange(generation=4, batch_limit=16))   # a result or a SampleError

    async with AgentPoller(monotonic_ms=..., now=..., token=read_token) as agents:
        agents.set_endpoints([AgentEndpoint(pod_uid, namespace, pod, "node-1", "http://10.0.0.9:9466")])
        agents.answers()                                    # by the agent's pod uid: NodeReading
        await agents.set_limits(endpoint, LimitChange(generation=5, limits=[...]))         # a report or a LimitRefusal

    async with PrometheusSource(url, monotonic_ms=..., now=...) as prometheus:
        await prometheus.ready()
        await prometheus.pod_power({("team-a", "vllm-0"): uid})          # uid -> Sample | SampleError; {} = no data
        await prometheus.pod_load({("team-a", "vllm-0"): uid})           # uid -> PodLoad: an engine's own counters

A `Sample` claims, with unit, source and age; `power.trust` believes or not. Nothing here ever answers 0 for "unknown".
"""

from lowbeam.telemetry.agent_fallback import AgentFallback
from lowbeam.telemetry.agent_source import AgentEndpoint, AgentPoller, LimitRefusal, NodeReading
from lowbeam.telemetry.control_client import WorkerEndpoint
from lowbeam.telemetry.fallback import PrometheusFallback, Telemetry
from lowbeam.telemetry.prometheus_source import PodLoad, PrometheusSource, PrometheusUnavailable
from lowbeam.telemetry.samples import Sample, SampleError, SampleProblem, SampleSource
from lowbeam.telemetry.worker_source import WorkerPoller

__all__ = [
    "AgentEndpoint",
    "AgentFallback",
    "AgentPoller",
    "LimitRefusal",
    "NodeReading",
    "PodLoad",
    "PrometheusFallback",
    "PrometheusSource",
    "PrometheusUnavailable",
    "Sample",
    "SampleError",
    "SampleProblem",
    "SampleSource",
    "Telemetry",
    "WorkerEndpoint",
    "WorkerPoller",
]
