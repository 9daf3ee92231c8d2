"""Maps against closed forms and against Captum called by itself; models are left as they were found."""

import gc

import captum.attr
import pytest
import torch
from torch import nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity import forget_observations, observe, parse_attribution_method
from cp_compress.fidelity.attributions.jaccard import split_jaccard
from cp_compress.fidelity.attributions.maps import attribution_maps

METHODS = ["saliency()", "input_x_gradient()", "integrated_gradients()", "occlusion(window=2)", "grad_cam(layer='0')"]
GRADIENT_METHODS = [method for method in METHODS if "occlusion" not in method]


def convolutional(inplace=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(6 * 64, 5),
    )


def data(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5


def maps(model, method, *, batch_size=None, examples=None):
    seen = observe(model, examples or data())
    indices = torch.arange(len(seen))
    asked = parse_attribution_method(method)
    return attribution_maps(seen, asked, indices, seen.predictions, batch_size)


def test_closed_forms_of_a_linear_model():
    model = nn.Linear(4, 3)
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    examples = (inputs, torch.zeros(6, dtype=torch.int64))
    weight = model.weight.detach()[model(inputs).argmax(dim=1)]
    assert torch.allclose(maps(model, "saliency", examples=examples).maps, weight)
    for method in ("input_x_gradient", "integrated_gradients(steps=2)", "occlusion(window=1, stride=1)"):
        assert torch.allclose(maps(model, method, examples=examples).maps, inputs * weight, atol=1e-5)
    assert maps(model, "integrated_gradients(steps=2)", examples=examples).completeness_gap < 1e-5


class Steep(nn.Module):
    """A class whose logit rises within a part of the way from zero, as short as an input's last value is large."""

    def forward(self, inputs):
        return torch.stack([9 + inputs[:, 0] + 4 * torch.tanh(20 * (inputs[:, -1] - 1.3)), inputs[:, 1]], dim=1)


def test_integrated_gradients_take_as_many_steps_as_their_gap_asks_for():
    inputs = torch.tensor([[2.0, 0, 0.1], [1.0, 0, 2.2], [1.0, 1, 5.0], [1.0, 1, 12.0], [1.0, 1, 300.0]])
    examples = (inputs, torch.zeros(5, dtype=torch.int64))
    target = torch.zeros(5, dtype=torch.int64)
    gradients = captum.attr.IntegratedGradients(Steep())
    by_steps = {
        steps: gradients.attribute(inputs, target=target, n_steps=steps, return_convergence_delta=True)
        for steps in (50, 100, 200, 400)
    }
    change = by_steps[50][0].sum(dim=1) - by_steps[50][1]
    needed = [
        next(steps for steps, (_, gap) in by_steps.items() if abs(gap[row]) <= 0.05 * change[row] or steps == 400)
        for row in range(5)
    ]
    assert len(set(needed)) > 2  # 50, some in between, and the most
    expected = torch.stack([by_steps[steps][0][row] for row, steps in enumerate(needed)])
    for batch_size in (None, 1):
        found = maps(Steep(), "integrated_gradients", examples=examples, batch_size=batch_size)
        assert torch.allclose(found.maps, expected, atol=1e-5)
        gap = sum(abs(float(by_steps[steps][1][row])) for row, steps in enumerate(needed))
        assert found.completeness_gap == pytest.approx(gap / float(change.abs().sum()), rel=1e-3)
    given = maps(Steep(), "integrated_gradients(steps=100)", examples=examples).maps
    assert torch.allclose(given, by_steps[100][0], atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 200])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_captums_whatever_the_batch(method, batch_size):
    model = convolutional(inplace=False).eval()
    inputs, _ = data()
    target = model(inputs).argmax(dim=1)
    leaf = inputs.clone().requires_grad_()
    expected = {
        "saliency()": lambda: captum.attr.Saliency(model).attribute(leaf, target=target, abs=False),
        "input_x_gradient()": lambda: captum.attr.InputXGradient(model).attribute(leaf, target=target),
        "integrated_gradients()": lambda: captum.attr.IntegratedGradients(model).attribute(leaf, target=target),
        "occlusion(window=2)": lambda: captum.attr.Occlusion(model).attribute(
            inputs, (3, 2, 2), (3, 2, 2), target=target
        ),
        "grad_cam(layer='0')": lambda: captum.attr.LayerGradCam(model, model[0]).attribute(leaf, target=target),
    }[method]()
    found = maps(convolutional(), method, batch_size=batch_size).maps
    assert found.shape == expected.shape
    assert torch.allclose(found, expected.detach().to(found.dtype), atol=1e-5)
    assert bool((found < 0).any()), "maps keep their sign"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(method, frozen):
    model = convolutional().train()
    model[1].eval()
    model.requires_grad_(not frozen)
    model[0].bias.grad = torch.ones(6)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs, labels = data()
    copy = inputs.clone()
    maps(model, method, examples=(inputs, labels))
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert all(parameter.requires_grad is not frozen for parameter in model.parameters())
    assert torch.equal(model[0].bias.grad, torch.ones(6))
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["0.bias"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(inputs, copy)
    assert not inputs.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(method, mode):
    model, other = convolutional(), convolutional()
    expected = maps(model, method).maps
    with mode():
        found = maps(other, method).maps
    assert torch.equal(found, expected)


def _cast(model, dtype):
    model.to(dtype)
    model.register_forward_pre_hook(lambda module, args: tuple(part.to(dtype) for part in args))
    model.register_forward_hook(lambda module, args, output: output.float())
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_behind_a_cast(method, dtype):
    found = maps(_cast(convolutional(), dtype), method).maps
    expected = maps(convolutional(), method).maps
    assert float(split_jaccard(found, expected).min()) > 0.8


def test_a_model_in_bfloat16_throughout():
    inputs, labels = data()
    found = maps(convolutional().bfloat16(), "saliency", examples=(inputs.bfloat16(), labels)).maps
    expected = maps(convolutional(), "saliency").maps
    assert float(split_jaccard(found, expected).min()) > 0.8


@pytest.mark.parametrize("scheme", ["quantize(int8)", "quantize(int8, mode=dynamic)"])
def test_gradients_flow_through_8_bit_layers(scheme):
    from cp_compress import parse_scheme

    original = convolutional().eval()
    found = maps(parse_scheme(scheme).compress(original), "saliency").maps
    assert bool(found.flatten(1).any(dim=1).all())


class Arithmetic:
    """A callable that is no module."""

    def __init__(self, differentiable):
        self.model, self.differentiable = convolutional().eval(), differentiable

    def __call__(self, inputs):
        return self.model(inputs) if self.differentiable else self.model(inputs.detach())


def test_a_differentiable_callable_is_enough():
    assert torch.equal(maps(Arithmetic(True), "saliency").maps, maps(convolutional(), "saliency").maps)


@pytest.mark.parametrize("method", GRADIENT_METHODS[:3])
def test_a_callable_without_gradients_is_refused(method):
    with pytest.raises(ObservationError, match=r"needs a model that is differentiable in its inputs"):
        maps(Arithmetic(False), method)


def test_logits_without_any_gradient_are_refused():
    table = torch.eye(3)
    with pytest.raises(ObservationError, match="carry no gradient"):
        maps(lambda inputs: table[inputs[:, 0].long()], "saliency", examples=(torch.zeros(2, 1), torch.tensor([0, 1])))


def test_occlusion_needs_no_gradients():
    found = maps(Arithmetic(False), "occlusion(window=2)").maps
    assert torch.equal(found, maps(convolutional(), "occlusion(window=2)").maps)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Arithmetic(True), "0", "plain callable"),
        (convolutional(), "7", "no layer '7'; similar names are"),
        (convolutional(), "6", r"grad_cam.* outputs of shape \(1, 5\).*\(n, channels, \*space\)"),
    ],
)
def test_layers_that_grad_cam_cannot_use(model, layer, message):
    with pytest.raises(ObservationError, match=message):
        maps(model, f"grad_cam(layer='{layer}')")


