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
    from cp_compress.data.corruptions import CORRUPTION_NAMES as CORRUPTION_NAMES
    from cp_compress.data.corruptions import CorruptedDataset as CorruptedDataset
    from cp_compress.data.corruptions import corrupt as corrupt
    from cp_compress.data.dataset import CompressedDataset as CompressedDataset
    from cp_compress.data.jpeg import JPEG as JPEG
    from cp_compress.data.selection import Selection as Selection
    from cp_compress.data.selection import random_selection as random_selection
    from cp_compress.data.selection import select_by_score as select_by_score
    from cp_compress.data.selection_coverage import craig as craig
    from cp_compress.data.selection_coverage import herding as herding
    from cp_compress.data.selection_coverage import k_center as k_center
    from cp_compress.data.selection_coverage import last_layer_gradients as last_layer_gradients
    from cp_compress.data.selection_scores import el2n_scores as el2n_scores
    from cp_compress.data.selection_scores import forgetting_scores as forgetting_scores
    from cp_compress.data.selection_scores import self_influence as self_influence
    from cp_compress.data.selection_scores import support_scores as support_scores
    from cp_compress.data.store import write_store as write_store
    from cp_compress.data.stored_dataset import StoredDataset as StoredDataset
    from cp_compress.data.verification import StoreReport as StoreReport
    from cp_compress.data.verification import verify_store as verify_store
    from cp_compress.data.zfp import ZFP as ZFP

_MODULES = {
    "BlockCoefficients": "block_coefficients",
    "CORRUPTION_NAMES": "corruptions",
    "ChannelNorm": "coefficients",
    "Codec": "codecs",
    "CoefficientDataset": "coefficients",
    "CompressedDataset": "dataset",
    "CorruptedDataset": "corruptions",
    "JPEG": "jpeg",
    "Selection": "selection",
    "StoreReport": "verification",
    "StoredDataset": "stored_dataset",
    "ZFP": "zfp",
    "corrupt": "corruptions",
    "craig": "selection_coverage",
    "el2n_scores": "selection_scores",
    "forgetting_scores": "selection_scores",
    "herding": "selection_coverage",
    "k_center": "selection_coverage",
    "last_layer_gradients": "selection_coverage",
    "parse_codec": "codecs",
    "random_selection": "selection",
    "select_by_score": "selection",
    "self_influence": "selection_scores",
    "support_scores": "selection_scores",
    "verify_store": "verification",
    "write_store": "store",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
