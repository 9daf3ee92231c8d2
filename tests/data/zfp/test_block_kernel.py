"""The Triton kernel gives the bits of the steps it replaces: interpreted on a CPU, compiled on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from cp_compress.data.zfp import requantise as block_requantise
from cp_compress.data.zfp.planes import Setting

PROGRAM = """
import torch
from cp_compress.data.zfp.kernel import requantise_fused
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import find_fused, requantise_stepwise

generator = torch.Generator().manual_seed(0)
settings = [Setting(precision=precision) for precision in (1, 2, 3, 5, 8, 13, 21, 30, 31, 32)]
settings += [Setting(tolerance=1.3 * 2.0**exponent) for exponent in (-20, -7, -1, 4, 12)]
compared = 0
for shape in [(37,), (2,), (13, 10), (1, 3), (5, 9, 11), (3, 16, 16)]:
    for setting in settings:
        values = torch.randn(4, *shape, generator=generator)
        values *= torch.exp2(torch.randint(-40, 40, values.shape, generator=generator).float() * (compared % 3) / 2)
        values[0] = 0
        found, expected = requantise_fused(values, setting), requantise_stepwise(values, setting)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32)), (shape, setting)
        compared += values.numel()
assert find_fused(torch.device("cpu")) is requantise_fused
print("SAME", compared)
"""


def test_interpreted(tmp_path):
    pytest.importorskip("triton")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("SAME")


def test_a_kernel_that_cannot_be_used_is_not():
    """Compiled for no GPU there is none."""
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET"):
        pytest.skip("here there is one")
    assert block_requantise.find_fused(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(37,), (13, 10), (5, 9, 11), (3, 32, 32)])
def test_compiled(cuda, shape):
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, *shape, generator=generator)
    values = values * torch.exp2(torch.randint(-40, 40, values.shape, generator=generator).float())
    assert block_requantise.find_fused(cuda) is not None
    for precision in range(1, 33):
        setting = Setting(precision=precision)
        found = block_requantise.requantise_arrays(values.to(cuda), setting).cpu()
        expected = block_requantise.requantise_stepwise(values, setting)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
