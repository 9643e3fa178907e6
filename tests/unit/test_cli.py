"""What a person sees who types `lowbeam`: results, explanations, and errors with exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lowbeam.cli import main
from tests.raw_objects import GOOD

OWN_CATALOGUE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {cost-centre: web}}
---
apiVersion: lowbeam.dev/v1alpha1
kind: PowerCap
metadata: {name: web}
spec: {scope: {namespaces: {selector: {matchLabels: {cost-centre: web}}}}, watts: 900}
---
apiVersion: lowbeam.dev/v1alpha1
kind: AcceleratorClass
metadata: {name: our-board}
spec:
  productLabels: [OUR-BOARD]
  memoryMebibytes: 24000
  computeCapability: "8.9"
  precisions: [bf16]
  idleWatts: "20"
  maxWatts: "100"
  source: {citation: our bench, date: "2026-11"}
---
apiVersion: lowbeam.dev/v1alpha1
kind: ModelCard
metadata: {name: our-model}
spec:
  modelPath: /models/ours
  tasks: [text-classification]
  licence: mit
  totalParametersMillions: 100
  activeParametersMillions: 100
  generative: false
  variants:
    - precision: bf16
      weightsMebibytes: 200
      quality:
        - {benchmark: sst2, metric: accuracy-percent, score: "95.0", source: {citation: our bench, date: "2026-11"}}
  source: {citation: our bench, date: "2026-11"}
---
apiVersion: lowbeam.dev/v1alpha1
kind: EnergyProfile
metadata: {name: our-model-on-our-board}
spec:
  model: our-model
  precision: bf16
  task: text-classification
  acceleratorClass: our-board
  accelerators: 1
  engine: native
  inputTokens: 100
  outputTokens: 1
  basis: Measured
  source: {citation: our bench, date: "2026-11"}
  points:
    - {batch: 1, watts: "40", requestsPerSecond: "100", latencyP50Milliseconds: 10, latencyP95Milliseconds: 12}
    - {batch: 8, watts: "60", requestsPerSecond: "400", latencyP50Milliseconds: 20, latencyP95Milliseconds: 22}
---
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: w, namespace: shop}
spec:
  task: text-classification
  load: {requestsPerMinute: 600, inputTokens: 100, outputTokens: 1}
"""
SAMPLES = str(Path(__file__).resolve().parents[2] / "workloads" / "samples")
INVENTORY = "h100=32,a100=32,l4=16,cpu=8"


def test_a_plan_of_the_samples_fits_eighty_columns_and_compares_with_the_largest_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "-f", SAMPLES, "--inventory", INVENTORY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("support/assistant" in line for line in lines)
    assert lines[-2].startswith("the largest model for each task would draw ")
    assert lines[-1].startswith("this plan draws ")


def test_a_lower_cap_dims_the_least_important_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-f", SAMPLES, "--inventory", INVENTORY, "--cap", "9kW", "-o", "json"])
    workloads = {w["name"]: w for w in json.loads(capsys.readouterr().out)["workloads"]}
    assert workloads["summaries"]["bindingCap"] == "cap"
    assert workloads["assistant"]["bindingCap"] == ""


def test_a_cap_that_nothing_fits_under_is_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", SAMPLES, "--inventory", INVENTORY, "--cap", "200W"]) == 1
    assert "unsatisfiable" in capsys.readouterr().out


