"""A store that is being written: its plan, the finished shards, and what a killed run leaves behind.

Its folder holds a plan, the shards, and beside each shard a file with its record. Every run writes into a sub-folder of
its own and moves whole files up. The next run removes that sub-folder first, so that a process that outlived its run (a
worker of a killed writer) can no longer add anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cp_compress.base.files import write_atomically
from cp_compress.data.store.manifest import MANIFEST, UNREADABLE, document_bytes, is_shard_name, parse_record
from cp_compress.data.store.shards import ShardRecord

_PLAN = "plan.json"
ORIGINALS = "originals.digests"
_STAGING = re.compile(r"\.writing-[0-9a-f]{32}")
_NOTE = re.compile(r"shard-\d{5,9}\.safetensors\.json", re.ASCII)
_TRIES = 20


@dataclass(frozen=True)
class Plan:
    """What a store is to be; shards of one plan belong together where their examples are the same."""

    codec: str
    examples: int
    shard_size: int
    classes: tuple[str, ...] | None
    choice: str | None = None  # the digest of the setting of each example, where each has its own

    def __str__(self) -> str:
        names = "" if self.classes is None else f", {len(self.classes)} classes"
        chosen = "" if self.choice is None else f", settings {self.choice[:12]}"
        return f"{self.examples} examples by {self.codec} in shards of {self.shard_size}{names}{chosen}"


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to write files in before they are published in `folder`; those of earlier runs go first."""
    for path in folder.iterdir():
        if _STAGING.fullmatch(path.name):
            remove_folder(path)
    staging = folder / f".writing-{uuid.uuid4().hex}"
    staging.mkdir()
    try:
        yield staging
    finally:
        remove_folder(staging)


def publish(staging: Path, folder: Path, name: str) -> None:
    """Move a whole file from the staging folder to its place."""
    (staging / name).replace(folder / name)


def write_plan(staging: Path, folder: Path, plan: Plan) -> None:
    """Say what the store in a folder is to be."""
    write_atomically(staging / _PLAN, document_bytes(vars(plan)))
    publish(staging, folder, _PLAN)


def read_plan(folder: Path) -> Plan | None:
    """Return what `write_plan` wrote, or None where nothing readable is."""
    try:
        document = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
        classes = document["classes"]
        names = None if classes is None else tuple(map(str, classes))
        choice = document.get("choice")
        facts = str(document["codec"]), int(document["examples"]), int(document["shard_size"])
        return Plan(*facts, names, None if choice is None else str(choice))
    except (OSError, *UNREADABLE):
        return None


def holds_nothing_else(folder: Path) -> bool:
    """Tell whether a folder without a plan is one that a run left before it had written its plan."""
    return all(_STAGING.fullmatch(path.name) for path in folder.iterdir())


def holds_shards(folder: Path) -> bool:
    """Tell whether anything of an unfinished store's examples is there."""
    return any(is_shard_name(path.name) for path in folder.iterdir())


def is_own_file(name: str) -> bool:
    """Tell whether a file of a store, finished or not, is called so."""
    return name in (MANIFEST, ORIGINALS, _PLAN) or is_shard_name(name) or _NOTE.fullmatch(name) is not None


def foreign_names(folder: Path) -> list[str]:
    """Return the names in a folder that no run gave, in order, or its own name where it is no folder but a file."""
    if not folder.is_dir() or folder.is_symlink():
        return [folder.name] if os.path.lexists(folder) else []
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if not is_own_file(name) and not _STAGING.fullmatch(name)]


def write_note(staging: Path, folder: Path, record: ShardRecord) -> None:
    """Keep the record of a shard beside it until there is a manifest."""
    name = f"{record.name}.json"
    write_atomically(staging / name, document_bytes(record.to_json()))
    publish(staging, folder, name)


def read_note(folder: Path, name: str) -> ShardRecord | None:
    """Return the record that `write_note` kept, or None where there is none that can be read."""
    try:
        record = parse_record(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, *UNREADABLE):
        return None
    return record if record.name == name else None


def tidy(folder: Path) -> None:
    """Remove from a finished store what only its writing needed, and nothing else."""
    for path in folder.iterdir():
        if _STAGING.fullmatch(path.name):
            remove_folder(path)
        elif path.name == _PLAN or _NOTE.fullmatch(path.name):
            path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder, though a process that outlived its run may still be adding a file to it."""
    for attempt in range(_TRIES):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return
        except OSError:
            if attempt == _TRIES - 1:
                raise
        else:
            return
