"""`lowbeam-worker`: threads first, torch after, then the two ports; or `calibrate`, which measures."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from lowbeam_worker.cgroup import prepare_threads
from lowbeam_worker.options import parse


def main() -> None:
    """Entry point; exits 0 after a drain, 1 when the model, a port or the meter is not to be had, 2 on wrong flags."""
    if sys.argv[1:2] == ["calibrate"]:
        from lowbeam_worker.calibration.command import main as calibrate  # noqa: PLC0415 - serving needs none of it

        calibrate(sys.argv[2:])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = parse(sys.argv[1:])
    threads = prepare_threads()
    os.environ["HF_HUB_OFFLINE"] = "0" if options.allow_downloads else "1"
    logging.getLogger(__name__).info("lowbeam-worker starts with %d threads", threads)
    import uvloop  # noqa: PLC0415 - nothing that imports torch may load before the thread variables are set

    from lowbeam_worker.models import is_reading  # noqa: PLC0415
    from lowbeam_worker.serving import serve  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(serve(options))
        if is_reading():  # the interpreter would wait for the last byte of a model that nobody wants any more
            logging.shutdown()
            os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
