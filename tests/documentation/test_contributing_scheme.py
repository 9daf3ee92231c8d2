"""The page on adding a scheme: its example, added outside the package, does all that a scheme of the package does."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from forks import run_pytest
from hypothesis import given
from hypothesis import strategies as st
from snippets import read_snippets
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.base.extensions import extending
from cp_compress.examples import digits_cnn
from cp_compress.model import (
    LowRank,
    Quantize,
    compression_report,
    compression_steps,
    footprint,
    load,
    parse_scheme,
    save,
)
from cp_compress.model.record import read_steps, write_steps
from cp_compress.model.registry import known_schemes

pytest_plugins = ["pytester"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "add-a-scheme.md"
FILES = {one.title: one.body for one in read_snippets(PAGE.read_text(encoding="utf-8")) if one.title}


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """The class of the page, known by its name."""
    folder = tmp_path_factory.mktemp("scheme")
    (folder / "small_prune.py").write_text(FILES["small_prune.py"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        kind = importlib.import_module("small_prune").SmallPrune
        with extending("scheme", {"small_prune": kind}, known_schemes()):
            yield kind
    del sys.modules["small_prune"]


def test_its_text_is_read_back(added):
    scheme = added(0.5, include=("features.*",))
    assert str(scheme) == "small_prune(limit=0.5, include=('features.*',))"
    assert parse_scheme(str(scheme)) == scheme == pickle.loads(pickle.dumps(scheme))
    assert hash(parse_scheme("small_prune(limit=0.5)")) == hash(added(0.5))
    for text in ("small_prune(limit=0)", "small_prune(limit=nan)", "small_prune(depth=1)", "small_prune"):
        with pytest.raises(InvalidArgumentError):
            parse_scheme(text)


@given(st.floats(0.05, 1.5), st.integers(0, 1000))
def test_it_keeps_the_large_weights_and_no_other(added, limit, seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    model[0].weight.data[0, 0] = model[2].weight.data[0, 0] = 1e-4  # one weight at least is dropped in each layer
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = added(limit).compress(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name in ("0.weight", "2.weight"):
        was, now = before[name], made.get_parameter(name)
        kept = was.abs() >= limit * was.std()
        assert torch.equal(now, torch.where(kept, was, 0))


def test_it_is_composed_and_its_order_is_judged(added):
    model = digits_cnn()
    for scheme in (added(0.3) | Quantize("int8"), LowRank(rank=4) | added(0.3)):
        assert " | ".join(compression_steps(scheme.compress(model))) == str(scheme)
        assert parse_scheme(str(scheme)) == scheme
    with pytest.raises(CompressionError, match=r"low_rank\(rank=4\) cannot follow small_prune\(limit=0\.3\) \(both on"):
        (added(0.3) | LowRank(rank=4)).compress(model)


def test_it_is_saved_and_read(added, tmp_path):
    model = digits_cnn()
    candidate = added(0.3).compress(model)
    save(candidate, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", model)
    assert compression_report(model, loaded) == compression_report(model, candidate)
    assert read_steps(loaded) == read_steps(candidate)
    assert read_steps(loaded)[0].leaves[0].kind == "zeros"
    assert footprint(loaded) == footprint(candidate)
    with pytest.raises(CompressionError, match="cannot follow small_prune"):
        LowRank(rank=4).compress(loaded)


def test_the_order_is_judged_without_a_declaration_too(added):
    class Silent(added):
        expression_name = "silent"
        leaves = undoes = None

        def compress(self, model):
            made = super().compress(model)
            write_steps(made, read_steps(model))
            return made

    with pytest.raises(CompressionError, match=r"low_rank\(rank=4\) cannot follow silent\(limit=0\.3\)"):
        (Silent(0.3) | LowRank(rank=4)).compress(digits_cnn())


def test_a_gate_takes_it_by_its_name(pytester):
    for name, body in FILES.items():
        (pytester.path / name).write_text(body, encoding="utf-8")
    wrong = FILES["test_small_prune.py"].replace("quantize(int8)", "low_rank(rank=4)")
    (pytester.path / "test_wrong_order.py").write_text(wrong, encoding="utf-8")
    result = run_pytest("-q", "--doctest-modules", folder=pytester.path)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["pass *agreement*", "*small_prune(limit=0.3) | quantize(int8)*"])
    result.stdout.fnmatch_lines(["*low_rank(rank=4) cannot follow small_prune(limit=0.3)*"])
