"""Engines: each turns requests into device steps and tells the ledger who was in each step."""
