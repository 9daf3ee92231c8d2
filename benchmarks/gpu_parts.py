"""The parts of gpu_check.py: each prints Markdown. They import late, so that a package one lacks stops no other."""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SECONDS, ROUNDS = 2.0, 20  # at most, for one figure
SHAPES = ((37,), (13, 10), (5, 9, 11), (3, 32, 32))
ZFP_MODES = ({"precision": 8}, {"precision": 16}, {"tolerance": 0.02}, {"rate": 4})


def run_part(name: str, device_name: str) -> int:
    """Run one part on a device; return the exit code."""
    if device_name == "pretended":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
        import pretended

        device = pretended.pretend()
    else:
        device = torch.device(device_name)
    torch.ones(1, device=device)  # or say at once that there is none
    return {"machine": machine, "bits": bits, "rates": rates, "levels": levels, "latency": latency, "nvjpeg": nvjpeg}[
        name
    ](device, device.type != "cuda")


def row(*cells: object) -> None:
    """Print one row of a table at once: what comes later may be ended."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def table(*titles: str) -> None:
    """Begin a table."""
    print()
    row(*titles)
    row(*["---"] * len(titles))


def seconds_of(work: Callable[[], object], device: torch.device, small: bool) -> float:
    """Return the median of the seconds that a work takes, after one that warms up."""
    from cp_compress.base.devices import wait_for

    times: list[float] = []
    ending = time.perf_counter() + SECONDS
    for number in range(2 if small else ROUNDS + 1):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        if number:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() > ending:
            break
    return statistics.median(times)


def images(*shape: int, seed: int = 0) -> Tensor:
    """Return images in [0, 1] as smooth as photographs are."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cumsum(-1).cumsum(-2)
    low, high = values.amin((-1, -2), keepdim=True), values.amax((-1, -2), keepdim=True)
    return (values - low) / (high - low)


