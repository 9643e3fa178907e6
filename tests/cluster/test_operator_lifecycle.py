"""The way of a workload through its life, as a user sees it, on the real control plane."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kube_harness import token_of, user_of, with_token
from tests.operator_harness import BULK, TRIAGE, Stage, condition, power_cap, stage, workload

__all__ = ["stage"]


def test_a_workload_gets_right_sized_pods_and_leaves_nothing_behind(stage: Stage, namespace: str) -> None:
    stage.apply(workload(namespace, "triage"))
    stage.ready(namespace, "triage")

    # 1. Children: owned by the workload, made by nobody else.
    found = stage.iw(namespace, "triage")
    (deployment,) = stage.deployments(namespace)
    service = stage.api.get(f"/api/v1/namespaces/{namespace}/services/triage")
    assert service is not None
    for child in (deployment, service):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("InferenceWorkload", "triage", found["metadata"]["uid"])
        assert owner["controller"] is True
    assert len(stage.pods(namespace)) == deployment["spec"]["replicas"]

    # 2. Status: what was chosen, what it costs, and the watts of its own pods.
    stage.eventually(
        "watts measured",
        lambda: condition(stage.iw(namespace, "triage"), "EnergyMeasured").get("status") == "True",
    )
    status = stage.iw(namespace, "triage")["status"]
    assert status["selected"]["acceleratorClass"] == "l4"
    assert status["selected"]["replicas"] == status["replicas"] == status["readyReplicas"] == 1
    assert float(status["energy"]["joulesPerRequest"]) > 0
    assert 0 < status["energy"]["measuredWatts"] <= status["energy"]["committedWatts"]
    assert status["alternatives"]
    assert status["alternatives"][0]["message"]
    row = stage.cluster.kubectl("get", "iw", "triage", "-n", namespace, "--no-headers").split()
    assert row[:3] == ["triage", "True", status["selected"]["model"]]
    assert [(kind, reason) for kind, reason, _ in stage.events("triage", namespace)] == [("Normal", "Selected")]

    # 3. kopf is a shell only: no finalizer and no annotation of its on anything.
    for thing in (stage.iw(namespace, "triage"), deployment, service, *stage.pods(namespace)):
        assert not thing["metadata"].get("finalizers")
        assert not [key for key in thing["metadata"].get("annotations", {}) if "kopf" in key]

    # 4. In steady state nothing is written.
    # Each is reported once in 10 s. A reading that came too late on a busy machine is worth a write, and starts anew.
    stage.eventually("nothing is written for 20 s", lambda: _quiet(stage, namespace, seconds=20), 180)

    # 5. Deleted: everything goes by garbage collection.
    stage.cluster.kubectl("delete", "iw", "triage", "-n", namespace)
    stage.eventually("no children", lambda: not stage.deployments(namespace) and not stage.pods(namespace))
    series = "lowbeam_workload_committed_watts"
    stage.eventually("no series of it", lambda: stage.operator.metric(series, namespace=namespace) == 0)


def _quiet(stage: Stage, namespace: str, seconds: float) -> bool:
    before, versions = stage.operator.writes(), _versions(stage, namespace)
    try:
        stage.stays("quiet", lambda: stage.operator.writes() == before, seconds)
    except AssertionError:
        return False
    return _versions(stage, namespace) == versions


def _versions(stage: Stage, namespace: str) -> list[str]:
    objects = [stage.iw(namespace, "triage"), *stage.deployments(namespace)]
    return [it["metadata"]["resourceVersion"] for it in objects]


def test_another_model_is_made_before_the_old_one_breaks(stage: Stage, namespace: str) -> None:
    stage.apply(workload(namespace, "swap"))
    stage.ready(namespace, "swap")
    (old,) = stage.pods(namespace, "swap")
    stage.allow_pods(namespace, 1)  # the new pod has to wait

    stage.patch("iw", "swap", {"model": {"pinned": "roberta-base-sst2"}}, namespace)
    stage.eventually("the new Deployment", lambda: len(stage.deployments(namespace, "swap")) == 2)
    stage.stays(
        "the old pod serves until the new one does",
        lambda: [pod["metadata"]["uid"] for pod in stage.pods(namespace)] == [old["metadata"]["uid"]],
        3,
    )

    def told() -> bool:  # at the first report after the step was taken
        row = condition(stage.iw(namespace, "swap"), "Reconciling")
        return "waiting for the new replicas" in row.get("message", "")

    stage.eventually("the status says what it waits for", told)
    assert condition(stage.iw(namespace, "swap"), "Ready")["status"] == "True"

    stage.allow_pods(namespace, None)
    stage.ready(namespace, "swap")
    (new,) = stage.pods(namespace, "swap")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert len(stage.deployments(namespace, "swap")) == 1
    assert stage.iw(namespace, "swap")["status"]["selected"]["model"] == "roberta-base-sst2"
    events = stage.events("swap", namespace)
    assert [reason for kind, reason, _ in events if kind == "Normal"] == ["Selected", "Replaced"]
    (quoted,) = {note for kind, _, note in events if kind == "Warning"}
    assert "exceeded quota" in quoted


def test_without_room_under_the_cap_a_single_replica_breaks_before_the_new_one_is_made(
    stage: Stage, namespace: str
) -> None:
    stage.apply(workload(namespace, "tight"))
    stage.ready(namespace, "tight")
    committed = stage.iw(namespace, "tight")["status"]["energy"]["committedWatts"]
    with stage.caps(power_cap(f"{namespace}-tight", round(committed * 1.6), namespaces=[namespace])):
        stage.says(lambda: stage.own("powercaps", f"{namespace}-tight"), "Ready", "True", "InForce")
        old = {d["metadata"]["name"] for d in stage.deployments(namespace)}
        stage.patch("iw", "tight", {"model": {"pinned": "roberta-base-sst2"}}, namespace)
        together: list[set[str]] = []

        def replaced() -> bool:
            together.append({_deployment_of(pod) for pod in stage.pods(namespace)})
            names = {d["metadata"]["name"] for d in stage.deployments(namespace)}
            return bool(names) and not names & old

        stage.eventually("the new Deployment instead of the old one", replaced)
        assert all(len(names) <= 1 for names in together), f"two models at once: {together}"
        stage.ready(namespace, "tight")


def _deployment_of(pod: dict[str, object]) -> str:
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    name: str = metadata["labels"]["lowbeam.dev/placement"]
    return name


def test_a_new_batch_limit_reaches_running_workers_without_a_restart(stage: Stage, namespace: str) -> None:
    fixed = {"scaling": {"minReplicas": 3, "maxReplicas": 3}, "placement": {"acceleratorClasses": ["h100"]}}
    fixed["model"] = {"pinned": "qwen3-8b"}
    fixed["load"] = {"requestsPerMinute": 1200, "inputTokens": 300, "outputTokens": 500}
    stage.apply(workload(namespace, "hot", BULK, **fixed))
    stage.ready(namespace, "hot")
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in stage.pods(namespace)}

    def decided() -> int:
        limit: int = stage.iw(namespace, "hot")["status"]["selected"]["batchLimit"]
        return limit

    def run_by_all() -> bool:  # the guard's first step may be followed by the plan's
        return set(stage.batch_limits(namespace).values()) == {decided()}

    wanted = decided()
    stage.eventually("the first limit", run_by_all)

    watts = stage.iw(namespace, "hot")["status"]["energy"]["committedWatts"]
    with stage.caps(power_cap(namespace, round(watts * 0.8), namespaces=[namespace], levers=["Batch"])):
        stage.eventually(
            "a smaller batch is decided, and every worker runs it", lambda: decided() < wanted and run_by_all()
        )
    stage.eventually("and back", lambda: decided() == wanted and run_by_all())
    assert {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in stage.pods(namespace)} == pods


def test_draining_the_nodes_of_a_class_ends_no_running_workload(stage: Stage, namespace: str) -> None:
    stage.apply(workload(namespace, "stays"))
    stage.ready(namespace, "stays")
    (pod,) = stage.pods(namespace)
    nodes = [f"l4-{number}" for number in range(1, 5)]
    try:
        stage.cluster.kubectl("cordon", *nodes)
        stage.apply(workload(namespace, "probe", {**TRIAGE, "task": "no-such-task"}))
        stage.says(lambda: stage.iw(namespace, "probe"), "Ready", "False", "UnknownTask")  # planned again since then
        stage.stays(
            "the pod runs on",
            lambda: [p["metadata"]["uid"] for p in stage.pods(namespace)] == [pod["metadata"]["uid"]],
            3,
        )
    finally:
        stage.cluster.kubectl("uncordon", *nodes)


def test_explain_agrees_with_the_operator_about_what_runs_and_says_why_nothing_does(
    stage: Stage, namespace: str
) -> None:
    unmeetable = {"benchmark": "sst2", "floor": "99.9"}
    stage.apply(workload(namespace, "triage"), workload(namespace, "wish", quality=unmeetable))
    stage.ready(namespace, "triage")
    stage.says(lambda: stage.iw(namespace, "wish"), "Stalled", "True", "NoModelMeetsFloor")

    def explained(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lowbeam", "explain", f"iw/{name}", "-n", namespace, *more]
        return subprocess.run(command, env=stage.cluster.environment(), capture_output=True, text=True, check=False)

    # 1. What runs is what explain would choose now, with the same losers, and what it costs at the prices given.
    told = explained("triage", "-o", "json", "--price", "l4=0.60", "--kwh", "0.25")
    assert told.returncode == 0, told.stderr
    document, status = json.loads(told.stdout), stage.iw(namespace, "triage")["status"]
    for field in ("model", "precision", "acceleratorClass", "batchLimit", "replicas"):
        assert document["option"][field] == status["selected"][field]
    losers = [entry["option"]["model"] for entry in document["alternatives"]]
    assert losers == [entry["model"] for entry in status["alternatives"]]
    watts = document["option"]["expectedMilliwatts"] / 1000
    assert float(document["option"]["cost"]["perHour"]) == pytest.approx(0.60 + 0.25 * watts / 1000, rel=0.02)

    # 2. For people: what is now beside what is chosen.
    told = explained("triage")
    assert told.returncode == 0
    assert "now      Ready True" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 80

    # 3. Nothing can run it, or there is no such thing: another exit code, and what to do.
    told = explained("wish")
    assert (told.returncode, "99.9" in told.stdout) == (1, True), told.stdout + told.stderr
    told = explained("nobody")
    assert told.returncode == 2
    assert f"no InferenceWorkload {namespace}/nobody" in told.stderr


def test_explain_tells_a_user_of_one_namespace_what_the_status_has(
    stage: Stage, namespace: str, tmp_path: Path
) -> None:
    stage.apply(workload(namespace, "triage"), workload(namespace, "wish", task="text-clasification"))
    stage.ready(namespace, "triage")
    stage.says(lambda: stage.iw(namespace, "wish"), "Stalled", "True", "UnknownTask")

    def explained(config: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        where = ("-n", namespace, "--kubeconfig", str(config))
        command = [sys.executable, "-m", "lowbeam", "explain", f"iw/{name}", *where, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # 1. Who has no right at all is told which one, and who may do nothing about it is not told to.
    nobody = with_token(stage.cluster, tmp_path, token_of(stage.cluster, namespace))
    told = explained(nobody, "triage")
    assert told.returncode == 1
    assert 'ask for a role with the verb "get" on "inferenceworkloads.lowbeam.dev"' in told.stderr

    # 2. What the operator decided, what lost and why, what would save, and why it is not planned anew.
    reader = user_of(stage.cluster, namespace, tmp_path, "get", "list")
    told, status = explained(reader, "triage"), stage.iw(namespace, "triage")["status"]
    assert told.returncode == 0, told.stderr
    assert f"{status['selected']['model']} {status['selected']['precision']}, l4, batch <= " in told.stdout
    flat = " ".join(told.stdout.split())
    for said in (*(it["message"] for it in status["alternatives"]), *status["recommendations"]):
        assert " ".join(said.split()) in flat
    assert "now Ready True" in flat
    assert "note a plan reads the whole cluster" in flat
    assert max(map(len, told.stdout.splitlines())) <= 80

    # 3. Nothing runs, no such thing, or data that only a plan has: another exit code, and why.
    told = explained(reader, "wish")
    assert (told.returncode, "did you mean: text-classification" in " ".join(told.stdout.split())) == (1, True)
    told = explained(reader, "nobody")
    assert (told.returncode, f"no InferenceWorkload {namespace}/nobody" in told.stderr) == (2, True), told.stderr
    told = explained(reader, "triage", "-o", "json")
    assert (told.returncode, told.stdout, "without -o" in told.stderr) == (1, "", True), told.stderr


BENCHMARK = "tickets-of-a-test"
SOURCE = {"citation": "made for a test", "date": "2026-11"}


def fact(kind: str, name: str, **spec: object) -> dict[str, object]:
    body = {**spec, "source": SOURCE}
    return {"apiVersion": "lowbeam.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": body}


def card(name: str, *tasks: str, benchmark: str = BENCHMARK, predecessors: tuple[str, ...] = ()) -> dict[str, object]:
    quality = {"benchmark": benchmark, "metric": "accuracy-percent", "score": "94.0", "source": SOURCE}
    return fact(
        "ModelCard",
        name,
        modelPath="/models/it",
        tasks=list(tasks),
        licence="apache-2.0",
        totalParametersMillions=67,
        activeParametersMillions=67,
        contextTokens=512,
        generative=False,
        variants=[{"precision": "bf16", "weightsMebibytes": 128, "quality": [quality]}],
        predecessors=list(predecessors),
        benchmarks=[{"name": BENCHMARK, "metric": "accuracy-percent", "setting": "the tickets of a test"}],
    )


def profile(name: str, model: str, accelerator: str, *watts: str) -> dict[str, object]:
    times = {"latencyP50Milliseconds": 4, "latencyP95Milliseconds": 6}
    points = [
        {"batch": 4**place, "watts": value, "requestsPerSecond": str(300 * 4**place), **times}
        for place, value in enumerate(watts)
    ]
    return fact(
        "EnergyProfile",
        name,
        model=model,
        precision="bf16",
        task="text-classification",
        acceleratorClass=accelerator,
        accelerators=1,
        engine="Native",
        inputTokens=128,
        points=points,
        basis="Measured",
    )


def test_facts_in_the_cluster_are_used_live_and_a_bad_one_harms_nobody_else(stage: Stage, namespace: str) -> None:
    model, good, bad = f"{namespace}-m", f"{namespace}-good", f"{namespace}-bad"
    quality = {"benchmark": BENCHMARK, "floor": "90.0"}
    stage.apply(workload(namespace, "triage"), workload(namespace, "own", quality=quality))
    stage.ready(namespace, "triage")
    stage.says(lambda: stage.iw(namespace, "own"), "Stalled", "True", "UnknownBenchmark")
    lamp = fact(
        "AcceleratorClass",
        bad,
        productLabels=["NVIDIA-L4"],
        memoryMebibytes=23034,
        computeCapability="8.9",
        precisions=["bf16"],
        idleWatts="20",
        maxWatts="72",
    )
    try:
        # 1. Each bad one says what is wrong with which of its fields.
        stage.apply(
            card(bad, "no-such-task"),
            card(f"{bad}-score", "text-classification", benchmark="sst3"),
            card(f"{bad}-up", "text-classification", predecessors=(f"{bad}-down",)),
            card(f"{bad}-down", "text-classification", predecessors=(f"{bad}-up",)),
            lamp,
            profile(bad, "distilbert-sst2", "l4", "30", "5000"),
        )
        for plural, name, field, reason in (
            ("modelcards", bad, "spec.tasks", "UnknownTask"),
            ("modelcards", f"{bad}-score", "spec.variants[0].quality[0].benchmark", "UnknownBenchmark"),
            ("modelcards", f"{bad}-up", "spec.predecessors", "DowngradeCycle"),
            ("modelcards", f"{bad}-down", "spec.predecessors", "DowngradeCycle"),
            ("acceleratorclasses", bad, "spec.productLabels", "DuplicateEntry"),
            ("energyprofiles", bad, "spec.points[1].watts", "AbovePowerLimit"),
        ):
            # The two that step down to each other may be seen one before the other: first that one names no model.
            row = stage.says(lambda plural=plural, name=name: stage.own(plural, name), "Ready", "False", reason)
            assert field in row["message"]
            stage.warned(reason, name)

        # 2. The others hold, and a good one is used at once.
        stage.apply(card(model, "text-classification"), profile(good, model, "l4", "30", "50"))
        stage.ready(namespace, "own", "triage")
        assert stage.iw(namespace, "own")["status"]["selected"]["model"] == model
        stage.says(lambda: stage.own("modelcards", model), "Ready", "True", "InCatalogue")
        stage.says(lambda: stage.own("energyprofiles", good), "Ready", "True", "InCatalogue")
    finally:
        cards = (model, bad, f"{bad}-score", f"{bad}-up", f"{bad}-down")
        for kind, names in (("mcard", cards), ("eprof", (good, bad)), ("accel", (bad,))):
            stage.cluster.kubectl("delete", kind, *names, "--ignore-not-found")
