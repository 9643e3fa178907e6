"""Latency tables: simulated queues, the tables made from them, and how true they are. Run: `python -m
tools.latency`."""
