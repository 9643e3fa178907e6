"""`lowbeam-worker calibrate`: logs, warnings and tracebacks become YAML comments, threads are set, then torch may come.

Ends the process itself: on an interruption a thread may still be loading weights, and nobody wants to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from lowbeam_worker.calibration.options import parse
from lowbeam_worker.cgroup import prepare_threads


def main(arguments: Sequence[str]) -> NoReturn:
    """Exits with the code of `run`; with 2 on wrong flags, and 1 on a defect."""
    options = parse(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before anything is measured it ends without a traceback
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Comments("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(capture=True)
    prepare_threads()
    os.environ["HF_HUB_OFFLINE"] = "0" if options.allow_downloads else "1"
    # CUDA counts boards by speed and NVML by place; the one that runs must be the one that is metered.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    code = 1
    try:
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 - torch after the thread variables

        from lowbeam_worker.calibration.run import run  # noqa: PLC0415

        disable_progress_bar()
        code = asyncio.new_event_loop().run_until_complete(run(options))
    except Exception:
        logging.getLogger(__name__).exception("the calibration fails by a defect; what was complete is written")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Comments(logging.Formatter):
    """Every line begins with `#`, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as comment lines."""
        lines = super().format(record).splitlines()
        return "\n".join(f"# {part}" for line in lines for part in textwrap.wrap(line, 78))
