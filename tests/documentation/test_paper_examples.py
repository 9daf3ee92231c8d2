"""The paper's figures and table come out, on digits without any download; without their data they say so."""

import itertools
import json
import os
from pathlib import Path

import pytest
from example_scripts import EXAMPLES, scripts_of

PAPER = EXAMPLES / "paper"
DATA = Path(os.environ.get("CP_DATA", PAPER.parents[2] / "shared" / "data"))
needs_cifar10 = pytest.mark.skipif(not DATA.exists(), reason=f"no CIFAR-10 images and networks in {DATA.name}")


@pytest.fixture
def run(capsys):
    with scripts_of(PAPER, capsys) as run:
        yield run


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_figure_7_falls_with_the_setting_and_is_drawn(run, tmp_path):
    out = run("figure7", "--output", tmp_path, "--networks", "digits", "--families", "ZFP precision", "ZFP rate")
    rows = [row for row in read(tmp_path, "figure7")["rows"] if row["family"] == "ZFP precision"]
    rows.sort(key=lambda row: row["value"])
    assert rows[0]["accuracy"] < 0.5 < rows[-1]["accuracy"] == pytest.approx(rows[-1]["reference_accuracy"], abs=0.01)
    assert all(first["coded_bytes"] < second["coded_bytes"] for first, second in itertools.pairwise(rows))
    assert all(low <= row["drop"] <= high for row in rows for low, high in [row["bounds"]])
    assert "64 bytes as uint8 pixels, 256 as float32" in (tmp_path / "figure7.md").read_text(encoding="utf-8")
    assert (tmp_path / "figure7.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "figure7.svg").read_text(encoding="utf-8")
    assert "not drawn: " in out  # a rate of half a bit is below what a block of 4×4 takes


def test_table_1_counts_bytes_of_scan_file_and_envelope_and_keeps_finished_rows(run, tmp_path):
    arguments = ("--output", tmp_path, "--networks", "digits", "--families", "JPEG 4:4:4", "--epsilon", "0.05")
    out = run("table1", *arguments, "--every", 10, "--repairs", "none", "recalibrate")
    rows = {row["key"]["repair"]: row for row in read(tmp_path, "table1")["rows"]}
    assert set(rows) == {"none", "recalibrate"}
    for row in rows.values():
        assert row["outcome"] == "pass"
        assert row["bounds"][1] <= 0.05
        assert 0 < row["coded_bytes"] == row["payload_bytes"] < row["stored_bytes"]
    assert rows["none"]["clean_drop"] is None
    assert rows["recalibrate"]["clean_drop"] is not None
    assert '"outcome"' in out
    assert '"outcome"' not in run("table1", *arguments, "--every", 10, "--repairs", "none", "recalibrate")


def test_table_1_tells_rows_of_other_options_apart_and_survives_a_torn_line(run, tmp_path):
    arguments = ("--output", tmp_path, "--networks", "digits", "--families", "JPEG 4:4:4", "--epsilon", "0.05")
    arguments += ("--neighbours", 0)
    run("table1", *arguments, "--every", 20)
    kept = tmp_path / "table1.jsonl"
    kept.write_text(kept.read_text() + '{"key": {"net')
    run("table1", *arguments, "--every", 30)
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert text.count("every 20, trials 12, neighbours 0") == text.count("every 30, trials 12, neighbours 0") == 1
    assert '"outcome"' not in run("table1", *arguments, "--every", 30)


def test_table_1_leaves_out_families_that_take_no_such_images(run, tmp_path):
    families = ("ZFP YCbCr precision", "JPEG 4:4:4")
    arguments = ("--networks", "digits", "--families", *families, "--epsilon", "0.05", "--neighbours", 0)
    out = run("table1", "--output", tmp_path, *arguments, "--every", 30)
    assert "not made: digits, ZFP YCbCr precision: " in out
    assert [row["key"]["family"] for row in read(tmp_path, "table1")["rows"]] == ["JPEG 4:4:4"]


def test_figure_8_compares_maps_of_images_made_wrong(run, tmp_path):
    sizes = ("--window", 2, "--stride", 2, "--shown", 3)
    run("figure8", "--output", tmp_path, "--network", "digits", "--codec", "jpeg(quality=4)", *sizes)
    found = read(tmp_path, "figure8")
    rows = {row["images"]: row for row in found["rows"]}
    assert rows["made wrong"]["n"] == rows["still right"]["n"] == len(found["made_wrong"]) >= 20
    assert rows["made wrong"]["mean_iou"] < rows["still right"]["mean_iou"]
    mean = sum(each["iou"] for each in found["made_wrong"]) / len(found["made_wrong"])
    assert rows["made wrong"]["mean_iou"] == pytest.approx(mean)
    assert (tmp_path / "figure8.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", ["figure7", "table1", "figure8"])
def test_without_the_data_they_say_so_and_make_nothing(script, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CP_DATA", str(tmp_path / "nowhere"))
    out = run(script, "--output", tmp_path / "out")
    assert out.startswith("skipped: ")
    assert "set CP_DATA" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.cifar10
@needs_cifar10
def test_table_1_on_real_images_is_what_was_measured_before(run, tmp_path):
    """ZFP tolerance is the shortest row; 3-D ZFP needs over a kilobyte, and more than a third of uint8 pixels."""
    run("table1", "--output", tmp_path, "--networks", "resnet20", "--families", "ZFP tolerance", "--neighbours", 0)
    rows = read(tmp_path, "table1")["rows"]
    assert [row["key"]["epsilon"] for row in rows] == [0.02, 0.05]
    for row in rows:
        assert row["n"] == 500
        assert row["reference_accuracy"] == pytest.approx(0.91)
        assert 1_000 < row["coded_bytes"] < 1_500
        assert row["coded_bytes"] == row["payload_bytes"] == row["stored_bytes"] - 12
