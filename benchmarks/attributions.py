"""What level C costs beyond the forward and backward passes that its methods are defined by.

`compare_attributions` of ResNet-20 and its half-pruned copy, with maps, all metrics and the chance floor, against the
bare passes of both models over the same batches: one forward pass for the predictions, then the method's own number of
forward and backward passes to the input; in turns, in one process, CPU time. Peak memory is that of a process of
its own on 10,000 images (the images at hand, repeated with noise), less what it held before the comparison. The rules
of DeepLIFT cost more than bare passes: beside it stands Captum by itself, on copies whose activations are modules.

Run: python benchmarks/attributions.py [ROUNDS] [IMAGES]   (needs CP_DATA or ../shared/data)
     python benchmarks/attributions.py memory
"""

import copy
import functools
import multiprocessing
import platform
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from captum import attr
from global_pruning import spread
from torch import nn

from cp_compress import observe, parse_scheme
from cp_compress.fidelity import compare_attributions, forget_observations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import resnet
import subjects

MEMORY = sys.argv[1:] == ["memory"]
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 and not MEMORY else 5
IMAGES = int(sys.argv[2]) if len(sys.argv) > 2 else 256
PREDICTION_BATCH, BATCH = 256, 32
# method: (passes of the batch itself, examples in a pass for each example, whether gradients are taken)
METHODS = {
    "saliency": (1, 1, True),
    "input_x_gradient": (1, 1, True),
    "guided_backprop": (1, 1, True),
    "guided_grad_cam(layer='layer3.2.conv2')": (2, 1, True),
    "deep_lift": (1, 2, True),
    "smooth_grad(samples=8)": (8, 1, True),
    "gradient_shap(samples=8)": (8, 1, True),
    "integrated_gradients(steps=20)": (20, 1, True),
    "occlusion(window=8, stride=8)": (17, 1, False),
}


def bare(models, images, targets, passes, copies, gradients) -> None:
    for model in models:
        with torch.no_grad():
            for part in images.split(PREDICTION_BATCH):
                model(part)
        for part, wanted in zip(images.split(BATCH // copies), targets.split(BATCH // copies), strict=True):
            for _ in range(passes):
                if not gradients:
                    with torch.no_grad():
                        model(part)
                    continue
                leaf = part.repeat(copies, 1, 1, 1).requires_grad_()
                logits = model(leaf).gather(1, wanted.repeat(copies)[:, None])
                torch.autograd.grad(logits.sum(), leaf)


def with_modules(model):
    """Return a copy of a CIFAR ResNet whose activations are modules, as Captum's rules need them."""
    copied = copy.deepcopy(model)
    for block in (part for part in copied.modules() if isinstance(part, resnet.Block)):
        block.relu, block.last = nn.ReLU(), nn.ReLU()
        block.forward = functools.partial(_forward, block)
    copied.bn1 = nn.Sequential(copied.bn1, nn.ReLU())  # the second relu, a function, changes nothing
    return copied


def _forward(block, x):
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    if block.stride != 1 or block.missing_channels:
        before = block.missing_channels // 2
        x = F.pad(x[:, :, :: block.stride, :: block.stride], (0, 0, 0, 0, before, block.missing_channels - before))
    return block.last(out + x)


def captum_alone(models, images, targets):
    for model in models:
        with torch.no_grad():
            for part in images.split(PREDICTION_BATCH):
                model(part)
        method = attr.DeepLift(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part, wanted in zip(images.split(BATCH // 2), targets.split(BATCH // 2), strict=True):
                method.attribute(part, torch.zeros_like(part), target=wanted)


def compared(models, data, method) -> None:
    forget_observations()
    reference, candidate = (observe(model, data) for model in models)
    compare_attributions(candidate, reference, method)


def seconds(work, *arguments) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def models_and_data(count):
    torch.set_num_threads(1)
    reference, data = subjects.network("resnet20"), subjects.test_images()
    images, labels = (tensor[torch.arange(count) % len(data)] for tensor in data.tensors)
    if count > len(data):
        images = (images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    return (reference, parse_scheme("prune(density=0.5)").compress(reference)), (images, labels)


def time_methods() -> None:
    models, data = models_and_data(IMAGES)
    targets = models[0](data[0]).argmax(dim=1).detach()
    print(f"ResNet-20 and its half-pruned copy, {IMAGES} images, batch {BATCH}, 1 thread, {ROUNDS} rounds")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"{'method':44}{'floor s':>24}{'compare / floor':>28}")
    for method, definition in METHODS.items():
        floors, ratios = [], []
        for number in range(ROUNDS + 1):
            floor = seconds(bare, models, data[0], targets, *definition)
            ratio = seconds(compared, models, data, method) / floor
            if number:  # the first round warms up
                floors.append(floor)
                ratios.append(ratio)
        print(f"{method:44}{spread(floors, '.2f'):>24}{spread(ratios, '.3f'):>28}", flush=True)
    separate = [with_modules(model) for model in models]
    alone = [
        seconds(captum_alone, separate, data[0], targets) / seconds(bare, models, data[0], targets, 1, 2, True)
        for _ in range(ROUNDS + 1)
    ]
    print(f"{'deep_lift by Captum alone, without a comparison':68}{spread(alone[1:], '.3f'):>28}")


def held_memory(method, count, queue) -> None:
    models, data = models_and_data(count)
    # what the first calls allocate once, and the predictions, are there before
    compared(models, (data[0][:64], data[1][:64]), method)
    reference, candidate = (observe(model, data) for model in models)
    _ = reference.predictions, candidate.predictions
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compare_attributions(candidate, reference, method)
    queue.put((before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def print_memory() -> None:
    print("peak memory of the comparison beyond data, models and predictions, MB")
    for method in ("saliency", "deep_lift", "saliency(layer='layer3')"):
        for count in (1000, 10_000):
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=held_memory, args=(method, count, queue))
            process.start()
            before, after = queue.get()
            process.join()
            print(f"{method:30}{count:8} images: {after - before:8.0f} (process {after:.0f})", flush=True)


if __name__ == "__main__":
    print_memory() if MEMORY else time_methods()
