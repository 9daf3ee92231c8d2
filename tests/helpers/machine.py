"""What a test needs of the machine that runs it."""

import pytest

from cp_compress.model.quantization.lowering import has_integer_kernels

needs_integer_kernels = pytest.mark.skipif(
    not has_integer_kernels(), reason="no exact 8-bit dot products here (a CPU with VNNI)"
)
