"""The first file of a store: what it holds, how it was encoded, and which shards there are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.data.codecs import Codec, parse_codec
from cp_compress.data.shards import ShardRecord

MANIFEST = "manifest.json"
_FORMAT = 1
_LARGEST = 256 * 2**20
_NAME = re.compile(r"shard-\d{5,9}\.safetensors")


@dataclass(frozen=True)
class Manifest:
    """A store's table of contents; `shards` are in order and follow one another without gaps."""

    codec: Codec
    examples: int
    shard_size: int
    shards: tuple[ShardRecord, ...]
    classes: tuple[str, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        document = {
            "format": _FORMAT,
            "codec": str(self.codec),
            "examples": self.examples,
            "shard_size": self.shard_size,
            "classes": None if self.classes is None else list(self.classes),
            "versions": dict(self.versions),
            "shards": [shard.to_json() for shard in self.shards],
        }
        write_atomically(folder / MANIFEST, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def shard_name(number: int) -> str:
    """Return the file of a shard.

    >>> shard_name(3)
    'shard-00003.safetensors'
    """
    return f"shard-{number:05d}.safetensors"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished store.

    Raises InvalidArgumentError where there is none, CorruptStreamError for one that is damaged or states what cannot
    be: names of other folders, gaps, sizes below zero.
    """
    path = folder / MANIFEST
    if not path.is_file():
        rule = "is no store: it has no manifest.json (a store that is still being written has none either)"
        raise InvalidArgumentError(f"{folder} {rule}")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptStreamError(f"{path} is no manifest of a store: {type(error).__name__}: {error}") from error


def write_note(folder: Path, record: ShardRecord) -> None:
    """Keep the record of a shard beside it until there is a manifest."""
    write_atomically(_note(folder, record.name), json.dumps(record.to_json()))


def read_note(folder: Path, name: str) -> ShardRecord | None:
    """Return the record that `write_note` kept, or None where there is none that can be read."""
    try:
        return _parse_shard(json.loads(_note(folder, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError):
        return None


def remove_notes(folder: Path) -> None:
    """Remove the records, and whatever killed writers have left half-written."""
    for path in folder.iterdir():
        if path.name != MANIFEST and not _NAME.fullmatch(path.name):
            path.unlink()


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _parse(document: Any) -> Manifest:
    if document["format"] != _FORMAT:
        raise ValueError(f"format version {document['format']!r}; this package reads {_FORMAT}")
    shards = tuple(_parse_shard(record) for record in document["shards"])
    examples = _count(document["examples"], "examples")
    following = [0, *(shard.stop for shard in shards)]
    if [shard.start for shard in shards] != following[:-1] or following[-1] != examples:
        raise ValueError(f"its shards do not cover examples 0 to {examples} without gaps")
    classes = document["classes"]
    return Manifest(
        codec=parse_codec(document["codec"]),
        examples=examples,
        shard_size=_count(document["shard_size"], "shard_size"),
        shards=shards,
        classes=None if classes is None else tuple(map(str, classes)),
        versions={str(name): str(version) for name, version in document["versions"].items()},
    )


def _parse_shard(record: Any) -> ShardRecord:
    values = {part.name: record[part.name] for part in fields(ShardRecord)}
    texts = ("name", "sha256", "index", "source")
    if not all(isinstance(values[name], str) for name in texts) or not _NAME.fullmatch(values["name"]):
        raise ValueError(f"{values['name']!r} is no name of a shard")
    for name, value in values.items():
        if name not in texts:
            _count(value, name, least=0)
    if not values["start"] < values["stop"]:
        raise ValueError(f"{values['name']} holds no examples")
    return ShardRecord(**values)


def _count(value: Any, name: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**62:
        raise ValueError(f"{name} is {value!r}")
    return value
