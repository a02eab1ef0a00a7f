"""What anomalib changes in timm for the whole process is put back after each test."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def timm_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since 2.5 its feature extractor of ViTs turns off the anti-aliasing of resampled position embeddings."""
    try:
        vit = importlib.import_module("timm.models.vision_transformer")
    except ImportError:
        return
    monkeypatch.setattr(vit, "resample_abs_pos_embed", vit.resample_abs_pos_embed)
