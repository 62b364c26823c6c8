"""Speed: pytest-benchmark cases, the report, and the measurement of thresholds."""
