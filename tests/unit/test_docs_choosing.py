"""docs/choosing.md: each output is what its command prints now.

`LOWBEAM_WRITE_DOCS=1 pytest tests/unit/test_docs_choosing.py` renews the outputs after a change of catalogue or sizing.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from lowbeam.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "choosing.md"
BLOCK = re.compile(r"```console\n\$ lowbeam (?P<command>.+)\n(?P<output>(?:.*\n)*?)```\n")
CODES = {"docs/examples/mean-wishes.yaml": 1, "docs/examples/with-problems.yaml": 2}


def test_every_output_of_the_page_is_what_its_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8")

    def renewed(match: re.Match[str]) -> str:
        arguments = shlex.split(match["command"])
        assert main(arguments) == next((code for name, code in CODES.items() if name in arguments), 0)
        out, err = capsys.readouterr()
        return f"```console\n$ lowbeam {match['command']}\n{out}{err}```\n"

    fresh, count = BLOCK.subn(renewed, text)
    assert count == 4
    if os.environ.get("LOWBEAM_WRITE_DOCS"):
        PAGE.write_text(fresh, encoding="utf-8")
    assert fresh == PAGE.read_text(encoding="utf-8")
