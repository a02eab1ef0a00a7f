"""Measuring, tuning and warming up: what calls the public functions to time them, and so stands above them.

The backends never import it. What it finds reaches them from above: `kernels` installs the tuner below.
"""

from .tuner import tune_where_asked

__all__ = ["tune_where_asked"]
