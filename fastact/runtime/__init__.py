"""Threads, the driver of kernels, ufuncs and gufuncs. It knows the calling convention of kernels and nothing else."""
