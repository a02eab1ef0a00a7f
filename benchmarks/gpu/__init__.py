"""Everything that wants a CUDA device, in one run; and what its results decide."""
