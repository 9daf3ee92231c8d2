"""What the plugin adds to `pytest --help`: whole processes with and without it, in turns.

Run: python benchmarks/help_time.py [ROUNDS]
"""

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
OTHERS = ("-p", "no:hypothesispytest")


def seconds(*arguments: str) -> float:
    command = [sys.executable, "-m", "pytest", "--help", *OTHERS, *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())
    return time.perf_counter() - start


def main() -> None:
    seconds(), seconds("-p", "no:pytest_cp")
    pairs = [(seconds(), seconds("-p", "no:pytest_cp")) for _ in range(ROUNDS)]
    added = [1000 * (with_plugin - without) for with_plugin, without in pairs]
    low, _, high = statistics.quantiles(added, n=4)
    print(f"pytest --help with the plugin: {1000 * statistics.median(pair[0] for pair in pairs):.0f} ms")
    print(f"pytest --help without it:      {1000 * statistics.median(pair[1] for pair in pairs):.0f} ms")
    print(f"added, paired median:          {statistics.median(added):.0f} ms (quartiles {low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
