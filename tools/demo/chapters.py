"""The six chapters: cluster, install, choose, serve, cut, restore. Each claim is checked; a broken one fails it all."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from datetime import datetime
from typing import Any

import yaml

from lowbeam.catalog import load_builtin
from tools.demo.scene import NAMESPACE, ROOT, Scene
from tools.demo.stage import Stage, table, wait_until

CAP_WATTS: int = yaml.safe_load((ROOT / "workloads/samples/powercap-cluster.yaml").read_text())["spec"]["watts"]
CUT_WATTS = CAP_WATTS * 70 // 100
REQUEST = {"model": "all-minilm-l6-v2", "input": ["a warm winter coat", "jacket for cold days", "garden hose"]}
WORKER_PORT = 18080


def show_cluster(stage: Stage, scene: Scene, seconds: float) -> None:
    """Nodes of the cluster."""
    stage.chapter("cluster", "A real control plane and scheduler; KWOK plays 12 GPU nodes of three classes.")
    stage.command("kubectl", "get", "nodes", "-L", "nvidia.com/gpu.product,lowbeam.dev/pool")
    nodes = scene.cluster.get("nodes")["items"]
    ready = sum(any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"]["conditions"]) for n in nodes)
    stage.claim("all nodes are Ready", ready == len(nodes), f"{ready} of {len(nodes)}")
    stage.figure("cluster up", f"{seconds:.1f} s")
    if not scene.real_node:
        stage.say("No rights for a real node (root on Linux): the operator and the real worker run as processes here.")


def install(stage: Stage, scene: Scene) -> None:
    """The chart, or the bare CRDs without a node."""
    if scene.real_node:
        stage.chapter("install", "The Helm chart puts the operator into a pod: non-root, read-only, least privilege.")
        scene.build_operator_image()
        stage.command(*scene.helm_install())
        stage.command("kubectl", "get", "pods", "-n", NAMESPACE)
        stage.figure("operator image, as archive (no torch)", f"{scene.image_megabytes:.0f} MB")
    else:
        stage.chapter("install", "The CustomResourceDefinitions, and the operator as a process.")
        stage.command("kubectl", "apply", "-f", "crds/")
        scene.start_operator_process()
    scene.start_emulator()
    stage.say("`lowbeam emulate` plays the workers of KWOK's pods: watts and rates come from the energy profiles.")
    leads = wait_until(lambda: bool(_lease_holder(scene)), 60)
    stage.claim("the operator leads", leads is not None, _lease_holder(scene) or "nobody")


def choose(stage: Stage, scene: Scene) -> None:
    """Samples applied, models picked, pods scheduled."""
    stage.chapter("choose", "Eight workloads in three namespaces say what they need; Lowbeam picks how to run each.")
    stage.command("kubectl", "apply", "-f", "workloads/samples/namespaces.yaml")
    started = time.monotonic()
    stage.command("kubectl", "apply", "-f", "workloads/samples/")
    if scene.real_node:
        stage.command("kubectl", "apply", "-f", "tools/demo/manifests/stub-gpu.yaml")
        stage.command("kubectl", *scene.label_real_node().split())
        stage.command(
            "kubectl", "apply", "-f", str(scene.real_search_manifest()), shown="kubectl apply -f search-real.yaml"
        )
    expected = 8 if scene.real_node else 7
    if not scene.real_node:
        stage.say("shop/search waits for a CPU node here; everything else goes on beside it.")
    wait_until(lambda: sum(_ready(w) for w in scene.workloads()) >= expected, 180)
    ready = sum(_ready(w) for w in scene.workloads())
    seconds = time.monotonic() - started
    wait_until(lambda: all(_watts(w) is not None for w in scene.workloads() if _ready(w)), 60)
    stage.command("kubectl", "get", "iw", "-A")
    stage.command("kubectl", "get", "pcap")
    stage.claim("workloads are Ready", ready >= expected, f"{ready} of 8 in {seconds:.0f} s")
    stage.figure("apply -> all Ready", f"{seconds:.0f} s")
    stage.say("Why this one, and why not the others:")
    stage.command("kubectl", "lowbeam", "explain", "iw/assistant", "-n", "support")
    _compare(stage, scene)


def serve(stage: Stage, scene: Scene) -> None:
    """One real request with its joules."""
    stage.chapter("serve", "A real worker (torch, MiniLM) answers, and says what the answer cost.")
    if scene.real_node:
        address = scene.cluster.get("service", "search", "-n", "shop")["spec"]["clusterIP"]
        worker = f"http://{address}"
    else:
        scene.start_worker_process(WORKER_PORT)
        worker = f"http://127.0.0.1:{WORKER_PORT}"
    url = f"{worker}/v1/embeddings"
    wait_until(lambda: _answers(f"{worker}/ready"), 90)  # a Service's address answers some time after its pod is ready
    stage.say("Its meter is a compiled stub of NVIDIA's library: there is no GPU here; the accounting is the real one.")
    print(f"$ curl -s {url} -d '{json.dumps(REQUEST)}'")
    answer: dict[str, Any] = {}
    for _ in range(5):  # the first answers warm the meter's window up
        answer = _post(url)
    vectors = [item["embedding"] for item in answer["data"]]
    energy = answer["usage"]["energy"]
    stage.show(json.dumps({"data": f"{len(vectors)} vectors of {len(vectors[0])}", "usage": answer["usage"]}, indent=2))
    near, far = _cosine(vectors[0], vectors[1]), _cosine(vectors[0], vectors[2])
    stage.claim("coat is nearer to jacket than to hose", near > far, f"{near:.2f} > {far:.2f}")
    joules = energy["joules"]
    stage.claim("the answer carries its joules", joules is not None and joules > 0, f"{joules} J, {energy['method']}")


def cut(stage: Stage, scene: Scene) -> None:
    """The cap falls by 30 %."""
    stage.chapter("cut", f"The platform team lowers the cluster cap from {CAP_WATTS} W to {CUT_WATTS} W.")
    before = {_key(w): _decision(w) for w in scene.workloads()}
    started = time.monotonic()
    _patch(stage, CUT_WATTS)
    first = wait_until(lambda: any(_decision(w) != before[_key(w)] for w in scene.workloads()), 30, 0.1)
    under = wait_until(lambda: _within(scene, CUT_WATTS), 60, 0.2)
    total = time.monotonic() - started
    wait_until(lambda: all(_settled(w) for w in scene.workloads()), 30)  # replaced pods may still be starting
    time.sleep(2.5)  # and every status follows its decision within a tick of the guard
    stage.command("kubectl", "lowbeam", "top", "--once", "-A")
    dimmed = sorted((w for w in scene.workloads() if w["status"].get("dimming")), key=lambda w: w["spec"]["priority"])
    rows = [
        [_name(w), str(w["spec"]["priority"]), d["lever"], f"{d['wattsFreed']} W", d.get("qualityLost", "-")]
        for w in dimmed
        for d in [w["status"]["dimming"]]
    ]
    stage.show(table(rows, ["DIMMED", "PRIORITY", "LEVER", "FREED", "QUALITY LOST"]))
    after = {_key(w): w for w in scene.workloads()}
    stage.claim("first decision", first is not None and first <= 5, f"{first:.1f} s" if first else "none in 30 s")
    stage.claim("measured and committed under the cap", under is not None and total <= 30, f"{total:.1f} s")
    top = after[("support", "assistant")]
    stage.claim("the most important workload is untouched", "dimming" not in top["status"], "support/assistant, 900")
    broken = [_name(w) for w in dimmed if _below_floor(w) and w["spec"]["quality"].get("belowFloor") != "WhenCapped"]
    stage.claim("no quality floor fell without consent", not broken, ", ".join(broken) or "none")
    stage.figure("cap -30 % -> first decision", f"{first:.1f} s" if first else "-")
    stage.figure("cap -30 % -> under the cap", f"{total:.1f} s")
    stage.figure("dimmed, lowest priority first", ", ".join(w["metadata"]["name"] for w in dimmed))


def restore(stage: Stage, scene: Scene) -> None:
    """The cap returns, and everything comes back through the gate."""
    stage.chapter("restore", "The cap returns; workloads come back one by one, through the restore gate.")
    restore_rules = scene.cap()["spec"]["restore"]
    stage.say(
        f"This cap has short times ({restore_rules['dwellSeconds']} s dwell, one step in "
        f"{restore_rules['stepSeconds']} s) so that you need not wait; the defaults are 120 s and 30 s."
    )
    started = time.monotonic()
    _patch(stage, CAP_WATTS)
    peak = 0

    def restored() -> bool:
        nonlocal peak
        peak = max(peak, scene.cap()["status"]["committedWatts"])
        return not any(w["status"].get("dimming") for w in scene.workloads())

    done = wait_until(restored, 240, 1)
    total = time.monotonic() - started
    wait_until(lambda: all(_ready(w) for w in scene.workloads() if w["status"].get("selected")), 60)
    stage.command("kubectl", "get", "iw", "-A")
    stage.command("kubectl", "get", "events", "-n", "support", "--field-selector", "reason=Restored")
    stage.claim("nobody is dimmed any longer", done is not None, f"{total:.0f} s")
    times = sorted(_times(scene.workloads(), "Restored"))
    last_dimmed = max((at for at in _times(scene.workloads(), "Dimmed") if not times or at <= times[-1]), default=None)
    waited = (times[0] - last_dimmed).total_seconds() if times and last_dimmed else -1.0
    dwell = restore_rules["dwellSeconds"]
    # Stamps are whole seconds.
    stage.claim(
        "the gate held for the dwell time", waited >= dwell - 1, f"{waited:.0f} s after the last cut, {dwell} s set"
    )
    usable = scene.cap()["status"]["usableWatts"]
    stage.claim("committed watts stayed under the cap on the way", peak <= usable, f"{peak} W of {usable} W")
    stage.figure("cap back -> all restored", f"{total:.0f} s")


# ---- reading objects


def _compare(stage: Stage, scene: Scene) -> None:
    nodes = scene.scratch / "nodes.json"
    nodes.write_text(scene.cluster.kubectl("get", "nodes", "-o", "json"))
    stage.say("The same plan without a cluster, and what the largest model of each task would draw:")
    files = ["-f", "workloads/samples/"]
    output = stage.command(
        *(sys.executable, "-m", "lowbeam", "plan", *files, "--nodes", str(nodes)),
        shown="lowbeam plan -f workloads/samples/ --nodes nodes.json",
        may_fail=True,
    )
    figures = {
        start: line.removeprefix(start).split(" (")[0].strip()
        for line in output.splitlines()
        for start in ("the largest model for each task would draw", "this plan draws")
        if line.startswith(start)
    }
    stage.claim("a comparison with the largest models", len(figures) == 2, " / ".join(figures.values()))
    stage.figure("largest models / this plan", " / ".join(figures.values()))


def _patch(stage: Stage, watts: int) -> None:
    change = json.dumps({"spec": {"watts": watts}})
    command = ["kubectl", "patch", "powercap", "cluster", "--type=merge", "-p"]
    stage.command(*command, change, shown=f"{' '.join(command)} '{change}'")


def _within(scene: Scene, cap_watts: int) -> bool:
    status = scene.cap()["status"]
    usable = status["usableWatts"]
    return bool(
        status["effectiveWatts"] == cap_watts
        and status["measuredWatts"] <= usable
        and status["committedWatts"] <= usable
    )


def _ready(workload: dict[str, Any]) -> bool:
    conditions = workload.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _settled(workload: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in workload.get("status", {}).get("conditions", [])}
    return conditions.get("Reconciling") != "True"


def _watts(workload: dict[str, Any]) -> int | None:
    watts: int | None = workload.get("status", {}).get("energy", {}).get("measuredWatts")
    return watts


def _times(workloads: list[dict[str, Any]], action: str) -> list[datetime]:
    """When the workloads' last decisions of this sort were made."""
    found = []
    for workload in workloads:
        history = workload["status"].get("history", [])
        found += [datetime.fromisoformat(entry["time"]) for entry in history if entry["action"] == action][:1]
    return found


