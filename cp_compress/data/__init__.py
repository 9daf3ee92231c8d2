"""Store data compressed, and read it back.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.data.block_coefficients import BlockCoefficients as BlockCoefficients
    from cp_compress.data.codecs import Codec as Codec
    from cp_compress.data.codecs import parse_codec as parse_codec
    from cp_compress.data.coefficients import ChannelNorm as ChannelNorm
    from cp_compress.data.coefficients import CoefficientDataset as CoefficientDataset
    from cp_compress.data.dataset import CompressedDataset as CompressedDataset
    from cp_compress.data.jpeg import JPEG as JPEG
    from cp_compress.data.zfp import ZFP as ZFP

_MODULES = {
    "BlockCoefficients": "block_coefficients",
    "ChannelNorm": "coefficients",
    "Codec": "codecs",
    "CoefficientDataset": "coefficients",
    "CompressedDataset": "dataset",
    "JPEG": "jpeg",
    "ZFP": "zfp",
    "parse_codec": "codecs",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