WRONG_FLAGS = [
    (["plan"], "give manifests with -f"),
    (["plan", "-f", SAMPLES], "no accelerators: give --inventory"),
    (["plan", "-f", SAMPLES, "--inventory", "h100=many"], '"h100=many" is not CLASS=COUNT'),
    (["plan", "-f", SAMPLES, "--inventory", "h100=²"], '"h100=²" is not CLASS=COUNT'),
    (["plan", "-f", SAMPLES, "--inventory", "l4=100001"], '"l4=100001" is more than 100,000 of class l4'),
    (["plan", "-f", SAMPLES, "--inventory", "l4=99999,l4=2"], '"l4=2" is more than 100,000 of class l4'),
    (["plan", "-f", SAMPLES, "--inventory", f"l4={'9' * 5000}"], '9…" is more than 100,000 of class l4'),
    (["plan", "-f", SAMPLES, "--inventory", "h10=8"], 'no accelerator class "h10"; did you mean h100?'),
    (["plan", "-f", SAMPLES, "--inventory", "L4=99999,l4=2"], '"l4=2" is more than 100,000 of class l4'),
    (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--cap", "9"], '--cap: "9" has no unit: write 9kW or 9W'),
    (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--cap", "lots"], "write 9kW or 9000W"),
    (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--price", "h100=cheap"], "--price: h100"),
    (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--price", "h200x=1"], '--price: no accelerator class "h200x"'),
    (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--kwh", "-1"], "--kwh"),
    (["plan", "-f", SAMPLES, "--nodes", "no-such-nodes.json"], "no-such-nodes.json"),
    (["plan", "-f", "no-such-file.yaml", "--inventory", "h100=8"], "no-such-file.yaml: No such file"),
    (["explain", "pod/x", "-f", SAMPLES, "--inventory", "h100=8"], '"pod/x" is no InferenceWorkload'),
    (["explain", "iw/nobody", "-f", SAMPLES, "--inventory", "h100=8"], "no InferenceWorkload default/nobody"),
    (["catalog", "show", "no-such-model"], "no-such-model"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG_FLAGS)
def test_a_wrong_flag_is_named_and_is_exit_code_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_class_may_be_written_in_capitals(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for inventory, price in (("h100=16,l4=24", "l4=0.60"), ("H100=16,L4=24", "L4=0.60")):
        main(["plan", "-f", SAMPLES, "--inventory", inventory, "--price", price])
        pages.append(capsys.readouterr())
    assert pages[0] == pages[1]
    assert "l4" in pages[0].out


def variant(**changes: str) -> str:
    text = GOOD
    for old, new in changes.items():
        text = text.replace({"name": "good", "task": "text-classification"}.get(old, old), new)
    return text


BAD_INPUT = [
    (
        "a decimal comma",
        variant() + '  quality: {benchmark: sst2, floor: "56,7"}',
        'support/good: spec.quality.floor: "56,7"',
    ),
    (
        "a cap of less than nothing",
        "apiVersion: lowbeam.dev/v1alpha1\nkind: PowerCap\nmetadata: {name: c}\n"
        "spec: {scope: {cluster: {}}, watts: -1}",
        "bad.yaml: c: spec.watts",
    ),
    ("a syntax error", "kind: [", "bad.yaml: line"),
    (
        "a date that the calendar has not",
        "apiVersion: lowbeam.dev/v1alpha1\nkind: AcceleratorClass\nmetadata: {name: c}\n"
        'spec: {memoryMebibytes: 1, precisions: [bf16], idleWatts: "1", maxWatts: "2", '
        'source: {citation: ours, date: "2036-13-41"}}',
        'c: spec.source.date: "2036-13-41" is not a date (write the day, the month or the year: 2026-02-16',
    ),
    (
        "a task that nobody knows",
        variant(task="text-classificaton", name="bad"),
        "support/bad: spec.task: the catalogue",
    ),
    (
        "a benchmark without scores",
        variant(name="bad") + '  quality: {benchmark: sst3, floor: "56"}',
        "did you mean sst2",
    ),
    (
        "a model that nobody knows",
        variant(name="bad") + "  model: {pinned: bert-tinny-sst2}",
        "did you mean: bert-tiny-sst2",
    ),
    (
        "an accelerator class that nobody knows",
        variant(name="bad") + "  placement: {acceleratorClasses: [h100-sxm]}",
        'spec.placement.acceleratorClasses: no class "h100-sxm" in the catalogue; did you mean: h100',
    ),
    (
        "a name that is taken",
        variant(task="text-generation"),
        "support/good: metadata.name: this InferenceWorkload is also in",
    ),
    (
        "a field that is none",
        variant(name="bad") + "  prio: 3",
        "spec.prio: is not a field here (did you mean priority?)",
    ),
    (
        "a profile of no model",
        "apiVersion: lowbeam.dev/v1alpha1\nkind: EnergyProfile\nmetadata: {name: p}\nspec: {}",
        "bad.yaml: p: spec.",
    ),
    (
        "a parent that is not there",
        "apiVersion: lowbeam.dev/v1alpha1\nkind: PowerCap\nmetadata: {name: c}\n"
        "spec: {scope: {cluster: {}}, watts: 9000, parent: nobody}",
        "nobody",
    ),
    ("no text at all", "\udcff", "is not text in UTF-8"),
]


@pytest.mark.parametrize(("why", "text", "said"), BAD_INPUT, ids=[row[0] for row in BAD_INPUT])
def test_bad_input_is_named_with_file_object_and_field_and_the_rest_is_planned(
    why: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["plan", "-f", str(tmp_path), "--inventory", "l4=8"]) == 2, why
    out, err = capsys.readouterr()
    assert "bad.yaml: " in err
    assert said in err
    assert re.fullmatch(r"[1-9] problems?, the rest was planned", err.splitlines()[-1])
    if "support/good: spec" not in said:
        assert "support/good" in out


def test_every_problem_is_told_at_once_and_nothing_is_planned_where_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(variant(task="text-classificaton") + "\n---\n" + variant(name="b") + "  prio: 3")
    assert main(["plan", "-f", str(bad), "-f", "nowhere.yaml", "--inventory", "l4=8"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "3 problems, nothing planned"


def test_manifests_come_from_standard_input_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(GOOD))
    assert main(["plan", "-f", "-", "--inventory", "l4=8"]) == 0
    assert "support/good" in capsys.readouterr().out


def test_objects_of_the_catalogue_and_namespaces_among_the_files_take_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.yaml").write_text(OWN_CATALOGUE + "  placement: {acceleratorClasses: [our-board]}\n")
    assert main(["plan", "-f", str(tmp_path), "--inventory", "our-board=2", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    option = plan["workloads"][0]["option"]
    assert (option["model"], option["acceleratorClass"]) == ("our-model", "our-board")
    assert plan["caps"][0]["committedMilliwatts"] == option["worstCaseMilliwatts"], "the namespace's label counts"


def test_made_up_prices_are_read_from_a_file_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text('acceleratorHour: {l4: "100"}\nkilowattHour: 0.2\n')
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "good.yaml").write_text(GOOD)
    inputs = ["plan", "-f", str(tmp_path / "w"), "--inventory", "l4=8", "--prices", str(prices), "-o", "json"]
    assert main(inputs) == 0
    dear = json.loads(capsys.readouterr().out)["workloads"][0]["option"]["cost"]
    assert dear["perHour"] == "100"
    assert main([*inputs, "--price", "l4=1"]) == 0
    assert json.loads(capsys.readouterr().out)["workloads"][0]["option"]["cost"]["perHour"].startswith("1.0")
    prices.write_text("h100: 2")
    assert main(inputs) == 2
    assert "not in the form" in capsys.readouterr().err


def test_a_workload_that_cannot_run_is_exit_code_one_and_says_what_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hopeless = tmp_path / "w.yaml"
    hopeless.write_text(GOOD + '  quality: {benchmark: sst2, floor: "99.9"}')
    assert main(["plan", "-f", str(hopeless), "--inventory", "l4=8"]) == 1
    assert "One change would do: spec.quality.floor 99.9 -> " in " ".join(capsys.readouterr().out.split())
    assert main(["explain", "good", "-f", str(hopeless), "--inventory", "l4=8"]) == 1


def test_a_cap_over_a_pool_without_nodes_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", SAMPLES, "--inventory", INVENTORY]) == 0
    assert 'PowerCap "pool-a" limits nothing here: no node carries lowbeam.dev/pool=pool-a' in capsys.readouterr().err


def test_the_crds_are_printed_as_one_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    assert capsys.readouterr().out.count("kind: CustomResourceDefinition\n") == 5


def test_a_scenario_is_simulated_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = Path(__file__).resolve().parents[1] / "scenarios" / "cap-cut-at-full-load.yaml"
    assert main(["simulate", str(scenario)]) == 0
    assert "first action after a cap was lowered" in capsys.readouterr().out


def test_planning_offline_needs_no_client_for_kubernetes() -> None:
    code = "import sys, lowbeam.cli.plan; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["kubernetes", "kopf", "aiohttp", "structlog", "prometheus_client", "torch"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_operator_without_a_cluster_says_so_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kopf.run", lambda **_: pytest.fail("it started"))
    assert main(["run", "--kubeconfig", str(tmp_path / "none")]) == 3
    assert str(tmp_path / "none") in capsys.readouterr().err.splitlines()[-1]
