"""When to look, plan, guard and write: the effects around the pure core.

Imports nothing here: `lowbeam plan` needs `runtime.world` on a machine that has no client for Kubernetes.
"""
