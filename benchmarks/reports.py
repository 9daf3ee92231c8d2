"""What reports cost, how soon a first gate is green, and what a kill leaves behind.

python benchmarks/reports.py size        # bytes and seconds of each report: 50 checks, and 50 for each of 10 schemes
python benchmarks/reports.py first_gate  # seconds from `cp-compress init` to a green gate on the digits
python benchmarks/reports.py kills 50    # kills of a process that writes: the old file, the new one, or a mixture
"""

import copy
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytest_cp.report.json import write_json
from pytest_cp.report.markdown import write_markdown
from pytest_cp.report.page import write_page

SCHEMES = (
    "quantize(float16)",
    "quantize(bfloat16)",
    "quantize(int8)",
    "quantize(int4)",
    "prune(density=0.7)",
    "prune(density=0.5)",
    "prune(density=0.3)",
    "prune(density=0.1)",
    "low_rank(energy=0.9)",
    "prune(density=0.5) | quantize(float16)",
)
LEVELS = """
[predictions]
min_agreement = 0.97
[embeddings]
min_cka = 0.99
[attributions]
min_corrected_iou = 0.4
examples = 32
[boundaries]
max_median_change = 0.3
examples = 12
[footprint]
min_compression = 1.5
"""
WRITERS = {"html": write_page, "json": write_json, "markdown": write_markdown}
COPIES = 10


def main() -> None:
    mode, *rest = sys.argv[1:] or ["size"]
    {"size": size, "first_gate": first_gate, "kills": kills, "write": write}[mode](*rest)


def size() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        document = real_document(place)
        many = copy.deepcopy(document)
        for number in range(1, COPIES):
            for check in document["checks"]:
                many["checks"].append({**check, "test": f"{check['test']} {number}"})
        print("| report | checks | bytes | seconds |\n| --- | --- | --- | --- |")
        for name, write_report in WRITERS.items():
            for content in (document, many):
                seconds, path = [], place / f"report.{name}"
                for _ in range(3):
                    start = time.perf_counter()
                    write_report(content, path)
                    seconds.append(time.perf_counter() - start)
                shown = f"{sorted(seconds)[1]:.2f} [{min(seconds):.2f}, {max(seconds):.2f}]"
                print(f"| {name} | {len(content['checks'])} | {path.stat().st_size:,} | {shown} |")


def real_document(folder: Path) -> dict:
    """Return the report of a real run: ten schemes at five levels, with the evidence of an HTML report."""
    subjects = (
        'reference = {model = "cp_compress.examples:digits_cnn"}\ndata = {examples = "cp_compress.examples:digits"}'
    )
    candidates = "\n".join(f'[[candidate]]\nscheme = "{scheme}"' for scheme in SCHEMES)
    (folder / "gate.toml").write_text(f"schema_version = 1\n{subjects}\n{candidates}\n{LEVELS}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml"]
    reports = ["--cp-report-json=run.json", "--cp-report-html=run.html"]
    start = time.perf_counter()
    subprocess.run([*command, *reports], cwd=folder, check=False, capture_output=True)
    document = json.loads((folder / "run.json").read_text())
    assert len(document["checks"]) == 50
    print(f"the run itself: {time.perf_counter() - start:.0f} s, {document['outcomes']}\n")
    return document


def first_gate() -> None:
    program = [sys.executable, "-m", "cp_compress"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subjects = ["cp_compress.examples:digits_cnn", "--data", "cp_compress.examples:digits"]
        subprocess.run([*program, "init", *subjects], cwd=folder, check=True, capture_output=True)
        proposed = time.perf_counter()
        subprocess.run([*program, "gate", "gate.toml"], cwd=folder, check=True, capture_output=True)
        end = time.perf_counter()
    print(f"init {proposed - start:.0f} s, gate {end - proposed:.0f} s, together {end - start:.0f} s")


def write(kind: str, path: str, source: str) -> None:
    """Write two contents in turns until killed."""
    from pytest_cp.baselines.files import write_entries

    target, document = Path(path), json.loads(Path(source).read_text())
    other = {**document, "notes": ["another"]}
    metrics = {"agreement": {"value": 0.5, "n": 1, "direction": "min", "interval": None}}
    entry = {"metrics": metrics, "measured_on": {}, "environment": {}}
    contents = [{f"{name} {number}": entry for number in range(1000)} for name in ("one", "two")]
    if kind == "baseline":
        turns = [lambda: write_entries(target, contents[0]), lambda: write_entries(target, contents[1])]
    else:
        turns = [lambda: WRITERS[kind](document, target), lambda: WRITERS[kind](other, target)]
    for number, turn in enumerate(turns):
        turn()
        Path(f"{path}.{number}").write_bytes(target.read_bytes())
    print("ready", flush=True)
    while True:
        for turn in turns:
            turn()


def kills(count: str) -> None:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        real_document(place)
        for kind in ("baseline", *WRITERS):
            whole = writing = 0
            path = place / f"killed.{kind}"
            for _ in range(int(count)):
                command = [sys.executable, __file__, "write", kind, str(path), str(place / "run.json")]
                process = subprocess.Popen(command, stdout=subprocess.PIPE)
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
                process.communicate()
                allowed = [Path(f"{path}.{number}").read_bytes() for number in (0, 1)]
                whole += path.read_bytes() in allowed
                unfinished = list(place.glob(f".{path.name}.*.partial"))
                writing += bool(unfinished)
                for leftover in unfinished:
                    leftover.unlink()
            print(f"{kind}: {count} kills, {writing} while a file was being written: {whole} times the old or new file")


if __name__ == "__main__":
    main()
