"""The folder of a model of transformers: which of its files are read, and what its configuration must not contain."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_compress.artifacts.guards import opened, size_of
from cp_compress.artifacts.transformers.quantizers import ENTRY, method_of
from cp_compress.artifacts.weights.safetensors_files import read_header
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError

_CONFIG, _WHOLE, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_GENERATION = "generation_config.json"
_LARGEST_JSON = 64 << 20
_MOST_FILES = 1000
_SHARD = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
# what makes the library fetch or run something besides the network that the configuration describes
_REFUSED = re.compile(
    r"_?(attn|experts)_implementation\w*|quantization_config|transformers_weights|use_timm_backbone|\w*backbone_kwargs"
    r"|use_pretrained_backbone|kernel_config|use_kernels",
    re.ASCII,
)
_REPEATED = re.compile(r"\w*(layer|depth|block|stage|expert)s?\w*", re.ASCII)
_MOST_LABELS = 1_000_000
# what such keys may ask for whatever the files hold: many are no numbers of layers, and layers may share their tensors;
# how many parts the network really has is counted when it is built
_MOST_REPEATED = 100_000


@dataclass(frozen=True)
class CheckedFolder:
    """What of a folder is handed to transformers: its configuration, and its files of weights by name.

    `root` is the folder that no file lies outside of, `quantized_by` the method that wrote the weights, None for none.
    """

    path: Path
    config: dict[str, Any]
    files: dict[str, Path]
    bytes: int
    tensors: int
    root: Path
    quantized_by: str | None


def check_folder(path: Path, root: Path, max_bytes: int) -> CheckedFolder:
    """Look through the folder at `path`, whose files must not lie outside of `root`.

    Raises ArtifactError for a folder without configuration or safetensors files, for links that leave it, for more
    than `max_bytes` bytes, and for configurations that ask for other code, files, or layers without number.
    """
    config = read_json(path / _CONFIG, root)
    names = _weight_files(path, root)
    files, total, tensors = {}, 0, 0
    for name in names:
        file = inside(path / name, root)
        with opened(file, max_bytes) as weights:
            total += size_of(weights)
            tensors += len(read_header(weights, file))
        files[name] = file
    if total > max_bytes:
        raise ArtifactError(path, f"has {total:,} bytes of weights; at most {max_bytes:,} are allowed (max_bytes=)")
    if (path / _GENERATION).is_file():  # how it writes, such as where it ends
        _check_config(read_json(path / _GENERATION, root), path / _GENERATION, tensors)
        files[_GENERATION] = inside(path / _GENERATION, root)
    if names != [_WHOLE]:
        files[_INDEX] = inside(path / _INDEX, root)
    method = method_of(config, path)
    quantized = config.get(ENTRY) if method is not None else {}
    _check_config({name: value for name, value in config.items() if name != ENTRY}, path / _CONFIG, tensors)
    _check_config(quantized, path / _CONFIG, tensors)
    return CheckedFolder(path, config, files, total, tensors, root, method)


def _weight_files(path: Path, root: Path) -> list[str]:
    if (path / _WHOLE).exists():
        return [_WHOLE]
    if not (path / _INDEX).exists():
        pickled = any(path.glob("*.bin"))
        rule = "its weights are pickles (.bin): save them again as safetensors" if pickled else "expected " + _WHOLE
        raise ArtifactError(path, f"holds no safetensors files; {rule}")
    places = read_json(path / _INDEX, root).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) and all(_is_text(places)) else []
    if not names or len(names) > _MOST_FILES or not all(map(_SHARD.fullmatch, names)):
        raise ArtifactError(path / _INDEX, "lists no safetensors files of its own folder")
    return names


def _is_text(places: dict[Any, Any]) -> Iterator[bool]:
    return (isinstance(value, str) for value in places.values())


def link(file: Path, place: Path) -> None:
    """Make a file known in another place: by a link, or as a copy where users may make none, as on Windows."""
    try:
        place.symlink_to(file)
    except OSError:
        shutil.copyfile(file, place)


def inside(file: Path, root: Path) -> Path:
    """Return where a file lies; raises ArtifactError for a link that leads out of `root`."""
    try:
        place = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # the second for links in a circle
        raise ArtifactError(file, f"cannot be opened: {reason_of(error)}") from error
    if not place.is_relative_to(root):
        raise ArtifactError(file, "is a link to a file outside of its folder")
    return place


def read_json(file: Path, root: Path, *, kind: type = dict) -> Any:
    """Return the object, or the list, that a JSON file within `root` holds; raises ArtifactError for anything else."""
    with opened(inside(file, root), _LARGEST_JSON) as content:
        try:
            value = read_document(content.read())
        except ValueError as error:
            raise ArtifactError(file, f"is not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise ArtifactError(file, f"is not a JSON {'object' if kind is dict else 'list'}")
    return value


def _check_config(config: dict[str, Any], file: Path, tensors: int) -> None:
    """Raise ArtifactError for entries that ask for something else, and for layers without number."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if _REFUSED.fullmatch(key) and value not in (None, False):
            raise ArtifactError(file, f"has the entry {key}, which is refused: it can load other code or files")
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, part) for part in value]
        elif key == "num_labels" and isinstance(value, int) and value > _MOST_LABELS:  # each gets a name
            rule = f"at most {_MOST_LABELS:,} are allowed"
            raise ArtifactError(file, f"has {key} = {shortened(value, 40)}; {rule}")
        elif isinstance(value, int) and _REPEATED.fullmatch(key) and value > max(tensors, _MOST_REPEATED):
            rule = f"its files hold {tensors:,} tensors"
            raise ArtifactError(file, f"has {key} = {shortened(value, 40)}; {rule}")
