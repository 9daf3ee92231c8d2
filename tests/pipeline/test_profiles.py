"""Profiles of pipelines: stages that add up, bottlenecks that are known, what could be saved. No time is asserted."""

import copy
import itertools
import json
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from command import read, run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from cp_compress import Prune
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, ZFP, CoefficientDataset, CompressedDataset, StoredDataset, write_store
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_end_to_end
from cp_compress.pipeline import Pipeline, PipelineComparison, PipelineProfile, profile_pipeline, profile_pipelines
from cp_compress.pipeline.picture import draw

QUICK = {"examples": 16, "batch_size": 8, "passes": 1}
SLOW = 0.02


@pytest.fixture(scope="module")
def data():
    return torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4


@pytest.fixture(scope="module")
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))


def check(found):
    """Assert what holds of every profile, and return the names of its stages."""
    assert found.examples == 16
    assert min(found.stages.values()) >= 0
    loading = sum(found.stages[name] for name in found.loading)
    computing = sum(found.stages.values()) - loading
    parts = [computing + found.waiting] if found.overlapping else [loading + computing]
    assert sum(parts) + found.other == pytest.approx(found.seconds)
    assert found.examples_per_second == pytest.approx(found.examples / found.seconds)
    best = found.at_best
    assert found.bottleneck == max(best, key=lambda name: (best[name], found.shares[name]))
    assert min(best.values()) >= found.examples_per_second * (1 - 1e-9)
    if not found.overlapping:
        for name, seconds in found.stages.items():
            assert best[name] == pytest.approx(16 / (found.seconds - seconds))
    json.dumps(found.to_json())
    assert f"{found.name}: " in str(found)
    return list(found.stages)


def test_each_form_of_data_has_its_stages(tmp_path, data, model):
    for place in range(4):
        (tmp_path / "images" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        pixels = (data[0][place].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "ab"[place % 2] / f"{place}.png")
    store = write_store(data, JPEG(80), tmp_path / "store")
    blocks = ZFP(precision=10, layout="2d")
    own = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    folder = ImageFolder(tmp_path / "images")
    cases = [
        (data, model, {}, ["read", "collate", "forward"]),
        (data, None, {}, ["read", "collate"]),
        (list(zip(*data, strict=True)), model, {}, ["read", "collate", "forward"]),
        (data, model, {"codec": "jpeg(quality=80)"}, ["read", "decode", "collate", "forward"]),
        (store, model, {"backward": True}, ["read", "decode", "collate", "forward", "backward"]),
        (CompressedDataset(data, blocks), own, {"coefficients": True}, ["read", "coefficients", "collate", "forward"]),
        (CoefficientDataset(data, blocks), None, {}, ["read", "collate"]),
        (
            folder,
            model,
            {"transform": lambda batch: batch.float() / 255},
            ["read", "decode", "collate", "transform", "forward"],
        ),
        (store, model, {"workers": 1}, ["read", "decode", "collate", "forward"]),
    ]
    for source, network, options, stages in cases:
        found = profile_pipeline(source, network, **QUICK, **options)
        assert check(found) == stages
        assert found.facts["workers"] == options.get("workers", 0)
        assert found.overlapping == (options.get("workers", 0) > 0)
    assert "one step" in profile_pipeline(list(zip(*data, strict=True)), **QUICK).notes[0]


class Sleeping:
    """A codec, a data set, a transform or a model that takes its time."""

    lossless = True

    def __init__(self, what):
        self.what = what

    def __call__(self, batch):
        time.sleep(SLOW)
        return batch.flatten(1)[:, :4]


class SlowCodec(Sleeping):
    def encode(self, batch):
        return ZFP(precision=8).encode(batch)

    def decode(self, streams):
        time.sleep(SLOW)
        return ZFP(precision=8).decode(streams)

    def roundtrip(self, batch):
        return self.decode(self.encode(batch))


class SlowData(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, index):
        time.sleep(SLOW / 8)
        return self.data[0][index], self.data[1][index]


def test_the_stage_that_sleeps_is_the_bottleneck(data, model):
    pipelines = {
        "decode": Pipeline(data, model, codec=SlowCodec("decode"), batch_size=8),
        "read": Pipeline(SlowData(data), model, batch_size=8),
        "transform": Pipeline(data, model, transform=lambda batch: (time.sleep(SLOW), batch)[1], batch_size=8),
        "forward": Pipeline(data, Sleeping("forward"), batch_size=8),
    }
    found = profile_pipelines(pipelines, examples=16, passes=2)
    assert [one.bottleneck for one in found.profiles] == list(pipelines)
    for name in pipelines:
        assert found[name].stages[name] >= 2 * SLOW * 0.9  # a sleep is never shorter than it was asked to be
        assert len(found.ratios(name)) == 2
    assert found.ratios("decode") == [1.0, 1.0]
    document = found.to_json()["pipelines"]
    assert [one["name"] for one in document] == list(pipelines)
    assert document[0]["speedup"] == 1
    assert all(name in str(found).splitlines()[0] for name in found.stages)


@given(
    st.lists(st.floats(0, 10), min_size=4, max_size=4),
    st.integers(0, 4),
    st.floats(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_without_a_stage_a_run_takes_what_the_others_take(parts, workers, more):
    stages = dict(zip(("read", "decode", "collate", "forward"), parts, strict=True))
    loading, forward = sum(parts[:3]) / max(1, workers), parts[3]
    whole = max(loading, forward) if workers else loading + forward
    seconds = whole + more + 1e-3
    facts = {"workers": workers}
    found = PipelineProfile(
        "x", facts, 10, seconds, (10 / seconds,), stages, ("read", "decode", "collate"), 0.0, workers > 0
    )
    for name in stages:
        rest = {other: 0.0 if other == name else value for other, value in stages.items()}
        side = (rest["read"] + rest["decode"] + rest["collate"]) / max(1, workers)
        expected = max(side, rest["forward"]) if workers else side + rest["forward"]
        assert 10 / found.at_best[name] == pytest.approx(expected + more + 1e-3)
    check_picture(PipelineComparison((found,)))


def check_picture(comparison):
    root = ElementTree.fromstring(draw(comparison))
    titles = [one.text for one in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    for one in comparison.profiles:
        for name in one.stages:
            assert any(title.startswith(f"{one.name}, {name}: ") for title in titles)
    widths = [
        float(one.get("width")) for one in root.iter("{http://www.w3.org/2000/svg}rect") if "%" not in one.get("width")
    ]
    assert max(widths) <= 560.1


def test_nothing_of_the_user_is_changed(data):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(4))
    model(data[0])
    model.train()
    before = copy.deepcopy(model.state_dict())
    for backward in (False, True):
        profile_pipeline(data, model, backward=backward, **QUICK)
        assert model.training
        assert all(one.grad is None for one in model.parameters())
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"passes": 0}, "passes=0"),
        ({"examples": 0}, "examples=0"),
        ({"model": 3}, "model"),
        ({"model": None, "backward": True}, "torch.nn.Module"),
        ({"loss": nn.MSELoss()}, "backward=True alone"),
        ({"transform": 3}, "transform=3"),
        ({"codec": "jpg(quality=3)"}, "did you mean jpeg"),
        ({"coefficients": True}, "codec"),
        ({"backward": True, "loss": lambda output, labels: output}, "one number"),
    ],
)
def test_bad_arguments_are_refused(data, model, options, told):
    with pytest.raises(InvalidArgumentError, match=told):
        profile_pipeline(data, **{**QUICK, "model": model, **options})


