"""Builds the built-in catalogue (operator/lowbeam/catalog/data) from the sources carried in this folder.

Run `python -m tools.catalog build` after changing a source, `check` to see whether the data is up to date. Nothing is
downloaded: each source folder has a README with its origin and licence.
"""
