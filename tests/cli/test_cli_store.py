"""`cp-compress encode`, `inspect` and `verify`."""

import json
import os
import re
import sys

import pytest
import torch
from command import read, run
from PIL import Image

from cp_compress.data import JPEG, StoredDataset
from cp_compress.examples import digits, digits_cnn

DATA = "cp_compress.examples:digits"
ENCODE = ("encode", DATA, "--codec", "jpeg(quality=75)", "--shard-size", "200")


@pytest.fixture
def store(tmp_path, capsys):
    path = tmp_path / "digits.store"
    code, _, err = run(capsys, *ENCODE, "--output", str(path))
    assert (code, err) == (0, "")
    return path


def test_what_is_encoded_is_what_the_codec_gives(store):
    stored, original = StoredDataset(store), digits()
    assert torch.equal(stored[599][0], JPEG(75).roundtrip(original.tensors[0][599:])[0])
    assert torch.equal(stored.labels, original.tensors[1])


def test_inspect_says_what_is_there_and_what_each_ratio_divides(store, capsys):
    code, found = read(capsys, "inspect", str(store))
    assert code == 0
    on_disk = sum(file.stat().st_size for file in store.iterdir() if file.suffix in (".safetensors", ".json"))
    assert found["examples"] == 600
    assert found["shards"] == 3
    assert found["classes"] == list(map(str, range(10)))
    assert found["codec"] == str(JPEG(75))
    assert found["shapes"] == {"1×8×8 float32": 600}
    assert found["bytes_on_disk"] == on_disk
    assert found["raw_bytes"] == 600 * 64 * 4
    assert found["compression"] == pytest.approx(600 * 64 * 4 / on_disk)
    assert found["compression_of_8_bit_values"] == pytest.approx(600 * 64 / on_disk)
    _, out, _ = run(capsys, "inspect", str(store))
    for text in (
        "600",
        "1×8×8 float32",
        "jpeg(quality=75",
        "256 bytes per example before",
        "64 bytes per example before",
    ):
        assert text in out


def test_encoding_again_changes_nothing_and_another_codec_is_refused(store, capsys):
    before = {file.name: file.stat().st_mtime_ns for file in store.iterdir()}
    code, found = read(capsys, *ENCODE, "--output", str(store))
    assert (code, found["digest"]) == (0, StoredDataset(store).digest())
    assert {file.name: file.stat().st_mtime_ns for file in store.iterdir()} == before
    other = [part.replace("75", "50") for part in ENCODE]
    code, _, err = run(capsys, *other, "--output", str(store))
    assert code == 2
    assert re.search(r"--output '.*digits\.store'.*--overwrite", err)
    assert "write_store" not in err
    assert "True" not in err
    assert run(capsys, *other, "--output", str(store), "--overwrite")[0] == 0
    assert StoredDataset(store).codec == JPEG(50)


def test_two_processes_write_the_same(store, tmp_path, capsys):
    other = tmp_path / "other.store"
    assert run(capsys, *ENCODE, "--output", str(other), "--jobs", "2")[0] == 0
    names = [file.name for file in store.iterdir() if file.is_file()]
    assert all((other / name).read_bytes() == (store / name).read_bytes() for name in names)


