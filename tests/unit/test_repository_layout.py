"""The layout traps that break everything at once."""

import operator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_operator_is_still_the_standard_library() -> None:
    shadow = ROOT / "operator" / "__init__.py"
    assert not shadow.exists(), "it shadows the standard library: remove it"
    assert not Path(operator.__file__ or "").is_relative_to(ROOT)


def test_no_tests_live_below_operator() -> None:
    assert not [p for p in (ROOT / "operator").rglob("*.py") if p.name.startswith("test_") or p.name == "conftest.py"]
