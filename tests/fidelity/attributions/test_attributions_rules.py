"""Methods with rules at activations, at layers and over draws: against Captum called by itself, and their laws."""

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attribution_networks import InPlace, Reused, WithFunctions, WithModules, images
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import compare_attributions, observe, parse_attribution_method
from cp_compress.fidelity.attributions.maps import attribution_maps

pytestmark = pytest.mark.filterwarnings("ignore:Setting:UserWarning", r"ignore:\s*Setting forward:UserWarning")

# what is asked of us, and of Captum: (method, class, its arguments, the arguments of the call, which layer)
AT_INPUT = {
    "guided_backprop()": lambda model, x, y: captum.attr.GuidedBackprop(model).attribute(x, target=y),
    "deconvolution()": lambda model, x, y: captum.attr.Deconvolution(model).attribute(x, target=y),
    "guided_grad_cam(layer='second')": lambda model, x, y: captum.attr.GuidedGradCam(model, model.second).attribute(
        x, target=y
    ),
    "deep_lift()": lambda model, x, y: captum.attr.DeepLift(model).attribute(x, target=y),
    "deep_lift(baseline=0.5)": lambda model, x, y: captum.attr.DeepLift(model).attribute(x, 0.5, target=y),
    "integrated_gradients(steps=50, baseline=0.5)": lambda model, x, y: captum.attr.IntegratedGradients(
        model
    ).attribute(x, 0.5, target=y),
    "deep_lift_shap(baselines=3)": lambda model, x, y: captum.attr.DeepLiftShap(model).attribute(
        x, _baselines("deep_lift_shap(baselines=3)"), target=y
    ),
}
AT_LAYER = {
    "saliency(layer='first')": lambda model, x, y: captum.attr.LayerGradientXActivation(
        model, model.first, multiply_by_inputs=False
    ).attribute(x, target=y),
    "input_x_gradient(layer='second')": lambda model, x, y: captum.attr.LayerGradientXActivation(
        model, model.second
    ).attribute(x, target=y),
    "integrated_gradients(steps=50, layer='second')": lambda model, x, y: captum.attr.LayerIntegratedGradients(
        model, model.second
    ).attribute(x, target=y),
    "deep_lift(layer='norm')": lambda model, x, y: captum.attr.LayerDeepLift(model, model.norm).attribute(x, target=y),
}
EVERY = {**AT_INPUT, **AT_LAYER}


def _baselines(method):
    return parse_attribution_method(method).draws(observe(WithModules(), images()).data, (3, 8, 8))["baselines"]


def maps(model, method, *, batch_size=None, examples=None):
    seen = observe(model, examples or images())
    return attribution_maps(
        seen, parse_attribution_method(method), torch.arange(len(seen)), seen.predictions, batch_size
    )


def expected(method):
    model, (inputs, _) = WithModules(), images()
    target = model(inputs).argmax(dim=1)
    return EVERY[method](model, inputs.requires_grad_(), target).detach()


def equal(found, wanted):
    """Tell whether maps are equal up to rounding, each on its own scale."""
    gap, scale = ((part.flatten(1).abs().amax(dim=1)) for part in (found - wanted, wanted))
    return bool((gap <= 1e-4 * scale).all()) and bool((scale > 0).any())


@pytest.mark.parametrize("network", [WithModules, WithFunctions, Reused, InPlace])
@pytest.mark.parametrize("method", EVERY)
def test_maps_are_captums_however_the_model_is_written(method, network):
    assert equal(maps(network(), method).maps, expected(method))


@pytest.mark.parametrize("batch_size", [1, 3, 200])
@pytest.mark.parametrize("method", EVERY)
def test_maps_do_not_depend_on_the_batch(method, batch_size):
    assert equal(maps(InPlace(), method, batch_size=batch_size).maps, expected(method))