def test_verify_names_what_is_lost_and_encoding_again_repairs_it(store, capsys):
    code, found = read(capsys, "verify", str(store))
    assert (code, found["intact"], found["damaged"]) == (0, True, [])
    digest = StoredDataset(store).digest()
    shard = sorted(store.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    code, out, _ = run(capsys, "verify", str(store))
    assert code == 4
    assert re.search(r"shard-00001.*#399", out)
    assert run(capsys, *ENCODE, "--output", str(store))[0] == 0
    assert run(capsys, "verify", str(store))[0] == 0
    assert StoredDataset(store).digest() == digest


def test_a_folder_of_images(tmp_path, capsys):
    for place, (name, size) in enumerate([("cat", (8, 9)), ("cat", (12, 10)), ("dog", (8, 9))]):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * place, 100, 200)).save(folder / f"{place}.png")
    target = str(tmp_path / "store")
    code, found = read(capsys, "encode", str(tmp_path / "images"), "--codec", "jpeg(quality=90)", "-o", target)
    assert code == 0
    assert found["classes"] == ["cat", "dog"]
    assert found["shapes"] == {"3×9×8 uint8": 2, "3×10×12 uint8": 1}
    stored = StoredDataset(target)
    assert [tuple(image.shape) for image, _ in stored] == [(3, 9, 8), (3, 10, 12), (3, 9, 8)]
    assert stored.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "nowhere", "--codec", "jpeg(quality=75)", "-o", "{tmp}/x"], 2, "neither a folder nor of the form"),
        (["encode", "{tmp}", "--codec", "jpeg(quality=75)", "-o", "{tmp}/x"], 4, "one subfolder of images per class"),
        (["encode", DATA, "--codec", "jpg(quality=75)", "-o", "{tmp}/x"], 2, "jpg"),
        (["encode", DATA, "--codec", "jpeg(quality=75)", "-o", "/nowhere/x/y"], 2, "nowhere"),
        (["encode", DATA, "--codec", "jpeg(quality=75)"], 2, "--output"),
        (["encode", DATA, "--codec", "jpeg(quality=75)", "-o", "{tmp}/x", "--jobs", "0"], 2, "whole number"),
        (["inspect", "{tmp}/nowhere"], 2, "there is no such file"),
        (["verify", "{tmp}"], 2, "not a finished store"),
    ],
)
def test_trouble_is_told_in_one_line(tmp_path, capsys, arguments, code, message):
    found, _, err = run(capsys, *[argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert found == code
    assert re.search(message, err)
    assert "Traceback" not in err


def test_a_folder_with_a_deep_image_is_refused(tmp_path, capsys):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.new("I;16", (8, 8), 40_000).save(tmp_path / "images" / "cat" / "deep.png")
    given = ("encode", str(tmp_path / "images"), "--codec", "zfp(reversible=True)", "-o", str(tmp_path / "store"))
    code, _, err = run(capsys, *given)
    assert code == 4
    assert re.search(r"deep\.png.*more than 8 bits", err)


@pytest.mark.parametrize("command", ["encode", "inspect", "verify"])
def test_help_shows_an_example(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"cp-compress {command} " in out.partition("example:")[2]


def test_a_dask_cluster_encodes_to_the_same_bytes(store, tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    other = tmp_path / "cluster.store"
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        code, _, err = run(capsys, *ENCODE, "--output", str(other), "--cluster", cluster.scheduler_address)
    assert (code, err) == (0, "")
    for shard in sorted(store.glob("*.safetensors")):
        assert (other / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder in which not even root can write")
def test_a_folder_that_cannot_be_written_is_named(capsys):
    code, _, err = run(capsys, *ENCODE, "--output", "/proc/digits.store")
    assert code == 4
    assert "nothing can be written in /proc" in err


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_class_whose_name_is_no_text_is_told(tmp_path, capsys):
    name = os.fsdecode(b"gr\xf6\xdfe")
    (tmp_path / "images" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / "0.png")
    given = ("encode", str(tmp_path / "images"), "--codec", "jpeg(quality=90)", "-o", str(tmp_path / "store"))
    assert run(capsys, *given, "--json", str(tmp_path / "found.json"))[0] == 0
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["classes"] == [name]


def test_each_example_keeps_the_answer_of_a_model(tmp_path, capsys):
    given = ("encode", DATA, "--codec", "zfp(precision={p})", "--output", str(tmp_path / "store"))
    preserve = ("--parameter", "p=integer(1, 20)", "--preserve", "net=cp_compress.examples:digits_cnn")
    code, found = read(capsys, *given, *preserve, "--otherwise", "lossless")
    assert code == 0
    assert list(found["record"]["models"]) == ["net"]
    assert sum(found["record"]["settings"].values()) == 600
    stored, network = StoredDataset(tmp_path / "store"), digits_cnn()
    decoded = torch.stack([image for image, _ in stored.__getitems__(range(600))])
    with torch.no_grad():
        assert torch.equal(network(decoded).argmax(1), network(digits().tensors[0]).argmax(1))
    out = run(capsys, "inspect", str(stored.path))[1]
    assert re.search(r"kept for +net \([0-9a-f]{12}\)", out)
    for wrong, told in (
        (given + preserve[2:], "--parameter"),
        (given + preserve[:2], "--parameter is about models"),
        ((*given, *preserve, "--preserve", "net=cp_compress.examples:digits_cnn"), "two models are called net"),
        ((*given, *preserve, "--cluster", "tcp://nowhere:1"), "--jobs"),
        ((*given[:3], "jpeg(quality={q})", *given[4:], "--parameter", "q=integer(1, 100)", *preserve[2:]), "--output"),
    ):
        code, _, err = run(capsys, *wrong)
        assert code == 2
        assert told in err
