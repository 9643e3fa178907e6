"""Threads and memory come from the container's cgroup, version 1 or 2, and never from the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbeam_worker.cgroup import cpu_quota, memory_limit_bytes

ROOT = Path(__file__).parents[2]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n", encoding="ascii")


def test_version_1_is_read_on_the_way_up_in_the_tree_of_each_controller(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("5:cpu,cpuacct:/pods/one\n4:memory:/pods/one\n1:name=systemd:/x\n", encoding="ascii")
    write(tmp_path / "cpu,cpuacct/pods", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    write(tmp_path / "cpu,cpuacct/pods/one", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    write(tmp_path / "memory/pods/one", memory__limit_in_bytes=str(1 << 29))
    write(tmp_path / "memory", memory__limit_in_bytes=str(9223372036854771712))
    assert cpu_quota(tmp_path, own) == 1.5
    assert memory_limit_bytes(tmp_path, own) == 1 << 29


def test_version_1_inside_a_container_where_the_hosts_path_does_not_exist(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("5:cpu,cpuacct:/kubepods/pod1/abc\n4:memory:/kubepods/pod1/abc\n", encoding="ascii")
    write(tmp_path / "cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    write(tmp_path / "memory", memory__limit_in_bytes="1048576")
    assert cpu_quota(tmp_path, own) == 2.0
    assert memory_limit_bytes(tmp_path, own) == 1 << 20


@pytest.mark.parametrize("text", ["", "garbage", "0::", "::::", "0::/../..", "max"])
def test_a_strange_cgroup_file_is_no_limit_and_no_crash(tmp_path: Path, text: str) -> None:
    own = tmp_path / "self"
    own.write_text(text, encoding="ascii")
    write(tmp_path / "sub", cpu__max="max 100000", memory__max="max")
    assert cpu_quota(tmp_path / "sub", own) is None
    assert memory_limit_bytes(tmp_path / "sub", own) is None


def test_torch_has_as_many_threads_as_the_quota_has_whole_cpus() -> None:
    script = """
import sys
from lowbeam_worker import cgroup
cgroup.cpu_quota = lambda: 1.7
assert "torch" not in sys.modules
print(cgroup.prepare_threads())
import torch
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert found.stdout.split() == ["1", "1"]


def test_the_entry_point_sets_threads_before_anything_imports_torch() -> None:
    script = "import sys; import lowbeam_worker.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == 0
