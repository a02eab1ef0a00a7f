"""Reverse distillation (Deng and Li, CVPR 2022): a student decodes the teacher's maps from a small code of them."""

from patchcore_fast.methods.reverse_distillation.method import ReverseDistillation

__all__ = ["ReverseDistillation"]
