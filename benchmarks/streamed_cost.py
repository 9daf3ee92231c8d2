"""What level A costs beyond two bare passes of the same models at real sizes: time in turns, peak memory in processes.

A language model with a vocabulary of 49,152 (eight layers of the width of SmolLM2-135M), a segmenter (21 classes at
each of 224 × 224 pixels), a classifier of 20,000 classes, and a ResNet-18 on images of 224 × 224. Weights are random,
which costs do not depend on. The candidate has int8 weights. The bare passes have the same batches and keep no output.

Run: python benchmarks/streamed_cost.py [ROUNDS] [TASK ...]
"""

import os
import resource
import subprocess
import sys
import time

import torch
import torchvision
from torch import nn

from cp_compress import TaskDataset, compare_language, compare_predictions, observe, parse_scheme
from cp_compress.fidelity import forget_observations

BATCH, SIDE = 8, 224


class Segmenter(nn.Module):
    """Images to logits (n, 21, height, width)."""

    def __init__(self):
        super().__init__()
        self.network = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)

    def forward(self, images):
        return self.network(images)["out"]


def language():
    """Return a language model and documents."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config), torch.randint(0, 49152, (32, 128))


def segmentation():
    """Return a segmenter, images and a class for each pixel."""
    data = torch.rand(48, 3, SIDE, SIDE), torch.randint(0, 21, (48, SIDE, SIDE))
    return Segmenter(), TaskDataset(data, "dense")


def many_classes():
    """Return a classifier of 20,000 classes, images and labels."""
    network = torchvision.models.resnet18(weights=None, num_classes=20_000)
    return network, (torch.rand(128, 3, 96, 96), torch.randint(0, 20_000, (128,)))


def photographs():
    """Return a classifier of 1,000 classes, images of 224 × 224 and labels."""
    data = torch.rand(64, 3, SIDE, SIDE), torch.randint(0, 1000, (64,))
    return torchvision.models.resnet18(weights=None), data


TASKS = {one.__name__: one for one in (language, segmentation, many_classes, photographs)}


def subjects(task):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference, data = TASKS[task]()
    reference.eval()
    return reference, parse_scheme("quantize(int8)").compress(reference), data


def inputs_of(data):
    if isinstance(data, torch.Tensor):
        return data
    return data[0] if isinstance(data, tuple) else torch.stack([data[index][0] for index in range(len(data))])


def bare(reference, candidate, inputs):
    with torch.no_grad():
        for part in inputs.split(BATCH):
            for model in (reference, candidate):
                model(part)


def compared(task, reference, candidate, data):
    forget_observations()
    if task == "language":
        return compare_language(candidate, reference, data, batch_size=BATCH)
    return compare_predictions(*(observe(model, data, batch_size=BATCH) for model in (candidate, reference)))


def timed(work, *arguments):
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def in_turns(task, rounds):
    reference, candidate, data = subjects(task)
    inputs = inputs_of(data)
    bare(reference, candidate, inputs[:BATCH])
    pairs = [
        (timed(bare, reference, candidate, inputs), timed(compared, task, reference, candidate, data))
        for _ in range(rounds)
    ]
    ratios = sorted(ours / floor for floor, ours in pairs)
    middle = ratios[len(ratios) // 2]
    floor = sorted(floor for floor, _ in pairs)[len(pairs) // 2]
    peaks = [int(subprocess.check_output([sys.executable, __file__, "peak", task, who])) for who in ("bare", "ours")]
    memory = f"{peaks[0]} | {peaks[1]} | {peaks[1] / peaks[0]:.2f}"
    spread = f"{middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    print(f"| {task} | {floor:.1f} | {spread} | {memory} | {os.getloadavg()[0]:.1f} |", flush=True)


def peak(task, who):
    reference, candidate, data = subjects(task)
    inputs = inputs_of(data)
    bare(reference, candidate, inputs) if who == "bare" else compared(task, reference, candidate, data)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main():
    if sys.argv[1:2] == ["peak"]:
        return peak(*sys.argv[2:])
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("| task | two bare passes, CPU s | level A / bare | peak MB bare | ours | ratio | load |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for task in sys.argv[2:] or TASKS:
        in_turns(task, rounds)


if __name__ == "__main__":
    main()
