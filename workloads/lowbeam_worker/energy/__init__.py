"""Joules: read from the device's own counter, split so that the parts add up to it. Never estimated from a table."""