def test_data_without_stages_and_a_model_that_cannot_take_it_are_refused(data, model):
    with pytest.raises(InvalidArgumentError, match="a DataLoader hides"):
        profile_pipeline(DataLoader(list(zip(*data, strict=True))), **QUICK)
    with pytest.raises(InvalidArgumentError, match="stored by a codec already"):
        Pipeline(CompressedDataset(data, JPEG(50)), codec="jpeg(quality=50)")
    with pytest.raises(CompressionError, match=r"\(8, 3, 16, 16\), torch.float32.*transform"):
        profile_pipeline(data, nn.Linear(7, 2), **QUICK)
    with pytest.raises(InvalidArgumentError, match="one Pipeline or more"):
        profile_pipelines({"a": data})


def raising(error):
    def function(*arguments):
        raise error

    return function


class Unreadable(SlowData):
    def __getitem__(self, index):
        if index == 9:
            raise KeyError(index)
        return super().__getitem__(index)


class Uneven(SlowData):
    def __getitem__(self, index):
        return self.data[0][index][:, : 8 + index], self.data[1][index]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_users_code_raises_is_told_by_stage(data, model, workers):
    frozen = copy.deepcopy(model).requires_grad_(False)
    cases = [
        (data, {"transform": raising(ZeroDivisionError("boom"))}, "transform cannot take.*ZeroDivisionError: boom"),
        (Unreadable(data), {}, "examples #8 to #15 one cannot be read: KeyError"),
        (Uneven(data), {}, "cannot be put into one batch.*one shape"),
    ]
    cases += [
        (data, {"model": raising(IndexError("boom"))}, r"cannot be run on inputs \(8, 3, 16, 16\).*IndexError: boom"),
        (
            data,
            {"backward": True, "loss": raising(KeyError("boom"))},
            "the loss .* cannot be computed: KeyError: 'boom'",
        ),
        (data, {"backward": True, "model": frozen}, "all are frozen"),
    ] * (workers == 0)
    for source, options, told in cases:
        with pytest.raises((CompressionError, InvalidArgumentError), match=told) as found:
            profile_pipeline(source, **{**QUICK, "model": model, "workers": workers, **options})
        assert "Traceback" not in str(found.value)


