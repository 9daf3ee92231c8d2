"""Requirements that a model without any work would meet are refused, for outputs, retrieval, objects and text."""

import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from cp_compress import (
    DetectionData,
    ObservationError,
    RetrievalData,
    compare_detections,
    compare_generation,
    compare_language,
    compare_retrieval,
)
from cp_compress.fidelity import Requirement, compare_outputs, judge, observe
from cp_compress.fidelity.retrieval.judgements import chance_of

RANDOM = torch.Generator().manual_seed(0)
VECTORS = torch.randn(60, 16, generator=RANDOM)


def hotter(inputs):
    return 290 + inputs[:, :3]


def outputs(candidate, count=60, **options):
    data = VECTORS[:count]
    return compare_outputs(observe(candidate, data), observe(hotter, data), tolerance=0.01, **options)


def retrieval(**options):
    queries = VECTORS + torch.randn(VECTORS.shape, generator=torch.Generator().manual_seed(1))
    data = RetrievalData(queries, VECTORS, relevant=[[place] for place in range(60)])
    return compare_retrieval(lambda one: one.flip(1).sin(), lambda one: one, data, similarity="cosine", **options)


def detections():
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    boxes = [torch.tensor([[0.0, 0.0, 4.0 + place, 4.0]]) for place in range(5)]
    targets = [{"boxes": box if place < 2 else box + 3, "labels": torch.tensor([0])} for place, box in enumerate(boxes)]
    places = {float(image.sum()): place for place, image in enumerate(images)}

    def model(batch):
        found = [boxes[places[float(image.sum())]] for image in batch]
        return [{"boxes": box, "labels": torch.tensor([0]), "scores": torch.tensor([0.9])} for box in found]

    def nothing(batch):
        return [{"boxes": torch.empty(0, 4), "labels": torch.empty(0).long(), "scores": torch.empty(0)} for _ in batch]

    return compare_detections(nothing, model, DetectionData(list(images), targets))


def generation(candidate, reference):
    return compare_generation(candidate, reference, [f"number {place}" for place in range(40)])


def language():
    def model(scale):
        rows = scale * torch.randn(50, 50, generator=torch.Generator().manual_seed(3))
        return lambda ids: rows[ids] + 20 * (torch.arange(50) == 7)

    ids = torch.randint(0, 50, (30, 20), generator=torch.Generator().manual_seed(4))
    return compare_language(model(0.01), model(3.0), ids)


def mostly(batch):
    return ["yes" if not text.endswith("7") else "no" for text in batch]


def echo(batch):
    return [f"{text} {text[::-1]}" for text in batch]


@pytest.mark.parametrize(
    ("measure", "asked", "told"),
    [
        (lambda: outputs(lambda one: 290 + 0 * one[:, :3]), "relative_error <= 0.05", "mean output for every example"),
        (lambda: outputs(lambda one: hotter(one) + 1), "within_tolerance >= 0.9", "mean output for every example"),
        (
            lambda: outputs(lambda one: -hotter(one), metric=lambda a, b: 0 * a[:, 0]),
            "own_error <= 0.1",
            "mean output for every example",
        ),
        (lambda: retrieval(k=58), "result_overlap >= 0.95", "documents in a random order"),
        (lambda: retrieval(k=3), "recall_drop <= 0.9", "documents in a random order"),
        (detections, "map_drop <= 0.5", "finds nothing"),
        (lambda: generation(lambda batch: ["yes"] * len(batch), mostly), "exact_generations >= 0.85", "the same for"),
        (lambda: generation(lambda batch: batch, echo), "common_prefix >= 0.5", "nothing beyond the prompt"),
        (language, "token_agreement >= 0.98", "one token everywhere"),
    ],
)
def test_a_requirement_that_a_model_without_work_meets_is_refused(measure, asked, told):
    measurement = measure()
    with pytest.raises(ObservationError, match=told):
        judge(measurement, [asked])
    # another requirement that it misses makes the check one of the candidate again, and a bound that always holds does
    # not stand in its way
    strict = {"outputs": "output_error <= 0.01", "detections": "matched_f1 >= 0.5", "language": "token_kl <= 1e-6"}
    strict |= {"retrieval": "first_result_agreement >= 0.9", "generation": "edit_distance <= 0.01"}
    assert judge(measurement, [asked, strict[measurement.comparison]]).outcome == "fail"


