"""Table I: the smallest setting of each codec family that holds a given drop in accuracy, without and with repairs.

`python examples/paper/table1.py --output DIR [--networks resnet20 resnet56 digits] [--families "JPEG 4:2:0" …]
[--repairs none recalibrate adapt] [--epsilon 0.02 0.05] [--every N] [--trials N] [--neighbours N] [--epochs N]
[--clean-weight W] [--seed N]`

A setting holds ε if the one-sided 95 % bound of the paired drop in top-1 accuracy is at most ε. Finished rows are kept
in DIR/table1.jsonl and are not computed again; the table contains all of them, whatever their options. Families that
cannot encode the images of a network are left out. Repairs use training images stored with the codec; `adapt` uses all
of them.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import material
import torch
from families import FAMILIES

from cp_compress import CompressedDataset, InvalidArgumentError
from cp_compress.search import adapt, find_smallest, recalibrate_batchnorm

CONFIDENCE = 0.95
_IN_COLUMNS = ("network", "family", "repair", "epsilon")


def make_repair(name, options, training, test):
    """Return the repair with this name, or None; it runs once for each codec."""
    if name == "none":
        return None

    @functools.cache
    def repair(model, codec):
        stored = CompressedDataset(training, codec)
        if name == "recalibrate":
            return recalibrate_batchnorm(model, stored, examples=options.recalibration_examples)
        settings = {"epochs": options.epochs, "clean_weight": options.clean_weight, "seed": options.seed}
        validation = CompressedDataset(test, codec), test
        return adapt(model, model, stored, training, validation=validation, **settings).model

    return repair


def make_row(network, name, repair, epsilon, options, subject):
    """Return one row: the smallest setting of a family at which a network holds ε."""
    model, test, _ = subject
    start = time.perf_counter()
    found = find_smallest(
        FAMILIES[name].space(options.every),
        model,
        test,
        f"accuracy_drop <= {epsilon}",
        confidence=CONFIDENCE,
        repair=repair,
        trials=options.trials,
        neighbours=options.neighbours,
        progress=options.progress,
    )
    mildest = found.trials[-1] if found.best is None else found.best
    row = {
        "outcome": found.outcome,
        "codec": str(mildest.codec),
        "n": len(test),
        "trials": len(found.trials),
        "seconds": round(time.perf_counter() - start),
        "notes": list(found.notes),
        "error": mildest.error,
    }
    if mildest.check is not None:
        result = mildest.check.results[0]
        metrics = mildest.check.measurement.metrics
        row |= {
            "accuracy": metrics["accuracy"],
            "reference_accuracy": metrics["reference_accuracy"],
            "drop": result.value,
            "bounds": [result.interval.low, result.interval.high],
            "clean_drop": None if mildest.clean is None else mildest.clean.metrics["accuracy_drop"],
            "coded_bytes": material.coded_bytes(CompressedDataset(test, mildest.codec)),
            "payload_bytes": mildest.payload_bytes,
            "stored_bytes": mildest.stored_bytes,
            "pixel_bytes": material.denominator(test),
        }
    return row


def append_line(path, line):
    """Add a line to a file; an incomplete last line of a stopped run remains a separate line."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + line + "\n")


def _options(row):
    shown = {name: value for name, value in row["key"].items() if name not in _IN_COLUMNS}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def percent(value, digits=1):
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _setting(row):
    return f"`{row['codec']}`" if row["outcome"] == "pass" else f"none ({row['outcome']}; last `{row['codec']}`)"


def _size(name):
    return lambda row: f"{row[name]:.0f}" if row["outcome"] == "pass" else "–"


def _share(factor):
    return lambda row: percent(row["coded_bytes"] / (factor * row["pixel_bytes"])) if row["outcome"] == "pass" else "–"


COLUMNS = {
    "network": lambda row: row["key"]["network"],
    "family": lambda row: row["key"]["family"],
    "repair": lambda row: row["key"]["repair"],
    "ε": lambda row: f"{row['key']['epsilon']:.0%}",
    "smallest setting that holds": _setting,
    "coded": _size("coded_bytes"),
    "payload": _size("payload_bytes"),
    "stored": _size("stored_bytes"),
    "% of uint8": _share(1),
    "% of float32": _share(4),
    "drop (95 % bounds), points": lambda row: (
        f"{percent(row['drop'])} ({percent(row['bounds'][0])} … {percent(row['bounds'][1])})" if "drop" in row else "–"
    ),
    "clean drop": lambda row: percent(row.get("clean_drop")),
    "n": lambda row: row["n"],
    "trials": lambda row: row["trials"],
    "options": _options,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=material.NETWORKS, default=["resnet20", "resnet56"])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--repairs", nargs="+", choices=("none", "recalibrate", "adapt"), default=["none"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--every", type=int, default=1, help="use every N-th setting of a family")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--recalibration-examples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--clean-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


def main():
    options = arguments()
    absent = material.missing(options.networks)
    if absent:
        print(absent)
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "table1.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    done = {json.dumps(row["key"]): row for row in map(json.loads, filter(material.is_json, lines))}
    sentences = set()
    for network in options.networks:
        subject = material.load(network)
        sentences.add(material.spell_out(subject[1]))
        for name in options.repairs:
            repair = make_repair(name, options, subject[2], subject[1])
            for family in options.families:
                for epsilon in options.epsilon:
                    key = {"network": network, "family": family, "repair": name, "epsilon": epsilon}
                    key |= {"every": options.every, "trials": options.trials, "neighbours": options.neighbours}
                    if name == "recalibrate":
                        key |= {"examples": options.recalibration_examples}
                    if name == "adapt":
                        key |= {"epochs": options.epochs, "clean_weight": options.clean_weight, "seed": options.seed}
                    if json.dumps(key) in done:
                        continue
                    try:
                        row = {"key": key} | make_row(network, family, repair, epsilon, options, subject)
                    except InvalidArgumentError as error:  # such as a codec of colours, for grey images
                        print(f"not made: {network}, {family}: {error}")
                        continue
                    done[json.dumps(key)] = row
                    print(json.dumps(row), flush=True)
                    append_line(kept, json.dumps(row))
    rows = list(done.values())
    material.write(options.output, "table1.json", {"rows": rows, "environment": material.environment()})
    table = material.markdown(rows, COLUMNS)
    notes = [f"* {row['key']['network']}, {_setting(row)}: {note}" for row in rows for note in row["notes"]]
    text = "\n\n".join([*sorted(sentences), table, "\n".join(dict.fromkeys(notes))])
    material.write(options.output, "table1.md", text + "\n")


if __name__ == "__main__":
    main()
