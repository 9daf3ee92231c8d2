"""Nothing that is fed to a codec crashes the interpreter: tried in a process of its own."""

import subprocess

import numpy as np
import pytest
import zfpy
from forks import python_command

from cp_compress.data.zfp.limits import count_blocks
from cp_compress.data.zfp.payload import READ_AHEAD

PROGRAM = """
import random, sys, torch
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, ZFP
from cp_compress.data.container import Kind, payload_size, seal
from cp_compress.data.zfp.limits import block_budget, count_blocks

EXPECTED = (CompressionError, CorruptStreamError, InvalidArgumentError)
part = sys.argv[1]
chance = random.Random(0)
torch.manual_seed(0)
images = torch.rand(1, 3, 17, 15)
everywhere = [ZFP(precision=32, clip=None), ZFP(tolerance=1e-30), ZFP(reversible=True, layout="2d")]
codecs = [JPEG(60), JPEG(90, "4:4:4"), ZFP(rate=3), ZFP(precision=9), ZFP(tolerance=0.01), ZFP(reversible=True)]
refused = accepted = 0

def attempt(action):
    global refused, accepted
    try:
        action()
        accepted += 1
    except EXPECTED:
        refused += 1

if part == "rates":
    for numerator in range(1, 400):
        for shape in ((1, 9), (1, 9, 9), (1, 3, 9, 9), (1, 2, 3, 5, 5)):
            attempt(lambda: ZFP(rate=numerator / 64, clip=None).roundtrip(torch.randn(shape)))
elif part == "cut":
    for codec in codecs:
        (stream,) = codec.encode(images)
        for length in range(len(stream)):
            attempt(lambda: codec.decode([stream[:length]]))
    assert accepted == 0
elif part == "flipped":
    for codec in codecs:
        (stream,) = codec.encode(images)
        for _ in range(700):
            damaged = bytearray(stream)
            damaged[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
            attempt(lambda: codec.decode([bytes(damaged)]))
    assert accepted == 0
elif part == "random":
    for _ in range(10_000):
        codec = chance.choice(codecs)
        payload = chance.randbytes(chance.choice((0, 1, 7, 8, 64, 200, 1000, 1024)))
        kind = chance.choice((Kind(1, "JPEG"), codec._kind())) if isinstance(codec, JPEG) else codec._kind()
        shape = tuple(chance.choice((1, 2, 3, 4, 5, 33, 70_000, 2**40)) for _ in range(chance.randrange(0, 6)))
        dtype = chance.choice((torch.uint8, torch.float32, torch.float64, torch.float16))
        form = chance.randrange(4)
        if form == 0:
            stream = payload
        elif form == 1:
            stream = seal(kind, shape, dtype, payload)
        elif form == 2:  # a valid checksum over anything at all, for shapes that it can be decoded to
            codec = chance.choice([*codecs[2:], *everywhere])
            shape = tuple(chance.choice((1, 3, 4, 5, 9)) for _ in range(chance.randrange(0, 5)))
            words = chance.choice((1, 2, 16, 100))
            if codec.rate is not None:  # the one length that fits
                (inner,) = (plan.inner for plan in codec._arrangement().plan(shape))
                words = -(-count_blocks(inner) * block_budget(len(inner), codec.rate) // 64)
            size = 8 * words
            payload = chance.choice((chance.randbytes(size), b"\\xff" * size, b"\\x01" + bytes(size - 1)))
            stream = seal(codec._kind(), shape, dtype, payload)
        else:  # a valid checksum over a damaged payload of the right shape
            (good,) = codec.encode(images)
            content = bytearray(good[-payload_size(good):])
            for _ in range(chance.randrange(1, 20)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            cut = chance.choice((len(content), len(content) // 2 // 8 * 8, 8))
            stream = seal(kind, tuple(images.shape[1:]), torch.float32, bytes(content[:cut]))
        attempt(lambda: codec.decode([stream]))
else:
    for _ in range(3_000):
        shape = tuple(chance.choice((0, 1, 2, 3, 4, 7, 20)) for _ in range(chance.randrange(0, 7)))
        batch = torch.randn(shape) * 10.0 ** chance.randrange(-45, 45)
        if chance.random() < 0.2 and batch.numel():
            batch.view(-1)[0] = chance.choice((float("nan"), float("inf"), -float("inf"), 1e-44))
        codec = chance.choice([*codecs, ZFP(precision=30, clip=None), ZFP(tolerance=1e-20, clip=None)])
        attempt(lambda: codec.roundtrip(batch))
assert part != "random" or accepted > 1_000
print("SURVIVED", refused, accepted)
"""


@pytest.mark.parametrize("part", ["rates", "cut", "flipped", "random", "shapes"])
def test_the_interpreter_survives(part):
    done = subprocess.run(python_command(PROGRAM, part), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    name, refused, _ = done.stdout.split()
    assert name == "SURVIVED"
    assert int(refused) > 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9,), (9, 9), (3, 9, 9), (2, 3, 5, 5)])
@pytest.mark.parametrize("mode", [{"precision": 64}, {"tolerance": 1e-300}, {}], ids=str)
def test_zfp_reads_no_further_than_the_padding(mode, shape, dtype):
    """What follows the padding must make no difference, whatever the payload."""
    generator = np.random.default_rng(0)
    kind, padding = zfpy.dtype_to_ztype(np.dtype(dtype)), bytes(READ_AHEAD + count_blocks(shape) // 8)
    for trial in range(200):
        payload = generator.bytes(8 * (1 + trial % 40)) if trial % 5 else b"\xff" * 8 * (1 + trial % 40)
        first, second = (
            zfpy._decompress(payload + padding + end * 40_000, kind, shape, **mode) for end in (b"\0", b"\xff")
        )
        assert first.tobytes() == second.tobytes()
