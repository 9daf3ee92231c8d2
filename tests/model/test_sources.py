"""A candidate carries what it was made from, and is compared with nothing else, without false alarms."""

import copy
import functools

import pytest
import torch
from torch import nn

from cp_compress import CompressedDataset, Prune, Quantize, observe
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError, ObservationError
from cp_compress.data import JPEG, ZFP, StoredDataset, verify_store, write_store
from cp_compress.fidelity.observing.refusals import require_originals, require_source
from cp_compress.inputs.originals import other_originals
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import (
    known_digests,
    mark_as_searched,
    mark_as_used,
    searched_digests,
    seen_digests,
    shared_examples,
)
from cp_compress.model import FilterPrune, LowRank, declare_source, load, save
from cp_compress.model.sources import other_source, source_of, write_sources
from cp_compress.repair.recalibration import recalibrate_batchnorm
from cp_compress.search import fit


def make(seed):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def reference():
    return make(0)


@pytest.fixture(scope="module")
def other():
    return make(1)


@pytest.fixture(scope="module")
def data():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


class Own(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return self.inner(batch * 2)


def tuned(model):
    made = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1)
    return made


def folded(model):
    made = copy.deepcopy(model)
    made[0], made[1] = torch.nn.utils.fuse_conv_bn_eval(made[0], made[1]), nn.Identity()
    return made


MADE = {
    "prune": lambda model, data, tmp: Prune(0.5).compress(model),
    "a chain": lambda model, data, tmp: (Prune(0.5) | Quantize("int8")).compress(model),
    "step by step": lambda model, data, tmp: Quantize("float16").compress(LowRank(rank=2).compress(model)),
    "fewer filters": lambda model, data, tmp: FilterPrune(0.5, shrink=False).compress(model),
    "tuned": lambda model, data, tmp: tuned(Prune(0.5).compress(model)),
    "wrapped": lambda model, data, tmp: Own(Prune(0.5).compress(model)),
    "recalibrated": lambda model, data, tmp: recalibrate_batchnorm(Prune(0.5).compress(model), data),
    "from a file": lambda model, data, tmp: _filed(Quantize("int8").compress(model), tmp, make(7)),
    "from a twin": lambda model, data, tmp: Prune(0.5).compress(copy.deepcopy(model).half().float()),
}
SAME = {
    "itself": lambda model: model,
    "a copy": copy.deepcopy,
    "float16": lambda model: copy.deepcopy(model).half(),
    "bfloat16": lambda model: copy.deepcopy(model).bfloat16(),
    "float64": lambda model: copy.deepcopy(model).double(),
    "channels last": lambda model: copy.deepcopy(model).to(memory_format=torch.channels_last),
    "its state in another object": lambda model: (lambda made: made.load_state_dict(model.state_dict()) and made)(
        make(9)
    ),
    "wrapped": lambda model: Own(model),
    "folded": folded,
    "a candidate": lambda model: Quantize("float16").compress(model),
    "a plain function": lambda model: lambda batch: model(batch),
}


def _filed(model, folder, architecture):
    save(model, folder / "candidate.cp")
    return load(folder / "candidate.cp", architecture)


@pytest.mark.parametrize("name", MADE)
def test_a_candidate_belongs_to_what_it_was_made_from_and_to_nothing_else(name, reference, other, data, tmp_path):
    candidate = MADE[name](reference, data, tmp_path)
    for kind, same in SAME.items():
        if name == "from a twin" and kind == "bfloat16":  # twins in two precisions, neither of which holds the other
            continue
        assert not other_source(candidate, same(reference)), kind
    for kind in ("itself", "a copy", "float16", "channels last", "wrapped"):
        assert other_source(candidate, SAME[kind](other)), kind
    with pytest.raises(InvalidArgumentError, match=r"other weights.*declare_source"):
        require_source(candidate, other)


def test_what_is_unknown_is_no_error(reference, other, tmp_path):
    assert not other_source(copy.deepcopy(reference).half(), other)
    old = Quantize("int8").compress(reference)
    write_sources(old, ())
    assert not other_source(_filed(old, tmp_path, make(7)), other)
    assert not other_source(Prune(0.5).compress(reference), nn.Linear(2, 2))
    assert source_of(nn.ReLU()) is None


def test_a_users_own_step_before_a_scheme_is_declared(reference, other):
    mine = tuned(reference)
    assert other_source(Prune(0.5).compress(mine), reference)
    declare_source(mine, reference)
    candidate = Prune(0.5).compress(mine)
    assert not other_source(candidate, reference)
    assert not other_source(candidate, mine)
    assert other_source(candidate, other)
    with pytest.raises(InvalidArgumentError, match="with parameters"):
        declare_source(mine, nn.ReLU())


class Runtime:
    def __init__(self, model):
        self._models, self.paths = [model], ["a path"] * 200_000

    def __call__(self, inputs):
        return self._models[0](inputs)


