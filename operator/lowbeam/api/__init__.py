"""The words that Lowbeam's parts share: API kinds, wire messages, reasons. Imports nothing of Lowbeam's."""
