"""`python -m tools.demo [--keep]`: the whole story; exit code 1 when a claim does not hold."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tools.demo import chapters
from tools.demo.picture import Recorder
from tools.demo.scene import ROOT, Scene
from tools.demo.stage import Stage

CALM_SECONDS = 6.0


def main() -> int:
    """Tell the story; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--name", default="demo", help="name of the cluster")
    parser.add_argument("--picture", type=Path, help="draw the cut and the restore into this PNG")
    args = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    with Scene.up(args.name, keep=args.keep) as scene:
        up = time.monotonic() - started
        path = os.pathsep.join([str(Path(sys.executable).parent), scene.cluster.environment()["PATH"]])
        stage = Stage({**scene.cluster.environment(), "PATH": path})
        scene.cluster.binary("helm")
        chapters.show_cluster(stage, scene, up)
        chapters.install(stage, scene)
        chapters.choose(stage, scene)
        chapters.serve(stage, scene)
        if args.picture:
            recorder = Recorder(scene.cap, scene.workloads)
            recorder.start()
            calm = CALM_SECONDS  # so that the picture shows the state before, between and after
        else:
            calm = 0.0
        time.sleep(calm)
        chapters.cut(stage, scene)
        time.sleep(calm)
        chapters.restore(stage, scene)
        time.sleep(calm)
        if args.picture:
            recorder.stop()
            recorder.draw(args.picture)
        stage.figure("the whole story", f"{time.monotonic() - started:.0f} s")
        stage.box()
        if args.keep:
            stage.say("Left running. Look around with:")
            stage.show(
                f"  export KUBECONFIG={scene.cluster.kubeconfig}\n  export PATH={Path(sys.executable).parent}:$PATH"
            )
            stage.show("  kubectl lowbeam top -A      # live; q leaves\n  kubectl get iw,pcap -A")
            stage.say(f"Take it down with: python -m tools.localcluster down --name {args.name}")
        else:
            stage.say("KEEP=1 make demo keeps the cluster: kubectl lowbeam top -A shows it live.")
    for claim in stage.broken:
        print(f"does not hold: {claim}", file=sys.stderr)
    return 1 if stage.broken else 0


if __name__ == "__main__":
    sys.exit(main())
