"""`python -m tools.catalog build` writes the data files and docs/catalogue-figures.md; `check` compares them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from tools.catalog.accelerators import accelerator_classes
from tools.catalog.board_limits import board_limits
from tools.catalog.energy import energy_profiles
from tools.catalog.figures import with_figures
from tools.catalog.fits import fitted
from tools.catalog.models import model_cards
from tools.catalog.official import official_scores
from tools.catalog.physics_figures import with_physics_figures
from tools.catalog.rows import Manifest

ROOT = Path(__file__).parents[2]
DATA = "operator/lowbeam/catalog/data"
DOCS = "docs/catalogue.md"
PHYSICS_DOCS = "docs/catalogue-physics.md"


def build() -> dict[str, bytes]:
    """Path -> content: three Lists that `kubectl apply -f` takes, and the documentation with fresh figures."""
    physics, cards, classes = fitted(), model_cards(), accelerator_classes()
    profiles = energy_profiles(physics)
    text, physics_text = ((ROOT / name).read_text(encoding="utf-8") for name in (DOCS, PHYSICS_DOCS))
    return {
        f"{DATA}/acceleratorclasses.json": _list(classes),
        f"{DATA}/boardlimits.json": orjson.dumps(board_limits(), option=orjson.OPT_INDENT_2) + b"\n",
        f"{DATA}/energyprofiles.json": _list(profiles),
        f"{DATA}/modelcards.json": _list(cards),
        f"{DATA}/officialscores.json": orjson.dumps(official_scores(), option=orjson.OPT_INDENT_2) + b"\n",
        DOCS: with_figures(text, cards, classes, profiles).encode(),
        PHYSICS_DOCS: with_physics_figures(physics_text, cards, classes, profiles, physics).encode(),
    }


def _list(items: list[Manifest]) -> bytes:
    lines = b",\n".join(orjson.dumps(item) for item in items)
    return b'{"apiVersion":"v1","kind":"List","items":[\n' + lines + b"\n]}\n"


def main() -> int:
    """Build or compare."""
    parser = argparse.ArgumentParser(prog="python -m tools.catalog", description=__doc__)
    parser.add_argument("action", choices=("build", "check"))
    action = parser.parse_args().action
    files = build()
    if action == "build":
        for name, content in files.items():
            (ROOT / name).write_bytes(content)
            print(f"{name}: {len(content)} bytes")
        return 0
    stale = [name for name, content in files.items() if (ROOT / name).read_bytes() != content]
    for name in stale:
        print(f"{name} is not what its sources give: run `python -m tools.catalog build`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
