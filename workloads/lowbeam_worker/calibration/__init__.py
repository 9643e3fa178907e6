"""Measures a model on the device at hand and writes EnergyProfiles: what `lowbeam calibrate` runs."""
