"""Figure 8: occlusion maps of a network for images that it misclassifies after compression.

`python examples/paper/figure8.py --output DIR [--network resnet20|resnet56|digits] [--codec "jpeg(quality=20)"]
[--shown N] [--window N] [--stride N] [--seed N]`

The maps explain the class that the network predicts for the original, on the original and on the decoded image. The IoU
is the weighted Jaccard index of the two maps, split by sign, as defined by `compare_attributions`.
"""

import argparse
from pathlib import Path

import material
import matplotlib as mpl
import torch

from cp_compress import CompressedDataset, compare_attributions, observe, parse_codec
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.occlusion import Occlusion

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = {
    "images": lambda row: row["images"],
    "n": lambda row: row["n"],
    "mean IoU (95 % bounds)": lambda row: _with_bounds(row, "mean_iou"),
    "median IoU": lambda row: f"{row['median_iou']:.3f}",
    "chance": lambda row: f"{row['chance_iou']:.3f}",
    "corrected (95 % bounds)": lambda row: _with_bounds(row, "corrected_iou"),
}


def _with_bounds(row, name):
    low, high = row[f"{name}_bounds"]
    return f"{row[name]:.3f} ({low:.3f} … {high:.3f})"


def strata(candidate, reference, seed):
    """Return the images that compression made wrong, and as many that stayed right, drawn with a seed."""
    right, still = (seen.predictions == reference.labels for seen in (reference, candidate))
    wrong = (right & ~still).nonzero().flatten()
    kept = (right & still).nonzero().flatten()
    drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[: len(wrong)]
    return {"made wrong": wrong, "still right": kept[drawn.sort().values]}


def summarise(name, found):
    """Return one row of the table."""
    metrics = {key: found.metrics[key] for key in ("mean_iou", "median_iou", "chance_iou", "corrected_iou")}
    bounds = {}
    for key in ("mean_iou", "corrected_iou"):
        interval = found.evidence[key].interval(0.95)
        bounds[f"{key}_bounds"] = [interval.low, interval.high]
    return {"images": name, "n": found.counts["mean_iou"], **metrics, **bounds}


def plot(candidate, reference, method, indices, index_of_agreement, title):
    """Return the figure: original, decoded image and the two maps, one column per image."""
    names, targets = reference.class_names, reference.predictions[indices]
    maps = [attribution_maps(seen, method, indices, targets).maps.sum(1) for seen in (reference, candidate)]
    images = [seen.data.select(indices)[0] for seen in (reference, candidate)]
    size = (1.7 * len(indices) + 0.4, 8.0)
    figure, panels = plt.subplots(4, len(indices), figsize=size, squeeze=False, layout="constrained")
    for column, example in enumerate(indices.tolist()):
        largest = max(float(each[column].abs().max()) for each in maps)
        now = names[int(candidate.predictions[example])]
        headings = [
            f"#{example}: {names[int(targets[column])]}",
            f"→ {now}",
            "map, original",
            f"map, decoded\nIoU {float(index_of_agreement[column]):.2f}",
        ]
        for panel, heading in zip(panels[:, column], headings, strict=True):
            panel.set_title(heading, fontsize=8)
            panel.set_xticks([])
            panel.set_yticks([])
        for panel, batch in zip(panels[:2, column], images, strict=True):
            pixels = batch[column].permute(1, 2, 0).squeeze(-1).numpy()
            panel.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        for panel, each in zip(panels[2:, column], maps, strict=True):
            drawn = panel.imshow(each[column].numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        bar = figure.colorbar(drawn, ax=panels[:, column], location="bottom", shrink=0.9, format="%g")
        bar.ax.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=8)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--network", choices=material.NETWORKS, default="resnet20")
    parser.add_argument("--codec", type=parse_codec, default="jpeg(quality=75)")
    parser.add_argument("--shown", type=int, default=6)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    absent = material.missing([options.network])
    if absent:
        print(absent)
        return
    torch.set_num_threads(1)
    model, images, _ = material.load(options.network)
    stored = CompressedDataset(images, options.codec)
    candidate, reference = observe(model, stored), observe(model, images)
    method = Occlusion(options.window, options.stride)
    rows, found = [], {}
    for name, indices in strata(candidate, reference, options.seed).items():
        if len(indices) < 2:
            print(f"{options.codec} made {len(indices)} of {len(images)} images wrong, too few to compare their maps")
            return
        found[name] = compare_attributions(candidate, reference, method, examples=indices, seed=options.seed)
        rows.append(summarise(name, found[name]))
    wrong = found["made wrong"]
    order = wrong.per_example["iou"].argsort()
    picked = order[torch.linspace(0, len(order) - 1, min(options.shown, len(order))).round().long()]
    indices, agreement = wrong.per_example["example"][picked], wrong.per_example["iou"][picked]
    size = stored.payload_bytes / len(stored)
    title = f"{options.network}, {options.codec}, {size:.0f} bytes an image; {method}; from the least alike to the most"
    material.draw(options.output, "figure8", plot(candidate, reference, method, indices, agreement, title))
    examples = [
        {"example": int(index), "iou": float(value)}
        for index, value in zip(wrong.per_example["example"], wrong.per_example["iou"], strict=True)
    ]
    facts = {"network": options.network, "codec": str(options.codec), "method": str(method), "n": len(images)}
    facts |= {
        "coded_bytes": material.coded_bytes(stored),
        "payload_bytes": size,
        "stored_bytes": stored.bytes_per_example,
    }
    document = {"rows": rows, "made_wrong": examples, **facts, "environment": material.environment()}
    material.write(options.output, "figure8.json", document)
    sentence = (
        f"{options.network} on {len(images)} test images, `{options.codec}` ({facts['coded_bytes']:.0f} bytes coded, "
        f"{size:.0f} of payload, {stored.bytes_per_example:.0f} stored an image), maps by `{method}`."
    )
    text = [sentence, material.spell_out(images), material.markdown(rows, COLUMNS)]
    material.write(options.output, "figure8.md", "\n\n".join(text))


if __name__ == "__main__":
    main()
