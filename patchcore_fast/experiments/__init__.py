"""Finding out why accuracy fell: grids of settings, ablations, a quick look at all samplers (docs/experiments.md)."""
