"""How much noise each part of a candidate adds, and how much arrives there."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cp_compress.fidelity.observing.hooks import CallHook, InputHook, watching
from cp_compress.fidelity.observing.nested_tensors import cast_floats, copied, tensors_in
from cp_compress.fidelity.origin.pairs import LayerPairs


class NoiseMeter:
    """Sums of squares of the reference's outputs and of what the candidate's differ by, of each part."""

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    def add(self, path: str, reference: Any, candidate: Any) -> None:
        """Add the outputs of one run; outputs that cannot be subtracted make the part's ratio NaN."""
        before, after = tensors_in(reference), tensors_in(candidate)
        fits = len(before) == len(after) and all(a.shape == b.shape for a, b in zip(before, after, strict=True))
        pairs = [(b.double(), a.to(b.device).double()) for b, a in zip(before, after, strict=True)] if fits else []
        signal = sum(float(b.square().sum()) for b, _ in pairs) if fits else math.nan
        noise = sum(float((b - a).square().sum()) for b, a in pairs) if fits else math.nan
        self._signal[path] = self._signal.get(path, 0.0) + signal
        self._noise[path] = self._noise.get(path, 0.0) + noise

    def include(self, other: NoiseMeter) -> None:
        """Add the sums of another meter."""
        for mine, theirs in ((self._signal, other._signal), (self._noise, other._noise)):
            for path, value in theirs.items():
                mine[path] = mine.get(path, 0.0) + value

    def decibels(self, path: str) -> float:
        """Return 10 · log₁₀(Σ reference² / Σ (reference − candidate)²), inf without any difference."""
        signal, noise = self._signal.get(path, math.nan), self._noise.get(path, math.nan)
        if math.isnan(signal) or math.isnan(noise):
            return math.nan
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def measure_noise(
    candidate: nn.Module,
    reference: nn.Module,
    pairs: LayerPairs,
    run_candidate: Callable[[], Any],
    run_reference: Callable[[], Any],
    meters: tuple[NoiseMeter, NoiseMeter],
) -> None:
    """Add one batch's noise of each part: to the first meter as it arrives, to the second what the part adds itself.

    The second is the difference of both parts' outputs on the *reference's* input of that part: noise that
    comes from earlier parts is not charged to it. Held are copies of the reference's outputs of the batch, and of the
    input of the part that runs: operations in place, in a part or after it, change neither. Of a chain the last part
    has the noise of all, each on what the candidate's own before it gives.
    """
    arriving, added = meters
    ahead = {later: earlier for chain in pairs.chains for earlier, later in itertools.pairwise(chain)}
    handed_on: dict[str, Any] = {}
    inputs: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {path: [] for path in pairs.paths}
    outputs: dict[str, list[Any]] = {path: [] for path in pairs.paths}

    def take(path: str) -> InputHook:
        def hook(args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            inputs[path].append(copied((args, keywords)))

        return hook

    def keep(path: str) -> CallHook:
        taken, _ = pairs.candidate_dtypes[path]
        part = _computing_in(candidate.get_submodule(path), taken)

        def hook(args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            args, keywords = inputs[path].pop()
            if ahead.get(path) in handed_on:
                args, keywords = (handed_on.pop(ahead[path]),), {}
            own = part(*cast_floats(args, taken), **cast_floats(keywords, taken))
            if path in ahead.values():
                handed_on[path] = own
            outputs[path].append(copied(output))
            added.add(path, output, own)

        return hook

    def compare(path: str) -> CallHook:
        def hook(args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            arriving.add(path, outputs[path].pop(0) if outputs[path] else None, output)

        return hook

    before = {path: take(path) for path in pairs.paths}
    with watching(reference, {path: keep(path) for path in pairs.paths}, before):
        run_reference()
    with watching(candidate, {path: compare(path) for path in pairs.paths}):
        run_candidate()


def _computing_in(part: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Return a part that can be called alone: a model may widen its parameters only while all of it runs."""
    held = {parameter.dtype for parameter in part.parameters() if parameter.is_floating_point()}
    return part if dtype is None or held <= {dtype} else copy.deepcopy(part).to(dtype)
