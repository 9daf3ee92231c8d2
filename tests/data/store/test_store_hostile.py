"""A damaged store gives an error that names what is lost, and never an example that was not written."""

import copy
import errno
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import TensorDataset

from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, ZFP, StoredDataset, verify_store, write_store
from cp_compress.data.store.manifest import seal_document

EXAMPLES, SHARD = 22, 8
ANYTHING = [None, True, -1, 0, 1, 7, 2**31, 10**30, 0.5, float("nan"), "", "x", "../../x", "/etc/passwd", [], [[]], {}]


@pytest.fixture(scope="module")
def data():
    images = torch.rand(EXAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = TensorDataset(images, torch.arange(EXAMPLES) % 4)
    made.classes = ("cat", "dog", "frog", "deer")
    return made


@pytest.fixture(scope="module", params=[JPEG(80), ZFP(rate=8)], ids=str)
def intact(request, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "store"
    write_store(data, request.param, path, shard_size=SHARD)
    return path


@pytest.fixture
def store(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "store")


def shards(path):
    return sorted(path.glob("*.safetensors"))


def read(path):
    """Return what each example reads as: its image and label, or the error."""
    stored = StoredDataset(path)
    found = []
    for index in range(len(stored)):
        try:
            found.append(stored[index])
        except CorruptStreamError as error:
            found.append(None)
            told = (f"#{index}" in str(error), "shard-" in str(error), error.index)
            if told != (True, True, index):
                raise
    return found


def check_damage(path, expected, damaged):
    """Shards of those numbers are damaged; lost examples raise, and all others are as they were written."""
    report = verify_store(path)
    assert not report.intact
    assert [shard.name for shard in report.damaged] == [shards_name(number) for number in damaged]
    lost = {index for shard in report.damaged for index in shard.lost}
    assert lost <= {index for number in damaged for index in range(number * SHARD, (number + 1) * SHARD)}
    found = read(path)
    assert len(found) == len(expected)
    for index, (row, (image, label)) in enumerate(zip(found, expected, strict=True)):
        if row is None:
            assert index in lost
        else:
            assert torch.equal(row[0], image)
            assert row[1] == label
    return lost


def shards_name(number):
    return f"shard-{number:05d}.safetensors"


@pytest.fixture(scope="module")
def expected(intact):
    return list(StoredDataset(intact))


def test_a_shard_that_is_gone(store, expected):
    shards(store)[1].unlink()
    assert check_damage(store, expected, [1]) == set(range(8, 16))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100])
def test_a_shard_that_is_cut_off(store, expected, kept):
    shard = shards(store)[2]
    shard.write_bytes(shard.read_bytes()[:kept])
    assert check_damage(store, expected, [2]) == set(range(16, 22))


def test_a_cut_loses_the_streams_that_it_reaches(store, expected):
    shard = shards(store)[2]
    content, last = shard.read_bytes(), len(StoredDataset(store).stream(21))
    for lacking, lost in ((1, {21}), (last, {21}), (last + 1, {20, 21})):
        shard.write_bytes(content[:-lacking])
        assert check_damage(store, expected, [2]) == lost
        assert f"{len(content) - lacking} bytes instead of {len(content)}" in str(verify_store(store))


def test_a_shard_that_is_longer_has_lost_nothing(store, expected):
    with shards(store)[0].open("ab") as file:
        file.write(b"\0")
    assert check_damage(store, expected, [0]) == set()
    assert len(read(store)) == EXAMPLES


def test_a_shard_that_may_not_be_read_is_not_called_missing(store, monkeypatch):
    opened = Path.open

    def refusing(self, *arguments, **options):
        if self.name == shards_name(1):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    report = verify_store(store)
    assert [(shard.name, len(shard.lost)) for shard in report.damaged] == [(shards_name(1), 8)]
    assert "cannot be read: [Errno 13]" in report.damaged[0].reason
    with pytest.raises(CorruptStreamError, match=r"#9 .*cannot be read: .*Permission denied"):
        StoredDataset(store)[9]


def test_swapped_shards(store, expected):
    """ZFP at a fixed rate makes streams of equal size, so that the files differ in no length."""
    first, second = shards(store)[:2]
    first.rename(store / "aside")
    second.rename(first)
    (store / "aside").rename(second)
    assert check_damage(store, expected, [0, 1]) == set(range(16))


def test_a_shard_of_another_store(store, expected, data, tmp_path):
    images, labels = data.tensors
    codec = StoredDataset(store).codec
    other = tmp_path / "other"
    write_store((images.flip(0), labels), codec, other, shard_size=SHARD)
    shutil.copy(shards(other)[1], shards(store)[1])
    check_damage(store, expected, [1])


def test_flipped_bits_anywhere_are_found(store, expected):
    chance = random.Random(0)
    shard = shards(store)[1]
    content = shard.read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        shard.write_bytes(damaged)
        check_damage(store, expected, [1])


