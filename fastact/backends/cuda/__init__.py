"""Kernels for arrays on an NVIDIA GPU, compiled by numba-cuda."""
