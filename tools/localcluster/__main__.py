"""Entry point of `python -m tools.localcluster`."""

import sys

from .cli import main

sys.exit(main())
