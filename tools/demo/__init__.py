"""`make demo`: Lowbeam's main job on a real Kubernetes, told in six chapters, every claim checked."""
