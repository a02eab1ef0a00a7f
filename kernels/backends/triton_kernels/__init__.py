"""Triton kernels and what launches them. Its modules import triton: triton_backend imports them when it is called."""
