"""Describe what a file or folder holds: a model, a compressed data set, arrays; nothing of it is run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cp_compress.base.showing.tables import number, table
from cp_compress.cli.models_and_data import require_path
from cp_compress.cli.output import DONE, add_output_arguments, emit

if TYPE_CHECKING:
    from cp_compress.artifacts.contents import FileContents
    from cp_compress.data import StoredDataset

_EXAMPLE = """\
example:
  cp-compress inspect digits.store
  cp-compress inspect candidate.cp

"""
_LISTED = 5
_LISTED_TENSORS = 30
_KINDS = {
    "cp": "a model that cp-compress wrote",
    "safetensors": "tensors in safetensors format",
    "observation": "what a model did on a data set",
    "onnx": "an ONNX graph",
    "torch": "a file of torch.save",
    "exported": "a program of torch.export",
    "npz": "arrays of NumPy",
    "transformers": "a folder of transformers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress inspect`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder that `cp-compress encode` wrote, or a file: .cp, ONNX, safetensors, torch.save, .npz",
    )
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Describe a data set by what its manifest says (`cp-compress verify` reads the shards), a file by its content."""
    path = require_path(options.path, "PATH")
    if path.is_file() or (path / "config.json").is_file() or (path.suffix and not path.exists()):
        from cp_compress.artifacts.contents import describe_contents

        found = describe_contents(path)
        emit(options, describe_model(found), found.to_json())
        return DONE
    from cp_compress.data import StoredDataset

    stored = StoredDataset(path)
    emit(options, describe_store(stored), store_content(stored))
    return DONE


def describe_model(found: FileContents) -> str:
    """Return what a file holds for a person to read: facts, dtypes, and the first tensors."""
    from cp_compress.artifacts.contents import count_dtypes

    facts = [("kind", _KINDS.get(found.kind, found.kind)), ("bytes", number(found.nbytes))]
    facts += [(name, number(value) if isinstance(value, int) else str(value)) for name, value in found.facts.items()]
    for dtype, (count, values) in count_dtypes(found.tensors).items():
        facts.append((dtype, f"{number(count)} tensor{'s' if count > 1 else ''} of {number(values)} values"))
    if not found.tensors:
        return table(facts)
    rows = [("tensor", "dtype", "shape", "bytes", "not zero")]
    for one in found.tensors[:_LISTED_TENSORS]:
        shape = " × ".join(map(str, one.shape)) or "one value"
        rows.append((one.name, one.dtype, shape, number(one.nbytes), number(one.nonzero)))
    shown = [column for column in range(5) if any(row[column] for row in rows[1:])]
    more = len(found.tensors) - _LISTED_TENSORS
    rest = [f"… and {number(more)} more; --json - lists all"] if more > 0 else []
    return "\n".join([table(facts), "", table([[row[column] for column in shown] for row in rows]), *rest])


def store_content(stored: StoredDataset) -> dict[str, Any]:
    """Return what there is to say of a stored data set, for JSON; ratios are of bytes before / bytes on disk."""
    return {
        "path": str(stored.path),
        "codec": str(stored.codec),
        "examples": len(stored),
        "shapes": stored.shapes,
        "classes": getattr(stored, "classes", None),
        "shards": stored.shards,
        "bytes_on_disk": stored.nbytes,
        "payload_bytes": stored.payload_bytes,
        "bytes_per_example": stored.bytes_per_example,
        "raw_bytes": stored.raw_bytes,
        "values": stored.values,
        "compression": stored.raw_bytes / stored.nbytes,
        "compression_of_8_bit_values": stored.values / stored.nbytes,
        "versions": stored.versions,
        "record": stored.record,
        "digest": stored.digest(),
    }


def describe_store(stored: StoredDataset) -> str:
    """Return the same for a person to read, with the denominator of every ratio."""
    count = len(stored)
    facts = [
        ("examples", number(count)),
        ("shapes", _listed([f"{shape} ({number(n)})" for shape, n in _most_frequent(stored.shapes)])),
        ("classes", _listed([*getattr(stored, "classes", ())]) or "not named"),
        ("codec", str(stored.codec)),
        *_describe_record(stored.record),
        ("shards", number(stored.shards)),
        ("on disk", f"{number(stored.nbytes)} bytes, labels and manifest included"),
        (
            "per example",
            f"{number(stored.bytes_per_example)} bytes, {number(stored.payload_bytes / count)} from the codec",
        ),
        ("compression of the inputs as given", _ratio(stored.raw_bytes, stored)),
        ("compression of 8-bit values", _ratio(stored.values, stored)),
        ("digest", stored.digest()),
    ]
    return table(facts)


def _describe_record(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what `write_preserved_store` noted: what holds for which models; nothing of a record of others."""
    if record is None or not {"models", "measure", "settings"} <= set(record):
        return []
    try:
        bound = "" if record.get("at_most") is None else f" ≤ {record['at_most']:g}"
        unkept = record["not_kept"]
        asked = [f"{name} ({(digest or 'no digest')[:12]})" for name, digest in record["models"].items()]
        facts = [
            ("kept for", ", ".join(asked)),
            ("measure", f"{record['measure']}{bound}, of all but {number(len(unkept))} examples"),
            ("settings", f"{len(record['settings'])}, the most frequent {_most_used(record['settings'])}"),
        ]
        if unkept:
            facts.append(("not kept", _listed([f"#{place}" for place in unkept])))
        for name, found in record["held_back"].items():
            agreement = f", {found['agreement']:.2%} of its answers the same" if "agreement" in found else ""
            facts.append((f"held back: {name}", f"kept for {found['kept']:.2%} of the examples{agreement}"))
        return facts
    except (ValueError, KeyError, TypeError, AttributeError):  # a record of another writer, with the same names
        return []


def _most_used(settings: dict[str, int]) -> str:
    return ", ".join(f"{codec} ({number(count)})" for codec, count in _most_frequent(settings)[:_LISTED])


def _ratio(before: int, stored: StoredDataset) -> str:
    original = f"{number(before / len(stored))} bytes per example before"
    return f"{before / stored.nbytes:.2f} ({original}, all bytes on disk after)"


def _most_frequent(shapes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(shapes.items(), key=lambda entry: (-entry[1], entry[0]))


def _listed(texts: list[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" … and {number(more)} more" if more > 0 else "")
