"""`lowbeam crds`: print the CustomResourceDefinitions, ready for `kubectl apply -f -`."""

from __future__ import annotations

import argparse

from lowbeam.api.crdgen import render_crds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: the output is the same as the files in crds/."""
    parser.epilog = "Install or upgrade: lowbeam crds | kubectl apply -f -"


def run(_args: argparse.Namespace) -> int:
    """Print all CRDs as one YAML stream."""
    print("---\n".join(text if text.endswith("\n") else text + "\n" for text in render_crds().values()), end="")
    return 0
