"""Table I: the smallest setting of each codec family that holds a given drop in accuracy, without and with repairs.

`python examples/paper/table1.py --output DIR [--networks resnet20 resnet56 digits] [--families "JPEG 4:2:0" …]
[--repairs none recalibrate adapt] [--epsilon 0.02 0.05] [--every N] [--trials N] [--neighbours N] [--epochs N]
[--clean-weight W] [--seed N] [--images lossless jpeg both] [--halves] [--trained DIR]`

A setting holds ε if the one-sided 95 % bound of the paired drop in top-1 accuracy is at most ε. Finished rows are kept
in DIR/table1.jsonl and are not computed again; the table contains all of them, whatever their options. Families that
cannot encode the images of a network are left out. Repairs use training images stored with the codec; `adapt` uses all
of them. With `--halves` settings are chosen on every other image and judged on those between, of which all figures are
then. The repair `each` repairs nothing: `write_preserved_store` gives each image the smallest setting at which the
network keeps its answer, and the other networks of the run tell what they make of the result.
"""

import argparse
import functools
import json
import tempfile
import time
from pathlib import Path

import material
import torch
from families import FAMILIES

from cp_compress import (
    CompressedDataset,
    InvalidArgumentError,
    Requirement,
    StoredDataset,
    compare_predictions,
    judge,
    observe,
)
from cp_compress.search import adapt, find_smallest, recalibrate_batchnorm, write_preserved_store

CONFIDENCE = 0.95
_IN_COLUMNS = ("network", "family", "repair", "epsilon")


def make_repair(name, options, training, test):
    """Return the repair with this name, or None; it runs once for each codec."""
    if name in ("none", "each"):
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
    judged = None
    if options.halves:
        test, judged = half(test, 0), half(test, 1)
    found = find_smallest(
        FAMILIES[name].space(options.every),
        model,
        test,
        f"accuracy_drop <= {epsilon}",
        confidence=CONFIDENCE,
        repair=repair,
        trials=options.trials,
        neighbours=options.neighbours,
        gate_data=judged,
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
    check = mildest.check if found.gate is None else found.gate
    if judged is not None:
        test = judged
        row |= {"n": len(test), "chosen_drop": None if mildest.check is None else mildest.check.results[0].value}
        row["held"] = None if found.gate is None else found.gate.outcome
    if check is not None:
        result = check.results[0]
        metrics = check.measurement.metrics
        row |= {
            "accuracy": metrics["accuracy"],
            "reference_accuracy": metrics["reference_accuracy"],
            "drop": result.value,
            "bounds": [result.interval.low, result.interval.high],
            "clean_drop": None if mildest.clean is None else mildest.clean.metrics["accuracy_drop"],
            **sizes(CompressedDataset(test, mildest.codec)),
            "pixel_bytes": material.denominator(test),
        }
    return row


def half(data, start):
    """Return every other image with its label, from the first or from the second one on."""
    return material.Images(*(tensor[start::2] for tensor in data.tensors))


def sizes(stored):
    """Return the bytes an image of stored data: coded, payload, and with the envelope."""
    return {
        "coded_bytes": material.coded_bytes(stored),
        "payload_bytes": stored.payload_bytes / len(stored),
        "stored_bytes": stored.bytes_per_example,
    }


def make_row_of_each(name, options, subject, others):
    """Return one row: each image at the smallest setting of a family at which the network keeps its answer."""
    model, test, _ = subject
    test = half(test, 1) if options.halves else test
    start = time.perf_counter()
    pixels = (test.tensors[0] * 255).round().to(torch.uint8), test.tensors[1]
    family = FAMILIES[name].space(options.every)
    asked = {"held_back": others, "otherwise": "lossless", "transform": scaled, "progress": options.progress}
    with tempfile.TemporaryDirectory() as folder:
        stored = write_preserved_store(pixels, family, f"{folder}/store", {"asked": model}, **asked)
        decoded = StoredDataset(f"{folder}/store", transform=scaled)
        measured = compare_predictions(observe(model, decoded), observe(model, test))
        drop = judge(measured, [Requirement.parse("accuracy_drop <= 1", CONFIDENCE)]).results[0]
        record = stored.record
        lossless = sum(count for codec, count in record["settings"].items() if "reversible" in codec)
        told = ", ".join(f"{one} {found['agreement']:.1%}" for one, found in record["held_back"].items())
        return {
            "outcome": "pass",
            "codec": "each its own",
            "n": len(test),
            "trials": record["decodes"],
            "seconds": round(time.perf_counter() - start),
            "notes": [f"{lossless} images without loss; not asked, but the same answers: {told or 'no other network'}"],
            "error": None,
            "accuracy": measured.metrics["accuracy"],
            "reference_accuracy": measured.metrics["reference_accuracy"],
            "flips": round((1 - measured.metrics["agreement"]) * len(test)),
            "drop": drop.value,
            "bounds": [drop.interval.low, drop.interval.high],
            "clean_drop": None,
            **sizes(stored),
            "pixel_bytes": material.denominator(test),
        }


def scaled(batch):
    """Return stored pixels as the networks take them."""
    return batch.float() / 255


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
    if row["outcome"] != "pass":
        return f"none ({row['outcome']}; last `{row['codec']}`)"
    if row["key"]["repair"] == "each":
        return f"{row['codec']}, {row['flips']} flips"
    held = "" if row.get("held") in (None, "pass") else f", {row['held']} on the other half"
    return f"`{row['codec']}`{held}"


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
    parser.add_argument("--repairs", nargs="+", choices=("none", "recalibrate", "adapt", "each"), default=["none"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--every", type=int, default=1, help="use every N-th setting of a family")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--recalibration-examples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--clean-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", choices=material.TEST_IMAGES, default="lossless", help="test images")
    parser.add_argument("--halves", action="store_true", help="judge on images that no setting was chosen on")
    parser.add_argument("--trained", type=Path, help="folder of what train_networks.py wrote")
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


def main():
    options = arguments()
    absent = material.missing(options.networks, options.images, options.trained)
    if absent:
        print(absent)
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "table1.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    done = {json.dumps(row["key"]): row for row in map(json.loads, filter(material.is_json, lines))}
    sentences = set()
    subjects = {name: material.load(name, options.images, options.trained) for name in options.networks}
    for network, subject in subjects.items():
        others = {name: one[0] for name, one in subjects.items() if name != network and "digits" not in (name, network)}
        sentences.add(material.spell_out(subject[1]))
        for name in options.repairs:
            repair = make_repair(name, options, subject[2], subject[1])
            for family in options.families:
                for epsilon in options.epsilon if name != "each" else [0.0]:
                    key = {"network": network, "family": family, "repair": name, "epsilon": epsilon}
                    key |= {"every": options.every, "trials": options.trials, "neighbours": options.neighbours}
                    if name == "recalibrate":
                        key |= {"examples": options.recalibration_examples}
                    if name == "adapt":
                        key |= {"epochs": options.epochs, "clean_weight": options.clean_weight, "seed": options.seed}
                    if name == "each":
                        key |= {"beside": sorted(others)}
                    if options.trained is not None:
                        key |= {"trained": str(options.trained)}
                    if options.images != "lossless" or options.halves:
                        key |= {"images": options.images, "halves": options.halves}
                    if json.dumps(key) in done:
                        continue
                    try:
                        if name == "each":
                            row = make_row_of_each(family, options, subject, others)
                        else:
                            row = make_row(network, family, repair, epsilon, options, subject)
                        row = {"key": key} | row
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
