#!/usr/bin/env bash
# In the manylinux_2_28 container (AlmaLinux 8), before its wheels are built: the compiler and runtime of CUDA 12.8 where
# PATCHCORE_FAST_CUDA=1 wants kernels. Not the newest: what 12.8 makes runs with every driver from 525 on.
set -euo pipefail
[ "${PATCHCORE_FAST_CUDA:-0}" = 1 ] || exit 0
release=12-8
dnf install -y 'dnf-command(config-manager)'
dnf config-manager --add-repo https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
dnf install -y "cuda-nvcc-$release" "cuda-cudart-devel-$release"
ln -sfn "/usr/local/cuda-${release/-/.}" /usr/local/cuda # where the build looks
/usr/local/cuda/bin/nvcc --version
