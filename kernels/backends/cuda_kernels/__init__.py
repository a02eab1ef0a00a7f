"""The host side of the CUDA C++ kernels (csrc/cuda): what is launched, with which memory. docs/cuda.md."""
