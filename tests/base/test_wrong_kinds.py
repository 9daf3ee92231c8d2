"""A model, data or an observation in the place of another is refused by name, with how to get what must stand there."""

import re

import pytest
import torch
from torch import nn

import cp_compress as cp
from cp_compress import Prune, Quantize, Requirement
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.base.showing.mistaken import is_factory
from cp_compress.fidelity import layer_features, replay_divergence

INPUTS = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))


def make():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


MODEL = make()
DATA = (INPUTS, MODEL(INPUTS).argmax(1))
SEEN = cp.observe(MODEL, DATA)
CANDIDATE = cp.observe(Prune(0.5).compress(MODEL), DATA)
FOUND = cp.compare_predictions(CANDIDATE, SEEN)
OBSERVE_FIRST = "observe each model on the data first"
COMPARISONS = {
    "compare_predictions": {},
    "compare_embeddings": {},
    "compare_attributions": {},
    "compare_pointing": {"must_look": torch.ones(4, dtype=torch.bool)},
    "compare_concepts": {"layer": "", "concepts": {"a": INPUTS}},
    "compare_boundaries": {"directions": torch.eye(4)},
    "compare_robustness": {},
    "compare_outputs": {},
    "compare_divergence": {"epsilon": 0.1},
    "find_origin": {},
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_take_observations(name):
    for pair in ((MODEL, MODEL), (SEEN, MODEL), (DATA, SEEN)):
        with pytest.raises(InvalidArgumentError, match=rf"{name}\(.*must be an observation, as `observe` returns"):
            getattr(cp, name)(*pair, **COMPARISONS[name])
    with pytest.raises(InvalidArgumentError, match=OBSERVE_FIRST):
        getattr(cp, name)(MODEL, MODEL, **COMPARISONS[name])


WRONG = [
    (lambda: layer_features(MODEL, []), OBSERVE_FIRST),
    (lambda: replay_divergence(MODEL, MODEL, "a"), OBSERVE_FIRST),
    (lambda: cp.noise_floor([MODEL, MODEL], cp.compare_predictions), OBSERVE_FIRST),
    (lambda: cp.noise_floor(MODEL, cp.compare_predictions), "give two observations or more"),
    (lambda: cp.noise_floor([SEEN, CANDIDATE], "predictions"), "such as compare_predictions"),
    (lambda: cp.observe(Quantize("int8"), DATA), "it is a scheme: make the model, by cp_compress.compress(reference, "),
    (lambda: cp.footprint(MODEL, MODEL), "take the footprint of each, or compression_report(reference, candidate)"),
    (lambda: cp.load("a.cp", make), "call it, as make()"),
    (lambda: cp.load("a.cp", MODEL.state_dict()), "by its load_state_dict"),
    (lambda: cp.load(make, "a.cp"), "the path comes first"),
    (lambda: cp.save("a.cp", MODEL), "the model comes first, and the path second"),
    (lambda: cp.compress(make, "quantize(int8)"), "call it, as make()"),
    (lambda: cp.compress(MODEL, ["prune(density=0.5)", "quantize(int8)"]), "prune(density=0.5) | quantize(int8)"),
    (lambda: cp.compress(MODEL, Quantize), "make one, as Quantize(…)"),
    (lambda: Prune(0.5).compress("models:make"), "from models import make"),
    (lambda: cp.footprint("a.cp"), "read it, by cp_compress.load(path, model)"),
    (lambda: cp.footprint(MODEL, (2, 4)), "give a tensor, such as torch.zeros(2, 4)"),
    (lambda: cp.observe(make, DATA), "call it, as make()"),
    (lambda: cp.observe(nn.Linear, DATA), "a model is anything that maps a batch to logits"),
    (lambda: cp.observe(MODEL, DATA, device="gpu"), "torch calls it cuda"),
    (lambda: cp.compare(DATA, MODEL, MODEL), "the model comes first"),
    (lambda: cp.compare("quantize(int8)", MODEL, DATA), 'cp_compress.compress(reference, "quantize(int8)")'),
    (lambda: cp.compare(SEEN, SEEN, DATA), "give its .model"),
    (lambda: cp.compare(CANDIDATE.model, MODEL, DATA, levels=3), "no level is called so"),
    (lambda: cp.CompressedDataset("jpeg(quality=50)", DATA), "the data comes first"),
    (lambda: cp.judge(FOUND, {"agreement": 0.9}), 'such as Requirement("agreement", "min", 0.98)'),
    (lambda: cp.judge(FOUND, []), "would pass whatever was found"),
    (lambda: cp.judge(cp.judge(FOUND, "agreement >= 0"), "agreement >= 0"), "its .measurement"),
    (lambda: cp.judge("agreement >= 0.9", FOUND), "the measurement comes first"),
    (lambda: Requirement("agreement", ">=", 0.9), 'did you mean "min"?'),
    (lambda: Requirement.parse(0.9), "must be a text such as"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_stands_in_the_wrong_place_says_what_to_do(number):
    call, told = WRONG[number]
    with pytest.raises(InvalidArgumentError, match=re.escape(told)):
        call()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make, "call it, as make()"),
        ("digits.npz", "by cp_compress.artifacts.read_examples(path)"),
        ("data:make", "from data import make"),
        (MODEL, "models come first, and the data after them"),
        (SEEN, "give its .data.source"),
    ],
)
def test_what_is_no_data(data, told):
    with pytest.raises(ObservationError, match=re.escape(told)):
        cp.observe(MODEL, data)


