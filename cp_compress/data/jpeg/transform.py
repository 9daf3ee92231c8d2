"""What libjpeg computes between pixels and quantised coefficients, as integer arithmetic on tensors, bit for bit.

Both directions are the defaults of libjpeg-turbo ("islow" transforms, "fancy" upsampling), which Pillow uses. Planes
are int32 (n, height, width).
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFT = 16
_HALF = 1 << (_SHIFT - 1)
_CENTRE = 128
_CONST_BITS, _PASS_BITS = 13, 2
# cosines of Loeffler, Ligtenberg and Moschytz 1989, scaled by 2^13
_F0298, _F0390, _F0541, _F0765, _F0899, _F1175 = 2446, 3196, 4433, 6270, 7373, 9633
_F1501, _F1847, _F1961, _F2053, _F2562, _F3072 = 12299, 15137, 16069, 16819, 20995, 25172


def _fixed(value: float) -> int:
    return int(value * (1 << _SHIFT) + 0.5)


def to_ycc(pixels: Tensor) -> list[Tensor]:
    """Return the planes Y, Cb, Cr (n, h, w), int32 in 0…255, of RGB pixels (n, 3, h, w) in 0…255."""
    red, green, blue = pixels.to(torch.int32).unbind(1)
    offset = (_CENTRE << _SHIFT) + _HALF - 1
    luma = _fixed(0.299) * red + _fixed(0.587) * green + _fixed(0.114) * blue + _HALF
    blueness = -_fixed(0.16874) * red - _fixed(0.33126) * green + _fixed(0.5) * blue + offset
    redness = _fixed(0.5) * red - _fixed(0.41869) * green - _fixed(0.08131) * blue + offset
    return [plane >> _SHIFT for plane in (luma, blueness, redness)]


def to_rgb(luma: Tensor, blueness: Tensor, redness: Tensor) -> Tensor:
    """Return RGB pixels (n, 3, h, w), uint8, of three planes in 0…255."""
    blue, red = blueness - _CENTRE, redness - _CENTRE
    green = (-_fixed(0.34414) * blue - _fixed(0.71414) * red + _HALF) >> _SHIFT
    return (
        torch.stack(
            [
                luma + ((_fixed(1.402) * red + _HALF) >> _SHIFT),
                luma + green,
                luma + ((_fixed(1.772) * blue + _HALF) >> _SHIFT),
            ],
            1,
        )
        .clamp_(0, 255)
        .to(torch.uint8)
    )


def downsample(plane: Tensor, factors: tuple[int, int]) -> Tensor:
    """Average rows and columns of a plane (n, h, w) by factors (1 or 2 each), filled up to whole blocks of 8×8.

    What is added before the division alternates along a row, so that no direction is preferred. Rows are filled up
    after averaging, columns before: where libjpeg does.
    """
    rows, columns = factors
    height, width = (-(-extent // factor) for extent, factor in zip(plane.shape[1:], factors, strict=True))
    whole = 8 * -(-height // 8), 8 * -(-width // 8)
    plane = pad_to(plane, (rows * height, columns * whole[1]))
    return pad_to(_average(plane, rows, columns), whole)


def _average(plane: Tensor, rows: int, columns: int) -> Tensor:
    if rows * columns == 1:
        return plane
    sums = sum(plane[:, row::rows, column::columns] for row in range(rows) for column in range(columns))
    assert isinstance(sums, Tensor)
    odd = torch.arange(sums.shape[2], dtype=torch.int32, device=plane.device) & 1
    return (sums + odd + (rows * columns) // 4) >> (rows * columns).bit_length() - 1


def pad_to(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the last row and column of a plane (n, h, w) until it has a size."""
    for axis, extent in zip((1, 2), size, strict=True):
        if plane.shape[axis] < extent:
            last = plane.narrow(axis, plane.shape[axis] - 1, 1)
            filling = [1, 1, 1]
            filling[axis] = extent - plane.shape[axis]
            plane = torch.cat([plane, last.repeat(filling)], axis)
    return plane


