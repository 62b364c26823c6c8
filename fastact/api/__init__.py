"""What users hold: activations, functions over an axis, losses."""
