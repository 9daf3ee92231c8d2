"""Concept scores against a model whose sensitivities are known, and against Captum's TCAV called by itself."""

import json

import pytest
import torch
from captum.concept import TCAV, Concept
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import compare_concepts, observe
from cp_compress.fidelity.attributions.concept_vectors import _LinearClassifier, find_concept_vectors

WIDTH = 6


class Known(nn.Module):
    """Features are the inputs; class 0 grows along the first of them, class 1 falls along it, class 2 ignores it."""

    def __init__(self, sensitivity=2.0, inplace=False):
        super().__init__()
        self.features = nn.Linear(WIDTH, WIDTH, bias=False)
        self.after = nn.ReLU(inplace=inplace) if inplace else nn.Identity()
        self.head = nn.Linear(WIDTH, 3, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(WIDTH))
            self.head.weight.zero_()
            self.head.weight[:, 0] = torch.tensor([sensitivity, -sensitivity, 0.0])
            self.head.weight[:, 1] = torch.tensor([0.1, 0.2, 4.0])

    def forward(self, inputs):
        return self.head(self.after(self.features(inputs)))


def draw(count, seed, shift=None):
    inputs = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    if shift is not None:
        inputs[:, shift] += 6
    return inputs


def data(count=90):
    return draw(count, 0), torch.zeros(count, dtype=torch.int64)


CONCEPTS = {"first": draw(40, 1, 0), "second": draw(40, 2, 1)}
RANDOM = [draw(40, 10 + number) for number in range(3)]


def scores(found):
    return {(row["class"], row["concept"]): row for row in found.details["scores"]}


def test_a_class_that_turns_against_a_concept_is_seen():
    reference, candidate = Known(), Known(sensitivity=-2.0)
    found = compare_concepts(
        observe(candidate, data()), observe(reference, data()), "features", CONCEPTS, random_sets=RANDOM
    )
    rows = scores(found)
    assert rows["0", "first"]["before"] == 1.0
    assert rows["1", "first"]["before"] == 0.0
    assert rows["0", "first"]["after"] == 0.0
    assert rows["2", "second"]["before"] == rows["2", "second"]["after"] == 1.0
    assert found.metrics["max_concept_change"] == 1.0
    # the vector is the first axis up to the spread of 40 examples, so the derivative is about the weight
    assert rows["0", "first"]["magnitude_before"] == pytest.approx(2.0, rel=0.1)
    assert rows["1", "first"]["magnitude_before"] == pytest.approx(-2.0, rel=0.1)
    assert rows["0", "first"]["p_value_before"] == 0.0
    assert found.details["accuracy"]["first"]["before"] > 0.9
    changes = [abs(row["after"] - row["before"]) for row in rows.values()]
    assert found.metrics["mean_concept_change"] == pytest.approx(sum(changes) / len(changes))
    assert found.examples
    json.dumps(found.to_json())


def test_equal_behaviour_changes_nothing():
    found = compare_concepts(observe(Known(), data()), observe(Known(), data()), "features", CONCEPTS)
    assert found.metrics == {"max_concept_change": 0, "mean_concept_change": 0, "concept_agreement": 1}
    assert found.examples == ()


