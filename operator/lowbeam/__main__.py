"""`python -m lowbeam`."""

import sys

from lowbeam.cli import main

sys.exit(main())
