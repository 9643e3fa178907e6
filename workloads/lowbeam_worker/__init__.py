"""What runs in a model pod: serves one model, counts its joules, and changes its batch limit while requests run."""
