"""The command line: bench, verify, demo, plot."""
