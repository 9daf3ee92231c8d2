"""Streams of JPEG and ZFP that are damaged, of other settings, or sealed around anything at all."""

from __future__ import annotations

import io
import zlib
from functools import cache

from hostile_payloads import damage, scatter
from hostile_registry import add_case, hostile

GROUP = "streams"
_CODECS = {
    "JPEG": lambda data: data.JPEG(60),
    "JPEG with its tables": lambda data: data.JPEG(60, tables="inline"),
    "ZFP at a rate": lambda data: data.ZFP(rate=3),
    "ZFP at a tolerance": lambda data: data.ZFP(tolerance=0.01),
    "ZFP in colours": lambda data: data.ZFP(tolerance=(0.1, 0.2), color="ycbcr", chroma="4:2:0"),
    "reversible ZFP": lambda data: data.ZFP(reversible=True),
}


def codec(name: str):
    """Return a codec by its name here."""
    from cp_compress import data

    return _CODECS[name](data)


@cache
def stream(name: str) -> bytes:
    """Return the stream of an image of 17 by 15 pixels."""
    import torch

    images = torch.rand(1, 3, 17, 15, generator=torch.Generator().manual_seed(0))
    return codec(name).encode(images)[0]


def sealed(name: str, payload: bytes, shape=(3, 17, 15), dtype: str = "float32") -> bytes:
    """Return any payload in an envelope with a good checksum, as somebody who means harm would send it."""
    import torch

    from cp_compress.data.container import seal

    return seal(codec(name)._kind(), shape, getattr(torch, dtype), payload)


def payload(name: str) -> bytes:
    """Return what lies in the envelope of the good stream."""
    from cp_compress.data.container import payload_size

    return stream(name)[-payload_size(stream(name)) :]


def _decoding(name: str, content):
    return lambda: codec(name).decode([content])


