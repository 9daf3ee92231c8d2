"""Which layers carry the damage: against restoration by hand, closed forms, and layers damaged on purpose."""

import copy
import math

import pytest
import torch
from origin_subjects import Twice, damaged, multilayer, vectors
from torch import nn

from cp_compress import CompressedDataset, parse_codec
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.base.showing.work import TimeBudgetSpent, limited_to
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import find_origin, observe
from cp_compress.fidelity.origin.layers import THE_DATA
from cp_compress.fidelity.origin.restoration import restore_each
from cp_compress.model import parse_scheme


@pytest.mark.parametrize("scheme", ["prune(density=0.3)", "quantize(int4)", "prune(density=0.4) | quantize(float16)"])
def test_equals_restoration_by_hand(scheme):
    model, data = digits_cnn(), digits()
    candidate = parse_scheme(scheme).compress(model)
    seen, reference = observe(candidate, data), observe(model, data)
    found = find_origin(seen, reference, flips=1000)
    changed = (seen.predictions != reference.predictions).nonzero().flatten()
    inputs = seen.data.select(changed)[0]
    assert found.exact
    assert found.flips == found.asked == len(changed)
    assert {layer.name for layer in found.layers} >= {"features.0", "features.3", "features.7"}
    for layer in found.layers:
        patched = copy.deepcopy(candidate)
        parent, _, name = layer.name.rpartition(".")
        patched.get_submodule(parent)._modules[name] = copy.deepcopy(model.get_submodule(layer.name))
        with torch.no_grad():
            restored = patched(inputs).argmax(dim=1)
        assert layer.restored == int((restored == reference.predictions[changed]).sum())


def test_order_is_that_of_the_flips_that_come_back():
    model, data = digits_cnn(), digits()
    found = find_origin(observe(parse_scheme("prune(density=0.2)").compress(model), data), observe(model, data))
    counts = [layer.restored for layer in found.layers]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_damaged_layer_among_many_is_found_by_groups():
    model, data = multilayer(40), vectors()
    candidate = model
    for place in range(40):  # every layer differs a little, one differs much
        candidate = damaged(candidate, str(2 * place), 1e-6, seed=place)
    candidate = damaged(candidate, "34", 0.5)
    found = find_origin(observe(candidate, data), observe(model, data), budget=16)
    assert found.layers[0].layers == ("34",)
    assert found.layers[0].share == 1
    assert found.runs <= 16
    assert not found.exact
    exact = find_origin(observe(candidate, data), observe(model, data), budget=64)
    assert exact.exact
    assert exact.runs == 40
    assert exact.layers[0].layers == ("34",)


def test_added_noise_has_the_closed_form():
    model, data = multilayer(3), vectors()
    candidate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in candidate[2].parameters():
            parameter.mul_(1.02)
    found = find_origin(observe(candidate, data), observe(model, data))
    (layer,) = found.layers
    assert layer.name == "2"
    assert layer.added_snr == pytest.approx(-20 * math.log10(0.02), abs=1e-3)
    assert layer.arriving_snr == pytest.approx(layer.added_snr, abs=1e-3)


class WritesToItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 12)
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        inputs.mul_(0.5).add_(self.shift)
        return self.linear(inputs)


def in_decibels(before, after):
    return 10 * math.log10(float(before.double().square().sum() / (before.double() - after.double()).square().sum()))


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.Tanh()])
def test_noise_is_that_of_copies_where_operations_work_in_place(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), activation, WritesToItsInput(), activation, nn.Linear(12, 4)).eval()
    candidate = copy.deepcopy(model)
    candidate[2] = nn.Sequential(WritesToItsInput())  # another tree, so that the part is exchanged as a whole
    candidate[2][0].load_state_dict(model[2].state_dict())
    candidate = damaged(damaged(damaged(candidate.eval(), "0", 0.1), "2.0.linear", 0.1, seed=4), "4", 0.1)
    inputs, labels = vectors(32)
    found = {
        layer.name: layer
        for layer in find_origin(*(observe(one, (inputs, labels)) for one in (candidate, model))).layers
    }
    assert set(found) == {"0", "2", "4"}
    mine = theirs = inputs
    with torch.no_grad():
        for place, (part, own) in enumerate(zip(candidate, model, strict=True)):
            added = part(theirs.clone())
            mine, theirs = part(mine.clone()), own(theirs.clone())
            if str(place) in found:
                assert found[str(place)].added_snr == pytest.approx(in_decibels(theirs, added), abs=1e-3)
                assert found[str(place)].arriving_snr == pytest.approx(in_decibels(theirs, mine), abs=1e-3)


