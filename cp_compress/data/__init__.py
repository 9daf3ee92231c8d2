"""How is data stored compressed and read again, and how many examples are needed?

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.data.codec import Codec as Codec
    from cp_compress.data.coefficients.dataset import ChannelNorm as ChannelNorm
    from cp_compress.data.coefficients.dataset import CoefficientDataset as CoefficientDataset
    from cp_compress.data.corruptions.dataset import CORRUPTION_NAMES as CORRUPTION_NAMES
    from cp_compress.data.corruptions.dataset import CorruptedDataset as CorruptedDataset
    from cp_compress.data.corruptions.dataset import corrupt as corrupt
    from cp_compress.data.dataset import CompressedDataset as CompressedDataset
    from cp_compress.data.jpeg.codec import JPEG as JPEG
    from cp_compress.data.per_example import PerExample as PerExample
    from cp_compress.data.registry import parse_codec as parse_codec
    from cp_compress.data.selection.coverage import craig as craig
    from cp_compress.data.selection.coverage import herding as herding
    from cp_compress.data.selection.coverage import k_center as k_center
    from cp_compress.data.selection.coverage import last_layer_gradients as last_layer_gradients
    from cp_compress.data.selection.scores import el2n_scores as el2n_scores
    from cp_compress.data.selection.scores import forgetting_scores as forgetting_scores
    from cp_compress.data.selection.scores import self_influence as self_influence
    from cp_compress.data.selection.scores import support_scores as support_scores
    from cp_compress.data.selection.selection import Selection as Selection
    from cp_compress.data.selection.selection import random_selection as random_selection
    from cp_compress.data.selection.selection import select_by_score as select_by_score
    from cp_compress.data.store.reading import StoredDataset as StoredDataset
    from cp_compress.data.store.verification import StoreReport as StoreReport
    from cp_compress.data.store.verification import verify_store as verify_store
    from cp_compress.data.store.writing import write_store as write_store
    from cp_compress.data.zfp.codec import ZFP as ZFP
    from cp_compress.data.zfp.coefficients import BlockCoefficients as BlockCoefficients

_MODULES = {
    "BlockCoefficients": "zfp.coefficients",
    "CORRUPTION_NAMES": "corruptions.dataset",
    "ChannelNorm": "coefficients.dataset",
    "Codec": "codec",
    "CoefficientDataset": "coefficients.dataset",
    "CompressedDataset": "dataset",
    "CorruptedDataset": "corruptions.dataset",
    "JPEG": "jpeg.codec",
    "PerExample": "per_example",
    "Selection": "selection.selection",
    "StoreReport": "store.verification",
    "StoredDataset": "store.reading",
    "ZFP": "zfp.codec",
    "corrupt": "corruptions.dataset",
    "craig": "selection.coverage",
    "el2n_scores": "selection.scores",
    "forgetting_scores": "selection.scores",
    "herding": "selection.coverage",
    "k_center": "selection.coverage",
    "last_layer_gradients": "selection.coverage",
    "parse_codec": "registry",
    "random_selection": "selection.selection",
    "select_by_score": "selection.selection",
    "self_influence": "selection.scores",
    "support_scores": "selection.scores",
    "verify_store": "store.verification",
    "write_store": "store.writing",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
