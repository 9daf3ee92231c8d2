"""Data stored so that a committee keeps its answers: flips are counted by Pillow and zfpy, not by our own decoders."""

import io

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.datasets import FakeData

from cp_compress.base.digests import digest_model
from cp_compress.base.errors import CompressionError, InvalidArgumentError, ObservationError
from cp_compress.data import StoredDataset, parse_codec, verify_store
from cp_compress.search import CodecSpace, Integer, Real, write_preserved_store

JPEG_FAMILY = CodecSpace("jpeg(quality={quality}, subsampling='4:4:4')", quality=Integer(1, 100))
ZFP_FAMILY = CodecSpace("zfp(precision={planes})", planes=Integer(1, 20))
LOSSLESS = "zfp(reversible=True, clip=None)"


def pictures(count, seed=0, size=16):
    """Return smooth images with noise, uint8 (n, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noisy = smooth + 0.1 * torch.randn(count, 3, size, size, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def scaled(pixels):
    return pixels.float() / 255


def network(seed, width=6, classes=4):
    """Return a random network that gives each of its answers to some pictures."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(4 * width, classes)).eval()
        model[-1].bias -= model(scaled(pictures(64, 1))).mean(0)
        return model


def answers(model, pixels):
    with torch.no_grad():
        return torch.cat([model(scaled(row[None])) for row in pixels]).argmax(1)


def decoded_by_others(image, codec):
    """Return an image (3, height, width), uint8, after Pillow or zfpy stored it at the setting of a codec."""
    if hasattr(codec, "quality"):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=codec.quality, subsampling=codec.subsampling
        )
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    if codec.reversible:
        return image
    array = zfpy.decompress_numpy(zfpy.compress_numpy(scaled(image).numpy(), precision=codec.precision))
    return torch.from_numpy(array).clamp(0, 1).mul(255).round().to(torch.uint8)


