"""Lowbeam: right-sized AI inference under power caps, on Kubernetes."""

__version__ = "0.1.0"
