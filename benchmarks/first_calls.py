"""What the first calls of machine code cost, and those of the next process on the same machine.

    python benchmarks/first_calls.py

CPU seconds of each first call with float32: in a process with an empty cache, which compiles, and in one after it,
which loads. The floor is numba's import and one loop compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

CALLS = """
import time, numpy, torch
from cp_compress.data import JPEG, ZFP
torch.set_num_threads(1)
def timed(name, work):
    start = time.process_time()
    result = work()
    print(f"{name:44}{time.process_time() - start:8.2f}", flush=True)
    return result
def loop(values):
    for place in range(len(values)):
        values[place] += 1
def floor():
    import numba
    numba.njit(loop)(numpy.zeros(3))
timed("import of numba and one loop (floor)", floor)
images = torch.rand(2, 3, 32, 32)
zfp, jpeg = ZFP(precision=8), JPEG(75)
streams = timed("ZFP.encode", lambda: zfp.encode(images))
timed("ZFP.coefficients_of_streams", lambda: zfp.coefficients_of_streams(streams))
timed("ZFP.requantise", lambda: zfp.requantise(images))
timed("ZFP.requantise at a rate", lambda: ZFP(rate=4).requantise(images))
timed("ZFP.size_bits", lambda: zfp.size_bits(images))
coded = jpeg.encode(images)
timed("JPEG.coefficients_of_streams", lambda: jpeg.coefficients_of_streams(coded))
timed("JPEG.requantise", lambda: jpeg.requantise(images))
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        for title in ("empty cache", "the next process"):
            print(f"{title}; load {os.getloadavg()[0]:.1f}")
            start = time.perf_counter()
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-c", CALLS], env=environment, check=True)
            print(f"{'all of it, wall clock':44}{time.perf_counter() - start:8.2f}\n")


if __name__ == "__main__":
    main()
