"""Models of Hugging Face's transformers, from a folder or the cache, running no code but the libraries' own."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, told
from cp_compress.artifacts.transformers.adapters import apply_adapter
from cp_compress.artifacts.transformers.detectors import TransformerDetector, post_processing
from cp_compress.artifacts.transformers.folders import CheckedFolder, check_folder, link
from cp_compress.artifacts.transformers.names import POOLINGS, TASKS
from cp_compress.artifacts.transformers.pooling import TransformerEmbedding, read_pooling
from cp_compress.artifacts.transformers.tasks import CLASSIFIERS, class_for
from cp_compress.base.arguments import check_choice, check_flag, explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, MissingExtraError, ObservationError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_OWNER = "load_transformer"
_SPARE_BYTES, _WIDENING, _UNPACKING = 64 << 20, 4, 16
"""By how much a network may be larger than its files, which may hold float8, or one value of two bits in float32."""
_SPARE_PARTS, _PARTS_A_TENSOR = 10_000, 10


@explains_keywords
class TransformerModel(nn.Module):
    """A classifier of transformers that maps a batch to logits; `load_transformer` makes it.

    `network` is the library's module. A floating-point batch is its main input, such as `pixel_values`, an
    integer one its `input_ids`, with an attention mask that leaves out the padding if the configuration has a
    `pad_token_id`; a mapping gives the inputs by name. `content_digest` is that of the configuration.
    """

    def __init__(self, network: PreTrainedModel, content_digest: str) -> None:
        super().__init__()
        self.network = network
        self.content_digest = content_digest

    def forward(self, batch: Tensor | Mapping[str, Tensor] | None = None, **named: Tensor) -> Tensor:
        """Return the logits (n, classes) of a batch; raises ObservationError for inputs that the network lacks.

        Inputs by name are given as a mapping, or as keywords.
        """
        given = named if batch is None else batch
        inputs = dict(given) if isinstance(given, Mapping) else self._named(given)
        logits: Tensor = self.network(**inputs, return_dict=True).logits
        return logits

    def _named(self, batch: Tensor) -> dict[str, Tensor]:
        wanted = self.network.main_input_name
        given = "pixel_values" if batch.is_floating_point() else "input_ids"
        if batch.is_floating_point() and wanted != "input_ids":  # such as input_features of sound
            given = wanted
        if given != wanted:
            raise ObservationError(f"the network takes {wanted}, but {batch.dtype} inputs are passed as {given}")
        padding = getattr(self.network.config, "pad_token_id", None)
        if given != "input_ids" or padding is None:
            return {given: batch}
        return {given: batch, "attention_mask": (batch != padding).long()}


@explains_keywords
def load_transformer(
    folder_or_name: str | os.PathLike[str],
    *,
    task: str | None = None,
    pooling: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    merge_adapter: bool = False,
    local_files_only: bool = True,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """Return a model that transformers saved (extra `transformers`), in evaluation mode.

    Code of the model's authors is never run, pickled weights are never read, and only the configuration and the weights
    are passed to the library, which computes with its plain ("eager") attention, in the dtype of the weights. Weights
    that were quantised by torchao, bitsandbytes, compressed-tensors, GPTQ, AWQ, HQQ or quanto are read by that library
    where it is installed.

    | task | what the model maps |
    | --- | --- |
    | `image_classification`, `sequence_classification`, `token_classification` | a `TransformerModel`: to logits |
    | `causal_lm`, `seq2seq_lm` | the library's own network: token ids to an output with `logits`, and `generate` |
    | `embedding` | a `TransformerEmbedding`: token ids to embeddings (n, d) |
    | `object_detection` | a `TransformerDetector`: images to boxes, labels and scores |

    Args:
        folder_or_name: A folder with config.json and safetensors files (also a snapshot in the cache of the hub, whose
            files are links within the model's own folder there), or the name of a model on the hub, which is looked up
            in the local cache.
        task: What the network is for; None for what the `architectures` of its configuration are for.
        pooling: How the outputs for tokens become one embedding: "mean", "cls", "last" or "max"; None for what the
            folder's files of sentence-transformers say.
        adapter: The folder of a LoRA that peft saved (extra `adapters`); None for none.
        merge_adapter: Whether the adapter is merged into the weights, instead of being computed beside them.
        local_files_only: Whether a name is only looked up, and not downloaded.
        max_bytes: The largest size of the weights, and of those of the adapter.

    Returns:
        The model.

    Raises:
        ArtifactError: If the folder, which is named, is damaged or too large, the library has no network of its own for
            the task, the weights do not correspond to it, or were quantised in another way or by a library that is not
            installed.
        InvalidArgumentError: If an argument is not as described.
        MissingExtraError: If transformers, or for an adapter peft, is not installed.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("reading models of transformers", "transformers") from error
    for name, value in (("local_files_only", local_files_only), ("merge_adapter", merge_adapter)):
        check_flag(_OWNER, name, value)
    if task is not None:
        check_choice(_OWNER, "task", task, TASKS)
    if pooling is not None:
        check_choice(_OWNER, "pooling", pooling, POOLINGS)
    if merge_adapter and adapter is None:
        reject(_OWNER, "merge_adapter", merge_adapter, "there is no adapter to merge: give adapter=")
    limit = check_max_bytes(_OWNER, max_bytes)
    checked = check_folder(*_find(folder_or_name, local_files_only), limit)
    with tempfile.TemporaryDirectory(prefix="cp-transformer-") as copy:
        Path(copy, "config.json").write_text(json.dumps(checked.config), encoding="utf-8")
        for name, file in checked.files.items():
            link(file, Path(copy, name))
        with told(checked.path, "transformers' reading it"):
            config, task, kind = _architecture(copy, checked, task)
        if pooling is not None and task != "embedding":
            reject(_OWNER, "pooling", pooling, f"is for the task embedding, and this is {task}")
        with told(checked.path, "transformers' reading it"):
            _require_size(config, kind, checked)
            network = _load(copy, config, kind, checked, task)
    if adapter is not None:
        with (
            tempfile.TemporaryDirectory(prefix="cp-adapter-") as copy,
            told(adapter, "peft's reading it"),
            quiet(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            network = apply_adapter(network, Path(adapter), Path(copy), limit, merge=merge_adapter)
    return _for_task(task, network.eval(), checked, pooling)


def _for_task(task: str, network: Any, checked: CheckedFolder, pooling: str | None) -> nn.Module:
    """Return a network as what a task's checks call."""
    if task == "embedding":
        if network.main_input_name != "input_ids":
            raise ArtifactError(checked.path, f"takes {network.main_input_name}; embeddings are made of token ids")
        return TransformerEmbedding(network, read_pooling(checked.path, checked.root, pooling)).eval()
    if task == "object_detection":
        with told(checked.path, "transformers' post-processing"):
            return TransformerDetector(network, post_processing(network, checked.path)).eval()
    if task not in CLASSIFIERS:
        found: nn.Module = network
        return found
    content = json.dumps(checked.config, sort_keys=True)
    return TransformerModel(network, digest_text("transformer", type(network).__name__, content)).eval()


def _find(name: str | os.PathLike[str], local_files_only: bool) -> tuple[Path, Path]:
    """Return the folder of a model, and the folder that none of its files may lie outside of."""
    if Path(name).is_dir():
        place = Path(name).resolve()
        return Path(name), _repository_of(place) or place
    if not isinstance(name, str) or Path(name).exists() or name.startswith(("/", ".")):
        raise ArtifactError(name, "is not a folder")
    import huggingface_hub

    wanted = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    with told(name, "looking for it in the cache of the hub" if local_files_only else "fetching it from the hub"):
        found = huggingface_hub.snapshot_download(name, local_files_only=local_files_only, allow_patterns=wanted)
    place = Path(found).resolve()
    return Path(found), _repository_of(place) or place


def _repository_of(place: Path) -> Path | None:
    """Return the folder of a model in the hub's cache, whose snapshots are links to the files beside them."""
    repository = place.parent.parent
    cached = place.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository if cached else None


def _architecture(
    folder: str, checked: CheckedFolder, task: str | None
) -> tuple[PretrainedConfig, str, type[PreTrainedModel]]:
    """Return the configuration, the task and the library's class for it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = checked.config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        rule = (
            "code of a model's author is never run" if "auto_map" in checked.config else "transformers does not know it"
        )
        raise ArtifactError(checked.path, f"has the model type {shortened(repr(kind), 80)}: {rule}")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config, *class_for(config, checked, task)


def _require_size(config: PretrainedConfig, kind: type[PreTrainedModel], checked: CheckedFolder) -> None:
    """Raise ArtifactError for a network that is much larger than its weights, before memory is taken for it."""
    with torch.device("meta"), _counting_parts(_PARTS_A_TENSOR * checked.tensors + _SPARE_PARTS, checked):
        network = kind(config)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())
    widening = _WIDENING if checked.quantized_by is None else _UNPACKING
    if needed > widening * checked.bytes + _SPARE_BYTES:
        raise ArtifactError(checked.path, f"needs {needed:,} bytes of weights; its files have {checked.bytes:,}")


@contextlib.contextmanager
def _counting_parts(most: int, checked: CheckedFolder) -> Iterator[None]:
    """Raise ArtifactError as soon as a network that is built has more than `most` modules and parameters."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            rule = f"its files hold {checked.tensors:,} tensors"
            raise ArtifactError(checked.path, f"describes a network of more than {most:,} parts; {rule}")

    handles = [register_module_module_registration_hook(note), register_module_parameter_registration_hook(note)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _load(
    folder: str, config: PretrainedConfig, kind: type[PreTrainedModel], checked: CheckedFolder, task: str
) -> PreTrainedModel:
    with quiet():
        network, report = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype="auto",
            output_loading_info=True,
        )
    spare = _spare(network, report, checked) if task == "embedding" else set()
    if any(name.startswith("pooler.") for name in spare):
        network.pooler = None
    for what, listing in report.items():
        names = set(listing).difference(spare)
        if names:
            listed = shortened(sorted(map(str, names))[:5], 300)
            raise ArtifactError(checked.path, f"does not fit its configuration: {what.replace('_', ' ')} {listed}")
    # the folder that it was read from is gone, and no part of what the network is
    for part in network.modules():
        if hasattr(part, "name_or_path"):
            part.name_or_path = ""
    loaded: PreTrainedModel = network
    return loaded


def _spare(network: PreTrainedModel, report: Mapping[str, Any], checked: CheckedFolder) -> set[str]:
    """Return the tensors that an encoder has no use for, or can do without: those of what was saved around it.

    No embedding reads the layer behind the outputs for tokens, nor the head of another task.
    """
    missing = {name for name in report["missing_keys"] if name.startswith("pooler.")}
    named = checked.config.get("architectures") or [type(network).__name__]
    if type(network).__name__ in named:
        return missing
    parts = {network.base_model_prefix, *(name for name, _ in network.named_children())}
    return missing | {name for name in report["unexpected_keys"] if name.partition(".")[0] not in parts}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from its progress bars and reports: what matters of them is raised."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