def test_noise_from_earlier_layers_is_not_charged_to_a_later_one():
    model, data = multilayer(4), vectors()
    candidate = damaged(damaged(model, "0", 0.5), "6", 1e-5)
    found = {layer.name: layer for layer in find_origin(observe(candidate, data), observe(model, data)).layers}
    assert found["6"].arriving_snr < 20 < 80 < found["6"].added_snr


def test_noise_is_that_of_what_parts_give_before_it_is_overwritten():
    class Rectified(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs.relu_() if inplace else inputs.relu())

    def ratios():
        torch.manual_seed(0)
        parts = nn.Linear(12, 12), Rectified(12, 12), nn.LeakyReLU(0.01, inplace=inplace), nn.Linear(12, 4)
        reference = nn.Sequential(*parts).eval()
        candidate = damaged(damaged(damaged(reference, "0", 0.1), "1", 0.1), "3", 0.1)
        found = find_origin(observe(candidate, vectors()), observe(reference, vectors()))
        return {layer.name: (layer.added_snr, layer.arriving_snr) for layer in found.layers}

    inplace = False
    expected = ratios()
    inplace = True
    assert ratios() == {name: pytest.approx(pair) for name, pair in expected.items()}


def test_without_flips_the_noise_decides():
    model, data = multilayer(4), vectors()
    candidate = damaged(damaged(model, "2", 1e-6), "4", 1e-4)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert found.flips == 0
    assert [layer.name for layer in found.layers] == ["4", "2"]
    assert math.isnan(found.layers[0].share)
    assert any("no prediction changed" in note for note in found.notes)


def test_models_stay_as_they_were():
    model, data = digits_cnn(), digits()
    candidate = parse_scheme("prune(density=0.3)").compress(model)
    candidate.train()
    candidate.features[1].eval()
    modes = [part.training for part in candidate.modules()]
    digests = digest_model(candidate), digest_model(model)
    find_origin(observe(candidate, data), observe(model, data))
    assert (digest_model(candidate), digest_model(model)) == digests
    assert [part.training for part in candidate.modules()] == modes
    assert not any(part._forward_hooks for one in (candidate, model) for part in one.modules())


def test_a_shared_layer_is_restored_wherever_it_stands():
    model, data = Twice().eval(), vectors()
    candidate = damaged(model, "first", 0.5)
    assert candidate.first is candidate.again
    found = find_origin(observe(candidate, data), observe(model, data))
    (layer,) = found.layers
    assert layer.share == 1


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.up, self.down = nn.Linear(12, inner), nn.Linear(inner, 12)

    def forward(self, inputs):
        return inputs + self.down(torch.relu(self.up(inputs)))


def test_a_narrowed_layer_is_restored_with_the_part_around_it():
    torch.manual_seed(0)
    model = nn.Sequential(Block(16), Block(16), nn.Linear(12, 4)).eval()
    candidate = copy.deepcopy(model)
    narrow = Block(8)
    with torch.no_grad():
        narrow.up.weight.copy_(model[1].up.weight[:8])
        narrow.down.weight.copy_(model[1].down.weight[:, :8])
    candidate[1] = narrow.eval()
    found = find_origin(observe(candidate, vectors()), observe(model, vectors()))
    (layer,) = found.layers
    assert (layer.name, layer.kind, layer.share) == ("1", "Block", 1)


def test_what_cannot_be_restored_is_named():
    model, data = digits_cnn(), digits()
    candidate = parse_scheme("filter_prune(density=0.5)").compress(model)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert found.layers == ()
    assert any("features.0" in note and "shapes" in note and "shrink=False" in note for note in found.notes)


def test_data_is_restored_too():
    model, data = digits_cnn(), digits()
    stored = CompressedDataset(data, parse_codec("jpeg(quality=10)"))
    found = find_origin(observe(model, stored), observe(model, data))
    assert found.layers[0].name == THE_DATA
    assert found.layers[0].share == 1
    assert len(found.layers) == 1


def test_inference_mode_of_the_caller_changes_nothing():
    model, data = multilayer(2), vectors()
    candidate = damaged(model, "2", 0.5)
    with torch.inference_mode():
        found = find_origin(observe(candidate, data), observe(model, data))
    assert (found.layers[0].name, found.layers[0].share) == ("2", 1)
    assert found == find_origin(observe(candidate, data), observe(model, data))


def test_refuses_what_has_no_layers():
    model, data = multilayer(2), vectors()
    with pytest.raises(ObservationError, match="plain callable"):
        find_origin(observe(lambda inputs: -model(inputs), data), observe(model, data))


