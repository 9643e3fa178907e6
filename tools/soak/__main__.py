"""Entry point of `python -m tools.soak`."""

import sys

from .cli import main

sys.exit(main())
