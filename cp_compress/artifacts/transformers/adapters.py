"""Low-rank adapters of peft beside a model of transformers: read as data, and applied or merged by the library."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cp_compress.artifacts.guards import opened
from cp_compress.artifacts.transformers.folders import inside, link, read_json
from cp_compress.artifacts.weights.safetensors_files import read_header
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, MissingExtraError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# what says how adapters compute; other entries make the library load code, data or other weights, and are left out
# where they say nothing
_TAKEN = (
    *("alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "layers_pattern", "layers_to_transform"),
    *("lora_alpha", "lora_bias", "lora_dropout", "modules_to_save", "peft_type", "r", "rank_pattern"),
    *("target_modules", "use_dora", "use_rslora"),
)
_SILENT = (
    *("base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "auto_mapping"),
    *("runtime_config", "loftq_config", "megatron_core", "qalora_group_size"),
)
"""Entries that change nothing of an adapter whose weights are there: where it came from, and how it was begun."""
_BEGUN = "init_lora_weights"
_KEEPING, _RESTARTING = (None, True, False, "gaussian", "orthogonal"), ("pissa", "olora")
"""Beginnings that leave the network's own weights as they are, and those that the library takes out of them again."""
_LARGEST_RANK = 1 << 16


def apply_adapter(network: Any, folder: Path, copy: Path, max_bytes: int, *, merge: bool) -> Any:
    """Return a network with the adapter in a folder: beside its layers, or merged into their weights.

    `copy` is an empty folder, into which is put what the library reads. Raises ArtifactError for an adapter that is no
    LoRA, that asks for more than weights, or whose weights are not those of the network's layers; MissingExtraError if
    peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("reading adapters", "adapters") from error
    if not folder.is_dir():
        raise ArtifactError(folder, "is not a folder of an adapter")
    root = folder.resolve()
    config = _checked(read_json(folder / _CONFIG, root), folder)
    weights = inside(folder / _WEIGHTS, root)
    with opened(weights, max_bytes) as file:
        names = read_header(file, weights)
    _require_ranks(config, names, folder)
    (copy / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
    link(weights, copy / _WEIGHTS)
    adapted = peft.PeftModel.from_pretrained(
        network, str(copy), is_trainable=False, torch_device="cpu", local_files_only=True
    )
    _require_same(peft.get_peft_model_state_dict(adapted), names, folder)
    if merge:
        return adapted.merge_and_unload(safe_merge=True)
    base: nn.Module = adapted.get_base_model()
    return base


def _checked(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the entries that say how a LoRA computes; raises ArtifactError for others that say something."""
    if config.get("peft_type") != "LORA":
        kind = shortened(repr(config.get("peft_type")), 60)
        raise ArtifactError(folder / _CONFIG, f"is an adapter of type {kind}; only LORA is read")
    for name, value in config.items():
        if name not in (*_TAKEN, *_SILENT, _BEGUN) and value not in (None, False, {}, [], ""):
            told = f"has the entry {shortened(name, 60)}, which is refused: it asks for more than a plain LoRA"
            raise ArtifactError(folder / _CONFIG, told)
    rank = config.get("r")
    if not isinstance(rank, int) or not 0 < rank <= _LARGEST_RANK:
        raise ArtifactError(folder / _CONFIG, f"has the rank r = {shortened(repr(rank), 40)}")
    scales = {"lora_alpha": config.get("lora_alpha", 8)} | dict(config.get("alpha_pattern") or {})
    for name, scale in scales.items():
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            shown = shortened(f"{name} = {scale!r}", 80)
            raise ArtifactError(folder / _CONFIG, f"has the scale {shown}, which is no finite number")
    kept = {name: config[name] for name in _TAKEN if name in config} | {"inference_mode": True}
    begun = config.get(_BEGUN, True)
    if begun in _RESTARTING:
        return kept | {_BEGUN: begun}
    if begun not in _KEEPING:
        told = (
            f"was begun by {shortened(repr(begun), 60)}, which may change the network's own weights: save it as a plain"
        )
        raise ArtifactError(folder / _CONFIG, f"{told} LoRA (path_initial_model_for_weight_conversion of peft)")
    return kept


def _require_ranks(config: Mapping[str, Any], header: Mapping[str, Any], folder: Path) -> None:
    """Raise ArtifactError for ranks by layer that no tensor of the file has: the library makes layers of any size."""
    told = "is damaged: it describes no tensors"
    try:
        sizes = {size for name, entry in header.items() if name != "__metadata__" for size in entry["shape"]}
    except (KeyError, TypeError) as error:
        raise ArtifactError(folder / _WEIGHTS, told) from error
    for name, rank in dict(config.get("rank_pattern") or {}).items():
        if type(rank) is not int or rank not in sizes or not 0 < rank <= _LARGEST_RANK:
            shown = shortened(f"{name} = {rank!r}", 80)
            raise ArtifactError(folder / _CONFIG, f"has the rank {shown}, which no tensor of {_WEIGHTS} has")


def _require_same(held: Mapping[str, Any], header: Mapping[str, Any], folder: Path) -> None:
    """Raise ArtifactError unless all tensors of a file are the adapter's, and the other way round."""
    found = {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    mine = {name: list(tensor.shape) for name, tensor in held.items()}
    for what, names in (
        ("holds nothing for", sorted(mine.keys() - found.keys())),
        ("holds tensors of no layer", sorted(found.keys() - mine.keys())),
        ("has other shapes for", sorted(name for name in mine.keys() & found.keys() if mine[name] != found[name])),
    ):
        if names:
            told = f"does not fit the model: it {what} {shortened(names[:3], 240)}"
            raise ArtifactError(folder / _WEIGHTS, told)