@pytest.mark.parametrize("argument", ["examples", "flips", "budget"])
def test_refuses_numbers_below_one(argument):
    model, data = multilayer(2), vectors()
    with pytest.raises(InvalidArgumentError, match=argument):
        find_origin(observe(damaged(model, "0", 1), data), observe(model, data), **{argument: 0})


class Tokens(nn.Module):
    """A transformer in small: parameters and a buffer beside the layers, and attention that reads its child."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.zeros(12))
        self.position = nn.Parameter(torch.randn(3, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
        self.head = nn.Linear(12, 4)

    def forward(self, inputs):
        tokens = (inputs - self.mean).unflatten(1, (3, 4)) + self.position
        return self.head(self.layers((tokens + self.attention(tokens, tokens, tokens)[0]).flatten(1)))


def test_layers_beside_parameters_of_the_model_are_ranked():
    model, data = Tokens().eval(), vectors()
    candidate = damaged(damaged(model, "layers.2", 1.0), "layers.0", 1e-5)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert [layer.name for layer in found.layers] == ["layers.2", "layers.0"]
    assert found.layers[0].share == 1
    assert not any("could not be restored" in note for note in found.notes)


@pytest.mark.parametrize("name", ["mean", "position"])
@pytest.mark.parametrize("also", [True, False])
def test_a_changed_tensor_of_the_model_is_ranked_with_its_layers(name, also):
    model, data = Tokens().eval(), vectors()
    candidate = damaged(model, "layers.0", 1e-5) if also else copy.deepcopy(model)
    with torch.no_grad():
        getattr(candidate, name).add_(1.5 * torch.randn(getattr(candidate, name).shape))
    digests = digest_model(candidate), digest_model(model)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert [layer.name for layer in found.layers] == [name, "layers.0"][: 1 + also]
    assert found.layers[0].kind == "tensor"
    assert found.layers[0].share == 1
    assert math.isnan(found.layers[0].added_snr)
    assert (digest_model(candidate), digest_model(model)) == digests


def test_a_layer_that_its_parent_reads_is_restored_with_it():
    model, data = Tokens().eval(), vectors()
    candidate = copy.deepcopy(model)
    with torch.no_grad():
        candidate.attention.in_proj_weight.mul_(3)
        candidate.attention.out_proj.weight.add_(1)
    found = find_origin(observe(candidate, data), observe(model, data))
    (layer,) = found.layers
    assert (layer.name, layer.kind, layer.share) == ("attention", "MultiheadAttention", 1)


def test_every_tensor_of_a_model_in_another_dtype_is_restored():
    model, data = Tokens().eval(), vectors()
    candidate = parse_scheme("quantize(bfloat16)").compress(model)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert {"layers.0", "head", "attention"} <= {layer.name for layer in found.layers}


def test_inference_mode_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(40, 4)
    data = inputs, model(inputs).argmax(dim=1)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[2].weight[0].neg_()
    plain = find_origin(observe(broken, data), observe(model, data))
    with torch.inference_mode():
        found = find_origin(observe(copy.deepcopy(broken), data), observe(copy.deepcopy(model), data))
    assert plain.flips > 0
    assert found == plain


def test_a_spent_time_budget_leaves_layers_out_and_says_which():
    model, data = digits_cnn(), digits()
    candidate, reference = observe(parse_scheme("prune(density=0.1)").compress(model), data), observe(model, data)
    with limited_to(1e-9):
        found = find_origin(candidate, reference)
    assert (found.layers, found.runs) == ((), 0)
    left = "5 layers were not looked at (features.0, features.3, features.7, …)"
    assert found.notes[-1] == f"the time budget was spent: {left}"
    assert not any("do not differ" in note for note in found.notes)


@pytest.mark.parametrize(
    ("budget", "runs", "expected"),
    [
        (8, 3, [("c", 2), ("b", 1), ("a", 0)]),
        (5, 3, [("abcd", 3), ("efgh", 3)]),
        (5, 0, []),
    ],
)
def test_what_was_restored_when_the_time_was_up_stays(budget, runs, expected):
    made = []

    def count(units):
        if len(made) == runs:
            raise TimeBudgetSpent
        made.append(units)
        return len(made) - 1 if len(units) == 1 else len(units) - 1

    found, ran, stopped = restore_each([(path,) for path in "abcdefgh"], count, budget)
    assert stopped
    assert ran == len(made)
    assert [("".join(path for unit in part.units for path in unit), part.count) for part in found] == expected
