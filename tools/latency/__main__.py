"""Entry point of `python -m tools.latency`."""

import sys

from .cli import main

sys.exit(main())