def machine(device: torch.device, small: bool) -> int:
    """Say what the device and the packages are."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        capability = f"{facts.major}.{facts.minor}"
        size = f"{facts.total_memory / 2**30:.0f} GiB"
        print(f"{facts.name}, compute capability {capability}, {size}, CUDA {torch.version.cuda}.")
    packages = ("torch", "torchvision", "triton", "numpy", "numba", "zfpy", "pillow", "captum", "pytest", "hypothesis")
    found = []
    for name in packages:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    print(f"Python {sys.version.split()[0]}; {', '.join(found)}.")
    return 0


def differing(found: Tensor, expected: Tensor) -> int:
    """Return how many values differ in any bit."""
    words = {4: torch.int32, 8: torch.int64}.get(found.element_size())
    pair = [each.cpu().contiguous() for each in (found, expected)]
    if words is not None and found.is_floating_point():
        pair = [each.view(words) for each in pair]
    return int((pair[0] != pair[1]).sum())


def bits(device: torch.device, small: bool) -> int:
    """Compare what codecs give on the device with what they give on the CPU."""
    from cp_compress.data import JPEG
    from cp_compress.data.zfp import requantise as zfp
    from cp_compress.data.zfp.planes import Setting

    if device.type == "cuda":
        print("Triton's kernel: " + ("in use." if zfp.find_fused(device) is not None else "**not in use**."))
    table("codec", "what", "values", "differing")
    wrong = 0
    precisions = (8,) if small else tuple(range(1, 33))
    tolerances = (0.02,) if small else tuple(1.3 * 2.0**exponent for exponent in range(-20, 12))
    budgets = (4.0,) if small else (1.0, 2.5, 4.0, 7.3, 16.0)
    settings = {
        "precision": [Setting(precision=precision) for precision in precisions],
        "tolerance": [Setting(tolerance=tolerance) for tolerance in tolerances],
        "rate": [Setting(rate=rate) for rate in budgets],
    }
    for dtype in (torch.float32, torch.float64):
        for mode, several in settings.items():
            for what, function in (("requantise", zfp.requantise_arrays), ("size_bits", zfp.count_array_bits)):
                compared, failed = 0, 0
                for shape in SHAPES:
                    values = _wide(2 if small else 64, shape, dtype)
                    there = values.to(device)
                    for setting in several:
                        expected = function(values, setting)
                        failed += differing(function(there, setting), expected)
                        compared += expected.numel()
                row(f"ZFP, {mode}, {dtype}", what, f"{compared:,}", failed)
                wrong += failed
    batch = images(2 if small else 32, 3, 37, 50)
    for quality in (50,) if small else (5, 25, 50, 75, 90, 100):
        for subsampling in ("4:4:4", "4:2:0"):
            codec = JPEG(quality, subsampling=subsampling)
            expected = codec.requantise(batch)
            failed = differing(codec.requantise(batch.to(device)), expected)
            row(f"JPEG {quality}, {subsampling}", "requantise", f"{expected.numel():,}", failed)
            wrong += failed
    if wrong:
        print(f"{wrong} values differ", file=sys.stderr)
    return int(wrong > 0)


def _wide(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    exponents = torch.randint(-30, 30, (count, *shape), generator=generator)
    return (torch.randn(count, *shape, generator=generator, dtype=torch.float64) * torch.exp2(exponents.double())).to(
        dtype
    )


def rates(device: torch.device, small: bool) -> int:
    """Measure codecs in bytes of float32 a second, beside a copy in memory."""
    from cp_compress.data import JPEG, ZFP

    works: dict[str, Any] = {f"ZFP {mode}": ZFP(**mode, clip=None) for mode in ZFP_MODES}
    works |= {f"JPEG {quality}": JPEG(quality) for quality in (50, 90)}
    for size, count in ((32, 8), (224, 1)) if small else ((32, 65_536), (224, 1_024)):
        batch = images(count, 3, size, size).to(device)
        target, gigabytes = torch.empty_like(batch), batch.numel() * batch.element_size() / 1e9
        copying = seconds_of(lambda batch=batch, target=target: target.copy_(batch), device, small)
        print(f"\n{count:,} images (3, {size}, {size}), {gigabytes:.3f} GB of float32. ", end="")
        print(f"A copy in memory reads them at {gigabytes / copying:,.1f} GB/s (and writes as many).")
        table("codec", "requantise, GB/s", "time / copy", "size_bits, GB/s", "coefficients, GB/s")
        for name, codec in works.items():
            requantising = seconds_of(lambda codec=codec, batch=batch: codec.requantise(batch), device, small)
            cells = [f"{gigabytes / requantising:,.2f}", f"{requantising / copying:,.1f}"]
            for method in ("size_bits", "coefficients"):
                function = getattr(codec, method, None)
                taken = (
                    None
                    if function is None
                    else seconds_of(lambda function=function, batch=batch: function(batch), device, small)
                )
                cells.append("–" if taken is None else f"{gigabytes / taken:,.2f}")
            row(name, *cells)
    return 0


def levels(device: torch.device, small: bool) -> int:
    """Measure comparisons at each level in examples a second, beside bare forward passes."""
    import copy

    from torchvision.models import resnet18

    from cp_compress import compare_attributions, compare_boundaries, compare_embeddings, compare_predictions, observe
    from cp_compress.fidelity import forget_observations
    from cp_compress.model import parse_scheme

    torch.manual_seed(0)
    reference = _network() if small else resnet18(num_classes=10).eval()
    candidate = parse_scheme("prune(density=0.5)").compress(copy.deepcopy(reference)).to(device)
    reference = reference.to(device)
    side = 16 if small else 64
    scales = (
        {"A: predictions": 32, "B: embeddings": 32, "C: saliency": 8, "D: boundaries": 2}
        if small
        else {
            "A: predictions": 4096,
            "B: embeddings": 1024,
            "C: saliency": 1024,
            "D: boundaries": 32,
        }
    )
    compare = {
        "A: predictions": compare_predictions,
        "B: embeddings": compare_embeddings,
        "C: saliency": compare_attributions,
        "D: boundaries": compare_boundaries,
    }
    table("level", "examples", "examples a second", "time / forward passes of both")
    for name, count in scales.items():
        batch = images(count, 3, side, side)
        data = batch, torch.arange(count) % 10

        def measure(name: str = name, data: tuple[Tensor, Tensor] = data) -> None:
            forget_observations()
            compare[name](*(observe(model, data) for model in (candidate, reference)))

        def passes(batch: Tensor = batch) -> None:
            with torch.no_grad():
                for part in batch.split(512):
                    there = part.to(device)
                    candidate(there), reference(there)

        taken, bare = seconds_of(measure, device, small), seconds_of(passes, device, small)
        row(name, f"{count:,}", f"{count / taken:,.0f}", f"{taken / bare:,.1f}")
    return 0


def _network() -> torch.nn.Module:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    ).eval()


def latency(device: torch.device, small: bool) -> int:
    """Measure compressed models in turns with the dense one."""
    import latency as measuring
    from torchvision.models import VisionTransformer, resnet18, vit_b_16

    if small:
        measuring.SHAPE = (3, 32, 32)
    networks: Iterator[tuple[str, Callable[[], torch.nn.Module]]] = iter(
        [
            ("ResNet-18", resnet18),
            ("ViT-B/16", (lambda: VisionTransformer(32, 8, 2, 4, 64, 128)) if small else vit_b_16),
        ]
    )
    print("```text")
    for title, make in networks:
        torch.manual_seed(0)
        dense = make().eval().to(device)
        models = {"dense": dense} | {name: model.eval() for name, model in measuring.gpu_candidates(dense).items()}
        for size in (1,) if small else (1, 64):
            measuring.measure(title, models, measuring.images(size, 2).to(device), 2 if small else 15)
    print("```")
    return 0


def nvjpeg(device: torch.device, small: bool) -> int:
    """Measure decoding on the device and on the CPU, and how far their pixels lie apart."""
    from cp_compress.data import JPEG

    table(
        "images",
        "quality",
        "on the CPU, images/s",
        "on the device, images/s",
        "coefficients of streams, images/s",
        "largest difference",
    )
    cpu = torch.device("cpu")
    for size, count in ((32, 4),) if small else ((32, 2_048), (224, 256), (512, 64)):
        batch = images(count, 3, size, size)
        for quality in (50, 90):
            codec = JPEG(quality)
            streams = codec.encode(batch)
            found, expected = codec.decode_on(device, streams), codec.decode(streams)
            here = seconds_of(lambda codec=codec, streams=streams: codec.decode(streams), cpu, small)
            there = seconds_of(lambda codec=codec, streams=streams: codec.decode_on(device, streams), device, small)
            read = seconds_of(lambda codec=codec, streams=streams: codec.coefficients_of_streams(streams), cpu, small)
            apart = float((found.cpu() - expected).abs().max())
            row(
                f"{count} × {size}²",
                quality,
                *(f"{count / each:,.0f}" for each in (here, there, read)),
                f"{255 * apart:.0f}/255",
            )
    return 0