def test_damage_is_told_as_it_is_from_a_worker(data, tmp_path):
    store = write_store(data, JPEG(80), tmp_path / "store")
    shard = max((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    shard.write_bytes(content)
    with pytest.raises(CorruptStreamError) as found:
        profile_pipeline(StoredDataset(store.path), workers=1, examples=20, batch_size=4, passes=1)
    assert "Traceback" not in str(found.value)


def test_an_unknown_name_is_told_with_the_known_ones(data):
    found = profile_pipelines({"first": Pipeline(data)}, examples=8, passes=1)
    with pytest.raises(KeyError, match="no pipeline 'second'; there are 'first'"):
        found["second"]
    with pytest.raises(InvalidArgumentError, match="names to one Pipeline"):
        profile_pipelines({"": Pipeline(data)})


def test_two_pipelines_are_measured_in_turns_and_claims_rest_on_turns():
    reference, original = digits_cnn(), digits()
    candidate = Prune(0.5).compress(reference)
    stored = CompressedDataset(original, JPEG(75))
    found = compare_end_to_end(candidate, reference, stored, original, examples=32, batch_size=16, turns=5)
    assert found.counts == {"end_to_end_speedup": 5, "examples_per_second": 5}
    ratios = found.details["ratios"]
    assert found.metrics["end_to_end_speedup"] == sorted(ratios)[2]
    rates = [found.details[who]["rates"] for who in ("candidate", "reference")]
    assert ratios == [mine / other for mine, other in zip(*rates, strict=True)]
    interval = found.evidence["end_to_end_speedup"].interval(0.95)
    assert (interval.low, interval.high) == (min(ratios), max(ratios))
    assert "decode" in found.details["candidate"]["stages"]
    assert "decode" not in found.details["reference"]["stages"]


COMMAND = ("profile", "cp_compress.examples:digits", "--examples", "32", "--passes", "1", "--quiet")
MODEL = ("--model", "cp_compress.examples:digits_cnn")


def test_the_command_runs_every_combination(tmp_path, capsys):
    picture = tmp_path / "stages.svg"
    options = ("--codec", "jpeg(quality=75)", "--scheme", "quantize(int8)", "--workers", "0", "--workers", "1")
    code, found = read(capsys, *COMMAND, *MODEL, *options, "--picture", str(picture))
    assert code == 0
    names = [one["name"] for one in found["pipelines"]]
    parts = [
        ", ".join(part for part in one if part)
        for one in itertools.product(("", "jpeg(quality=75)"), ("", "quantize(int8)"), ("0 workers", "1 workers"))
    ]
    assert names == parts
    assert found["pipelines"][0]["speedup"] == 1
    assert all(name in picture.read_text(encoding="utf-8") for name in ("forward", "decode"))
    store = write_store(digits(), JPEG(60), tmp_path / "store")
    code, out, _ = run(capsys, "profile", str(store.path), *COMMAND[2:], *MODEL)
    assert code == 0
    assert "<- bottleneck" in out
    code, found = read(
        capsys, "profile", str(store.path), *COMMAND[1:], "--coefficients", "--codec", "jpeg(quality=75)"
    )
    assert code == 2  # a store has its own codec


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--scheme", "quantize(int8)"), "add --model"),
        (("--backward",), "add --model"),
        (("--coefficients",), "add --codec"),
        (("--workers", "-1"), "whole number of 0 or more"),
        (("--picture", "x", "--json", "x"), "its own file"),
    ],
)
def test_the_command_refuses_what_says_nothing(capsys, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    try:
        code, _, err = run(capsys, *COMMAND, *options)
    except SystemExit as end:
        code, err = end.code, capsys.readouterr().err
    assert code == 2
    assert told in err


@pytest.mark.gpu
def test_on_a_device_stages_are_those_of_its_kernels(cuda, data):
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.LazyLinear(4)
    )
    model(data[0])
    found = profile_pipeline(
        data, model, device=cuda, backward=True, examples=64, batch_size=16, codec="jpeg(quality=80)"
    )
    assert list(found.stages) == ["read", "decode", "collate", "transfer", "forward", "backward"]
    assert min(found.stages.values()) > 0
    assert found.overlapping
    assert sum(found.stages[name] for name in ("transfer", "forward", "backward")) <= found.seconds
