"""Seven ranks for every test of this folder."""

from __future__ import annotations

import pytest

from .workers import SIZES, Workers


@pytest.fixture(scope="session")
def workers():
    """Ranks that live as long as the tests."""
    made = Workers(max(SIZES))
    yield made
    made.close()
