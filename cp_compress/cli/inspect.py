"""Describe a compressed data set on disk and the space it saves."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cp_compress.base.showing import number, table
from cp_compress.cli.output import DONE, add_output_arguments, emit

if TYPE_CHECKING:
    from cp_compress.data import StoredDataset

_EXAMPLE = """\
example:
  cp-compress inspect digits.store

"""
_LISTED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress inspect`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("folder", metavar="FOLDER", help="folder written by `cp-compress encode`")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Describe the data set by what its manifest says; `cp-compress verify` reads the shards."""
    from cp_compress.data import StoredDataset

    stored = StoredDataset(options.folder)
    emit(options, describe_store(stored), store_content(stored))
    return DONE


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


def _ratio(before: int, stored: StoredDataset) -> str:
    original = f"{number(before / len(stored))} bytes per example before"
    return f"{before / stored.nbytes:.2f} ({original}, all bytes on disk after)"


def _most_frequent(shapes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(shapes.items(), key=lambda entry: (-entry[1], entry[0]))


def _listed(texts: list[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" … and {number(more)} more" if more > 0 else "")