def _decision(workload: dict[str, Any]) -> str | None:
    history = workload["status"].get("history") or [{}]
    found: str | None = history[0].get("decisionId")
    return found


def _below_floor(workload: dict[str, Any]) -> bool:
    """Whether the catalogue's score of what runs now is below the workload's own floor."""
    selected, quality = workload["status"].get("selected"), workload["spec"].get("quality", {})
    if selected is None or "floor" not in quality:
        return False
    wanted = (selected["model"], selected["precision"], selected["reasoning"])
    variants = load_builtin().models[selected["model"]].variants
    score = next(v.quality_centi(quality["benchmark"]) for v in variants if (*v.key[:2], v.reasoning.value) == wanted)
    return score is None or score < float(quality["floor"]) * 100


def _key(workload: dict[str, Any]) -> tuple[str, str]:
    return (workload["metadata"]["namespace"], workload["metadata"]["name"])


def _name(workload: dict[str, Any]) -> str:
    return "/".join(_key(workload))


def _lease_holder(scene: Scene) -> str:
    leases = scene.cluster.get("leases", "-n", NAMESPACE)["items"]
    return next((str(lease["spec"].get("holderIdentity") or "") for lease in leases), "")


def _post(url: str) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(REQUEST).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def _cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return float(dot / (sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5))
