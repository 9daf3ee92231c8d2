"""`compare_outputs` against plain numpy, with planted faults, and on outputs of any form."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress import InvalidArgumentError, ObservationError, Quantize, Unlabeled
from cp_compress.fidelity import Requirement, compare_outputs, judge, observe
from cp_compress.fidelity.observing import gathering

INPUTS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def regression(width=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, width)).eval()


def compared(candidate, reference, data=INPUTS, output=None, **options):
    return compare_outputs(observe(candidate, data, output=output), observe(reference, data, output=output), **options)


@pytest.mark.parametrize("width", [1, 5])  # one number an example, and what could be logits
def test_the_metrics_are_those_of_numpy(width):
    reference = regression(width)
    candidate = Quantize("int4", group_size=2).compress(reference)
    ours, theirs = (model(INPUTS).detach().double().numpy() for model in (candidate, reference))
    errors = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    own = compared(candidate, reference, tolerance=0.1, metric=lambda a, b: (a - b).abs().flatten(1).sum(1))
    found = own.metrics
    expected = {
        "relative_error": errors.mean(),
        "worst_relative_error": errors.max(),
        "within_tolerance": (errors <= 0.1).mean(),
        "sqnr": 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum()),
        "output_rmse": np.sqrt(((ours - theirs) ** 2).mean()),
        "output_error": np.abs(ours - theirs).max(),
        "own_error": np.abs(ours - theirs).sum(1).mean(),
        **{
            f"relative_error_quantile_{level:g}": np.quantile(errors, level, method="inverted_cdf")
            for level in (0.5, 0.9, 0.99)
        },
    }
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(own.per_example["relative_error"].numpy(), errors, rtol=1e-5)
    worst = own.examples[0]
    assert worst.index == errors.argmax()
    assert "relative error" in worst.after


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 2.0), st.integers(1, 64))
def test_a_scale_is_its_own_relative_error_whatever_the_batch(scale, size):
    reference = nn.Linear(6, 1)
    candidate = nn.Sequential(reference, nn.Linear(1, 1, bias=False)).requires_grad_(False)
    candidate[1].weight.fill_(scale)
    pair = [observe(model, INPUTS, batch_size=size) for model in (candidate, reference)]
    found = compare_outputs(*pair).metrics
    assert found["relative_error"] == pytest.approx(abs(scale - 1), abs=1e-6)


def test_planted_faults_are_caught_and_a_twin_in_half_precision_passes():
    reference = regression(4)
    scaled, swapped = copy.deepcopy(reference), copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in scaled[2].parameters():
            parameter *= 1.02
        for parameter in swapped[2].parameters():
            parameter[[0, 1]] = parameter[[1, 0]]
    half = Quantize("float16").compress(reference)
    required = [Requirement("relative_error", "max", 0.01), Requirement("sqnr", "min", 40.0)]
    outcomes = [judge(compared(one, reference), required).passed for one in (scaled, swapped, half)]
    assert outcomes == [False, False, True]
    assert compared(scaled, reference).metrics["relative_error"] == pytest.approx(0.02, rel=1e-3)


@dataclasses.dataclass
class Found:
    boxes: torch.Tensor
    count: torch.Tensor
    missing: torch.Tensor | None = None


class Forms(nn.Module):
    """Gives two outputs, in one form or another."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.boxes, self.score = form, nn.Linear(6, 4), nn.Linear(6, 1)

    def forward(self, inputs):
        parts = self.boxes(inputs)[:, :, None], self.score(inputs)
        if self.form == "dataclass":
            return Found(parts[0], torch.ones(len(inputs), dtype=torch.int64))
        return dict(zip(("boxes", "score"), parts, strict=True)) if self.form == "mapping" else (parts[0], [parts[1]])


@pytest.mark.parametrize(
    ("form", "names"), [("mapping", ["boxes", "score"]), ("tuple", ["0", "1.0"]), ("dataclass", ["boxes"])]
)
def test_a_tree_of_outputs_is_compared_by_name(form, names):
    reference = Forms(form).eval()
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        candidate.boxes.weight *= 1.5
        candidate.boxes.bias *= 1.5
    found = compared(candidate, reference)
    rows = {row["output"]: row["relative_error"] for row in found.details["outputs"]}
    assert list(rows) == names
    assert rows[names[0]] == found.metrics["relative_error"] == pytest.approx(0.5, rel=1e-5)
    if len(names) > 1:
        assert rows[names[1]] == 0
        assert f"the least alike is {names[0]}" in found.notes[0]
        part = int(names[0]) if form == "tuple" else names[0]
        alone = compared(candidate, reference, output=part)
        assert alone.details["outputs"][0]["values"] == 4 * len(INPUTS)
        other = compared(
            candidate, reference, output=lambda given: given["score"] if form == "mapping" else given[1][0]
        )
        assert other.metrics["relative_error"] == 0
        with pytest.raises(ObservationError, match=f"output='nothing' is not among .*{names[1]}"):
            compared(candidate, reference, output="nothing")


