"""Short digests of single examples, equal for those of equal shape and values."""

from __future__ import annotations

import torch

from cp_compress.base.digests import start_digest
from cp_compress.inputs.trees import Inputs, TensorTree, row_digests

HEX_DIGITS = 16


def digest_values(inputs: Inputs, digits: int = HEX_DIGITS) -> list[str]:
    """Return the digest of each row of inputs (n, ...), by shape and values: its first `digits`, at most 64."""
    if isinstance(inputs, TensorTree):
        return [digest.hex()[:digits] for digest in row_digests(inputs, values=True)]
    values = inputs.detach().cpu().to(torch.float64) + 0.0  # + 0.0 makes −0 and 0 one value
    shape = f"{tuple(values.shape[1:])}".encode()
    digests = []
    for row in values.reshape(len(values), -1).numpy():
        digest = start_digest()
        digest.update(shape)
        digest.update(row.data)
        digests.append(digest.hexdigest()[:digits])
    return digests
