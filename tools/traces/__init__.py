"""Carried request traces, each with its licence, attribution and what was changed beside it."""
