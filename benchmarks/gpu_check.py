"""All that is to be seen on one GPU, in at most eight minutes: tests, bits, rates and latencies, in one Markdown file.

    make gpu-check     or     python benchmarks/gpu_check.py [--only PART …] [--output gpu-check.md]

It installs nothing. Each part is a process of its own that ends when its time is over; another part that fails, or
lacks a package, leaves the rest as it is, and the file is written after each part. The exit code is 1 if a part failed.
To see that the script runs, `--device cpu` and `--device pretended` do the same on small inputs without a GPU: their
figures say nothing.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {  # what each part shows, and its seconds
    "machine": ("The machine", 30),
    "bits": ("Bits of the codecs, device against CPU", 75),
    "rates": ("Rates of the codecs beside a copy in memory", 75),
    "levels": ("Examples a second at levels A to D", 75),
    "latency": ("Latency: bfloat16, float16, shrunk, 2:4", 75),
    "nvjpeg": ("Decoding JPEG", 35),
    "tests": ("Tests marked gpu", 115),
}


def main() -> int:
    """Run the parts asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu", "pretended"])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what the process of one part is told
    options = parser.parse_args()
    if options.part:
        if options.part == "tests":
            return run_tests()
        from gpu_parts import run_part

        return run_part(options.part, options.device)
    return check(options.only, options.device, options.output, run_in_a_process)


def check(parts: list[str], device: str, output: Path, run: Callable[[str, str], tuple[str, str]]) -> int:
    """Run parts one after another and write what each printed, and how it ended."""
    sections = [f"# GPU check\n\n{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, device `{device}`."]
    if device != "cuda":
        sections[0] += " Small inputs, no GPU: the figures only show that the script runs."
    failed = []
    for part in parts:
        start = time.perf_counter()
        printed, failure = run(part, device)
        took = f"{time.perf_counter() - start:.0f} s"
        ended = f"**Failed after {took}: {failure}**" if failure else f"({took})"
        failed += [part] if failure else []
        sections.append("\n\n".join(filter(None, [f"## {PARTS[part][0]}", printed.strip(), ended])))
        output.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
        print(sections[-1], flush=True)
    told = f"{len(parts) - len(failed)} of {len(parts)} parts ended well"
    print(f"\n{output}: {told}; failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def run_in_a_process(part: str, device: str) -> tuple[str, str]:
    """Return what a part printed, and in one line how it failed, or nothing."""
    command = [sys.executable, __file__, "--part", part, "--device", device]
    seconds = PARTS[part][1]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, errors="replace")
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        return text, f"it was ended after its {seconds} s"
    if done.returncode == 0:
        return done.stdout, ""
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    return done.stdout, f"exit code {done.returncode}: {last}"


def run_tests() -> int:
    """Run the tests marked gpu, collecting only the files that have some."""
    marked = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--no-header", *marked]
    print("```text", flush=True)
    done = subprocess.run([*command, "--tb=line"], cwd=ROOT, stderr=subprocess.STDOUT, check=False)
    print("```")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