class Curved(nn.Module):
    """Logits whose derivatives at the layer differ from example to example."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(WIDTH, 9), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))

    def forward(self, inputs):
        return self.head(self.body(inputs))


def test_scores_are_those_of_captum(tmp_path):
    reference, candidate = observe(Curved(0), data()), observe(Curved(1), data())
    found = compare_concepts(candidate, reference, "body", CONCEPTS, random_sets=RANDOM, min_class_examples=1)
    assert found.metrics["max_concept_change"] > 0
    every = [Concept(number, "set", [inputs]) for number, inputs in enumerate([*CONCEPTS.values(), *RANDOM])]
    pairs = [[concept, other] for concept in every[:2] for other in every[2:]]
    for moment, seen in (("before", reference), ("after", candidate)):
        for number in set(reference.predictions.tolist()):
            inputs = data()[0][reference.predictions == number]
            # a folder each: Captum cannot read its own files of integer classes again
            folder = str(tmp_path / moment / str(number))
            method = TCAV(seen.model, "body", moment, _LinearClassifier(0), save_path=folder)
            expected = method.interpret(inputs, pairs, target=number)
            for column, concept in enumerate(CONCEPTS):
                row = scores(found)[str(number), concept]
                each = [expected[f"{column}-{other.id}"]["body"] for other in every[2:]]
                counts = torch.stack([one["sign_count"][0] for one in each])
                magnitudes = torch.stack([one["magnitude"][0] for one in each])
                assert row[moment] == pytest.approx(float(counts.mean()), abs=1e-6)
                assert row[f"magnitude_{moment}"] == pytest.approx(float(magnitudes.mean()), abs=1e-5)


def test_no_files_are_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compare_concepts(observe(Curved(0), data()), observe(Curved(1), data()), "body", CONCEPTS)
    assert list(tmp_path.iterdir()) == []


def test_global_random_states_and_the_model_are_left_alone():
    import random

    import numpy as np

    model, other = Known(inplace=True).train(), Known()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = compare_concepts(observe(model, data()), observe(other, data()), "features", CONCEPTS, seed=5)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    again = compare_concepts(
        observe(Known(inplace=True), data()), observe(Known(), data()), "features", CONCEPTS, seed=5
    )
    assert again.details == first.details


def test_what_a_layer_gives_before_an_activation_in_place_counts():
    found = [
        find_concept_vectors(
            observe(model, data()), "features", [CONCEPTS["first"]], RANDOM, batch_size=16, seed=0
        ).vectors
        for model in (Known(inplace=True), Known())
    ]
    assert torch.equal(*found)


def test_the_scale_of_a_layer_does_not_turn_its_vectors():
    larger = Known()
    with torch.no_grad():
        larger.features.weight.mul_(100)
        larger.head.weight.div_(100)
    found = compare_concepts(observe(larger, data()), observe(Known(), data()), "features", CONCEPTS)
    assert found.metrics["max_concept_change"] == 0


def test_classes_with_few_examples_are_left_out_and_named():
    seen = observe(Known(), data())
    counts = torch.bincount(seen.predictions, minlength=3).tolist()
    found = compare_concepts(observe(Known(1.5), data()), seen, "features", CONCEPTS, min_class_examples=max(counts))
    assert {row["count"] for row in found.details["scores"]} == {max(counts)}
    assert any("too few examples" in note for note in found.notes)
    with pytest.raises(ObservationError, match="none has a score"):
        compare_concepts(observe(Known(1.5), data()), seen, "features", CONCEPTS, min_class_examples=91)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concepts": {}}, "at least one"),
        ({"concepts": {"few": draw(5, 0)}}, "6 inputs or more"),
        ({"concepts": {"wide": torch.zeros(10, 3)}}, r"tensor \(k, 6\)"),
        ({"concepts": [draw(9, 0)]}, "mapping"),
        ({"random_sets": 0}, "number of sets"),
        ({"random_sets": "many"}, "number of sets"),
        ({"random_sets": [draw(3, 0)]}, "6 inputs or more"),
        ({"concepts": {"large": draw(91, 0)}}, "the data set 90 only"),
        ({"layer": ""}, "path of a module"),
        ({"seed": -1}, "seed"),
        ({"min_class_examples": 0}, "1 or more"),
    ],
)
def test_refusals(change, message):
    arguments = {"layer": "features", "concepts": CONCEPTS, **change}
    with pytest.raises(InvalidArgumentError, match=message):
        compare_concepts(observe(Known(1.5), data()), observe(Known(), data()), **arguments)


def test_an_unknown_layer_is_refused():
    with pytest.raises(ObservationError, match=r"no layer 'feature'; .*features"):
        compare_concepts(observe(Known(1.5), data()), observe(Known(), data()), "feature", CONCEPTS)


def test_concepts_that_are_random_inputs_stand_for_nothing():
    nothing = torch.zeros(10, WIDTH)
    subjects = observe(Known(1.5), data()), observe(Known(), data())
    with pytest.raises(ObservationError, match="reference's layer 'features' cannot tell the concept 'empty'"):
        compare_concepts(*subjects, "features", {"empty": nothing}, random_sets=[nothing])
    same = draw(40, 1)
    with pytest.raises(ObservationError, match="cannot tell the concept 'same' from random inputs"):
        compare_concepts(*subjects, "features", {"same": same}, random_sets=[same])


def test_a_candidate_that_is_blind_to_a_concept_is_told():
    blind = Known()
    with torch.no_grad():
        blind.features.weight[0] = 0
        blind.features.weight[2:] = 0
        blind.features.weight[:, 1] = 0
    with pytest.raises(ObservationError, match="candidate's layer 'features' cannot tell the concept 'first'"):
        compare_concepts(observe(blind, data()), observe(Known(), data()), "features", CONCEPTS, random_sets=RANDOM)


def test_a_derivative_that_vanishes_keeps_no_sign():
    constant = Known()
    nn.init.zeros_(constant.head.weight)
    found = compare_concepts(observe(constant, data()), observe(Known(), data()), "features", CONCEPTS)
    assert found.metrics["concept_agreement"] == 0


@pytest.mark.parametrize("name", ["concepts", "random_sets"])
def test_inputs_that_are_no_numbers_are_refused(name):
    bad = draw(40, 1)
    bad[3, 2] = torch.nan
    arguments = {"concepts": CONCEPTS, "random_sets": RANDOM, name: {"bad": bad} if name == "concepts" else [bad]}
    with pytest.raises(InvalidArgumentError, match=f"{name}='NaN or Inf'"):
        compare_concepts(observe(Known(1.5), data()), observe(Known(), data()), "features", **arguments)
