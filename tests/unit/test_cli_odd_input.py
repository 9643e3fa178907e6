"""Files, flags and streams that are broken in odd ways: a line that says so and an exit code, never a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lowbeam.cli import main
from lowbeam.cli.manifests import parse_watts
from tests.raw_objects import GOOD

NODE = {
    "kind": "Node",
    "metadata": {"name": "rack-1", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "2"}},
}
BROKEN = {
    "brackets": ("[" * 5000, "nested too deeply"),
    "json brackets": ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
    "number of 5,000 digits": (GOOD.replace("60", "9" * 5000), 'line 7, column 29: is not valid YAML: "999'),
    "text as int": (GOOD.replace("60", "!!int foo"), '"foo" cannot be read as int'),
    "binary without digits": (GOOD.replace("60", "0b_"), '"0b_" cannot be read as int'),
    "text as bool": (GOOD.replace("60", "!!bool foo"), '"foo" cannot be read as bool'),
    "text as time": (GOOD.replace("60", "!!timestamp foo"), '"foo" cannot be read as timestamp'),
    "value that holds itself": (GOOD.replace("60", "&a [*a]"), "line 7, column 29: is not valid YAML"),
    "item that is no object": ("kind: List\nitems: [1]", "holds an item that is not an object"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_text_that_breaks_the_reader_is_a_problem_of_its_file(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    for arguments in (["plan", "--inventory", "l4=1", "-f"], ["catalog", "verify", "-f"]):
        code = main([*arguments, str(file)])
        shown = " ".join("".join(capsys.readouterr()).split())
        assert (code, said in shown) == (2 if arguments[0] == "plan" else 1, True), shown


@pytest.mark.parametrize("text", ["[" * 5000, "a: !!int foo", "a: \xdc"])
def test_a_scenario_and_prices_that_cannot_be_read_are_bad_input(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(text.encode("latin-1"))
    assert main(["simulate", str(file)]) == 2
    assert main(["plan", "-f", "-", "--inventory", "l4=1", "--prices", str(file)]) == 2
    assert capsys.readouterr().err.count(str(file)) == 2


def test_prices_that_are_no_yaml_are_told_in_one_line_with_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("acceleratorHour: {h100: [")
    assert main(["plan", "-f", "-", "--inventory", "l4=1", "--prices", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--prices: {file}: line 1, column 26: is not valid YAML: expected the node content")


def node(**changes: Any) -> dict[str, Any]:
    return {**NODE, **changes}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (node(metadata={"labels": {}}), "a Node: metadata.name: is required"),
        (node(metadata={"name": "rack-1", "labels": ["l4"]}), "Node/rack-1: metadata.labels: is not an object"),
        (node(metadata={"name": "rack-1", "labels": {"a": 5}}), "Node/rack-1: metadata.labels.a: is not text"),
        (node(status={"allocatable": {"nvidia.com/gpu": "foo"}}), "allocatable.nvidia.com/gpu: is no quantity"),
        (node(status={"allocatable": {"nvidia.com/gpu": -3}}), "allocatable.nvidia.com/gpu: is no quantity"),
        (node(spec={"taints": [5]}), "Node/rack-1: spec.taints[0]: is not an object"),
    ],
)
def test_a_node_that_no_api_server_would_return_is_named_with_its_field(
    made: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, nodes = tmp_path / "good.yaml", tmp_path / "nodes.json"
    manifest.write_text(GOOD)
    nodes.write_text(json.dumps({"items": [made]}))
    assert main(["plan", "-f", str(manifest), "--nodes", str(nodes), "--inventory", "l4=1"]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "support/good" in printed.out, "the rest is planned"


def test_nulls_in_a_node_are_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    empty = {"kind": "Node", "metadata": {"name": "rack-2", "labels": None}, "spec": None, "status": None}
    (tmp_path / "nodes.json").write_text(json.dumps({"items": [NODE, empty]}))
    assert main(["plan", "-f", str(tmp_path / "good.yaml"), "--nodes", str(tmp_path / "nodes.json")]) == 0
    assert capsys.readouterr().err == ""


def test_a_node_in_two_files_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = GOOD.replace("requestsPerMinute: 60", "requestsPerMinute: 100000000")
    (tmp_path / "busy.yaml").write_text(f"{busy}---\n{json.dumps(NODE)}")
    (tmp_path / "nodes.json").write_text(json.dumps({"items": [NODE]}))
    files = ["-f", str(tmp_path / "busy.yaml"), "--nodes", str(tmp_path / "nodes.json"), "-o", "json"]
    assert main(["plan", *files]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["workloads"][0]["option"]["replicas"] == 2, "the node has two boards"
    assert "rack-1: metadata.name: this Node is also in" in printed.err


@pytest.mark.parametrize("cap", ["0W", "0.0001kW", "9" * 400 + "kW", ""])
def test_a_cap_that_no_powercap_could_have_is_refused(cap: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", "-", "--inventory", "l4=1", "--cap", cap]) == 2
    assert capsys.readouterr().err.startswith("--cap: ")


@pytest.mark.parametrize("kilowatts", ["1.001", "4.35", "2.3", "1001.003", "0.29"])
def test_a_cap_keeps_every_watt_of_its_decimals(kilowatts: str) -> None:
    assert parse_watts(f"{kilowatts}kW") == Decimal(kilowatts) * 1000


@pytest.mark.parametrize("flag", [["--price", "l4=1e40000000"], ["--kwh", "1e999999"], ["--kwh", ""]])
def test_a_price_beyond_all_money_is_refused(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", "-", "--inventory", "l4=1", *flag]) == 2
    assert flag[0] in capsys.readouterr().err


def test_standard_input_that_is_closed_or_no_text_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (None, io.TextIOWrapper(io.BytesIO(b"a: \xdc"), encoding="ascii", errors="surrogateescape")):
        monkeypatch.setattr(sys, "stdin", given)
        assert main(["plan", "-f", "-", "--inventory", "l4=1"]) == 2
        assert capsys.readouterr().err.startswith("stdin: is ")


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} > /dev/full", 1, "cannot write the output: No space left on device\n"),
        ("{} >&-", 0, ""),
        ("PYTHONIOENCODING=ascii {} > /dev/null", 0, ""),
    ],
    ids=["full disk", "closed", "terminal without these letters"],
)
def test_an_output_that_takes_nothing_is_no_traceback(shell: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    command = f"{sys.executable} -c 'import sys; from lowbeam.cli import main; sys.exit(main())' "
    command += f"explain good -f {tmp_path}/good.yaml --inventory l4=1"
    done = subprocess.run(["bash", "-c", shell.format(command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_task_in_capitals_lists_the_same_models_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "models", "--task", "TRANSLATION"]) == 0
    text = capsys.readouterr().out
    assert main(["catalog", "models", "--task", "TRANSLATION", "-o", "json"]) == 0
    names = [model["name"] for model in json.loads(capsys.readouterr().out)]
    assert names
    assert all(name in text for name in names)


@pytest.mark.parametrize("flag", ["run --metrics-port", "run --health-port", "emulate --admin-port"])
@pytest.mark.parametrize("given", ["65536", "99999999", "-1", "http"])
def test_a_port_that_no_machine_has_is_refused_before_anything_starts(
    flag: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*flag.split(), given])
    assert ended.value.code == 2
    assert flag.split()[1] in capsys.readouterr().err