def test_files_that_cannot_be_read_or_written(tmp_path):
    cp.save(MODEL, tmp_path / "model.cp")
    with pytest.raises(FileNotFoundError, match=r"did you mean model\.cp\?"):
        cp.load(tmp_path / "modle.cp", MODEL)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        cp.save(MODEL, tmp_path / "nowhere" / "model.cp")


@pytest.mark.parametrize("requirements", ["agreement >= 0.5", Requirement("agreement", "min", 0.5)])
def test_one_requirement_stands_for_a_list_of_one(requirements):
    one, several = cp.judge(FOUND, requirements), cp.judge(FOUND, [requirements])
    assert one.results == several.results
    assert one.results[0].requirement == Requirement("agreement", "min", 0.5)


def test_functions_that_take_a_batch_are_models():
    for model in (lambda batch: batch, lambda *batches: batches[0], MODEL, MODEL.forward):
        assert not is_factory(model)
    assert cp.observe(lambda batch, scale=2.0: MODEL(batch) * scale, DATA).predictions.tolist() == DATA[1].tolist()


def test_measurements_are_mappings_and_say_where_what_is_not_there_is_found():
    found = cp.compare(CANDIDATE.model, MODEL, DATA, levels="predictions")
    check = cp.judge(FOUND, "agreement >= 0")
    assert len(FOUND) == len(list(FOUND)) == len(check)
    assert dict(FOUND.items()) == dict(zip(FOUND.keys(), FOUND.values(), strict=True))
    for ask, told in (
        (lambda: FOUND.agreement, 'write measurement["agreement"]'),
        (lambda: FOUND.agrement, "did you mean agreement?"),
        (lambda: check.agreement, 'write check["agreement"]'),
        (lambda: check.value, "it has measurement, metrics, outcome, passed, results, to_json, worst"),
        (lambda: found.predictions, 'write found["predictions"]'),
        (lambda: found.agreement, 'write found["predictions"]["agreement"]'),
        (lambda: cp.compare_prediction, "did you mean compare_predictions?"),
    ):
        with pytest.raises(AttributeError, match=re.escape(told)):
            ask()
    assert not hasattr(FOUND, "__deepcopy__")


def test_a_missing_argument_shows_the_form_of_the_call():
    for call, told in (
        (lambda: cp.noise_floor([SEEN, CANDIDATE]), "needs compare: call it as noise_floor(references, compare)"),
        (
            lambda: cp.noise_floor(SEEN, CANDIDATE, cp.compare_predictions),
            "call it as noise_floor(references, compare)",
        ),
        (lambda: cp.compare(MODEL, MODEL), "needs data: call it as compare(candidate, reference, data)"),
        (lambda: Prune(), "Prune() needs density: call it as Prune(density)"),
    ):
        with pytest.raises(TypeError, match=re.escape(told)):
            call()
