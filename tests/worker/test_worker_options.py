"""Flags, environment, and what the container's limits say about threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbeam_worker.cgroup import cpu_quota, memory_limit_bytes, thread_count
from lowbeam_worker.options import Precision, Task, parse

FLAGS = ["--task", "feature-extraction", "--model", "m"]


def test_the_operators_command_line_is_understood() -> None:
    given = parse(
        [
            *("--task", "text-generation", "--model", "qwen", "--model-path", "/models/qwen", "--precision", "bf16"),
            *("--batch-limit", "1", "--max-output-tokens", "256", "--port", "8080", "--control-port", "9465"),
            *("--default-chat-template-kwargs", '{"enable_thinking":false,"reasoning_effort":"low"}'),
        ],
        {"POD_NAME": "chat-0", "POD_NAMESPACE": "shop", "LOWBEAM_CONTROL_TOKEN": "secret"},
    )
    assert (given.model, given.model_path, given.precision, given.batch_limit) == (
        "qwen",
        "/models/qwen",
        Precision.BF16,
        1,
    )
    assert (given.pod, given.namespace, given.control_token) == ("chat-0", "shop", "secret")
    assert not given.allow_downloads
    assert given.template_defaults == {"enable_thinking": False, "reasoning_effort": "low"}


def test_what_could_do_harm_is_off_until_it_is_asked_for() -> None:
    usual = parse(FLAGS, {})
    assert (usual.allow_downloads, usual.allow_pickle, usual.control_token_file) == (False, False, "")
    asked = parse([*FLAGS, "--allow-pickle", "--allow-downloads"], {"LOWBEAM_CONTROL_TOKEN_FILE": "/var/run/token"})
    assert (asked.allow_downloads, asked.allow_pickle, asked.control_token_file) == (True, True, "/var/run/token")


@pytest.mark.parametrize("task", list(Task))
def test_every_task_can_be_asked_for_and_knows_whether_it_writes(task: Task) -> None:
    assert parse(["--task", str(task), "--model", "m"], {}).task is task
    assert task.writes == (task in {Task.TEXT_GENERATION, Task.CODE_COMPLETION, Task.SUMMARIZATION})


@pytest.mark.parametrize(
    ("flags", "part_of_message"),
    [
        (["--precision", "fp4"], "'fp4' is not a precision that this worker can load; it loads fp32, bf16, fp16, int8"),
        (["--batch-limit", "0"], "0 is below 1"),
        (["--batch-limit", "many"], "'many' is not a whole number"),
        (["--port", "70000"], "'70000' is not a port"),
        (["--default-chat-template-kwargs", "[1]"], "'[1]' is not a JSON object of true, false and strings"),
        (["--default-chat-template-kwargs", "off"], "'off' is not a JSON object of true, false and strings"),
        (["--task", "summarise"], "invalid choice: 'summarise'"),
    ],
)
def test_a_wrong_flag_is_named_with_what_would_be_right(
    flags: list[str], part_of_message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*FLAGS, *flags], {})
    assert ended.value.code == 2
    assert part_of_message in capsys.readouterr().err


def test_the_cpu_quota_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    (tmp_path / "pod/container").mkdir(parents=True)
    (tmp_path / "pod/cpu.max").write_text("150000 100000\n")
    (tmp_path / "pod/container/cpu.max").write_text("max 100000\n")
    (tmp_path / "pod/container/memory.max").write_text("1073741824\n")
    own = tmp_path / "self"
    own.write_text("0::/pod/container\n")
    assert cpu_quota(tmp_path, own) == 1.5
    assert memory_limit_bytes(tmp_path, own) == 1 << 30


def test_the_first_cgroup_version_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path, tmp_path / "none") == 4.0


def test_no_limit_is_unknown_and_not_zero(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None
    assert memory_limit_bytes(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "usable", "threads"), [(None, 8, 8), (2.5, 8, 2), (0.5, 8, 1), (16.0, 4, 4)])
def test_threads_are_whole_cpus_within_the_quota(quota: float | None, usable: int, threads: int) -> None:
    assert thread_count(quota, usable) == threads