def test_few_examples_and_bounds_that_measure_are_not_refused():
    noted = judge(outputs(lambda one: hotter(one) + 1, count=10), ["relative_error <= 0.05"])
    assert noted.passed
    assert "mean output" in noted.measurement.notes[-1]
    assert judge(retrieval(k=58), [Requirement("result_overlap", "min", 0.0)]).passed
    # a good candidate under a bound that tells
    check = judge(outputs(lambda one: hotter(one) + 0.001), ["relative_error <= 0.0001"])
    assert check.passed
    assert not any("mean output" in note for note in check.measurement.notes)


def test_what_a_constant_gets_is_that_of_its_outputs():
    found = outputs(hotter).details["without_skill"][0]["metrics"]
    mean = hotter(VECTORS).mean(0)
    measured = outputs(lambda one: mean.expand(len(one), 3)).metrics
    assert found == pytest.approx({name: measured[name] for name in found}, rel=1e-3)


def test_chance_is_the_mean_over_all_orders():
    relevant, count, k = {0: 2, 3: 1}, 5, 3
    found = chance_of([relevant], [0], count, k)
    ideal = 2 + 1 / math.log2(3)
    recall, first, gain = [], [], []
    for order in itertools.permutations(range(count)):
        hits = [place for place, one in enumerate(order[:k]) if one in relevant]
        recall.append(len(hits) / 2)
        first.append(1 / (hits[0] + 1) if hits else 0.0)
        gain.append(sum(relevant[order[place]] / math.log2(place + 2) for place in hits) / ideal)
    expected = {"recall": recall, "mrr": first, "ndcg": gain}
    assert found == pytest.approx({name: statistics.mean(values) for name, values in expected.items()})


class Places(nn.Module):
    """Six numbers an example, of which a mask of six places says nothing."""

    def forward(self, series, mask):
        return (series * mask).cumsum(1).flip(1)


def test_a_mask_counts_only_for_outputs_that_follow_it():
    mask = (torch.arange(6) < torch.randint(2, 4, (40, 1), generator=RANDOM)).long()
    data = {"series": torch.randn(40, 6, generator=RANDOM), "mask": mask}

    class Fixed(Places):
        def forward(self, series, mask):
            return nn.functional.pad(super().forward(series, mask), (0, 6))[:, :6]  # six, whatever the length is

    class Damaged(Fixed):
        def forward(self, series, mask):
            return torch.where(mask.bool(), super().forward(series, mask), 100.0)

    class Elsewhere(Places):
        def forward(self, series, mask):
            return torch.where(mask.bool(), super().forward(series, mask), 100.0)

    fixed = compare_outputs(observe(Damaged(), data), observe(Fixed(), data))
    assert fixed["output_error"] > 50
    following = compare_outputs(observe(Elsewhere(), data), observe(Places(), data))
    assert following["output_error"] == 0
    assert any("% of the values" in note and "the mask" in note for note in following.notes)


def test_what_a_model_gives_and_nobody_compares_is_told():
    def model(scale):
        return lambda one: {"logits": one + scale, "boxes": one * scale, "classes": (one * scale).long()}

    found = compare_outputs(observe(model(1.0), VECTORS), observe(model(2.0), VECTORS))
    assert found.notes == ("not compared: boxes (float32), classes (int64); output= names one that is to be",)
    chosen = compare_outputs(*(observe(model(scale), VECTORS, output="boxes") for scale in (1.0, 2.0)))
    assert chosen.notes == ()
