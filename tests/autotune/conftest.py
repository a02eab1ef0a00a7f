"""Memory is poisoned as in tests/kernels; a card that nobody has measured."""

from ..kernels.conftest import poisoned_empty  # noqa: F401
from ..triton.conftest import card  # noqa: F401
