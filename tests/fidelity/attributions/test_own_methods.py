"""Attribution methods of a user's own: asked like the others, and refused when their maps say nothing."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from attribution_networks import WithFunctions, images
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.base.extensions import extending
from cp_compress.fidelity import AttributionMethod, Saliency, compare_attributions, compare_pointing, observe
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.known import (
    as_attribution_method,
    attribution_methods_by_name,
    check_method_class,
    known_methods,
    parse_attribution_method,
)


@dataclass(frozen=True)
class Gradient(AttributionMethod):
    """Saliency, written by a user; `change` may spoil it."""

    factor: float = 1.0
    expression_name: ClassVar[str] = "gradient"

    def attribute(self, subject, inputs, target):
        logits = subject.logits(inputs).gather(1, target[:, None])
        return self.change(self.factor * torch.autograd.grad(logits.sum(), inputs)[0], inputs)

    def change(self, maps, inputs):
        return maps


def spoiled(change, **attributes):
    """Return a method whose maps `change(maps, inputs)` spoils."""
    members = {"change": lambda self, maps, inputs: change(maps, inputs), **attributes}
    return dataclass(frozen=True)(type("Spoiled", (Gradient,), {"expression_name": "spoiled", **members}))()


def pair():
    after = WithFunctions()
    with torch.no_grad():
        after.second.weight.mul_(1.2)
        after.head.weight[0].mul_(0.7)
    return observe(after, images()), observe(WithFunctions(), images())


def test_an_own_method_gives_what_the_same_one_of_the_package_gives():
    candidate, reference = pair()
    own, known = (compare_attributions(candidate, reference, method) for method in (Gradient(), "saliency"))
    assert own.metrics == known.metrics
    assert own.details["method"] == "gradient()"
    scaled = compare_attributions(candidate, reference, Gradient(-2.0))
    assert scaled.metrics["mean_iou"] == pytest.approx(known.metrics["mean_iou"])


def test_its_expression_is_known_while_it_is_added():
    candidate, reference = pair()
    with extending("attribution method", attribution_methods_by_name([Gradient]), known_methods()):
        assert parse_attribution_method("gradient(factor=2.0)") == Gradient(2.0)
        averaged = compare_attributions(candidate, reference, "smooth_grad(samples=3, method='gradient')")
        expected = compare_attributions(candidate, reference, "smooth_grad(samples=3)")
        assert averaged.metrics["mean_iou"] == pytest.approx(expected.metrics["mean_iou"])
    with pytest.raises(InvalidArgumentError, match="no attribution method is called 'gradient'"):
        parse_attribution_method("gradient()")


def test_a_function_may_make_it():
    assert as_attribution_method(f"{__name__}:Gradient") == Gradient()
    with pytest.raises(InvalidArgumentError, match="returned a tuple"):
        as_attribution_method(f"{__name__}:pair")


SPOILED = {
    "examples": (lambda maps, inputs: maps[:1], r"shape \(1, 3, 8, 8\) for 7 inputs; expected \(7, 3, 8, 8\)"),
    "one number": (lambda maps, inputs: maps.flatten(1).sum(dim=1), r"shape \(7,\).*expected .*\(7, 8, 8\)"),
    "another size": (lambda maps, inputs: maps[..., :4], r"shape \(7, 3, 8, 4\)"),
    "no tensor": (lambda maps, inputs: maps.tolist(), "returned list"),
    "nothing": (lambda maps, inputs: None, "returned NoneType"),
    "integers": (lambda maps, inputs: maps.long(), r"torch\.int64"),
    "NaN": (lambda maps, inputs: maps / 0 * 0, r"NaN or infinite attributions on 7 of 7 examples"),
    "error": (lambda maps, inputs: maps[99], "failed: IndexError"),
    "constant": (lambda maps, inputs: torch.ones_like(maps), "do not depend on the model"),
    "edges": (lambda maps, inputs: inputs.detach() - inputs.detach().mean(), "do not depend on the model"),
    "zero": (lambda maps, inputs: torch.zeros_like(maps), "all-zero maps"),
    "changes": (lambda maps, inputs: (maps, maps), r"changes of the logits of shape \(7, 3, 8, 8\)"),
}


@pytest.mark.parametrize(("change", "message"), SPOILED.values(), ids=SPOILED)
def test_maps_that_say_nothing_are_errors(change, message):
    candidate, reference = pair()
    with pytest.raises(ObservationError, match=message):
        compare_attributions(candidate, reference, spoiled(change))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    with pytest.raises(ObservationError, match=message):
        compare_pointing(candidate, reference, spoiled(change), must_look=mask)


@pytest.mark.parametrize("places", [lambda maps, inputs: maps.sum(dim=1), lambda maps, inputs: maps.mean(1, True)])
def test_maps_may_leave_the_channels_out(places):
    candidate, reference = pair()
    assert 0 < compare_attributions(candidate, reference, spoiled(places)).metrics["mean_iou"] < 1


def test_the_shape_must_be_the_same_in_all_batches():
    shrinking = spoiled(lambda maps, inputs: maps if len(inputs) == 4 else maps.sum(dim=1))
    with pytest.raises(ObservationError, match="in two batches"):
        attribution_maps(observe(WithFunctions(), images()), shrinking, torch.arange(7), torch.arange(7) % 5, 4)


def test_a_model_without_gradients_is_refused():
    model = WithFunctions()
    seen = observe(lambda inputs: model(inputs).detach(), images())
    for method, message in ((Gradient(), "differentiable"), (spoiled(lambda maps, inputs: maps, needs=()), "failed")):
        with pytest.raises(ObservationError, match=message):
            compare_attributions(seen, seen, method)


def test_a_plain_callable_serves_and_a_constant_method_is_caught_there_too():
    model = WithFunctions()
    seen = observe(lambda inputs: model(inputs), images())
    assert compare_attributions(seen, seen, Gradient()).metrics["mean_iou"] == 1
    with pytest.raises(ObservationError, match="do not depend on the model"):
        compare_attributions(seen, seen, spoiled(lambda maps, inputs: torch.ones_like(maps)))


def test_a_complete_method_must_explain_the_change():
    candidate, reference = pair()

    def explaining(share):
        def change(maps, inputs):
            return maps * inputs.detach(), share * (maps * inputs.detach()).flatten(1).sum(dim=1)

        return spoiled(change, complete=True)

    assert compare_attributions(candidate, reference, explaining(1.0)).details["completeness_gap"]["candidate"] == 0
    with pytest.raises(ObservationError, match=r"misses 100\.0% of the reference's logit changes"):
        compare_attributions(candidate, reference, explaining(0.5))
    with pytest.raises(ObservationError, match="returned no changes"):
        compare_attributions(candidate, reference, spoiled(lambda maps, inputs: maps, complete=True))


@dataclass(frozen=True)
class LayerMean(AttributionMethod):
    """What a layer gives, without any gradient: it depends on the model and on no class."""

    layer: str
    expression_name: ClassVar[str] = "layer_mean"
    positional_fields: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("spatial layer",)

    def attribute(self, subject, inputs, target):
        outputs = []
        handle = subject.layer.register_forward_hook(lambda module, args, output: outputs.append(output.mean(dim=1)))
        try:
            subject.logits(inputs)
        finally:
            handle.remove()
        return outputs[0]


def test_a_method_may_look_at_a_layer_and_at_no_class():
    candidate, reference = pair()
    found = compare_attributions(candidate, reference, LayerMean("second"))
    assert found.details["method"] == "layer_mean(second)"
    assert found.metrics["mean_iou"] == pytest.approx(1, abs=0.1)
    with pytest.raises(ObservationError, match=r"shape \(1, 5\)"):
        compare_attributions(candidate, reference, LayerMean("head"))


def test_draws_are_made_once_and_reach_the_method():
    @dataclass(frozen=True)
    class Noisy(Gradient):
        expression_name: ClassVar[str] = "noisy"

        def draws(self, data, input_shape):
            return {"noise": torch.ones(input_shape)}

        def attribute(self, subject, inputs, target):
            noise = subject.draws["noise"].to(inputs)
            return super().attribute(subject, (inputs.detach() + noise).requires_grad_(), target)

    seen = observe(WithFunctions(), images())
    moved = observe(WithFunctions(), (images()[0] + 1, images()[1]))
    chosen, targets = torch.arange(7), torch.arange(7) % 5
    found = attribution_maps(seen, Noisy(), chosen, targets).maps
    assert torch.allclose(found, attribution_maps(moved, Saliency(), chosen, targets).maps)

    @dataclass(frozen=True)
    class Wrong(Noisy):
        def draws(self, data, input_shape):
            return [3]

    with pytest.raises(ObservationError, match="drew a list"):
        attribution_maps(seen, Wrong(), chosen, targets)


def test_two_classes_with_one_text_are_two_methods():
    seen, chosen, targets = observe(WithFunctions(), images()), torch.arange(7), torch.arange(7) % 5
    plain, negated = (spoiled(lambda maps, inputs, sign=sign: sign * maps) for sign in (1, -1))
    assert str(plain) == str(negated)
    first, second = (attribution_maps(seen, method, chosen, targets).maps for method in (plain, negated))
    assert torch.equal(first, -second)


class NoFields(Gradient):
    expression_name = "no_fields"


@dataclass(frozen=True)
class Unhashable(Gradient):
    weights: list = field(default_factory=list)
    expression_name: ClassVar[str] = "unhashable"


def make(**attributes):
    return dataclass(frozen=True)(type("Made", (Gradient,), attributes))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NoFields, "frozen dataclass"),
        (nn.Linear, "subclass of cp_compress"),
        (AttributionMethod, "defines attribute"),
        (make(needs=("gradient",)), r"\('gradient',\).*'gradients'"),
        (make(needs="gradients"), "tuple of"),
        (make(needs=("spatial layer",)), "no field `layer`"),
    ],
)
def test_classes_that_are_refused(kind, message):
    with pytest.raises(InvalidArgumentError, match=message):
        attribution_methods_by_name([kind])


@pytest.mark.parametrize(("method", "message"), [(NoFields(), "frozen"), (Unhashable(), "hashable"), (3, "expression")])
def test_values_that_are_refused(method, message):
    candidate, reference = pair()
    with pytest.raises(InvalidArgumentError, match=message):
        compare_attributions(candidate, reference, method)


@pytest.mark.parametrize("name", ["saliency", "two words"])
def test_names_that_are_refused(name):
    methods = attribution_methods_by_name([make(expression_name=name)])
    with (
        pytest.raises(InvalidArgumentError, match="name"),
        extending("attribution method", methods, known_methods()),
    ):
        pass


def test_every_method_of_the_package_is_exported_and_has_a_name_of_its_own():
    import cp_compress.fidelity as fidelity

    exported = {getattr(fidelity, name) for name in fidelity.__all__}
    methods = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, AttributionMethod)}
    assert set(known_methods().values()) == methods - {AttributionMethod}
    for kind in known_methods().values():
        check_method_class(kind)
