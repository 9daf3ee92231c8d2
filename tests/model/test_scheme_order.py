"""Which scheme may follow which: by what schemes declare, and by what those do that declare nothing."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import (
    BlockPrune,
    Compose,
    FilterPrune,
    FixedPoint,
    LowRank,
    NMPrune,
    Prune,
    Quantize,
    load,
    save,
)
from cp_compress.model.order import KINDS, leaves_of, undoes_of
from cp_compress.model.projection import split_rounding, with_density
from cp_compress.model.record import read_steps
from cp_compress.model.registry import known_schemes
from cp_compress.model.scheme import apply_scheme


class Own:
    """A scheme of a user's own: changes a copy in place, and says nothing unless told to."""

    def __init__(self, name, change, **declared):
        self.name, self.change = name, change
        vars(self).update(declared)

    def __str__(self):
        return self.name

    def compress(self, model):
        made = copy.deepcopy(model)
        with torch.no_grad():
            replaced = self.change(made)
        return made if replaced is None else replaced


def network():
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 12))


def drop_half(model, only=""):
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and only in name:
            weight.view(-1)[::2] = 0


def scale(model):
    for parameter in model.parameters():
        parameter.mul_(0.5)


def _none(changed):
    return None


def densify(model):
    for layer in (model[0], model[2]):
        left, values, right = torch.linalg.svd(layer.weight, full_matrices=False)
        layer.weight.copy_(left[:, :4] * values[:4] @ right[:4])


def factorise_second(model):
    model[2] = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 12))


def keep_half(model):
    model[0].weight, model[0].bias = nn.Parameter(model[0].weight[:8]), nn.Parameter(model[0].bias[:8])
    model[2].weight = nn.Parameter(model[2].weight[:, :8])
    model[0].out_features = model[2].in_features = 8


LOW_RANK = LowRank(rank=3)
DROP = Own("drop_half", drop_half)
BUILT_IN = [Prune(0.5), NMPrune(), BlockPrune(0.5, (4, 4))]


@pytest.mark.parametrize("second", [LOW_RANK, Own("densify", densify), Own("factorise_second", factorise_second)])
@pytest.mark.parametrize("first", [*BUILT_IN, DROP], ids=str)
def test_zeros_are_not_undone_whoever_made_them(first, second):
    with pytest.raises(CompressionError, match=rf"{str(second)[:8]}.* cannot follow .*both on \d\.weight"):
        Compose(first, second).compress(network())
    assert [step.scheme for step in read_steps(Compose(second, first).compress(network()))] == [str(second), str(first)]


@pytest.mark.parametrize("first", [*BUILT_IN, DROP], ids=str)
def test_what_keeps_zeros_may_follow(first):
    for second in (Own("scale", scale), Quantize("int8"), Quantize("float16"), FixedPoint(8)):
        made = Compose(first, second).compress(network())
        assert [step.scheme for step in read_steps(made)] == [str(first), str(second)]
        assert int((made[0].weight == 0).sum()) > 0


def test_only_weights_that_got_zeros_are_held():
    first = Own("drop_first", lambda model: drop_half(model, "0.weight"))
    made = Compose(first, LowRank(rank=3, include="2")).compress(network())
    assert made[0].weight.count_nonzero() == 128
    with pytest.raises(CompressionError, match=r"cannot follow drop_first \(both on 0\.weight\)"):
        Compose(first, LowRank(rank=3, include="0")).compress(network())
    zeros = network()
    with torch.no_grad():
        zeros[0].weight[0] = 0
    assert Compose(Own("scale", scale), LOW_RANK).compress(zeros) is not zeros


def test_the_error_names_schemes_tensor_and_count():
    with pytest.raises(CompressionError) as caught:
        Compose(Prune(0.5), Own("densify", densify)).compress(nn.Sequential(*network(), nn.Linear(12, 3)))
    assert all(part in str(caught.value) for part in ("densify", "prune(density=0.5)", "0.weight", "zeros", "undoes"))


def test_a_declaration_decides():
    declared = Own("regrow", densify, undoes=())
    assert Compose(Prune(0.5), declared).compress(network())[0].weight.count_nonzero() == 256
    assert apply_scheme(Compose(declared, Quantize("int8")), Prune(0.5).compress(network()))
    incidental = Own("drop_half", drop_half, leaves=())
    assert Compose(incidental, LOW_RANK).compress(network())
    mild = Own("mild", scale, undoes=("zeros",))
    with pytest.raises(CompressionError, match=r"mild cannot follow prune"):
        Compose(Prune(0.5), mild).compress(network())
    rounding = Own("my_rounding", scale, leaves="rounded_numbers")
    with pytest.raises(CompressionError, match=r"unround cannot follow my_rounding"):
        Compose(rounding, Own("unround", scale, undoes=("rounded_numbers",))).compress(network())
    elsewhere = Own("elsewhere", lambda model: _none(model[2].weight.mul_(2)), undoes=("zeros",))
    first = Prune(0.5, include="0")
    assert len(read_steps(Compose(first, elsewhere).compress(network()))) == 2


@pytest.mark.parametrize("attribute", ["leaves", "undoes"])
@pytest.mark.parametrize("value", [("zeroes",), "holes", 3, [None]])
def test_an_unknown_kind_is_refused_before_any_work(attribute, value):
    def never(model):
        raise AssertionError("it ran")

    wrong = Own("wrong", never, **{attribute: value})
    for use in (lambda: Compose(Prune(0.5), wrong), lambda: apply_scheme(wrong, network())):
        with pytest.raises(InvalidArgumentError, match=rf"Own\({attribute}=.*'zeros'"):
            use()


