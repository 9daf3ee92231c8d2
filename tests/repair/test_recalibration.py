"""Re-estimated batch normalisation: closed forms, what is left alone, and what is refused."""

import copy

import pytest
import torch
from machine import needs_integer_kernels
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError, NoEffectError, ObservationError
from cp_compress.data import JPEG, CompressedDataset
from cp_compress.examples import digits_cnn, digits_training
from cp_compress.model import compression_report, compression_steps, load, lower, parse_scheme, save
from cp_compress.search import recalibrate_batchnorm

IMAGES, LABELS = digits_training().tensors


class Scaled(nn.Module):
    """Two norms in a row behind a scaling, so that the statistics of both are known in closed form."""

    def __init__(self, scale=3.0, shift=1.0):
        super().__init__()
        self.scale, self.shift = scale, shift
        self.first, self.second = nn.BatchNorm2d(2, eps=1e-12), nn.BatchNorm2d(2, eps=1e-12)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([2.0, 0.5]))
            self.first.bias.copy_(torch.tensor([-1.0, 4.0]))

    def forward(self, images):
        return self.second(self.first(images * self.scale + self.shift)).mean(dim=(2, 3))


def data(count=50, seed=0):
    inputs = torch.randn(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return inputs, torch.zeros(count, dtype=torch.int64)


def reaching(model, inputs):
    """Return what reaches each norm of a model in evaluation mode, channels first."""
    seen = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, args, path=path: seen.__setitem__(path, args[0]))
        for path, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return {path: values.double().transpose(0, 1).flatten(1) for path, values in seen.items()}


@pytest.mark.parametrize("batch_size", [7, 50, 256])
def test_one_norm_has_the_mean_and_unbiased_variance_of_all_values_whatever_the_batches(batch_size):
    inputs, labels = data()
    found = recalibrate_batchnorm(Scaled().eval(), (inputs, labels), batch_size=batch_size).first
    values = (inputs * 3 + 1).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.running_mean, values.mean(1).float())
    torch.testing.assert_close(found.running_var, values.var(1).float())


def test_a_norm_may_be_called_by_keyword():
    class ByKeyword(Scaled):
        def forward(self, images):
            return self.second(input=self.first(input=images * self.scale + self.shift)).mean(dim=(2, 3))

    found, expected = (recalibrate_batchnorm(kind().eval(), data()) for kind in (ByKeyword, Scaled))
    assert torch.equal(found.second.running_mean, expected.second.running_mean)


@pytest.mark.parametrize("batch_size", [7, 50])
def test_layer_by_layer_every_norm_holds_what_reaches_it_in_evaluation_mode(batch_size):
    found = recalibrate_batchnorm(digits_cnn(), digits_training(), batch_size=batch_size, layer_by_layer=True)
    reached = reaching(found, IMAGES)
    assert len(reached) == 3
    for path, values in reached.items():
        layer = found.get_submodule(path)
        torch.testing.assert_close(layer.running_mean, values.mean(1).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, values.var(1).float(), rtol=1e-4, atol=1e-5)


def test_one_pass_over_a_single_batch_is_layer_by_layer_up_to_the_unbiased_variance():
    inputs, labels = data(200)
    joint = recalibrate_batchnorm(Scaled().eval(), (inputs, labels))
    exact = recalibrate_batchnorm(Scaled().eval(), (inputs, labels), layer_by_layer=True)
    torch.testing.assert_close(joint.second.running_mean, exact.second.running_mean)
    # the first norm divides by the biased deviation in the one, by the unbiased one in the other
    count = 200 * 12
    torch.testing.assert_close(joint.second.running_var, exact.second.running_var * count / (count - 1))
    torch.testing.assert_close(exact.second.running_mean, torch.tensor([-1.0, 4.0]))
    torch.testing.assert_close(exact.second.running_var, torch.tensor([4.0, 0.25]))


def test_momentum_moves_the_old_statistics_towards_each_batch_as_torch_does():
    inputs, labels = data(48)
    found = recalibrate_batchnorm(Scaled().eval(), (inputs, labels), batch_size=16, momentum=0.3)
    expected = Scaled().train()
    expected.first.momentum = expected.second.momentum = 0.3
    for part in inputs.split(16):
        expected(part)
    for layer, other in ((found.first, expected.first), (found.second, expected.second)):
        torch.testing.assert_close(layer.running_mean, other.running_mean)
        torch.testing.assert_close(layer.running_var, other.running_var)
        assert int(layer.num_batches_tracked) == int(other.num_batches_tracked) == 3