def test_close_names_of_layers():
    model = nn.Sequential()
    model.add_module("layer3", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    model.add_module("head", nn.Sequential(nn.Flatten(), nn.LazyLinear(5)))
    model(data()[0])
    with pytest.raises(ObservationError, match=r"similar names are layer3.*"):
        maps(model, "grad_cam(layer='layer_3.0')")


def test_layers_that_take_no_part():
    model = convolutional()
    model[2].idle = nn.Conv2d(3, 3, 1)
    with pytest.raises(ObservationError, match="does not use this layer"):
        maps(model, "grad_cam(layer='2.idle')")


def test_nan_attributions_name_the_examples():
    class Root(nn.Module):
        def forward(self, inputs):
            return torch.stack([inputs.sum(dim=1).sqrt(), inputs.sum(dim=1).abs().sqrt() - 1], dim=1)

    inputs = torch.ones(3, 2)
    inputs[1] = 0
    with pytest.raises(ObservationError, match=r"on 1 of 3 examples \(#1\)"):
        maps(Root(), "saliency", examples=(inputs, torch.tensor([0, 0, 0])))


def test_integer_inputs_are_refused():
    class Scaled(nn.Module):
        def forward(self, inputs):
            return inputs.float().flatten(1)

    inputs = torch.ones(2, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ObservationError, match=r"torch\.uint8: gradients need"):
        maps(Scaled(), "saliency", examples=(inputs, torch.tensor([0, 0])))


def test_maps_are_computed_once():
    calls = []
    model = convolutional()
    model.register_forward_hook(lambda module, args, output: calls.append(1))
    seen = observe(model, data())
    asked = parse_attribution_method("saliency")
    first = attribution_maps(seen, asked, torch.arange(7), seen.predictions)
    before = len(calls)
    assert attribution_maps(seen, asked, torch.arange(7), seen.predictions) is first
    assert len(calls) == before
    assert attribution_maps(seen, asked, torch.arange(6), seen.predictions[:6]) is not first


def test_the_oldest_maps_are_dropped_when_all_are_too_large(monkeypatch):
    seen = [observe(convolutional(), data(seed=number)) for number in range(4)]

    def ask(number):
        return attribution_maps(
            seen[number], parse_attribution_method("saliency"), torch.arange(7), torch.arange(7) % 5
        )

    size = ask(0).maps.nbytes
    monkeypatch.setattr("cp_compress.fidelity.attributions.maps._KEPT_BYTES", 3 * size)
    first = [ask(number) for number in (0, 1, 2)]
    assert [ask(number) is first[number] for number in (0, 1, 2)] == [True] * 3
    ask(0), ask(3)
    assert ask(0) is first[0]
    again = ask(1)
    assert again is not first[1]
    assert torch.equal(again.maps, first[1].maps)
    monkeypatch.setattr("cp_compress.fidelity.attributions.maps._KEPT_BYTES", 0)
    before, after = ask(2), ask(3)
    assert ask(2) is before
    assert ask(3) is after


def test_batches_halve_when_memory_runs_out():
    sizes = []

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional()

        def forward(self, inputs):
            sizes.append(len(inputs))
            if len(inputs) > 3:
                raise torch.cuda.OutOfMemoryError("pretended")
            return self.inner(inputs)

    assert torch.allclose(maps(Small(), "saliency").maps, maps(convolutional(), "saliency").maps, atol=1e-6)
    assert max(sizes[-3:]) <= 3


@pytest.mark.parametrize("method", ["guided_backprop()", "deep_lift()", "deep_lift(layer='0')", "saliency()"])
@pytest.mark.filterwarnings("ignore:Setting:UserWarning", r"ignore:\s*Setting forward:UserWarning")
def test_nothing_outlives_the_maps(method):
    def tensors():
        forget_observations()
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    maps(convolutional(), method)
    before = tensors()
    maps(convolutional(), method)
    assert tensors() == before
