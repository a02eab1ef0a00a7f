"""A few seconds of the fuzzer on the installed module; .ci/run gives it longer, under AddressSanitizer."""

import pytest

from patchcore_fast.kernels.backends.native_library import native, native_refusal

from .fuzz_bindings import Fuzz


@pytest.mark.skipif(native_refusal() is not None, reason=str(native_refusal()))
def test_right_calls_are_right_and_wrong_ones_refused():
    fuzz = Fuzz(native(), seed=7)
    fuzz.run(seconds=3)
    assert fuzz.right >= 20 and fuzz.wrong >= 80