def upsample(plane: Tensor, factors: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Interpolate a plane (n, h, w) to a size, by triangles as libjpeg does; narrow planes are repeated."""
    rows, columns = factors
    if factors != (1, 1):
        fancy = plane.shape[2] > 2
        if not fancy:
            plane = plane.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        elif rows == 1:
            plane = _wider(plane, (1, 2), 2)
        else:
            near = 3 * plane
            above = near + torch.cat([plane[:, :1], plane[:, :-1]], 1)
            below = near + torch.cat([plane[:, 1:], plane[:, -1:]], 1)
            plane = _wider(torch.stack([above, below], 2).flatten(1, 2), (8, 7), 4)
    return plane[:, : size[0], : size[1]]


def _wider(plane: Tensor, added: tuple[int, int], shift: int) -> Tensor:
    """Return columns at 1/4 and 3/4 between those of a plane; the outermost ones keep their value."""
    left = torch.cat([plane[:, :, :1], plane[:, :, :-1]], 2)
    right = torch.cat([plane[:, :, 1:], plane[:, :, -1:]], 2)
    columns = [(3 * plane + left + added[0]) >> shift, (3 * plane + right + added[1]) >> shift]
    return torch.stack(columns, 3).flatten(2)


def to_blocks(plane: Tensor) -> Tensor:
    """Cut a plane (n, 8·r, 8·c) into blocks (n, r, c, 8, 8)."""
    count, height, width = plane.shape
    return plane.reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)


def from_blocks(blocks: Tensor) -> Tensor:
    """Join blocks (n, r, c, 8, 8) to a plane (n, 8·r, 8·c)."""
    count, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(count, 8 * rows, 8 * columns)


def forward_dct(blocks: Tensor) -> Tensor:
    """Return the coefficients (..., 8, 8), 8 times those of the orthonormal DCT, of samples in 0…255."""
    rows = _forward_pass(blocks - _CENTRE, -1, first=True)
    return _forward_pass(rows, -2, first=False)


def quantize(coefficients: Tensor, steps: Tensor) -> Tensor:
    """Divide coefficients (..., 8, 8) of `forward_dct` by steps (64,), rounding to nearest, halves away from zero."""
    divisors = 8 * steps.to(coefficients.device).reshape(8, 8)
    sizes = (coefficients.abs() + (divisors >> 1)) // divisors
    return torch.where(coefficients < 0, -sizes, sizes)


def inverse_dct(coefficients: Tensor) -> Tensor:
    """Return samples (..., 8, 8) in 0…255 of coefficients in the units of the orthonormal DCT, int32."""
    columns = _inverse_pass(coefficients, -2, _CONST_BITS - _PASS_BITS)
    rows = _inverse_pass(columns, -1, _CONST_BITS + _PASS_BITS + 3)
    return (rows + _CENTRE).clamp(0, 255)


def _descale(values: Tensor, bits: int) -> Tensor:
    return (values + (1 << (bits - 1))) >> bits


def _forward_pass(blocks: Tensor, axis: int, *, first: bool) -> Tensor:
    lines = blocks.unbind(axis)
    sums = [lines[k] + lines[7 - k] for k in range(4)]
    differences = [lines[k] - lines[7 - k] for k in range(4)]
    tmp10, tmp13 = sums[0] + sums[3], sums[0] - sums[3]
    tmp11, tmp12 = sums[1] + sums[2], sums[1] - sums[2]
    bits = _CONST_BITS - _PASS_BITS if first else _CONST_BITS + _PASS_BITS
    if first:
        out0, out4 = (tmp10 + tmp11) << _PASS_BITS, (tmp10 - tmp11) << _PASS_BITS
    else:
        out0, out4 = _descale(tmp10 + tmp11, _PASS_BITS), _descale(tmp10 - tmp11, _PASS_BITS)
    shared = (tmp12 + tmp13) * _F0541
    out2, out6 = _descale(shared + tmp13 * _F0765, bits), _descale(shared - tmp12 * _F1847, bits)
    odd7, odd5, odd3, odd1 = _odd_part(differences[3], differences[2], differences[1], differences[0])
    odd = [_descale(part, bits) for part in (odd1, odd3, odd5, odd7)]
    return torch.stack([out0, odd[0], out2, odd[1], out4, odd[2], out6, odd[3]], axis)


def _inverse_pass(coefficients: Tensor, axis: int, bits: int) -> Tensor:
    lines = coefficients.unbind(axis)
    shared = (lines[2] + lines[6]) * _F0541
    tmp2, tmp3 = shared - lines[6] * _F1847, shared + lines[2] * _F0765
    tmp0, tmp1 = (lines[0] + lines[4]) << _CONST_BITS, (lines[0] - lines[4]) << _CONST_BITS
    even = [tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3]
    odd = _odd_part(lines[7], lines[5], lines[3], lines[1])[::-1]
    upper = [_descale(even[k] + odd[k], bits) for k in range(4)]
    lower = [_descale(even[k] - odd[k], bits) for k in range(4)]
    return torch.stack([*upper, *reversed(lower)], axis)


def _odd_part(tmp0: Tensor, tmp1: Tensor, tmp2: Tensor, tmp3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the rotations of the odd half, which the transform and its inverse share."""
    z1, z2 = (tmp0 + tmp3) * -_F0899, (tmp1 + tmp2) * -_F2562
    z3, z4 = tmp0 + tmp2, tmp1 + tmp3
    z5 = (z3 + z4) * _F1175
    z3, z4 = z3 * -_F1961 + z5, z4 * -_F0390 + z5
    return (
        tmp0 * _F0298 + z1 + z3,
        tmp1 * _F2053 + z2 + z4,
        tmp2 * _F3072 + z2 + z3,
        tmp3 * _F1501 + z1 + z4,
    )
