"""Tools of the repository: local cluster, demo, benchmarks, generators. Not shipped in the wheel."""
