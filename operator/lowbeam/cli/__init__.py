"""The `lowbeam` command (and `kubectl lowbeam`): one module per subcommand, imported only when it is called."""

from lowbeam.cli.main import main

__all__ = ["main"]
