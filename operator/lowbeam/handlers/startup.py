"""Start and stop of the operator inside kopf's life cycle."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import kopf

from lowbeam.runtime.application import Application
from lowbeam.runtime.settings import settings_from_environment


@kopf.on.startup(id="lowbeam-start")
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Quiet kopf's own writes and background scans, then start the application's tasks."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    application = Application(memo.get("lowbeam_settings") or settings_from_environment(os.environ))
    memo.application = application
    memo.stop = asyncio.Event()
    memo.running = asyncio.create_task(application.run(memo.stop), name="lowbeam")
    memo.running.add_done_callback(lambda task: _end_with_the_application(task, memo))


@kopf.on.login(id="lowbeam-login")
def login(memo: kopf.Memo, **kwargs: Any) -> kopf.ConnectionInfo | None:
    """The same way to the API server as the application's own; kopf's default would read KUBECONFIG too early."""
    settings = memo.get("lowbeam_settings")
    if settings is not None and settings.kubeconfig:
        return kopf.login_with_kubeconfig(**kwargs)
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


@kopf.on.cleanup(id="lowbeam-stop")
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Let the loops finish the write in hand and give the Lease back."""
    memo.stop.set()
    await asyncio.wait([memo.running])


def _end_with_the_application(task: asyncio.Task[None], memo: kopf.Memo) -> None:
    """A dead application must not leave a live shell: the process ends, and the pod restarts."""
    if not memo.stop.is_set():
        memo.failed = True
        os.kill(os.getpid(), signal.SIGTERM)