def test_channels_are_not_removed_out_of_a_pattern():
    remove = Own("keep_half", keep_half)
    with pytest.raises(CompressionError, match=r"keep_half cannot follow nm_prune.*shape"):
        Compose(NMPrune(), remove).compress(network())
    made = Compose(Prune(0.5), remove).compress(network())
    assert made[0].weight.shape == (8, 16)
    with pytest.raises(CompressionError, match=r"low_rank.* cannot follow prune"):
        LowRank(rank=1).compress(made)
    declared = Own("keep_half", keep_half, leaves=("removed_channels",), undoes=("pattern",))
    with pytest.raises(CompressionError, match="remove channels first"):
        Compose(NMPrune(), declared).compress(network())


def test_the_weights_that_a_removed_channel_was_read_by_keep_their_pattern():
    pytest.importorskip("torch_pruning")
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    shrink = FilterPrune(0.5, include="0", example_shape=(4, 8, 8))
    with pytest.raises(CompressionError, match=r"filter_prune.* cannot follow nm_prune.*both on 2\.weight"):
        Compose(NMPrune(include="2"), shrink).compress(model)


def test_names_follow_a_model_into_a_wrapper():
    wrap = Own("wrap", lambda model: nn.Sequential(nn.Identity(), model))
    made = Compose(Prune(0.5), wrap, DROP_AGAIN).compress(network())
    assert [step.scheme for step in read_steps(made)] == ["prune(density=0.5)", "wrap", "drop_again"]
    with pytest.raises(CompressionError, match=r"both on 1\.0\.weight"):
        Compose(Prune(0.5), wrap, LOW_RANK).compress(network())
    with pytest.raises(CompressionError, match=r"fill cannot follow prune.*1\.0\.weight"):
        Compose(Prune(0.5), wrap, Own("fill", lambda model: _none(model[1][0].weight.add_(1)))).compress(network())


DROP_AGAIN = Own("drop_again", lambda model: drop_half(model[1]))


def test_what_an_own_scheme_left_is_known_after_saving(tmp_path):
    pattern = Own("my_pattern", drop_half, leaves=("zeros", "pattern"))
    made = Compose(pattern, Own("keep", scale)).compress(network())
    save(made, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", network())
    assert read_steps(loaded) == read_steps(made)
    with pytest.raises(CompressionError, match=r"low_rank.* cannot follow my_pattern"):
        LOW_RANK.compress(loaded)


def test_an_own_scheme_that_removes_channels_is_stored(tmp_path):
    made = apply_scheme(Own("keep_half", keep_half), network())
    save(made, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", network())
    assert torch.equal(loaded(torch.ones(1, 16)), made(torch.ones(1, 16)))


@given(st.sets(st.integers(0, 255), min_size=1, max_size=40), st.sets(st.integers(0, 255), max_size=40))
def test_filling_any_zero_is_seen_and_nothing_else_is_refused(dropped, filled):
    model = nn.Linear(16, 16)

    def drop(made):
        made.weight.view(-1)[list(dropped)] = 0

    def fill(made):
        made.weight.view(-1)[list(filled)] = 3.0

    with torch.no_grad():
        model.weight.fill_(1.0)
    both = Compose(Own("drop", drop), Own("fill", fill))
    if dropped & filled:
        with pytest.raises(CompressionError, match=rf"filled {len(dropped & filled)} of {len(dropped)} zeros"):
            both.compress(model)
    else:
        assert both.compress(model).weight.count_nonzero() == 256 - len(dropped)


@dataclasses.dataclass(frozen=True)
class OwnRounding:
    leaves = ("rounded_numbers",)

    def compress(self, model):
        made = copy.deepcopy(model)
        for parameter in made.parameters():
            parameter.data.mul_(8).round_().div_(8)
        return made


@dataclasses.dataclass(frozen=True)
class OwnPrune:
    density: float
    leaves = ("zeros",)

    def compress(self, model):
        return Prune(self.density).compress(model)


@dataclasses.dataclass(frozen=True)
class OwnRemoval:
    density: float
    leaves = ("removed_channels",)

    def compress(self, model):
        return FilterPrune(self.density).compress(model)


def test_rounding_and_density_are_asked_of_own_schemes():
    choosing, rounding = split_rounding(Compose(OwnPrune(0.5), OwnRounding(), Quantize("int8")))
    assert (choosing, rounding) == (OwnPrune(0.5), Compose(OwnRounding(), Quantize("int8")))
    with pytest.raises(CompressionError, match="must come last"):
        split_rounding(Compose(OwnRounding(), OwnPrune(0.5)))
    assert with_density(OwnPrune(0.5), 0.5) == OwnPrune(0.75)
    for scheme in (OwnRemoval(0.5), OwnRounding(), Own("no_dataclass", scale, density=0.5)):
        with pytest.raises(CompressionError, match=r"removes what it drops|no dataclass with a density"):
            with_density(scheme, 0.5)


def test_every_scheme_of_the_package_declares():
    examples = {"prune": Prune(0.5), "block_prune": BlockPrune(0.5, (2, 2)), "nm_prune": NMPrune()}
    examples |= {name: kind(0.5) for name, kind in known_schemes().items() if name.endswith(("r_prune", "n_prune"))}
    examples |= {"structure_prune": known_schemes()["structure_prune"](0.5), "low_rank": LOW_RANK}
    examples |= {"quantize": Quantize("int8"), "fixed_point": FixedPoint(8)}
    assert examples.keys() == known_schemes().keys()
    for scheme in examples.values():
        assert leaves_of(scheme)
        assert set(leaves_of(scheme)) <= set(KINDS)
        assert undoes_of(scheme) is not None
    assert leaves_of(FilterPrune(0.5)) == ("removed_channels",)
    assert leaves_of(FilterPrune(0.5, shrink=False)) == ("zeros",)
