"""The only door to the API server: seven raw calls, a mirror per kind, writes that differ, Events, one Lease.

    transport = await connect(settings.kubeconfig)                  # AioTransport; `async with` closes it
    pods = Informer(transport, PODS, label_selector="lowbeam.dev/workload", monotonic_ms=clock.monotonic_ms)
    pods.on_change(lambda kind, change, old, new: wake())           # then: asyncio.create_task(pods.run())
    await pods.wait_synced();  pods.objects(), pods.get("team-a", "x-0"), pods.by_uid(uid)
    pods.state, pods.message, pods.last_sync_age_ms()               # forbidden, unreachable, ..., and since when

    applier = Applier(transport)
    await applier.apply(DEPLOYMENTS, desired, live)                 # None: nothing had to be written
    await applier.apply_status(INFERENCE_WORKLOADS, live, status)
    await applier.delete(DEPLOYMENTS, live)                         # by uid

    recorder.record(POWER_CAPS, obj, "Warning", reason=..., action=..., note=...)   # sync, de-duplicated, never blocks
    elector.is_leader                                               # True only while no other process can be leader

    count_writes(transport.calls)                                   # write budget; `calls` also lists the RBAC in use

Time comes in as callables (`monotonic_ms`, `now`, `sleep`), for which a `runtime.clock.Clock`'s methods fit. Every
`run()` is a coroutine for a task of its own and ends only by cancellation. Errors are the tree of `kube.errors`.
"""

from lowbeam.kube.aio_transport import AioTransport, connect, namespace_of
from lowbeam.kube.apply import Applier, differs, subset_equal
from lowbeam.kube.errors import (
    AlreadyExists,
    Conflict,
    Deposed,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    NotOurs,
    Request,
    ServerUnavailable,
    TooManyRequests,
    Unauthorized,
)
from lowbeam.kube.events import EventRecorder
from lowbeam.kube.informer import Change, Informer, InformerState, keep_fields_of, keep_only
from lowbeam.kube.lease import LeaderElector
from lowbeam.kube.resources import (
    ACCELERATOR_CLASSES,
    DEPLOYMENTS,
    ENERGY_PROFILES,
    EVENTS,
    INFERENCE_WORKLOADS,
    LEASES,
    MODEL_CARDS,
    NAMESPACES,
    NODES,
    PODS,
    POWER_CAPS,
    SERVICES,
    Resource,
    object_key,
)
from lowbeam.kube.transport import FIELD_MANAGER, KubeObject, KubeTransport, ListPage, WatchEvent, count_writes

__all__ = [
    "ACCELERATOR_CLASSES",
    "DEPLOYMENTS",
    "ENERGY_PROFILES",
    "EVENTS",
    "FIELD_MANAGER",
    "INFERENCE_WORKLOADS",
    "LEASES",
    "MODEL_CARDS",
    "NAMESPACES",
    "NODES",
    "PODS",
    "POWER_CAPS",
    "SERVICES",
    "AioTransport",
    "AlreadyExists",
    "Applier",
    "Change",
    "Conflict",
    "Deposed",
    "EventRecorder",
    "Forbidden",
    "Gone",
    "Informer",
    "InformerState",
    "Invalid",
    "KubeError",
    "KubeObject",
    "KubeTransport",
    "LeaderElector",
    "ListPage",
    "NotFound",
    "NotOurs",
    "Request",
    "Resource",
    "ServerUnavailable",
    "TooManyRequests",
    "Unauthorized",
    "WatchEvent",
    "connect",
    "count_writes",
    "differs",
    "keep_fields_of",
    "keep_only",
    "namespace_of",
    "object_key",
    "subset_equal",
]
