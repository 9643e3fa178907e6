"""What the chart's tests share: where the chart is, and the types of its fixtures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "charts" / "lowbeam"

Helm = Callable[..., "subprocess.CompletedProcess[str]"]
"""`helm(*args, kubeconfig=None)`."""
Render = Callable[..., list[dict[str, Any]]]
"""`render(**{"dotted.name": value})`."""
