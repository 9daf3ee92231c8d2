"""The place of the largest of many values is that of argmax, whichever way they lie."""

import pytest
import torch

from cp_compress.base.largest import first_largest


@pytest.mark.parametrize("size", [3, 4096, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_among_the_largest_is_found(size, dtype):
    rows = torch.randn(2, 6, size, generator=torch.Generator().manual_seed(size)).to(dtype)
    rows[0, 0] = 1.0
    rows[0, 1, [size // 2, size - 1]] = 9.0
    rows[1, 0, size - 1] = 9.0
    expected = (rows == rows.amax(dim=-1, keepdim=True)).int().argmax(dim=-1)
    assert torch.equal(first_largest(rows.transpose(1, 2)), expected)
    assert torch.equal(first_largest(rows.transpose(1, 2).contiguous()), expected)
    assert torch.equal(first_largest(rows[0]), expected[0])
