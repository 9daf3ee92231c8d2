"""Files of observations that are damaged, cut off, made by others or changed while they are open are refused."""

import contextlib
import hashlib
import json
import random
import struct

import pytest
import torch
from safetensors import safe_open
from torch import nn

from cp_compress import ArtifactError, load_observation, observe, save_observation
from cp_compress.artifacts import read_artifact

DATA = (torch.rand(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


@pytest.fixture
def path(tmp_path):
    save_observation(observe(network(), DATA), tmp_path / "reference.obs", layers="0")
    return tmp_path / "reference.obs"


def parts(content):
    """Return the header and the tensors' bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def edited(path, change):
    """Write a file whose header, and document, were changed by somebody who knows its form."""
    header, data = parts(path.read_bytes())
    document = json.loads(header["__metadata__"]["cp_observation"])
    data = change(header, document, data) or data
    header["__metadata__"]["cp_observation"] = json.dumps(document)
    path.write_bytes(joined(header, data))


def test_it_is_a_safetensors_file_that_others_read(path):
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["cp_observation"])
        with torch.no_grad():
            assert torch.equal(file.get_tensor("logits"), network()(DATA[0]))
        assert torch.equal(file.get_tensor("targets"), DATA[1])
    assert document["data"]["count"] == 9
    assert document["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert read_artifact(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [one.name for one in path.parent.iterdir()] == ["reference.obs"]


def test_each_byte_counts(path):
    """A changed byte is noticed wherever it stands, but for the padding and the environment of the header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    draw = random.Random(0)
    for place in [*range(8), *draw.sample(range(8 + length, len(content)), 60)]:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=r"reference\.obs"):
            load_observation(path)


def test_a_changed_header_never_gives_anything_but_an_error_or_an_observation(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    digest = hashlib.sha256(content).hexdigest()
    draw = random.Random(1)
    for _ in range(120):
        changed = bytearray(content)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(8, 8 + length)] = draw.randrange(256)
        path.write_bytes(changed)
        if changed != content:
            with pytest.raises(ArtifactError):
                load_observation(path, digest=digest)
        with contextlib.suppress(ArtifactError):
            assert len(load_observation(path).predictions) == 9


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_what_is_cut_off_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match=r"reference\.obs"):
        load_observation(path)
    path.write_bytes(content + b"more")
    with pytest.raises(ArtifactError, match="bytes of tensors"):
        load_observation(path)


def _count(header, document, data):
    document["data"]["count"] = 10


def _classes(header, document, data):
    document["outputs"]["classes"] = 4


def _version(header, document, data):
    document["version"] = 2


def _unknown(header, document, data):
    document["model"]["run"] = "rm -rf /"


def _missing(header, document, data):
    del header["targets"], document["tensors"]["targets"]


def _unnamed(header, document, data):
    header["more"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _overlap(header, document, data):
    header["targets"]["data_offsets"] = header["examples"]["data_offsets"][:1] * 2


def _huge(header, document, data):
    header["logits"]["shape"] = [9, 3, 2**40, 2**40]


def _negative(header, document, data):
    header["logits"]["shape"] = [-9, -3]


def _kind(header, document, data):
    header["logits"]["dtype"] = "I32"


def _text(header, document, data):
    header["logits"]["shape"] = "9"


def _other_values(header, document, data):
    start, _ = header["logits"]["data_offsets"]
    return data[:start] + struct.pack("<f", 9.0) + data[start + 4 :]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_count, r"9, 16\), and its document says \(10, 16"),
        (_classes, r"\(9, 3\), and its document says \(9, 4"),
        (_version, "of version 2, and this package reads 1"),
        (_unknown, "model: .*'run'"),
        (_missing, "targets is missing"),
        (_unnamed, "not those that its document names"),
        (_overlap, "has not the bytes of its shape"),
        (_huge, "has not the bytes of its shape"),
        (_negative, "has not the bytes of its shape|describes no tensor"),
        (_kind, "logits (is|are) torch.int32"),
        (_text, "describes no tensor|has not the bytes"),
        (_other_values, "the bytes of logits have another digest"),
    ],
)
def test_a_hostile_header_is_refused(path, change, told):
    edited(path, change)
    with pytest.raises(ArtifactError, match=told):
        load_observation(path)


def test_other_files_are_no_observations(tmp_path, path):
    from safetensors.torch import save_file

    save_file({"logits": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="no observation"):
        load_observation(tmp_path / "model.safetensors")
    torch.save({"logits": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(ArtifactError):
        load_observation(tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"did you mean reference\.obs"):
        load_observation(tmp_path / "referense.obs")
    with pytest.raises(ArtifactError, match="at most 100"):
        load_observation(path, max_bytes=100)


def test_a_file_that_changes_while_it_is_open_is_noticed(path):
    """Tensors are read when they are needed, and held against the digests that were read first."""
    content = path.read_bytes()
    opened, other = (load_observation(path).content for _ in range(2))
    start = len(content) - len(parts(content)[1])
    path.write_bytes(content[:start] + bytes(len(content) - start))
    with pytest.raises(ArtifactError, match="has changed since it was opened"):
        opened.tensor("logits")
    path.write_bytes(content[: start + 2])
    with pytest.raises(ArtifactError, match="has changed since it was opened"):
        other.tensor("logits")


def test_what_cannot_be_written_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("cp_compress.artifacts.observations.format._all_blocks", lambda tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_observation(observe(network(), DATA), path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["reference.obs"]
