"""The control port: telemetry out, profile changes in. Not for clients of the model."""