@pytest.mark.parametrize("method", [*EVERY, "smooth_grad()", "gradient_shap()"])
def test_the_model_is_left_as_it_was(method):
    model = InPlace().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    torch.manual_seed(1)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    maps(model, method)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert [module.training for module in (model, model.first, model.norm)] == [True, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_guided_and_deconvolved_gradients_differ_from_plain_ones():
    plain = maps(WithFunctions(), "saliency").maps
    for method in ("guided_backprop", "deconvolution"):
        assert not torch.allclose(maps(WithFunctions(), method).maps, plain, atol=1e-4)


class Smooth(nn.Module):
    """Nothing but matrix products and a GELU, for which there is no rule."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 2)

    def forward(self, x):
        return self.last(F.gelu(self.first(x)))


def vectors(count=20):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 3


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution"])
def test_without_any_relu_guided_methods_are_refused(method):
    with pytest.raises(ObservationError, match="no ReLU is seen"):
        maps(Smooth(), method, examples=vectors())


def test_a_gap_of_deep_lift_is_found_and_refused():
    gap = maps(Smooth(), "deep_lift", examples=vectors()).completeness_gap
    assert gap > 0.1
    after = Smooth()
    with torch.no_grad():
        after.last.weight.mul_(1.01)
    with pytest.raises(ObservationError, match=r"deep_lift\(\) misses .* no rule; use integrated_gradients"):
        compare_attributions(observe(after, vectors()), observe(Smooth(), vectors()), "deep_lift")


@pytest.mark.parametrize("method", ["deep_lift()", "deep_lift(baseline=0.3)", "deep_lift_shap(baselines=4)"])
@pytest.mark.parametrize("network", [WithModules, WithFunctions, Reused, InPlace])
def test_deep_lift_adds_up_to_the_change_of_the_logit(network, method):
    model, (inputs, _) = network(), images()
    found = maps(model, method)
    assert found.completeness_gap < 1e-5
    target = model(inputs).argmax(dim=1)
    if "shap" in method:
        baselines = _baselines(method)
    else:
        baselines = torch.full_like(inputs[:1], parse_attribution_method(method).baseline)
    without = model(baselines).mean(dim=0)[target]
    change = model(inputs).gather(1, target[:, None]).flatten() - without
    assert torch.allclose(found.maps.flatten(1).sum(dim=1), change, atol=1e-5)


def test_the_reported_gap_is_its_definition():
    model, (inputs, _) = Smooth(), vectors()
    found = maps(model, "deep_lift", examples=vectors())
    logits = model(inputs).detach()
    target = logits.argmax(dim=1)
    change = (logits - model(torch.zeros_like(inputs)).detach()).gather(1, target[:, None]).flatten()
    missing = found.maps.flatten(1).sum(dim=1) - change
    assert found.completeness_gap == pytest.approx(float(missing.abs().sum() / change.abs().sum()), rel=1e-4)


class Bypassed(nn.Module):
    """Two branches, one of which passes the layer by."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x).tanh() + self.other(x)


def test_integrated_gradients_at_a_layer_are_complete_for_what_goes_through_it():
    model, (inputs, _) = Bypassed(), vectors()
    found = maps(model, "integrated_gradients(steps=60, layer='layer')", examples=vectors())
    assert found.completeness_gap < 1e-3
    target = model(inputs).argmax(dim=1)
    change = (model.layer(inputs).tanh() - model.layer(torch.zeros_like(inputs)).tanh()).gather(1, target[:, None])
    assert torch.allclose(found.maps.sum(dim=1), change.flatten(), atol=1e-3)


def test_integrated_gradients_know_what_a_layer_gave_before_it_was_overwritten():
    class Leaky(Bypassed):
        def forward(self, x):
            return F.leaky_relu(self.layer(x), 0.3, inplace=inplace).tanh() + self.other(x)

    def gap():
        torch.manual_seed(0)
        return maps(Leaky(), "integrated_gradients(layer='layer')", examples=vectors()).completeness_gap

    inplace = False
    expected = gap()
    inplace = True
    assert gap() == pytest.approx(expected)


def test_deep_lift_at_a_layer_is_not_refused_for_what_passes_by():
    torch.manual_seed(0)
    model, other = Bypassed(), Bypassed()
    found = compare_attributions(observe(other, vectors()), observe(model, vectors()), "deep_lift(layer='layer')")
    assert found.details["completeness_gap"]["reference"] > 0.1


def test_activations_that_follow_one_another_directly():
    class Adjacent(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = WithModules()
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x):
            return self.base.head(self.pool(self.relu(self.base.second(self.base.first(x)))).flatten(1))

    # Captum alone misses a part here: the ReLU reads its gradient before the rule of the pooling has changed it
    model, (inputs, _) = Adjacent().eval(), images()
    target = model(inputs).argmax(dim=1)
    leaf = inputs.clone().requires_grad_()
    _, missed = captum.attr.DeepLift(model).attribute(leaf, target=target, return_convergence_delta=True)
    found = maps(model, "deep_lift")
    assert found.completeness_gap < 1e-5 < float(missed.abs().max())


def test_an_input_that_is_used_twice_keeps_its_two_gradients_apart():
    class Both(nn.Module):
        def forward(self, x):
            return torch.stack([(F.relu(x) + x).sum(dim=1), x.sum(dim=1) - 100], dim=1)

    inputs = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    examples = (inputs, torch.tensor([0, 0]))
    assert torch.equal(maps(Both(), "deep_lift", examples=examples).maps, F.relu(inputs) + inputs)
    assert maps(Both(), "deep_lift", examples=examples).completeness_gap == 0


def test_a_model_that_needs_its_activations_in_place_is_refused():
    class Careless(nn.Module):
        def forward(self, x):
            x = x * 1
            F.relu_(x)
            return torch.stack([x.sum(dim=1), -x.sum(dim=1)], dim=1)

    examples = (torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(9, dtype=torch.int64))
    with pytest.raises(ObservationError, match="the value that each activation returns"):
        maps(Careless(), "guided_backprop", examples=examples)
    assert torch.equal(maps(Careless(), "saliency", examples=examples).maps != 0, examples[0] > 0)


def test_a_model_that_runs_other_activations_each_time_is_refused():
    class Changing(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(dim=1), -(x.relu() if len(x) < 5 else x.tanh()).sum(dim=1)], dim=1)

    with pytest.raises(ObservationError, match="same activations in every call"):
        maps(Changing(), "deep_lift", examples=(vectors()[0], torch.zeros(20, dtype=torch.int64)), batch_size=40)


