"""Zip archives, as `.npz`, `.pt` and `.pt2` are, that lie about what is in them."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import numpy as np
from hostile_payloads import archive, make_data, members_of, reading, written
from hostile_registry import add_case, hostile

GROUP = "archives"


def examples() -> bytes:
    """Return a good `.npz` file of inputs and labels."""
    inputs, labels = make_data()
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs.numpy(), labels=labels.numpy())
    return buffer.getvalue()


def read_npz(folder, content: bytes, **options):
    """Write a `.npz` file, and return the call that reads its examples."""
    from cp_compress.artifacts import read_examples

    path = written(folder / "data.npz", content)
    return lambda: read_examples(path, **options)


def with_member(name: str, content: bytes = b"x", **fields) -> bytes:
    """Return the good file with one more member, whose entry has some fields of its own."""
    buffer = io.BytesIO(examples())
    with zipfile.ZipFile(buffer, "a") as made:
        info = zipfile.ZipInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        info.filename = name  # ZipInfo cuts it at a zero byte
        made.writestr(info, content)
    return buffer.getvalue()


def _patched(change) -> bytes:
    """Return the good file after a change of its central directory, given where its first entry begins."""
    content = bytearray(examples())
    change(content, content.index(b"PK\x01\x02"))
    return bytes(content)


def _set(form: str, offset: int, value: int):
    def change(content: bytearray, start: int) -> None:
        struct.pack_into(form, content, start + offset, value)

    return change


def _bomb(size: int) -> bytes:
    return archive(
        {"inputs.npy": bytes(size), "labels.npy": b""},
        compression=zipfile.ZIP_DEFLATED,
    )


def _compressed_by(method: int) -> bytes:
    return archive(members_of(examples()), compression=method)


def _overlapping() -> bytes:
    """Return an archive in whose directory many members are one."""
    content = examples()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start : start + 46 + len("inputs.npy")]
    many = b"".join(entry.replace(b"inputs.npy", f"input{number:05d}"[-10:].encode()) for number in range(200))
    directory = content[start:end] + many
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 202, 202, len(directory), start, 0)
    return content[:start] + directory + tail


_LINK, _DEVICE, _FIFO = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFCHR | 0o666) << 16, (stat.S_IFIFO | 0o666) << 16
_FILES = {
    "a member above the folder": (lambda: with_member("../evil.npy"), "leaves the archive"),
    "a member far above the folder": (lambda: with_member("a/../../../etc/cron.d/evil"), "leaves the archive"),
    "a member with an absolute name": (lambda: with_member("/etc/passwd"), "leaves the archive"),
    "a member with a name of Windows": (lambda: with_member("C:\\evil.npy"), "leaves the archive"),
    "a member on another drive": (lambda: with_member("D:evil.npy"), "leaves the archive"),
    "a member with backslashes": (lambda: with_member("..\\evil.npy"), "leaves the archive"),
    "a member with a zero byte in its name": (lambda: with_member("inputs.npy\0.txt"), "leaves the archive"),
    "a member that is a link": (
        lambda: with_member("l.npy", b"/etc/passwd", external_attr=_LINK),
        "a link or a device",
    ),
    "a member that is a device": (lambda: with_member("d.npy", external_attr=_DEVICE), "a link or a device"),
    "a member that is a FIFO": (lambda: with_member("f.npy", external_attr=_FIFO), "a link or a device"),
    "a member that stands twice": (lambda: with_member("labels.npy"), "holds labels.npy twice"),
    "a member that stands twice, in capitals": (lambda: with_member("LABELS.npy"), "holds LABELS.npy twice"),
    "a member of 128 MiB in 128 KiB": (lambda: _bomb(1 << 27), "a zip bomb"),
    "a member packed by bzip2": (
        lambda: _compressed_by(zipfile.ZIP_BZIP2),
        "compressed in a way that is not supported",
    ),
    "a member packed by LZMA": (lambda: _compressed_by(zipfile.ZIP_LZMA), "compressed in a way that is not supported"),
    "an encrypted member": (lambda: _patched(_set("<H", 8, 1)), "encrypted"),
    "an unknown packing": (lambda: _patched(_set("<H", 10, 77)), "compressed in a way that is not supported"),
    "a member said to have 4 GiB": (lambda: _patched(_set("<I", 24, 0xFFFFFFFE)), "a zip bomb"),
    "a member said to be one byte longer": (lambda: _patched(_set("<I", 24, 321)), "states|truncated|damaged"),
    "a member said to lie beyond the file": (lambda: _patched(_set("<I", 42, 0x7FFFFFF0)), "damaged|whole|failed"),
    "a member with another checksum": (lambda: _patched(_set("<I", 16, 12345)), "CRC|checksum"),
    "a name that is longer than the directory": (
        lambda: _patched(_set("<H", 28, 60000)),
        "leaves the archive|not a complete",
    ),
    "members that are one": (_overlapping, "members overlap"),
    "an archive of nothing": (lambda: b"PK\x03\x04" + archive({}), "archive of 0 members|not a complete"),
    "an archive without its directory": (
        lambda: examples()[: examples().index(b"PK\x01\x02")],
        "not a complete zip archive",
    ),
    "an archive without its last byte": (lambda: examples()[:-1], "not a complete zip archive"),
    "the mark of an archive alone": (lambda: b"PK\x03\x04", "not a complete zip archive"),
}
for _name, (_make, _tells) in _FILES.items():
    add_case(GROUP, _name, lambda folder, make=_make: read_npz(folder, make()), tells=_tells, names="data.npz")


@hostile(GROUP, "more unpacked than is allowed", tells="unpacks to 1,?0?.* bytes; at most 2,000", names="data.npz")
def _(folder):
    content = archive({"inputs.npy": bytes(9000), "labels.npy": bytes(1000)}, zipfile.ZIP_DEFLATED)
    return read_npz(folder, content, max_bytes=2000)


@hostile(GROUP, "100,001 members", tells="100,001 members", names="data.npz")
def _(folder):
    local = b"PK\x03\x04" + bytes(26)
    entries = b"".join(
        struct.pack("<4s24xHHHHHII", b"PK\x01\x02", 6, 0, 0, 0, 0, 0, 0) + b"%06d" % number for number in range(100_001)
    )
    end = len(local) + len(entries)
    tail = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 100_001, 100_001, len(entries), len(local))
    tail += struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    tail += struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return read_npz(folder, local + entries + tail)


@hostile(GROUP, "a model in a bomb", tells="a zip bomb", names="model.pt")
def _(folder):
    members = {"model/data.pkl": b"\x80\x02}.", "model/data/0": bytes(101 << 20)}
    return reading(folder / "model.pt", archive(members, zipfile.ZIP_DEFLATED))


@hostile(GROUP, "a model whose member leaves the archive", tells="leaves the archive", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", archive({"model/data.pkl": b"\x80\x02}.", "model/../../x": b""}))


@hostile(GROUP, "an archive in an archive", tells="unsupported kind", names="model.zip")
def _(folder):
    return reading(folder / "model.zip", archive({"model.pt": archive({"model/data.pkl": b"\x80\x02}."})}))


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    return read_npz(folder, examples())