class Counting(nn.Module):
    """A model that counts the examples that it is asked about."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.asked = inner, 0

    def forward(self, batch):
        self.asked += len(batch)
        return self.inner(batch)


@given(
    family=st.sampled_from([JPEG_FAMILY, ZFP_FAMILY]),
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3, unique=True),
    count=st.integers(3, 12),
    seed=st.integers(0, 999),
)
@settings(max_examples=12, deadline=None)
def test_no_member_changes_an_answer_on_what_others_decode(tmp_path_factory, family, seeds, count, seed):
    pixels, models = pictures(count, seed), {str(one): network(one) for one in seeds}
    path = tmp_path_factory.mktemp("stores") / "store"
    write_preserved_store(
        (pixels, torch.arange(count) % 4), family, path, models, otherwise="lossless", transform=scaled, batch_size=5
    )
    stored = StoredDataset(path, transform=scaled)
    others = [decoded_by_others(pixels[place], stored.codec.codecs[stored.stream(place)[-1]]) for place in range(count)]
    assert torch.equal(torch.stack([stored[place][0] for place in range(count)]), scaled(torch.stack(others)))
    for model in models.values():
        assert torch.equal(answers(model, torch.stack(others)), answers(model, pixels))
    assert sum(stored.record["settings"].values()) == count
    assert stored.record["models"] == {name: digest_model(model) for name, model in models.items()}
    assert verify_store(path).intact


@pytest.fixture(scope="module")
def data():
    return pictures(40), torch.arange(40) % 4


def test_cost_and_record_are_what_happened(tmp_path, data):
    member, beside = Counting(network(0)), network(5)
    stored = write_preserved_store(
        data, JPEG_FAMILY, tmp_path / "store", {"net": member}, held_back={"other": beside}, transform=scaled
    )
    record = stored.record
    # the first 16 are asked about again, in other batches, to see that these do not matter
    assert (record["decodes"], record["forward_passes"]) == (7, 8)
    assert member.asked <= 8 * 40 + 5 * 16
    decoded = torch.stack([image for image, _ in (stored[place] for place in range(40))])
    changed = (answers(beside, decoded) != answers(beside, data[0])).nonzero().flatten().tolist()
    held_back = record["held_back"]["other"]
    assert (held_back["changed"], held_back["first_changed"]) == (len(changed), changed[:10])
    assert held_back["agreement"] == 1 - len(changed) / 40
    uniform = parse_codec(max(record["settings"], key=lambda text: parse_codec(text).quality))
    assert stored.payload_bytes < sum(len(one) - 12 for one in uniform.encode(data[0]))
    used = {str(stored.codec.codecs[stream[-1]]) for stream in stored.streams(range(40))}
    assert used == set(record["settings"])


def test_margins_and_measures_of_the_user_hold_of_every_example(tmp_path, data):
    model = network(3)

    def margin(pixels, chosen):
        with torch.no_grad():
            logits = model(scaled(pixels)).double()
        own = logits.gather(1, chosen[:, None])[:, 0]
        return own - logits.scatter(1, chosen[:, None], -torch.inf).amax(1)

    before = answers(model, data[0])
    common, spare = {"models": {"net": model}, "transform": scaled}, {"otherwise": "lossless"}
    stored = write_preserved_store(data, JPEG_FAMILY, tmp_path / "a", measure="margin", at_most=0.02, **common, **spare)
    decoded = torch.stack([stored[place][0] for place in range(40)])
    assert (margin(data[0], before) - margin(decoded, before)).max() <= 0.02 + 1e-6
    assert torch.equal(answers(model, decoded), before)

    def moved(after, original):
        return (after - original).abs().amax(1)

    stored = write_preserved_store(data, ZFP_FAMILY, tmp_path / "b", measure=moved, at_most=0.01, **common, **spare)
    decoded = torch.stack([stored[place][0] for place in range(40)])
    with torch.no_grad():
        assert (model(scaled(decoded)) - model(scaled(data[0]))).abs().max() <= 0.01 + 1e-6
    assert stored.record["measure"].endswith("moved")
    assert "agreement" not in stored.record["held_back"]


def test_what_no_setting_keeps_is_refused_by_name_stored_mildest_or_without_loss(tmp_path, data):
    family, model = CodecSpace("jpeg(quality={q})", q=Integer(1, 9)), network(3)
    before = answers(model, data[0])
    flips = torch.stack(
        [answers(model, parse_codec(f"jpeg(quality={q})").roundtrip(data[0])) != before for q in (1, 3, 5, 7, 9)]
    )
    assert 0 < int(flips[-1].sum()) < 40
    common = {"models": {"net": model}, "transform": scaled}
    mildest = write_preserved_store(data, family, tmp_path / "mildest", otherwise="mildest", **common)
    lost = mildest.record["not_kept"]
    assert 0 < len(lost) < 40
    assert flips[-1][lost].all()
    decoded = torch.stack([mildest[place][0] for place in range(40)])
    assert (answers(model, decoded) != before).nonzero().flatten().tolist() == lost
    assert {str(mildest.codec.codecs[mildest.stream(place)[-1]]) for place in lost} == {"jpeg(quality=9)"}
    with pytest.raises(CompressionError, match=rf"{len(lost)} of 40 examples .* #{lost[0]}\b.*otherwise=") as caught:
        write_preserved_store(data, family, tmp_path / "refused", **common)
    assert "the answer for net" in str(caught.value)
    assert not (tmp_path / "refused").exists()
    lossless = write_preserved_store(data, family, tmp_path / "lossless", otherwise="lossless", **common)
    assert lossless.record["settings"][LOSSLESS] == len(lost)
    assert max(lossless.record["decodes"], lossless.record["forward_passes"]) <= 8
    assert all(torch.equal(lossless[place][0], data[0][place]) for place in lost)
    decoded = torch.stack([lossless[place][0] for place in range(40)])
    assert torch.equal(answers(model, decoded), before)


def test_images_of_many_sizes_ranges_of_numbers_and_repeated_calls(tmp_path, data):
    class Mixed(FakeData):
        classes = ("a", "b")

        def __getitem__(self, index):
            return Image.fromarray(pictures(1, index, (16, 24)[index % 2])[0].permute(1, 2, 0).numpy()), index % 2

    family = CodecSpace("zfp(tolerance={t})", t=Real(1e-4, 1, scale="log"))
    arguments = Mixed(size=12), family, tmp_path / "store", {"net": network(1)}
    stored = write_preserved_store(*arguments, transform=scaled)
    assert sorted(stored.shapes) == ["3×16×16 uint8", "3×24×24 uint8"]
    before = {file.name: file.stat().st_mtime_ns for file in stored.path.iterdir()}
    assert write_preserved_store(*arguments, transform=scaled).digest() == stored.digest()
    assert {file.name: file.stat().st_mtime_ns for file in stored.path.iterdir()} == before
    with pytest.raises(InvalidArgumentError, match="another store"):
        write_preserved_store(data, *arguments[1:], transform=scaled)


class InBatch(nn.Module):
    """A model whose answers depend on who else is in the batch."""

    def __init__(self):
        super().__init__()
        self.inner = network(0)

    def forward(self, batch):
        logits = self.inner(batch)
        return logits - logits.mean(0)


class Broken(nn.Module):
    def forward(self, batch):
        return torch.where(batch.mean((1, 2, 3))[:, None] > 0.5, torch.nan, batch[:, :, 0, 0])


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"models": {}}, InvalidArgumentError, "at least one model"),
        ({"models": network(0)}, InvalidArgumentError, "mapping from names"),
        ({"held_back": {"again": network(0)}}, InvalidArgumentError, "one of the models that are asked"),
        ({"measure": "margin"}, InvalidArgumentError, "needs the most"),
        ({"at_most": 1.0}, InvalidArgumentError, "has no bound"),
        ({"measure": "margins", "at_most": 1.0}, InvalidArgumentError, '"answer", "margin"'),
        ({"measure": lambda after, before: 1.0, "at_most": 1.0}, InvalidArgumentError, "returned float"),
        (
            {"measure": lambda after, before: after[:, 0] * 0 + 2, "at_most": 1.0},
            InvalidArgumentError,
            "nothing was changed",
        ),
        ({"otherwise": "drop"}, InvalidArgumentError, "refuse"),
        ({"probes": 8}, InvalidArgumentError, "1…7"),
        ({"codec_family": "jpeg(quality=5)"}, InvalidArgumentError, "CodecSpace"),
        ({"path": "/nowhere/at/all"}, InvalidArgumentError, "parent folder"),
        ({"models": {"batch": InBatch()}}, ObservationError, "'batch': its answers depend on"),
        ({"models": {"nan": Broken()}}, ObservationError, r"'nan' gives NaN or Inf for example #\d+"),
        ({"transform": None}, ObservationError, "'net'.*uint8"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path, data, change, error, told):
    arguments = {"codec_family": JPEG_FAMILY, "path": tmp_path / "store", "models": {"net": network(0)}}
    with pytest.raises(error, match=told):
        write_preserved_store(data, **{**arguments, "transform": scaled, **change})
    assert list(tmp_path.iterdir()) == []


class Fading(torch.utils.data.Dataset):
    """Pictures that are other ones each time they are read."""

    def __init__(self, count):
        self.pictures, self.reads = pictures(count), [0] * count

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, position):
        self.reads[position] += 1
        return self.pictures[position] ^ (8 * self.reads[position]), 0


def test_data_that_change_before_they_are_written_leave_no_store(tmp_path):
    with pytest.raises(CompressionError, match="is not stored as it was tried"):
        write_preserved_store(Fading(6), JPEG_FAMILY, tmp_path / "store", {"one": network(1)}, transform=scaled)
    with pytest.raises((CompressionError, InvalidArgumentError, OSError)):
        StoredDataset(tmp_path / "store")
