"""The first file of a store: what it holds, how it was encoded, and which shards it has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cp_compress.base.arguments import reject
from cp_compress.base.digests import digest_text
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.data.codec import Codec
from cp_compress.data.registry import parse_codec
from cp_compress.data.store.shards import ShardRecord

MANIFEST = "manifest.json"
_FORMAT = 1
_CHECKSUM = "checksum"
_LARGEST = 256 * 2**20
_NAME = re.compile(r"shard-\d{5,9}\.safetensors", re.ASCII)
_TEXTS = ("name", "sha256", "content", "index", "source")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what a document of another form raises


@dataclass(frozen=True)
class Manifest:
    """A store's table of contents; `shards` are in order and follow one another without gaps."""

    codec: Codec
    examples: int
    shard_size: int
    shards: tuple[ShardRecord, ...]
    classes: tuple[str, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    choice: str | None = None  # the digest of the setting of each example, where each has its own
    record: Mapping[str, Any] | None = None

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
        # absent where there is none, so that a store is the same bytes as ever
        document |= {} if self.choice is None else {"choice": self.choice}
        document |= {} if self.record is None else {"record": dict(self.record)}
        write_atomically(folder / MANIFEST, document_bytes(seal_document(document), indent=1) + b"\n")


def document_bytes(document: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return a document as JSON in UTF-8; what UTF-8 cannot say, as names of folders may hold, is escaped."""
    return json.dumps(document, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def shard_name(number: int) -> str:
    """Return the file of a shard.

    >>> shard_name(3)
    'shard-00003.safetensors'
    """
    return f"shard-{number:05d}.safetensors"


def is_shard_name(name: str) -> bool:
    """Tell whether a file is called as shards are: within the folder, whatever a manifest says."""
    return _NAME.fullmatch(name) is not None


def seal_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the digest of all that it says."""
    content = {key: value for key, value in document.items() if key != _CHECKSUM}
    return {**content, _CHECKSUM: digest_text(json.dumps(content, sort_keys=True))}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished store.

    Raises InvalidArgumentError where there is none, CorruptStreamError for one that is damaged or states what cannot
    be: names of other folders, gaps, sizes below zero.
    """
    path = folder / MANIFEST
    if not path.is_file():
        rule = "is not a finished store: it has no manifest.json"
        unfinished = folder.with_name(f"{folder.name}.partial").is_dir()
        hint = "; there is an unfinished one beside it: call write_store again to continue it" if unfinished else ""
        raise InvalidArgumentError(f"{folder} {rule}{hint}")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        document = read_document(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
        if document[_CHECKSUM] != seal_document(document)[_CHECKSUM]:
            raise ValueError("its checksum is wrong")
        return _parse(document)
    except UNREADABLE as error:
        raise CorruptStreamError(f"{path} is not a valid manifest of a store: {reason_of(error)}") from error


def _parse(document: Any) -> Manifest:
    if document["format"] != _FORMAT:
        raise ValueError(f"format version {document['format']!r}; this package reads {_FORMAT}")
    shards = tuple(parse_record(record) for record in document["shards"])
    examples = _count(document["examples"], "examples")
    following = [0, *(shard.stop for shard in shards)]
    if [shard.start for shard in shards] != following[:-1] or following[-1] != examples:
        raise ValueError(f"its shards do not cover examples 0 to {examples} without gaps")
    if [shard.name for shard in shards] != [shard_name(number) for number in range(len(shards))]:
        raise ValueError("its shards are not numbered one after another")
    classes = document["classes"]
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("its classes are not a list of names")
    choice, record = document.get("choice"), document.get("record")
    if not isinstance(choice, (str, type(None))) or not isinstance(record, (dict, type(None))):
        raise ValueError("what it says of settings is of another form")
    return Manifest(
        codec=parse_codec(document["codec"]),
        examples=examples,
        shard_size=_count(document["shard_size"], "shard_size"),
        shards=shards,
        classes=None if classes is None else tuple(classes),
        versions={str(name): str(version) for name, version in document["versions"].items()},
        choice=choice,
        record=record,
    )


def as_record(owner: str, record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a record as it will be read again; reject, as `owner`, what is no JSON object."""
    if record is None:
        return None
    if not isinstance(record, Mapping):
        reject(owner, "record", type(record).__name__, "must be a mapping of plain JSON")
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(record), allow_nan=False))
    except (TypeError, ValueError) as error:
        reject(owner, "record", type(record).__name__, f"must be plain JSON: {error}")
    return found


def parse_record(record: Any) -> ShardRecord:
    """Return the record of a shard from plain types; raises one of `UNREADABLE` for what is none."""
    values = {part.name: record[part.name] for part in fields(ShardRecord)}
    if not isinstance(values["name"], str) or not is_shard_name(values["name"]):
        raise ValueError(f"{values['name']!r} is not the name of a shard")
    for name in _TEXTS:
        if not isinstance(values[name], str):
            raise ValueError(f"{name} of {values['name']} is {values[name]!r}")
    for name, value in values.items():
        if name not in (*_TEXTS, "shapes"):
            _count(value, name, least=0)
    count = values["stop"] - values["start"]
    if count < 1:
        raise ValueError(f"{values['name']} holds no examples")
    if sum(_count(number, "shapes") for number in values["shapes"].values()) != count:
        raise ValueError(f"the shapes of {values['name']} are not those of {count} examples")
    return ShardRecord(**values)


def _count(value: Any, name: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**62:
        raise ValueError(f"{name} is {value!r}")
    return value
