"""Loops over rows and columns as templates, once for every backend."""