def test_what_calls_a_candidate_carries_what_it_carries(reference, other):
    candidate = Quantize("int8").compress(other)
    mark_as_searched(candidate, {"0" * 16})
    for around in (lambda model: lambda x: model(x), functools.partial, lambda model: model.forward, Runtime):
        assert searched_digests(around(candidate)) == searched_digests(candidate)
        assert other_source(around(candidate), reference)
        assert not other_source(around(candidate), other)
    assert not other_source(lambda x: candidate(x) + reference(x) + Quantize("int8").compress(reference)(x), other)


def test_stored_data_belongs_to_its_originals(data):
    others = data[0].flip(0), data[1]
    stored = CompressedDataset(data, JPEG(50))
    again = CompressedDataset(stored, ZFP(rate=8))
    rows, other_rows = (list(zip(*one, strict=True)) for one in (data, others))
    chosen = [3, 1, 7]
    pick = torch.utils.data.Subset
    load_all = torch.utils.data.DataLoader(stored, batch_size=7)
    fine = [(stored, data), (again, data), (again, stored), (stored, CompressedDataset(data, ZFP(rate=8)))]
    fine += [(pick(stored, chosen), pick(rows, chosen)), (load_all, rows), (stored, (data[0].double(), data[1]))]
    fine += [(CompressedDataset(data, JPEG(50), transform=lambda batch: batch * 2), others)]
    for one, original in fine:
        assert other_originals(LabeledData(one), LabeledData(original)) == []
    assert other_originals(LabeledData(pick(stored, chosen)), LabeledData(pick(other_rows, chosen))) == [0, 1, 2]
    for one in (stored, again, load_all):
        with pytest.raises(InvalidArgumentError, match="other data of this shape"):
            require_originals(LabeledData(one), LabeledData(others))


def test_a_store_carries_its_originals_and_is_known_again(data, tmp_path):
    one, other = (write_store(data, codec, tmp_path / str(at)) for at, codec in enumerate((JPEG(50), ZFP(rate=8))))
    again = write_store(one, ZFP(rate=8), tmp_path / "again", jobs=1, shard_size=7)
    others = data[0].flip(0), data[1]
    for stored in (one, other, StoredDataset(tmp_path / "again"), CompressedDataset(one, ZFP(rate=8))):
        assert other_originals(LabeledData(stored), LabeledData(data)) == []
        assert other_originals(LabeledData(stored), LabeledData(others))
        model = nn.Linear(2, 2)
        mark_as_used(model, "training", stored)
        for read in (data, one, other):  # of what was trained on, in whatever form
            assert shared_examples(read, seen_digests(model)["training"]) == list(range(len(data[1])))
    assert shared_examples((data[0] + 1, data[1]), frozenset().union(*known_digests(again))) == []
    (tmp_path / "0" / "originals.digests").unlink()  # as older versions wrote stores
    assert other_originals(LabeledData(StoredDataset(tmp_path / "0")), LabeledData(others)) == []
    (tmp_path / "1" / "originals.digests").write_bytes((tmp_path / "again" / "originals.digests").read_bytes()[:-1])
    with pytest.raises(CorruptStreamError, match=r"originals\.digests says nothing"):
        other_originals(LabeledData(StoredDataset(tmp_path / "1")), LabeledData(others))
    assert [one.name for one in verify_store(tmp_path / "1").damaged] == ["originals.digests"]
    write_store(data, ZFP(rate=8), tmp_path / "1")
    assert verify_store(tmp_path / "1").intact
    assert other_originals(LabeledData(StoredDataset(tmp_path / "1")), LabeledData(others))


def test_a_trained_network_says_on_what():
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, (inputs[:, 0] > 0).long()
    network = fit(lambda: nn.Linear(4, 2), data, steps=20).model
    for model in (network, Quantize("int8").compress(network)):
        assert seen_digests(model).keys() == {"training"}
        assert shared_examples((inputs[30:], data[1][30:]), seen_digests(model)["training"]) == list(range(30))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(2, 2)
        self.held = [torch.ones(2, requires_grad=True) * 2]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            lambda: torch.nn.utils.prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
            r"prune\.remove\(module, 'weight'",
        ),
        (lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 4)), r"remove_spectral_norm\(module, 'weight'"),
        (Masked, r"held is a tensor that belongs to a computation of gradients"),
    ],
)
def test_why_a_model_cannot_be_copied(model, told):
    made = nn.Sequential(model())
    if not isinstance(made[0], Masked):
        made(torch.zeros(1, 4))
    with pytest.raises(CompressionError, match=told):
        Quantize("int8").compress(made)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)])


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: torch.utils.data.DataLoader(data, batch_size=1)])
def test_a_stream_is_no_data_set_of_examples(wrap):
    with pytest.raises(ObservationError, match=r"Stream, an IterableDataset.*list"):
        observe(nn.Linear(2, 2), wrap(Stream()))
