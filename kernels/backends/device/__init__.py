"""What the backends for devices share: the drivers of k-center and k-NN, the frame's decisions,
the places of numbers, error bounds.

Nothing here imports triton or the native module; a backend brings its kernels by overriding hooks.
"""