def test_only_statistics_change_and_the_model_given_not_at_all():
    model = digits_cnn().train()
    model.classifier.eval()
    before = copy.deepcopy(model.state_dict())
    states = [module.training for module in model.modules()]
    found = recalibrate_batchnorm(model, (IMAGES * 0.5, LABELS), examples=200)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = {name for name, value in found.state_dict().items() if not torch.equal(before[name], value)}
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{path}.{name}" for path in norms for name in buffers}
    assert states == [module.training for module in model.modules()]
    assert states == [module.training for module in found.modules()]
    assert all(module.track_running_stats for module in found.modules() if isinstance(module, nn.BatchNorm2d))


def test_chosen_examples_are_those_that_are_used():
    rows = [3, 11, 40, 7]
    found = recalibrate_batchnorm(Scaled().eval(), data(), examples=rows)
    alone = recalibrate_batchnorm(Scaled().eval(), tuple(part[rows] for part in data()))
    assert torch.equal(found.second.running_var, alone.second.running_var)


def test_a_norm_used_twice_pools_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, images):
            return (self.norm(images) + self.norm(images * 5)).mean(dim=(2, 3))

    inputs, labels = data()
    for layer_by_layer in (False, True):
        found = recalibrate_batchnorm(Twice().eval(), (inputs, labels), layer_by_layer=layer_by_layer)
        values = torch.cat([inputs, inputs * 5]).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(found.norm.running_mean, values.mean(1).float())
        torch.testing.assert_close(found.norm.running_var, values.var(1).float())


def test_darker_images_are_made_up_for():
    dark = IMAGES * 0.3, LABELS
    model = digits_cnn()
    repaired = recalibrate_batchnorm(model, dark)
    with torch.no_grad():
        before, after = ((each(dark[0]).argmax(1) == LABELS).double().mean() for each in (model, repaired))
    assert after > 0.97
    assert after > before + 0.1


@pytest.mark.parametrize(
    "scheme",
    [
        "prune(density=0.5)",
        "filter_prune(density=0.5)",
        "filter_prune(density=0.5, shrink=False)",
        "low_rank(rank=8)",
        "quantize(int8)",
        "quantize(float16)",
        "quantize(float16, mode=dynamic)",
        "quantize(int8, mode=dynamic)",
        "fixed_point(bits=8)",
    ],
)
def test_candidates_keep_what_their_scheme_made(scheme, tmp_path):
    candidate = parse_scheme(scheme).compress(digits_cnn())
    found = recalibrate_batchnorm(candidate, (IMAGES * 0.5, LABELS), examples=256)
    before, after = candidate.state_dict(), found.state_dict()
    assert all(
        torch.equal(before[name], after[name]) for name in before if "running" not in name and "num_" not in name
    )
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert compression_steps(found) == (scheme, "recalibrate_batchnorm(examples=256, data=tuple)")
    save(found, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", digits_cnn())
    assert compression_steps(loaded) == compression_steps(found)
    assert torch.equal(loaded(IMAGES[:9]), found(IMAGES[:9]))


def test_the_step_names_the_codec():
    stored = CompressedDataset((IMAGES[:64], LABELS[:64]), JPEG(20))
    found = recalibrate_batchnorm(digits_cnn(), stored, momentum=0.1, layer_by_layer=True)
    text = "recalibrate_batchnorm(examples=64, momentum=0.1, layer_by_layer=True, data='jpeg(quality=20)')"
    assert compression_steps(found) == (text,)


def test_a_model_without_statistics_to_estimate_is_refused():
    with pytest.raises(NoEffectError, match="no batch normalisation, so"):
        recalibrate_batchnorm(nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), data())
    stateless = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(24, 2))
    with pytest.raises(NoEffectError, match="no batch normalisation that keeps statistics"):
        recalibrate_batchnorm(stateless, data())


class Named(Scaled):
    """The same norms, called with the input by its name."""

    def forward(self, images):
        return self.second(input=self.first(input=images * self.scale + self.shift)).mean(dim=(2, 3))


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_an_input_may_be_given_by_its_name(layer_by_layer):
    named, plain = (
        recalibrate_batchnorm(model.eval(), data(), layer_by_layer=layer_by_layer) for model in (Named(), Scaled())
    )
    assert all(map(torch.equal, named.state_dict().values(), plain.state_dict().values()))


class Functional(Scaled):
    """Norms whose statistics a function reads."""

    def forward(self, images):
        norm = self.first
        return nn.functional.batch_norm(images, norm.running_mean, norm.running_var).mean(dim=(2, 3))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_norms_that_cannot_be_seen_are_told():
    for layer_by_layer in (False, True):
        with pytest.raises(NoEffectError, match="calls none of its layers of batch normalisation"):
            recalibrate_batchnorm(Functional().eval(), data(), layer_by_layer=layer_by_layer)
    with pytest.raises(InvalidArgumentError, match=r"model=.*of a ScriptModule can neither be copied"):
        recalibrate_batchnorm(torch.jit.script(Scaled().eval()), data())


