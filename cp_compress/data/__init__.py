"""Store data compressed, and read it back.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.data.codecs import Codec as Codec
    from cp_compress.data.codecs import parse_codec as parse_codec
    from cp_compress.data.dataset import CompressedDataset as CompressedDataset
    from cp_compress.data.jpeg import JPEG as JPEG
    from cp_compress.data.store import write_store as write_store
    from cp_compress.data.stored_dataset import StoredDataset as StoredDataset
    from cp_compress.data.verification import StoreReport as StoreReport
    from cp_compress.data.verification import verify_store as verify_store
    from cp_compress.data.zfp import ZFP as ZFP

_MODULES = {
    "Codec": "codecs",
    "CompressedDataset": "dataset",
    "JPEG": "jpeg",
    "StoreReport": "verification",
    "StoredDataset": "stored_dataset",
    "ZFP": "zfp",
    "parse_codec": "codecs",
    "verify_store": "verification",
    "write_store": "store",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
