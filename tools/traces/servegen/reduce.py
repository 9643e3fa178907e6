"""Makes rates.csv.xz from a checkout of the ServeGen repository.

    python -m tools.traces.servegen.reduce CHECKOUT

Decides what is kept: rate and burstiness of the three language models, 14 days. Rates become requests per window, which
they are a six-hundredth of; windows without requests are left out.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
import sys
from pathlib import Path

from tools.traces.servegen import RATES, WINDOW_SECONDS, WINDOWS

MODELS = ("m-large", "m-mid", "m-small")


def rows_of(checkout: Path) -> list[tuple[str, int, int, int, str]]:
    """(model, client, window, requests, cv percent) of every window with requests, in order."""
    rows: list[tuple[str, int, int, int, str]] = []
    for model in MODELS:
        for path in (checkout / "data" / "language" / model).glob("chunk-*-trace.csv"):
            client = int(re.findall(r"chunk-(\d+)-trace", path.name)[0])
            for line in csv.reader(path.read_text().splitlines()):
                window, requests = int(float(line[0])) // WINDOW_SECONDS, round(float(line[1]) * WINDOW_SECONDS)
                if requests > 0 and window < WINDOWS:
                    cv = float(line[2] or 0)
                    rows.append((model, client, window, requests, str(round(cv * 100)) if cv > 0 else ""))
    return sorted(rows)


def main(checkout: Path) -> int:
    """Write the file; 1 when the checkout holds no traces."""
    rows = rows_of(checkout)
    if not rows:
        print(f"{checkout}: no data/language/*/chunk-*-trace.csv; give a checkout of alibaba/ServeGen", file=sys.stderr)
        return 1
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "client", "window", "requests", "cv_percent"))
    writer.writerows(rows)
    RATES.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{RATES.name}: {len(rows)} windows, {RATES.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
