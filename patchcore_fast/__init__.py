"""Exact coreset selection for PatchCore, and a thin PatchCore pipeline around it.

Import what you need: patchcore_fast.kernels (the engine), .samplers, .model (the pipeline; needs the extra
"pipeline"). Nothing heavy is imported here.
"""

__version__ = "0.1.0"