def test_outputs_that_are_too_large_are_made_again(monkeypatch):
    reference = Forms("mapping").eval()
    candidate = Quantize("int4", group_size=2).compress(reference)
    kept = compared(candidate, reference)
    monkeypatch.setattr(gathering, "_MOST_KEPT", 0)
    calls = []
    reference.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    again = compare_outputs(*(observe(model, INPUTS.clone()[:100], batch_size=32) for model in (candidate, reference)))
    assert max(calls) <= 32
    assert sum(calls) >= 200
    whole = compared(candidate, reference, data=INPUTS[:100])
    assert again.metrics == pytest.approx(whole.metrics)
    assert kept.metrics.keys() == again.metrics.keys()


def test_padding_does_not_count():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.out = nn.Embedding(20, 5), nn.Linear(5, 3)

        def forward(self, input_ids, attention_mask):
            return self.out(self.embedding(input_ids))

    reference = Encoder().eval()
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        candidate.embedding.weight[0] += 100  # the id of padding
        candidate.out.bias += 0.01
    ids = torch.randint(1, 20, (30, 7), generator=torch.Generator().manual_seed(0))
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    long = {name: torch.cat([one, torch.zeros(30, 4, dtype=torch.int64)], dim=1) for name, one in short.items()}
    one, other = (compared(candidate, reference, data=data) for data in (short, long))
    assert one.metrics == pytest.approx(other.metrics)
    assert one.metrics["output_error"] < 0.02
    assert one.details["outputs"][0]["values"] == 30 * 7 * 3
    assert "360 values are left out" in other.notes[0]
    assert not one.notes


def test_zeros_have_the_usual_size_and_constants_tell_nothing():
    def gives(scale):
        return lambda inputs: inputs * scale

    data = torch.cat([torch.zeros(1, 2), torch.eye(2)])
    found = compared(lambda inputs: inputs + 0.1, gives(1.0), data=data)
    assert found.per_example["relative_error"].isfinite().all()
    with pytest.raises(ObservationError, match="the same outputs for all 200 examples"):
        compared(
            lambda inputs: inputs.new_ones(len(inputs), 3, 1) * 1.1, lambda inputs: inputs.new_ones(len(inputs), 3, 1)
        )


def test_claims_are_about_examples_or_clusters():
    reference = regression()
    candidate = Quantize("int8").compress(reference)
    limits = [
        Requirement("within_tolerance", "min", 0.8, 0.95),
        Requirement("relative_error_quantile_0.9", "max", 1.0, 0.95),
    ]
    found = compared(candidate, reference, tolerance=0.5)
    assert judge(found, limits).passed
    clustered = compared(candidate, reference, tolerance=0.5, clusters=torch.arange(200) // 50)
    assert clustered.details["clusters"]["count"] == 4
    assert judge(clustered, limits).outcome == "inconclusive"
    with pytest.raises(InvalidArgumentError, match="no claim about the population"):
        judge(found, [Requirement("relative_error", "max", 0.5, 0.95)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1}, "tolerance"),
        ({"quantiles": (1.5,)}, "quantiles"),
        ({"metric": 3}, "metric"),
        ({"metric": lambda a, b: (a - b).abs().mean()}, "one finite number for each of 200 examples"),
        ({"metric": lambda a, b: a.flatten() * float("nan")}, "nan for #0"),
        ({"metric": lambda a, b: "near"}, "returned a str"),
    ],
)
def test_malformed_options_are_refused(options, message):
    reference = regression()
    with pytest.raises(InvalidArgumentError, match=message):
        compared(Quantize("int8").compress(reference), reference, **options)


def test_outputs_of_other_shapes_or_names_and_nan_are_refused():
    with pytest.raises(ObservationError, match=r"of shape .200, 2, 1., the reference .200, 3, 1."):
        compared(lambda x: x[:, :2, None], lambda x: x[:, :3, None])
    with pytest.raises(ObservationError, match="the candidate gives a, the reference b"):
        compared(lambda x: {"a": x[:, :1]}, lambda x: {"b": x[:, :1]})
    with pytest.raises(ObservationError, match=r"NaN or infinite depth on 1 of 200 examples .#7"):
        compared(
            lambda x: {"depth": torch.where(torch.isclose(x[:, :1], INPUTS[7, :1]), torch.nan, x[:, :1])},
            lambda x: {"depth": x[:, :1]},
        )
    with pytest.raises(ObservationError, match="expected a floating-point tensor"):
        compared(lambda x: "text", lambda x: "text")
    with pytest.raises(ObservationError, match="random in evaluation mode"):
        compared(lambda x: torch.rand(len(x), 1), lambda x: x[:, :1])


@pytest.mark.parametrize("form", [lambda x: x[:, 0], lambda x: torch.complex(x[:, 0], x[:, 1])])
def test_one_number_an_example_may_have_no_axis(form):
    found = compared(lambda x: form(1.1 * x), form)
    assert found.metrics["relative_error"] == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(ObservationError, match="expected logits of shape"):
        _ = observe(form, INPUTS).logits


def test_two_inputs_without_labels_and_stored_data_are_read():
    pair = Unlabeled((INPUTS, INPUTS.flip(0)))
    found = compared(lambda a, b: (a + b)[:, :1] * 1.1, lambda a, b: (a + b)[:, :1], data=pair)
    assert found.metrics["relative_error"] == pytest.approx(0.1, rel=1e-5)
