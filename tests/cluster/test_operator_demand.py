"""What is offered decides, not what was declared; what is drawn decides, not what was published.

Windows of load are 2 s long here instead of 10 minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import EnergyProfile
from tests.operator_harness import BULK, Stage, staged, workload
from tests.polling_api import Object
from tools.localcluster.client import ClusterClient

WINDOW_SECONDS = 2


@pytest.fixture(scope="module")
def stage(cluster: ClusterClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An operator that looks at load in short windows."""
    with staged(cluster, tmp_path_factory.mktemp("demand")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBEAM_DEMAND_WINDOW_SECONDS", str(WINDOW_SECONDS))
        made.start_operator()
        yield made


CATALOGUE = load_builtin()
CHATTY = {
    **BULK,
    "model": {"pinned": "qwen3-4b-instruct-2507"},
    "placement": {"acceleratorClasses": ["h100"]},
}
DECLARED_PER_SECOND = BULK["load"]["requestsPerMinute"] / 60


def admin(stage: Stage, path: str, **body: object) -> None:
    httpx.put(f"http://127.0.0.1:{stage.admin_port}{path}", json=body, trust_env=False).raise_for_status()


def per_second(stage: Stage, namespace: str, name: str) -> float:
    return float(stage.iw(namespace, name)["status"]["load"]["requestsPerSecond"])


def replicas(stage: Stage, namespace: str, name: str) -> int:
    count: int = stage.iw(namespace, name)["status"]["selected"]["replicas"]
    return count


def test_replicas_follow_the_offered_load_and_a_gap_in_telemetry_changes_nothing(
    stage: Stage, namespace: str, record_property: Callable[[str, object], None]
) -> None:
    stage.apply(workload(namespace, "chat", CHATTY))
    stage.ready(namespace, "chat")
    declared = replicas(stage, namespace, "chat")
    try:
        # 1. More arrives than was declared: believed at once, and the replicas follow.
        began = time.monotonic()
        admin(stage, "/load", factor=3)
        stage.eventually("more replicas", lambda: replicas(stage, namespace, "chat") > declared)
        record_property("up_seconds", round(time.monotonic() - began, 1))
        stage.says(lambda: stage.iw(namespace, "chat"), "LoadObserved", "True", "Observed")
        stage.eventually(
            "sized for what arrives", lambda: per_second(stage, namespace, "chat") >= 2.9 * DECLARED_PER_SECOND
        )

        # 2. A restarted operator goes on with it.
        before = stage.iw(namespace, "chat")["status"]
        stage.restart()
        stage.stays(
            "sized for what was observed",
            lambda: (
                per_second(stage, namespace, "chat") >= 2.9 * DECLARED_PER_SECOND * 5 / 6
                and replicas(stage, namespace, "chat") >= before["selected"]["replicas"] - 1
            ),
            2 * WINDOW_SECONDS,
        )

        # 3. Less than was declared: believed after some windows.
        began = time.monotonic()
        admin(stage, "/load", factor=0.3)
        stage.eventually("fewer replicas", lambda: replicas(stage, namespace, "chat") < declared)
        record_property("down_seconds", round(time.monotonic() - began, 1))
        assert stage.iw(namespace, "chat")["status"]["load"]["basis"] == "Observed"

        # 4. Nobody answers, and what is offered changes: nothing follows, and the condition says why.
        admin(stage, "/faults", namespace=namespace, workload="chat", faults=["Silent"])
        stage.says(lambda: stage.iw(namespace, "chat"), "LoadObserved", "Unknown", "DataGap")
        before = stage.iw(namespace, "chat")["status"]
        admin(stage, "/load", factor=3)
        stage.stays(
            "load and replicas as before",
            lambda: (
                [stage.iw(namespace, "chat")["status"][it] for it in ("load", "selected")]
                == [before["load"], before["selected"]]
            ),
            2 * WINDOW_SECONDS,
        )
    finally:
        admin(stage, "/load", factor=1)
        stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)


def as_object(profile: EnergyProfile, *, watts_percent: int) -> Object:
    """A profile of the catalogue as somebody else would publish it, with other watts."""
    points = [
        {
            "batch": point.batch,
            "watts": str(round(point.milliwatts * watts_percent / 100_000, 3)),
            "requestsPerSecond": str(point.requests_per_second_milli / 1000),
            "latencyP50Milliseconds": point.latency_p50_ms,
            "latencyP95Milliseconds": point.latency_p95_ms,
        }
        for point in profile.points
    ]
    spec = {
        "model": profile.model,
        "precision": profile.precision,
        "task": profile.task,
        "acceleratorClass": profile.accelerator_class,
        "accelerators": profile.accelerators,
        "engine": profile.engine,
        "inputTokens": profile.input_tokens,
        "outputTokens": profile.output_tokens,
        "points": points,
        "basis": "Published",
        "source": {"citation": "made for a test", "date": "2026-11"},
    }
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "EnergyProfile",
        "metadata": {"name": profile.name},
        "spec": spec,
    }


def test_a_profile_that_live_watts_contradict_is_flagged_and_the_measured_value_counts(
    stage: Stage, namespace: str
) -> None:
    (profile,) = (
        it
        for it in CATALOGUE.profiles_of("qwen3-4b-instruct-2507", "text-generation")
        if (it.accelerator_class, it.accelerators, it.precision) == ("h100", 1, "bf16")
    )
    try:
        # The workers draw what the catalogue says; whoever published this profile measured little more than half.
        stage.apply(as_object(profile, watts_percent=60))
        stage.says(lambda: stage.own("energyprofiles", profile.name), "Ready", "True", "InCatalogue")
        stage.apply(workload(namespace, "chat", CHATTY))

        def energy() -> Object:
            found: Object = stage.iw(namespace, "chat").get("status", {}).get("energy", {})
            return found

        # At first sight: before all its replicas are seen to be ready, its draw may have been measured.
        first = stage.eventually("a promise", energy)
        assert first["basis"] == "Published"
        promised = float(first["joulesPerRequest"])
        stage.ready(namespace, "chat")
        row = stage.says(lambda: stage.iw(namespace, "chat"), "ProfileContradicted", "True", "ProfileContradicted")
        assert " W instead of " in row["message"]
        assert profile.model in stage.warned("ProfileContradicted", "chat", namespace)

        def measured() -> bool:
            return energy()["basis"] == "Measured" and float(energy()["joulesPerRequest"]) > 1.4 * promised

        stage.eventually("the measured value in the status", measured)
        (correction,) = stage.iw(namespace, "chat")["status"]["measuredProfiles"]
        assert 140 <= correction["percentOfProfile"] <= 190
    finally:
        stage.cluster.kubectl("delete", "eprof", profile.name, "--ignore-not-found")
        stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)
