"""Triton kernels and what launches them. triton_backend imports the modules that import triton when it is called."""
