"""How many watts must go, or may return: cap tree, ledgers, telemetry trust, guard, restore gate. Pure."""
