"""How well defects are found: samplers, few shots, scorers, thresholds, on image folders."""