class Sometimes(Scaled):
    """The first norm is for larger batches, and for bright images of the second part of the data only."""

    def forward(self, images):
        bright = bool(images.mean() > 2)
        return self.second(self.first(images) if len(images) > 2 and bright else images).mean(dim=(2, 3))


def test_layers_that_the_first_examples_do_not_reach_are_measured_in_their_order():
    dark, labels = data(20)
    model = Sometimes().eval()
    found = recalibrate_batchnorm(
        model, (torch.cat([dark, dark + 9]), labels.repeat(2)), batch_size=20, layer_by_layer=True
    )
    bright = (dark + 9).double().transpose(0, 1).flatten(1)
    assert torch.allclose(found.first.running_mean.double(), bright.mean(1), atol=1e-5)
    assert torch.allclose(found.first.running_var.double(), bright.var(1), rtol=1e-5)
    normed = (bright - bright.mean(1, keepdim=True)) / bright.std(1, keepdim=True)
    normed = normed * torch.tensor([[2.0], [0.5]]) + torch.tensor([[-1.0], [4.0]])
    reached = torch.cat([dark.double().transpose(0, 1).flatten(1), normed], 1)
    assert torch.allclose(found.second.running_mean.double(), reached.mean(1), atol=1e-4)
    assert torch.allclose(found.second.running_var.double(), reached.var(1), rtol=1e-4)


def test_statistics_that_are_there_already_are_no_repair():
    once = recalibrate_batchnorm(Scaled().eval(), data(), batch_size=16)
    with pytest.raises(NoEffectError, match="already"):
        recalibrate_batchnorm(once, data(), batch_size=16)


def test_a_layer_that_is_not_used_is_left_and_named():
    model = Scaled().eval()
    model.spare = nn.BatchNorm2d(2)
    found = recalibrate_batchnorm(model, data())
    assert torch.equal(found.spare.running_mean, torch.zeros(2))
    from cp_compress.model.record import read_steps

    assert [(skip.tensor, "not use" in skip.reason) for skip in read_steps(found)[0].skips] == [("spare", True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"recalibrate_batchnorm\(batch_size=0\)"),
        ({"momentum": 1.5}, r"recalibrate_batchnorm\(momentum=1.5\)"),
        ({"momentum": 0}, r"recalibrate_batchnorm\(momentum=0\)"),
        ({"layer_by_layer": 1}, r"recalibrate_batchnorm\(layer_by_layer=1\)"),
        ({"examples": 0}, r"recalibrate_batchnorm\(examples=0\)"),
        ({"device": "nonsense"}, "nonsense"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        recalibrate_batchnorm(Scaled(), data(), **arguments)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ObservationError, match="cannot take inputs"):
        recalibrate_batchnorm(Scaled().eval(), (torch.rand(4, 5, 3, 4), torch.zeros(4, dtype=torch.int64)))
    one_value = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(24), nn.Linear(24, 2)).eval()
    with pytest.raises(CompressionError, match="one value per channel"):
        recalibrate_batchnorm(one_value, data(1), layer_by_layer=True)
    huge = Scaled(scale=1e30).eval()
    with pytest.raises(CompressionError, match="cannot hold"):
        recalibrate_batchnorm(huge, data())


@needs_integer_kernels
def test_a_lowered_model_is_refused():
    static = parse_scheme("quantize(int8, mode=static, calibration='cp_compress.examples:digits_training')")
    with pytest.raises(CompressionError, match="lowered"):
        recalibrate_batchnorm(lower(static.compress(digits_cnn())), digits_training())


def test_the_report_shows_what_was_re_estimated():
    model = digits_cnn()
    repaired = recalibrate_batchnorm(model, CompressedDataset(digits_training(), JPEG(20)), examples=200)
    report = compression_report(model, repaired)
    shown = {layer.name: layer.actions for layer in report.layers if layer.changed}
    named = {name for name, _ in model.named_buffers() if name.rpartition(".")[2] in ("running_mean", "running_var")}
    assert named
    assert shown == dict.fromkeys(named, ("re-estimated",))
    assert "running_mean" in str(report)
    assert not any(layer.changed for layer in compression_report(model, copy.deepcopy(model)).layers)


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_a_norm_without_statistics_is_left_alone(layer_by_layer):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    rows = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(100).long()
    found = recalibrate_batchnorm(model, rows, layer_by_layer=layer_by_layer)
    torch.testing.assert_close(found[1].running_mean, model[0](rows[0]).mean(0).detach())


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_it_works_within_inference_mode(layer_by_layer):
    expected = recalibrate_batchnorm(Scaled().eval(), data(), layer_by_layer=layer_by_layer)
    with torch.inference_mode():
        found = recalibrate_batchnorm(Scaled().eval(), data(), layer_by_layer=layer_by_layer)
    assert torch.equal(found.first.running_var, expected.first.running_var)
    assert torch.equal(found.second.running_mean, expected.second.running_mean)
