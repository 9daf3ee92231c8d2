"""The end-to-end examples run on digits without a download; without their data they say so and write nothing."""

import importlib
import importlib.util
import json
import os
from pathlib import Path

import pytest
from example_scripts import EXAMPLES, scripts_of

FOLDER = EXAMPLES / "end_to_end"
DATA = Path(os.environ.get("CP_DATA", FOLDER.parents[2] / "shared" / "data"))
SMALL = ("--batch-size", 32, "--images", 200, "--judged", 50, "--width", 1)


@pytest.fixture
def run(capsys):
    with scripts_of(FOLDER, capsys) as run:
        yield run


def test_every_form_of_the_images_is_answered_by_every_network(run, tmp_path):
    run("inference", "--digits", "--photographs", 24, "--passes", 1, "--output", tmp_path)
    found = json.loads((tmp_path / "inference.json").read_text(encoding="utf-8"))
    forms = {"PNG files", "JPEG files", "JPEG store", "ZFP store"}
    networks = {row["model"] for row in found["rows"]}
    assert "dense" in networks
    assert len(networks) + len(found["notes"]) == 3  # a network that cannot be made here is named
    assert {(row["data"], row["model"]) for row in found["rows"]} == {(one, name) for one in forms for name in networks}
    sizes = {row["data"]: row["bytes"] for row in found["rows"]}
    assert sizes["JPEG store"] < sizes["JPEG files"]  # tables are stored once
    first = found["rows"][0]
    assert (first["data"], first["model"], first["agreement"]) == ("PNG files", "dense", 1)
    assert all(row["agreement"] > (0.8 if row["model"] == "dense" else 0.2) for row in found["rows"])
    text = (tmp_path / "inference.md").read_text(encoding="utf-8")
    assert all(note in text for note in found["notes"])
    assert "</svg>" in (tmp_path / "inference.svg").read_text(encoding="utf-8")


def test_routes_learn_for_equal_time(run, tmp_path):
    routes = ("memory, pixels", "JPEG, blocks", "JPEG, coefficients")
    run("training", "--digits", "--seconds", 0.4, "--points", 2, *SMALL, "--routes", *routes, "--output", tmp_path)
    rows = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == list(routes)
    for row in rows:
        assert row["seen"] > 0
        assert row["seconds"] >= 0.4
        seconds = [point["seconds"] for point in row["points"]]
        assert seconds == sorted(seconds)
        assert all(0 <= point["right"]["digits"] <= 50 for point in row["points"])
    sizes = {row["name"]: row["bytes_per_image"] for row in rows}
    assert sizes["JPEG, blocks"] == sizes["JPEG, coefficients"] < sizes["memory, pixels"] == 32 * 32
    assert "| JPEG, coefficients | " in (tmp_path / "training.md").read_text(encoding="utf-8")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_without_their_data_they_say_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CP_DATA", str(tmp_path / "nowhere"))
    for script, told in (("training", "cifar10_jpeg_train.npz"), ("inference", "imagenet_sample.npz")):
        out = run(script, "--output", tmp_path / script)
        assert out.startswith("skipped: ")
        assert told in out
        assert not (tmp_path / script).exists()


@pytest.mark.real_size
def test_photographs_are_answered(run, tmp_path):
    missing = [name for name in ("efficientnet_lite_pytorch",) if importlib.util.find_spec(name) is None]
    if missing or not (DATA / "imagenet_sample.npz").exists():
        pytest.skip("no EfficientNet-Lite0 or no photographs: see examples/image_classifier/subjects.py")
    run("inference", "--photographs", 8, "--passes", 1, "--output", tmp_path)
    rows = json.loads((tmp_path / "inference.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["agreement"] >= 0.5 for row in rows if row["model"] == "dense")


@pytest.mark.cifar10
@pytest.mark.skipif(not (DATA / "cifar10_jpeg_train.npz").exists(), reason=f"no CIFAR-10 images in {DATA.name}")
def test_cifar10_is_learned_from_coefficients(run, tmp_path):
    arguments = ("--images", 1000, "--judged", 500, "--seconds", 3, "--points", 1, "--routes", "ZFP, coefficients")
    run("training", *arguments, "--output", tmp_path)
    document = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert document["totals"] == {"JPEG-coded": 500, "lossless": 500}
    assert document["rows"][0]["points"][-1]["right"]["JPEG-coded"] > 75  # chance: 50
