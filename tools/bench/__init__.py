"""Benchmarks: figures about the planner, power cuts, a large fleet and starting up, printed as tables.

Nothing here is a test: machines are shared and noisy, so CPU time is also given as a multiple of a fixed kernel that is
timed in the same run, and no figure fails anything. `--write` puts the tables into docs/benchmarks.md.
"""
