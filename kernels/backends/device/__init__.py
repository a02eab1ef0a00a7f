"""What the backends for devices share: the k-center driver, the frame's decisions, the places of numbers, error bounds.

Nothing here imports triton or the native module; a backend brings its kernels by overriding hooks.
"""
