"""Short digests of single examples, equal for those of equal shape and values."""

from __future__ import annotations

import torch

from cp_compress.base.digests import start_digest

HEX_DIGITS = 16


def digest_values(inputs: torch.Tensor) -> list[str]:
    """Return the digest of each row of inputs (n, ...), by shape and values."""
    values = inputs.detach().cpu().to(torch.float64) + 0.0  # + 0.0 makes −0 and 0 one value
    shape = f"{tuple(values.shape[1:])}".encode()
    digests = []
    for row in values.reshape(len(values), -1).numpy():
        digest = start_digest()
        digest.update(shape)
        digest.update(row.data)
        digests.append(digest.hexdigest()[:HEX_DIGITS])
    return digests
