from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lowbeam.errors import BadInput
from lowbeam.runtime.settings import OperatorSettings, settings_from_environment


def test_defaults_hold_where_the_environment_says_nothing() -> None:
    settings = settings_from_environment({"POD_NAME": "lowbeam-0"})
    assert (settings.identity, settings.namespace, settings.leader_election) == ("lowbeam-0", "lowbeam-system", True)
    assert settings.guard_seconds == 2.0
    assert settings.control_key == b""


def test_variables_become_values_of_their_type(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    settings = settings_from_environment(
        {
            "LOWBEAM_METRICS_PORT": "9500",
            "LOWBEAM_PLANNER_SECONDS": "7.5",
            "LOWBEAM_LEADER_ELECTION": "false",
            "LOWBEAM_KUBECONFIG": "/a",
            "LOWBEAM_CONTROL_KEY_FILE": str(key),
        }
    )
    assert (settings.metrics_port, settings.planner_seconds, settings.leader_election) == (9500, 7.5, False)
    assert (settings.kubeconfig, settings.control_key) == ("/a", b"0123456789abcdef")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS_PORT", "many"),
        ("METRICS_PORT", "65536"),
        ("HEALTH_PORT", "-1"),
        ("LEADER_ELECTION", "perhaps"),
        ("GUARD_SECONDS", "2s"),
        ("GUARD_SECONDS", "-2"),
        ("POLL_SECONDS", "nan"),
        ("PLANNER_SECONDS", "inf"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"LOWBEAM_{name}.*{value}"):
        settings_from_environment({f"LOWBEAM_{name}": value})


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_missing_or_short_control_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="control key file"):
        settings_from_environment({"LOWBEAM_CONTROL_KEY_FILE": str(path)})


def test_what_is_secret_is_not_in_the_settings_as_text(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    url = "http://reader:s3cret@prometheus:9090"
    given = {"LOWBEAM_PROMETHEUS_URL": url, "LOWBEAM_CONTROL_KEY_FILE": str(key)}
    settings = settings_from_environment(given)
    assert settings.prometheus_url == url
    assert "s3cret" not in repr(settings)
    assert "0123456789" not in repr(settings)


@pytest.mark.parametrize("content", [None, " \n"])
def test_an_agent_token_that_nobody_can_use_ends_the_start_and_names_the_file(
    content: str | None, tmp_path: Path
) -> None:
    """Else every agent would refuse every limit, and nobody would look here."""
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    command = [sys.executable, "-m", "lowbeam", "run", "--agent-token-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert f"agent token file {file}: is missing, unreadable or empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_token_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = OperatorSettings("tests", agent_token_file=str(file))
    assert settings.agent_token() == ""
    for token in ("let-me-in", "rotated"):
        file.write_text(f"{token}\n")
        assert settings.agent_token() == token
