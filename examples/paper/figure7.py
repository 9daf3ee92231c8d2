"""Figure 7: accuracy against the setting of each codec family, and against the bytes per image.

`python examples/paper/figure7.py --output DIR [--networks resnet20 resnet56 digits] [--families "JPEG 4:2:0" …]`

The networks read the decoded test images without retraining. Shaded areas are one-sided 95 % bounds of the paired drop
in accuracy.
"""

import argparse
from pathlib import Path

import material
import matplotlib as mpl
import torch
from families import FAMILIES

from cp_compress import CompressedDataset, InvalidArgumentError, compare_predictions, observe

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIDENCE = 0.95
COLUMNS = {
    "network": lambda row: row["network"],
    "family": lambda row: row["family"],
    "codec": lambda row: f"`{row['codec']}`",
    "accuracy, %": lambda row: f"{100 * row['accuracy']:.1f}",
    "drop (95 % bounds), points": lambda row: (
        f"{100 * row['drop']:.1f} ({100 * row['bounds'][0]:.1f} … {100 * row['bounds'][1]:.1f})"
    ),
    "coded": lambda row: f"{row['coded_bytes']:.0f}",
    "payload": lambda row: f"{row['payload_bytes']:.0f}",
    "stored": lambda row: f"{row['stored_bytes']:.0f}",
    "% of uint8": lambda row: f"{100 * row['coded_bytes'] / row['pixel_bytes']:.1f}",
    "% of float32": lambda row: f"{25 * row['coded_bytes'] / row['pixel_bytes']:.1f}",
    "n": lambda row: row["n"],
}


def measure(network, model, images, names):
    """Return one row for each setting of some families that is drawn."""
    reference, rows = observe(model, images), []
    for name in names:
        for value, codec in FAMILIES[name].drawn():
            try:
                stored = CompressedDataset(images, codec)
            except InvalidArgumentError as error:  # such as a rate below what zfp can spend on a block
                print(f"not drawn: {error}")
                continue
            found = compare_predictions(observe(model, stored), reference)
            bounds = found.evidence["accuracy_drop"].interval(CONFIDENCE)
            rows.append(
                {
                    "network": network,
                    "family": name,
                    "value": value,
                    "codec": str(codec),
                    "accuracy": found.metrics["accuracy"],
                    "reference_accuracy": found.metrics["reference_accuracy"],
                    "drop": found.metrics["accuracy_drop"],
                    "bounds": [bounds.low, bounds.high],
                    "coded_bytes": material.coded_bytes(stored),
                    "payload_bytes": stored.payload_bytes / len(stored),
                    "stored_bytes": stored.bytes_per_example,
                    "pixel_bytes": material.denominator(images),
                    "n": len(images),
                }
            )
    return rows


def plot(rows):
    """Return the figure: one panel for each kind of setting, and one of accuracy over bytes."""
    settings = list(dict.fromkeys(FAMILIES[row["family"]].setting for row in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    size = (4.2 * (len(settings) + 1), 3.4 * len(networks))
    figure, panels = plt.subplots(len(networks), len(settings) + 1, figsize=size, squeeze=False, sharey="row")
    colours = {name: f"C{index}" for index, name in enumerate(FAMILIES)}
    for line, network in zip(panels, networks, strict=True):
        for panel, setting in zip(line, [*settings, None], strict=True):
            for name in FAMILIES:
                own = [row for row in rows if row["network"] == network and row["family"] == name]
                if own and setting in (None, FAMILIES[name].setting):
                    place = "coded_bytes" if setting is None else "value"
                    _draw(panel, sorted(own, key=lambda row, place=place: row[place]), place, name, colours[name])
            own = next(row for row in rows if row["network"] == network)
            panel.axhline(100 * own["reference_accuracy"], color="0.4", linewidth=0.8, linestyle=":")
            panel.set_xlabel(setting or f"coded bytes an image (uint8 pixels: {own['pixel_bytes']:,})")
            if setting in (None, "tolerance"):
                panel.set_xscale("log", base=2)
                panel.xaxis.set_major_formatter(_power_of_two if setting == "tolerance" else "{x:g}")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7, loc="lower left" if setting == "tolerance" else "lower right")
        line[0].set_ylabel(f"{network}: top-1 accuracy, % (n = {own['n']})")
    figure.tight_layout()
    return figure


def _power_of_two(value, _position):
    """Write small tolerances as fractions, which take less space than their digits."""
    return f"{value:g}" if value >= 1 else f"1/{round(1 / value)}"


def _draw(panel, rows, place, name, colour):
    places = [row[place] for row in rows]
    panel.plot(places, [100 * row["accuracy"] for row in rows], "o-", markersize=3, color=colour, label=name)
    low, high = ([100 * (row["reference_accuracy"] - row["bounds"][end]) for row in rows] for end in (1, 0))
    panel.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=material.NETWORKS, default=["resnet20", "resnet56"])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = parser.parse_args()
    absent = material.missing(options.networks)
    if absent:
        print(absent)
        return
    torch.set_num_threads(1)
    rows, sentences = [], set()
    for network in options.networks:
        model, images, _ = material.load(network)
        rows += measure(network, model, images, options.families)
        sentences.add(material.spell_out(images))
    material.draw(options.output, "figure7", plot(rows))
    material.write(options.output, "figure7.json", {"rows": rows, "environment": material.environment()})
    material.write(options.output, "figure7.md", "\n\n".join([*sorted(sentences), material.markdown(rows, COLUMNS)]))


if __name__ == "__main__":
    main()
