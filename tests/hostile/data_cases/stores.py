"""Stores of encoded examples whose manifest or shards are damaged, or were rewritten with good checksums."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from hostile_payloads import damage
from hostile_registry import add_case, hostile

GROUP = "stores"
_SHARD = "shard-00001.safetensors"


@cache
def saved() -> Path:
    """Return the folder of a good store of 12 images in three shards."""
    import torch

    from cp_compress.data import JPEG, write_store

    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    folder = Path(mkdtemp(), "store")
    write_store((images, torch.arange(12) % 3), JPEG(80), folder, shard_size=4)
    return folder


def reads(folder: Path, change):
    """Copy the good store, change it, and return the call that reads all examples."""
    from cp_compress.data import StoredDataset

    store = Path(shutil.copytree(saved(), folder / "data.store"))
    change(store)

    def read():
        stored = StoredDataset(store)
        return [stored[index] for index in range(len(stored))]

    return read


def _manifest(content: bytes | str):
    def change(store: Path) -> None:
        (store / "manifest.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def _document(edit):
    """Return a change of the manifest whose checksum is right again."""

    def change(store: Path) -> None:
        from cp_compress.data.store.manifest import seal_document

        path = store / "manifest.json"
        document = json.loads(path.read_text())
        edit(document)
        path.write_text(json.dumps(seal_document(document)))

    return change


def _record(**fields):
    return _document(lambda document: document["shards"][1].update(fields))


def _shard(edit):
    def change(store: Path) -> None:
        content = (store / _SHARD).read_bytes()
        (store / _SHARD).write_bytes(edit(content))

    return change


def _linked(target: str):
    def change(store: Path) -> None:
        (store / _SHARD).unlink()
        (store / _SHARD).symlink_to(target)

    return change


def _folder_for_manifest(store: Path) -> None:
    (store / "manifest.json").unlink()
    (store / "manifest.json").mkdir()


def _tensors(edit):
    """Return a change of a shard's tensors, after which the manifest describes the new file."""

    def change(store: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(store / _SHARD)
        edit(tensors)
        save_file(tensors, store / _SHARD)
        size = (store / _SHARD).stat().st_size
        _record(file_bytes=size)(store)

    return change


_MANIFEST, _DAMAGED = "manifest.json", f"shard {_SHARD} is damaged"
_CHANGES = {
    "an empty manifest": (_manifest(""), _MANIFEST, "not a valid manifest"),
    "a manifest cut off": (
        lambda store: _manifest((store / _MANIFEST).read_bytes()[:-9])(store),
        _MANIFEST,
        "not a valid manifest",
    ),
    "a manifest that is a list": (_manifest("[]"), _MANIFEST, "not a valid manifest"),
    "a manifest of nothing": (_manifest("{}"), _MANIFEST, "it has no 'checksum'"),
    "a manifest of 200 000 brackets": (_manifest("[" * 200_000), _MANIFEST, "nested too deeply"),
    "a manifest that is not UTF-8": (_manifest(b"\xff\xfe{}"), _MANIFEST, "not a valid manifest"),
    "a manifest of zeros": (_manifest(bytes(500)), _MANIFEST, "not a valid manifest"),
    "a flipped bit in the manifest": (
        lambda store: _manifest(damage((store / _MANIFEST).read_bytes(), 60))(store),
        _MANIFEST,
        "not a valid manifest",
    ),
    "a folder in the place of the manifest": (_folder_for_manifest, "data.store", "not a finished store"),
    "a manifest of another format": (_document(lambda one: one.update(format=99)), _MANIFEST, "format version 99"),
    "a codec that is code": (
        _document(lambda one: one.update(codec="__import__('os').system('true')")),
        _MANIFEST,
        "not a valid manifest",
    ),
    "a codec that is not there": (_document(lambda one: one.update(codec="webp(quality=3)")), _MANIFEST, "webp"),
    "a codec of impossible settings": (_document(lambda one: one.update(codec="jpeg(quality=999)")), _MANIFEST, "999"),
    "a codec of other settings": (
        _document(lambda one: one.update(codec="jpeg(quality=81)")),
        "example #0",
        "settings",
    ),
    "more examples than shards": (_document(lambda one: one.update(examples=10**12)), _MANIFEST, "without gaps"),
    "examples below zero": (_document(lambda one: one.update(examples=-12)), _MANIFEST, "examples is -12"),
    "examples that are infinite": (_document(lambda one: one.update(examples=float("inf"))), _MANIFEST, "inf"),
    "shards of no size": (_document(lambda one: one.update(shard_size=0)), _MANIFEST, "shard_size is 0"),
    "shards that are a number": (_document(lambda one: one.update(shards=7)), _MANIFEST, "not a valid manifest"),
    "classes that are numbers": (_document(lambda one: one.update(classes=[1, 2])), _MANIFEST, "list of names"),
    "a shard in another folder": (_record(name="../shard-00001.safetensors"), _MANIFEST, "name of a shard"),
    "a shard with an absolute name": (_record(name="/etc/passwd"), _MANIFEST, "name of a shard"),
    "a shard that stands twice": (_record(name="shard-00000.safetensors"), _MANIFEST, "one after another"),
    "a gap between shards": (_record(start=5), _MANIFEST, "without gaps|are not those of"),
    "a shard that ends before it begins": (_record(start=8, stop=4), _MANIFEST, "holds no examples"),
    "a shard of other shapes": (_record(shapes={"3×8×8 float32": 99}), _MANIFEST, "are not those of 4 examples"),
    "a shard without digests": (_record(content=None), _MANIFEST, "content of shard-00001.safetensors is None"),
    "a shard that is gone": (lambda store: (store / _SHARD).unlink(), _SHARD, "is missing"),
    "a shard cut off": (_shard(lambda content: content[:-30]), _SHARD, "data set example #7 .*stream is damaged"),
    "an empty shard": (_shard(lambda content: b""), _SHARD, "it has 0 bytes"),
    "a shard with a header beyond it": (
        _shard(lambda content: (1 << 62).to_bytes(8, "little") + content[8:]),
        _SHARD,
        "is damaged",
    ),
    "a flipped bit in a stream": (_shard(lambda content: damage(content, -40, 3)), _SHARD, "checksum is wrong|damaged"),
    "a flipped bit in an offset": (
        _shard(lambda content: damage(content, 8 + int.from_bytes(content[:8], "little") + 9, 2)),
        _SHARD,
        "is damaged|checksum",
    ),
    "a shard that is a link to nowhere": (_linked("nowhere"), _SHARD, "is missing"),
    "a shard that is a link to itself": (_linked(_SHARD), _SHARD, "cannot be read"),
    "a shard that is an endless device": (_linked("/dev/zero"), _SHARD, "bytes instead of"),
    "labels of another count": (
        _tensors(lambda tensors: tensors.update(labels=tensors["labels"][:2].clone())),
        _SHARD,
        "is damaged",
    ),
    "offsets that fall": (
        _tensors(lambda tensors: tensors.update(offsets=tensors["offsets"].flip(0))),
        _SHARD,
        "is damaged",
    ),
    "no streams": (_tensors(lambda tensors: tensors.pop("streams")), _SHARD, "is damaged"),
}
for _name, (_change, _names, _tells) in _CHANGES.items():
    add_case(GROUP, _name, lambda folder, change=_change: reads(folder, change), tells=_tells, names=_names)


@hostile(GROUP, "a writer that finds something else", tells="not a store that can be continued", names="data.store")
def _(folder):
    import torch

    from cp_compress.data import JPEG, write_store

    (folder / "data.store").mkdir()
    (folder / "data.store/thesis.txt").write_text("years of work")
    return lambda: write_store((torch.rand(2, 3, 8, 8), torch.arange(2)), JPEG(80), folder / "data.store")


@hostile(f"control: {GROUP}", "the good store is read", tells="", names="")
def _(folder):
    return reads(folder, lambda store: None)
