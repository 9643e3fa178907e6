"""kopf as the shell: start, stop, login and probes. The only package that imports kopf.

Importing it registers the handlers, so `kopf run -m lowbeam.handlers --standalone -A` and `lowbeam run` are the same
operator. Cluster state is never kopf's business here: Lowbeam's own informers list, watch and compare (why:
docs/design/kopf-as-shell.md), so kopf writes no annotation and no finalizer on anybody's object.
"""

from lowbeam.handlers import probes, startup

__all__ = ["probes", "startup"]