_DAMAGES = {
    "of no bytes": lambda good: b"",
    "cut in its envelope": lambda good: good[:6],
    "cut after its envelope": lambda good: good[:13],
    "cut in its middle": lambda good: good[: len(good) // 2],
    "cut by a byte": lambda good: good[:-1],
    "a byte longer": lambda good: good + b"\0",
    "of another kind": lambda good: good[:2] + b"\x09" + good[3:],
    "of a dtype that is not there": lambda good: good[:3] + b"\x77" + good[4:],
    "with a flipped bit in its checksum": lambda good: damage(good, 5),
    "with a flipped bit in its shape": lambda good: damage(good, 10),
    "with a flipped bit at its end": lambda good: damage(good, -1, 7),
    "with ten other bytes": lambda good: scatter(good, 1, 10, 8),
    "twice": lambda good: good + good,
    "backwards": lambda good: good[::-1],
}
for _codec in _CODECS:
    for _name, _change in _DAMAGES.items():
        if _codec in ("JPEG with its tables", "ZFP in colours", "reversible ZFP") and "cut" not in _name:
            continue
        add_case(
            GROUP,
            f"{_codec}: a stream {_name}",
            lambda folder, codec=_codec, change=_change: _decoding(codec, change(stream(codec))),
            tells="too few for a .* stream|does not begin like|is damaged|not possible|cut off",
            names="example #0",
        )


def _resealed(change, name: str = "JPEG", **options):
    return name, lambda: sealed(name, change(payload(name)), **options)


def _foreign_jpeg(**options) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((15, 17), 60).convert(options.pop("mode", "RGB")).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _raised(checksum: bytes, body: bytes) -> bytes:
    """Return a stream whose checksum was made right for any body at all."""
    from cp_compress.data.container import Kind

    kind: Kind = codec("JPEG")._kind()
    value = zlib.crc32(body, kind.start_checksum(1))
    return checksum + bytes([kind.number, 1]) + value.to_bytes(4, "little") + body


_SEALED = {
    "JPEG: markers in the image": _resealed(lambda good: good[:20] + b"\xff\xd9\xff\xc4" + good[20:]),
    "JPEG: a whole file in the place of its scan": _resealed(lambda good: _foreign_jpeg()),
    "JPEG: an image of 2^40 pixels": _resealed(lambda good: good, shape=(3, 1 << 20, 1 << 20)),
    "JPEG: an image of 7 channels": _resealed(lambda good: good, shape=(7, 17, 15)),
    "JPEG: an image of 4 dimensions": _resealed(lambda good: good, shape=(1, 3, 17, 15)),
    "JPEG with its tables: a larger image": ("JPEG with its tables", lambda: _inline(_foreign_jpeg(), (3, 99, 99))),
    "JPEG with its tables: a grey image": (
        "JPEG with its tables",
        lambda: _inline(_foreign_jpeg(mode="L"), (3, 17, 15)),
    ),
    "JPEG with its tables: four colours": (
        "JPEG with its tables",
        lambda: _inline(_foreign_jpeg(mode="CMYK"), (3, 17, 15)),
    ),
    "JPEG with its tables: half a file": ("JPEG with its tables", lambda: _inline(_foreign_jpeg()[:200], (3, 17, 15))),
    "JPEG with its tables: no JPEG file": ("JPEG with its tables", lambda: _inline(b"GIF89a" + bytes(99), (3, 17, 15))),
    "JPEG with its tables: a size of 65 000": (
        "JPEG with its tables",
        lambda: _inline(_foreign_jpeg().replace(b"\0\x11\0\x0f", b"\xfd\xe8\xfd\xe8", 1), (3, 65_000, 65_000)),
    ),
    "ZFP at a rate: no words": _resealed(lambda good: b"", "ZFP at a rate"),
    "ZFP at a rate: a word too few": _resealed(lambda good: good[:-8], "ZFP at a rate"),
    "ZFP at a rate: a word too many": _resealed(lambda good: good + bytes(8), "ZFP at a rate"),
    "ZFP at a rate: a byte too many": _resealed(lambda good: good + b"\0", "ZFP at a rate"),
    "ZFP at a rate: 2^90 numbers": _resealed(lambda good: good, "ZFP at a rate", shape=(1 << 30, 1 << 30, 1 << 30)),
    "ZFP at a rate: eight dimensions": _resealed(lambda good: good, "ZFP at a rate", shape=(1,) * 8),
    "ZFP at a tolerance: no words": _resealed(lambda good: b"", "ZFP at a tolerance"),
    "ZFP at a tolerance: a byte too many": _resealed(lambda good: good + b"\0", "ZFP at a tolerance"),
    "ZFP at a tolerance: 2^46 numbers": _resealed(lambda good: good, "ZFP at a tolerance", shape=(3, 1 << 23, 1 << 23)),
    "reversible ZFP: 2^46 numbers": _resealed(lambda good: good, "reversible ZFP", shape=(1 << 46,)),
    "a number of dimensions of 255": ("JPEG", lambda: _raised(b"cp", b"\xff" + b"\1" * 300)),
    "an extent without end": ("JPEG", lambda: _raised(b"cp", b"\3" + b"\xff" * 300)),
    "an extent of nothing": ("JPEG", lambda: _raised(b"cp", b"\3\0\0\0" + bytes(99))),
    "another mark": ("JPEG", lambda: _raised(b"pc", b"\3\3\x11\x0f" + bytes(99))),
}


def _inline(content: bytes, shape) -> bytes:
    import torch

    from cp_compress.data.container import seal
    from cp_compress.data.jpeg.codec import _FILE

    return seal(_FILE, shape, torch.float32, content)


for _name, (_codec, _make) in _SEALED.items():
    add_case(
        GROUP,
        f"sealed anew, {_name}",
        lambda folder, codec=_codec, make=_make: _decoding(codec, make()),
        tells="example #0",
        names="example #0",
    )

_SCANS = {  # libjpeg fills up what is missing of an image; coefficients are read by code of the package's own
    "no image at all": lambda good: b"",
    "half an image": lambda good: good[: len(good) // 3],
    "random bytes": lambda good: scatter(bytes(300), 3, 300),
    "an image and more": lambda good: good + bytes(40),
    "markers in the image": lambda good: good[:20] + b"\xff\xd9" + good[20:],
}
for _name, _change in _SCANS.items():
    add_case(
        GROUP,
        f"read as coefficients, {_name}",
        lambda folder, change=_change: (
            lambda: codec("JPEG").coefficients_of_streams([sealed("JPEG", change(payload("JPEG")))])
        ),
        tells="example #0",
        names="example #0",
    )


@hostile(GROUP, "a stream that is a text", tells="a stream is bytes, not str", names="example #0")
def _(folder):
    return _decoding("ZFP at a rate", "bytes")


@hostile(GROUP, "no streams", tells="stream|one", names="streams")
def _(folder):
    return lambda: codec("JPEG").decode([])


@hostile(GROUP, "streams of other settings", tells="quality=60", names="example #0")
def _(folder):
    import torch

    from cp_compress.data import JPEG

    return _decoding("JPEG", JPEG(61).encode(torch.rand(1, 3, 8, 8))[0])


@hostile(GROUP, "the second of two damaged", tells="example #1", names="example #1")
def _(folder):
    good = stream("ZFP at a rate")
    return lambda: codec("ZFP at a rate").decode([good, damage(good, -3)])


for _codec in ("JPEG", "ZFP at a rate", "reversible ZFP"):
    for _name, _value in (("NaN", "nan"), ("infinity", "inf"), ("2", "2")):
        if _codec == "reversible ZFP" and _name == "2":
            continue

        def _encode(folder, codec_name=_codec, value=_value):
            import torch

            return lambda: codec(codec_name).encode(torch.full((1, 3, 8, 8), float(value)))

        add_case(GROUP, f"{_codec}: pixels of {_name}", _encode, tells="must|values|pixels|finite", names="batch")


@hostile(f"control: {GROUP}", "all good streams are decoded", tells="", names="")
def _(folder):
    return lambda: [codec(name).decode([stream(name)]) for name in _CODECS]


@hostile(f"control: {GROUP}", "a payload sealed anew is decoded", tells="", names="")
def _(folder):
    return lambda: [codec(name).decode([sealed(name, payload(name))]) for name in ("JPEG", "ZFP at a rate")]
