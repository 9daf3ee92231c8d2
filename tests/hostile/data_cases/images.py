"""Folders of images with files that are none, bombs, and links that lead outside."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

from hostile_payloads import archive, damage, python_code, written
from hostile_registry import add_case, hostile

GROUP = "images"


def image(form: str = "PNG", size=(8, 8), mode: str = "RGB", **options) -> bytes:
    """Return an image file of some pattern."""
    from PIL import Image

    made, buffer = Image.effect_noise(size, 60).convert(mode), io.BytesIO()
    made.save(buffer, form, **options)
    return buffer.getvalue()


def reads(folder: Path, name: str = "image.png", content: bytes | None = None, **options):
    """Write a folder of two classes with one more file, and return the call that reads all of its images."""
    from cp_compress.artifacts import read_examples

    for each in ("cat/a.png", "dog/b.png"):
        written(folder / "data" / each, image())
    if content is not None:
        written(folder / "data/cat" / name, content)

    def read():
        data = read_examples(folder / "data", **options)
        return [data[index] for index in range(len(data))]

    return read


def _png(width: int, height: int, content: bytes = b"", extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    body = b"Comment\0\0" + zlib.compress(bytes(1 << 27))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return _png(8, 8, bytes(200), chunk)


def _postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch evil) (w) file\n%%EOF\n"


_READ, _KIND = "reading the image failed", "not a supported image"
_IMAGES = {
    "60 000 pixels a side": ("big.png", lambda: _png(60_000, 60_000), "more than 64,000,000|decompression bomb"),
    "2^31 pixels a side": ("big.png", lambda: _png((1 << 31) - 1, (1 << 31) - 1), f"{_READ}|more than"),
    "no pixels": ("none.png", lambda: _png(0, 0), _KIND),
    "fewer pixels than it says": ("short.png", lambda: _png(500, 500, bytes(99)), _READ),
    "a text that unpacks to 128 MiB": ("text.png", _text_bomb, _READ),
    "half an image": ("half.png", lambda: image(size=(64, 64))[:900], _READ),
    "half a photograph": ("half.jpg", lambda: image("JPEG", (64, 64))[:700], _READ),
    "a photograph of 65 000 pixels a side": (
        "big.jpg",
        lambda: image("JPEG").replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 65_000, 65_000), 1),
        "more than 64,000,000|decompression bomb",
    ),
    "a flipped bit in a chunk": ("bit.png", lambda: damage(image(), 20, 3), _KIND),
    "a flipped bit in the pixels": ("bit.png", lambda: damage(image(size=(64, 64)), 500), _READ),
    "a bitmap of 2^30 pixels a side": (
        "big.bmp",
        lambda: image("BMP")[:18] + struct.pack("<ii", 1 << 30, 1 << 30) + image("BMP")[26:],
        f"{_READ}|more than|decompression bomb",
    ),
    "a pixmap of 10^9 pixels a side": ("big.ppm", lambda: b"P6 999999999 999999999 255 ", f"{_READ}|more than"),
    "a pixmap of a number of 5000 digits": ("big.ppm", lambda: b"P6 " + b"9" * 5000 + b" 1 255 ", _READ),
    "a TIFF whose pages go in a circle": (
        "circle.tif",
        lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        _KIND,
    ),
    "a TIFF of 2^32 entries": ("many.tif", lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(40), _KIND),
    "PostScript": ("page.png", _postscript, _KIND),
    "an icon for a Mac": ("icon.png", lambda: b"icns" + bytes(60), _KIND),
    "an animation": ("moving.png", lambda: image("GIF", mode="L"), _KIND),
    "a page of SVG": ("page.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', _KIND),
    "an archive": ("packed.png", lambda: archive({"../../evil": b"x"}), _KIND),
    "a program": ("run.png", lambda: b"#!/bin/sh\ntouch evil\n", _KIND),
    "nothing": ("empty.png", lambda: b"", "is empty"),
    "zeros": ("zeros.png", lambda: bytes(4096), _KIND),
    "a file of code": ("evil.py", lambda: python_code().encode(), "not an image by its name"),
    "a list of labels": ("labels.csv", lambda: b"a,b\n", "not an image by its name"),
    "a pickle": ("data.pkl", lambda: b"\x80\x02.", "not an image by its name"),
}
for _name, (_file, _make, _tells) in _IMAGES.items():
    add_case(
        GROUP,
        f"{_name} among images",
        lambda folder, file=_file, make=_make: reads(folder, file, make()),
        tells=_tells,
        names=_file,
    )


@hostile(GROUP, "a name with line ends and control characters", tells=_KIND, names="x.png")
def _(folder):
    return reads(folder, "\x1b[2J\n\nx.png", b"none")


@hostile(GROUP, "a link to a file outside", tells="link to a file outside", names="image.png")
def _(folder):
    action = reads(folder)
    written(folder / "secret.png", image())
    (folder / "data/cat/image.png").symlink_to(folder / "secret.png")
    return action


@hostile(GROUP, "a class that is a link to the outside", tells="link to a file outside", names="bird")
def _(folder):
    action = reads(folder)
    written(folder / "outside/secret.png", image())
    (folder / "data/bird").symlink_to(folder / "outside")
    return action


@hostile(GROUP, "a link to itself", tells="Symlink loop|not a regular file", names="image.png")
def _(folder):
    action = reads(folder)
    (folder / "data/cat/image.png").symlink_to("image.png")
    return action


@hostile(GROUP, "a link to an endless device", tells="outside of its folder", names="image.png")
def _(folder):
    action = reads(folder)
    (folder / "data/cat/image.png").symlink_to("/dev/zero")
    return action


@hostile(GROUP, "a FIFO", tells="not a regular file", names="image.png")
def _(folder):
    action = reads(folder)
    os.mkfifo(folder / "data/cat/image.png")
    return action


@hostile(GROUP, "a folder that is called as an image is", tells="not a regular file", names="image.png")
def _(folder):
    action = reads(folder)
    (folder / "data/cat/image.png").mkdir()
    return action


@hostile(GROUP, "a class without images", tells="holds no images", names="bird")
def _(folder):
    action = reads(folder)
    (folder / "data/bird").mkdir()
    return action


@hostile(GROUP, "no classes", tells="holds no folders", names="data")
def _(folder):
    from cp_compress.artifacts import read_examples

    written(folder / "data/image.png", image())
    return lambda: read_examples(folder / "data")


@hostile(GROUP, "more images than are allowed", tells="more than 1 examples", names="data")
def _(folder):
    return reads(folder, max_examples=1)


@hostile(GROUP, "images of different sizes", tells="size", names="examples")
def _(folder):
    from hostile_payloads import make_mlp

    from cp_compress.artifacts import read_examples
    from cp_compress.fidelity import observe

    reads(folder, content=image(size=(9, 7)))
    return lambda: observe(make_mlp(), read_examples(folder / "data")).logits


@hostile(f"control: {GROUP}", "good images are read", tells="", names="")
def _(folder):
    return reads(folder, "c.jpg", image("JPEG"))
