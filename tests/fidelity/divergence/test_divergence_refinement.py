"""Refinement: inputs on which both models are surer of different answers."""

import torch

from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import find_divergence, observe
from cp_compress.model import parse_scheme


def digit_seeds(count=24):
    return observe(digits_cnn(), digits()).data.select(range(count))[0]


def test_refined_inputs_lie_where_both_are_surer():
    model, seeds = digits_cnn(), digit_seeds(16)
    candidate = parse_scheme("prune(density=0.3)").compress(model)
    plain = find_divergence(candidate, model, seeds, epsilon=0.3)
    refined = find_divergence(candidate, model, seeds, epsilon=0.3, refine=True)
    rows = plain.found & ~plain.already
    assert int(rows.sum()) >= 8
    sure = [torch.fmin(one.reference_margins, one.candidate_margins)[rows] for one in (plain, refined)]
    assert bool((sure[1] >= sure[0]).all())
    assert float(sure[1].median()) > 2 * float(sure[0].median())
    assert float((refined.inputs - seeds).abs().max()) <= 0.3 + 1e-6


def test_refined_inputs_on_the_lattice_lie_where_both_are_surer():
    model, seeds = digits_cnn(), (digit_seeds() * 255).round() / 255
    candidate = parse_scheme("quantize(int8)").compress(model)
    plain, refined = (
        find_divergence(candidate, model, seeds, epsilon=16 / 255, lattice="uint8", refine=refine)
        for refine in (False, True)
    )
    rows = plain.found & ~plain.already
    assert int(rows.sum()) >= 5
    sure = [torch.fmin(one.reference_margins, one.candidate_margins)[rows] for one in (plain, refined)]
    assert bool((sure[1] >= sure[0]).all())
    assert float(sure[1].median()) > 1.4 * float(sure[0].median())
    assert torch.equal((refined.inputs * 255).round() / 255, refined.inputs)
    assert float((refined.inputs - seeds).abs().max()) <= 16 / 255 + 1e-6