def test_a_layer_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    with pytest.raises(ObservationError, match="runs 2 times"):
        maps(Twice(), "saliency(layer='layer')", examples=vectors())


def test_a_plain_callable_takes_rules_too():
    model = WithFunctions()
    assert equal(maps(lambda inputs: model(inputs), "deep_lift").maps, expected("deep_lift()"))


def test_exported_graphs_take_rules_too():
    batches = {"x": {0: torch.export.Dim("batch", min=1)}}
    graph = torch.export.export(WithFunctions(), (images(7)[0],), dynamic_shapes=batches).module()
    assert equal(maps(graph, "guided_backprop").maps, expected("guided_backprop()"))


def test_smooth_grad_is_captums_noise_tunnel_with_our_noise(monkeypatch):
    method = parse_attribution_method("smooth_grad(samples=5, deviation=0.2, seed=3)")
    model, (inputs, _) = WithModules(), images()
    noise = method.draws(observe(model, images()).data, (3, 8, 8))["noise"]
    assert float(noise.std()) == pytest.approx(0.2, rel=0.1)
    found = maps(model, str(method)).maps
    # Captum repeats each example for all its samples, one after the other
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: noise.repeat(7, 1, 1, 1))
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
    target = model(inputs).argmax(dim=1)
    theirs = tunnel.attribute(inputs, nt_samples=5, stdevs=0.2, target=target, abs=False)
    assert torch.allclose(found, theirs, atol=1e-6)


def test_smooth_grad_averages_other_methods_too():
    method = parse_attribution_method("smooth_grad(samples=3, method='deep_lift(layer=second)')")
    model, (inputs, labels) = WithFunctions(), images()
    noise = method.draws(observe(model, images()).data, (3, 8, 8))["noise"]
    seen = observe(model, images())
    parts = [
        attribution_maps(
            observe(model, (inputs + pattern, labels)),
            parse_attribution_method("deep_lift(layer='second')"),
            torch.arange(7),
            seen.predictions,
        ).maps
        for pattern in noise
    ]
    assert torch.allclose(maps(model, str(method)).maps, torch.stack(parts).mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["data", "zero"])
def test_gradient_shap_is_captums_with_our_draws(monkeypatch, kind):
    method = parse_attribution_method(f"gradient_shap(samples=4, deviation=0.1, baselines={kind})")
    model, (inputs, _) = WithModules(), images()
    drawn = method.draws(observe(model, images()).data, (3, 8, 8))
    if kind == "data":
        assert all(any(torch.equal(baseline, row) for row in inputs) for baseline in drawn["baselines"])
    else:
        assert not drawn["baselines"].any()
    found = maps(model, str(method)).maps
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: drawn["noise"].repeat(7, 1, 1, 1))
    monkeypatch.setattr(np.random, "uniform", lambda low, high, count: drawn["shares"].repeat(7).numpy())
    monkeypatch.setattr(np.random, "choice", lambda count, size: np.tile(np.arange(4), 7))
    target = model(inputs).argmax(dim=1)
    theirs = captum.attr.GradientShap(model).attribute(
        inputs, drawn["baselines"], n_samples=4, stdevs=0.1, target=target
    )
    assert torch.allclose(found, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["smooth_grad(samples=4)", "gradient_shap(samples=4)", "deep_lift_shap(baselines=3)"]
)
def test_draws_are_the_same_for_both_models_and_any_batch(method):
    first = maps(WithModules(), method, batch_size=2).maps
    assert torch.allclose(first, maps(InPlace(), method, batch_size=7).maps, atol=1e-6)
    assert not torch.allclose(first, maps(WithModules(), method.replace(")", ", seed=1)")).maps, atol=1e-4)


def test_more_baselines_than_examples_are_refused():
    with pytest.raises(InvalidArgumentError, match="7 examples only"):
        maps(WithModules(), "deep_lift_shap(baselines=8)")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["deep_lift", "smooth_grad", "gradient_shap", "deep_lift_shap(baselines=2)"])
def test_other_dtypes(method, dtype):
    inputs, labels = images()
    found = maps(WithFunctions().to(dtype), method, examples=(inputs.to(dtype), labels)).maps
    plain = maps(WithFunctions(), method).maps
    alike = torch.nn.functional.cosine_similarity(found.double().flatten(1), plain.double().flatten(1))
    assert float(alike.min()) > 0.95