def test_one_damaged_stream_loses_one_example(store, expected):
    shard = shards(store)[1]
    content = bytearray(shard.read_bytes())
    stream = StoredDataset(store).stream(11)
    content[content.index(stream) + len(stream) // 2] ^= 16
    shard.write_bytes(content)
    assert check_damage(store, expected, [1]) == {11}
    with pytest.raises(CorruptStreamError, match=r"#11.*shard-00001|shard-00001.*#11") as caught:
        StoredDataset(store).__getitems__([0, 20, 11, 9])
    assert caught.value.index == 11


def test_flipped_bits_of_the_manifest_are_found(store):
    """Class names and counts too, which nothing else could show to be wrong."""
    manifest = store / "manifest.json"
    content = manifest.read_bytes()
    chance = random.Random(1)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(7)
        if json_equal(damaged, content):
            continue
        manifest.write_bytes(damaged)
        with pytest.raises(CorruptStreamError, match=r"manifest\.json"):
            StoredDataset(store)
        with pytest.raises(CorruptStreamError, match=r"manifest\.json"):
            verify_store(store)


def json_equal(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b"[" * 200_000, b'{"format": ' + b"9" * 5000, b"\xff\xfe", b"\0" * 100],
)
def test_a_manifest_that_is_none(store, content):
    (store / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptStreamError, match=r"manifest\.json"):
        StoredDataset(store)


def places(value, path=()):
    """Yield the place of every value in a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def test_any_value_anywhere_in_the_manifest(store, expected):
    """With its checksum made right again, as somebody who means harm would."""
    manifest = store / "manifest.json"
    document = json.loads(manifest.read_text())
    for place in places(document):
        for value in ANYTHING:
            changed = copy.deepcopy(document)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            manifest.write_text(json.dumps(seal_document(changed)))
            try:
                found = read(store)
            except (CorruptStreamError, InvalidArgumentError):
                continue
            for row, (image, label) in zip(found, expected, strict=True):
                assert row is None or (torch.equal(row[0], image) and row[1] == label), (place, value)


def test_a_manifest_reaches_no_other_folder(store):
    outside = store.parent / shards(store)[0].name
    shutil.move(shards(store)[0], outside)
    manifest = store / "manifest.json"
    for name in (f"../{outside.name}", str(outside), f"./../{outside.name}", f"x/../../{outside.name}"):
        document = json.loads(manifest.read_text())
        document["shards"][0]["name"] = name
        (store / "manifest.json").write_text(json.dumps(seal_document(document)))
        with pytest.raises(CorruptStreamError, match="name of a shard"):
            StoredDataset(store)


@pytest.mark.parametrize("claimed", [10**12, 2**63, 2**64 - 1, 10**30])
def test_numbers_in_a_header_reserve_no_memory(store, expected, claimed):
    shard = shards(store)[0]
    content = shard.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header["streams"]["shape"] = [claimed]
    header["streams"]["data_offsets"] = [0, claimed]
    text = json.dumps(header).encode()
    shard.write_bytes((len(text).to_bytes(8, "little") + text + content)[: len(content)])
    assert check_damage(store, expected, [0]) == set(range(8))
    shard.write_bytes((2**63).to_bytes(8, "little") + content[8:])
    assert check_damage(store, expected, [0]) == set(range(8))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("labels"),
        lambda tensors: tensors.update(offsets=tensors["offsets"].flip(0)),
        lambda tensors: tensors.update(offsets=tensors["offsets"] * 10**9),
        lambda tensors: tensors.update(offsets=-tensors["offsets"]),
        lambda tensors: tensors.update(offsets=tensors["offsets"][:3].clone()),
        lambda tensors: tensors.update(labels=tensors["labels"].double()),
        lambda tensors: tensors.update(labels=tensors["labels"][:2].clone()),
        lambda tensors: tensors.update(streams=tensors["streams"][:5].clone()),
        lambda tensors: tensors.update(streams=tensors["streams"].double()),
        lambda tensors: tensors.update(streams=tensors["streams"].unsqueeze(0)),
    ],
)
def test_tensors_that_no_writer_makes(store, expected, change):
    """The manifest says that all is right with them."""
    shard = shards(store)[0]
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)
    document = json.loads((store / "manifest.json").read_text())
    document["shards"][0]["file_bytes"] = shard.stat().st_size
    document["shards"][0]["index"] = index_of(tensors)
    (store / "manifest.json").write_text(json.dumps(seal_document(document)))
    check_damage(store, expected, [0])


def index_of(tensors):
    return digest_tensors([tensors[name] for name in ("offsets", "labels") if name in tensors])


def test_a_folder_that_is_no_store(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", __file__):
        with pytest.raises(InvalidArgumentError, match="not a finished store"):
            StoredDataset(path)
        with pytest.raises(InvalidArgumentError, match="not a finished store"):
            verify_store(path)
