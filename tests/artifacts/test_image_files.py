"""Images of folders keep the values that their files hold, whatever their number of bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from cp_compress.artifacts import read_examples
from cp_compress.base.errors import ArtifactError, InvalidArgumentError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    (place / "a").mkdir()
    return place


@given(bits=st.sampled_from((8, 16)), values=st.lists(st.integers(0, 65535), min_size=6, max_size=6))
@settings(max_examples=25)
def test_pixels_are_shares_of_white(folder, bits, values):
    dtype, white = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    grey = (np.array(values).reshape(2, 3) * white // 65535).astype(dtype)
    Image.fromarray(grey).save(folder / "a" / "image.png")
    expected = torch.from_numpy(grey.astype(np.float32) / white)
    for channels in (1, 3):
        pixels, _ = read_examples(folder, channels=channels)[0]
        torch.testing.assert_close(pixels, expected.expand(channels, 2, 3), rtol=0, atol=1e-7)
    pixels, _ = read_examples(folder, channels=1, size=(1, 1))[0]
    resized = nn.functional.interpolate(expected[None, None], (1, 1), mode="bilinear", antialias=True)[0]
    # with 8 bits it is rounded to a pixel in each of two passes
    torch.testing.assert_close(pixels, resized, rtol=0, atol=1.01 / 255 if bits == 8 else 1e-6)


@pytest.mark.parametrize(
    ("name", "pixels", "mode"),
    [
        ("a.tif", np.full((8, 8), 40_000, np.uint16), "TIFF image of mode I;16"),
        ("a.tif", np.full((8, 8), 0.5, np.float32), "TIFF image of mode F"),
        ("a.pgm", np.full((8, 8), 40_000, np.int32), "PPM image of mode I"),
    ],
)
def test_deep_images_of_no_known_range_are_refused(tmp_path, name, pixels, mode):
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / name)
    with pytest.raises(ArtifactError, match=f"{name}: is a {mode}:"):
        read_examples(tmp_path)[0]


def test_mostly_black_images_are_no_bomb(tmp_path, monkeypatch):
    """Deflate packs them more than 200 to 1; beyond a floor, the user's own limit decides."""
    from cp_compress.artifacts import archives

    images = np.zeros((300, 1, 512, 512), np.uint8)
    images[:, :, :4, :4] = np.arange(16, dtype=np.uint8).reshape(4, 4)
    path = tmp_path / "data.npz"
    np.savez_compressed(path, inputs=images, labels=np.arange(300) % 3)
    assert len(read_examples(path)) == 300
    monkeypatch.setattr(archives, "_SMALL", 1 << 20)
    with pytest.raises(ArtifactError, match=r"a zip bomb, .* max_bytes="):
        read_examples(path)
    assert len(read_examples(path, max_bytes=100 << 20)) == 300
    with pytest.raises(ArtifactError, match=r"at most 1,048,576 are allowed \(max_bytes=\)"):
        read_examples(path, max_bytes=1 << 20)


def test_folders_are_numbered_by_the_names_of_the_models_classes(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), len(name), np.uint8)).save(tmp_path / "images" / name / "a.png")
    images, names = tmp_path / "images", ["ant", "dog", "bee", "cat"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    plain = read_examples(images)
    assert (plain.labels.tolist(), plain.classes, plain.numbered_by_folder) == ([0, 1], ("cat", "dog"), True)
    for classes in (names, tuple(names), tmp_path / "classes.txt", str(tmp_path / "classes.txt")):
        found = read_examples(images, classes=classes)
        assert (found.labels.tolist(), found.classes, found.numbered_by_folder) == ([3, 1], tuple(names), False)
    with pytest.raises(ArtifactError, match=r"none of the 2 names in classes= \('dog', 'ant'\): 'cat'"):
        read_examples(images, classes=["dog", "ant"])
    with pytest.raises(ArtifactError, match=r"'cat', which is the name of several of the classes"):
        read_examples(images, classes=["dog", "cat", "cat"])
    assert read_examples(images, classes=["dog", "cat", "ant", "ant"]).labels.tolist() == [1, 0]
    for wrong in ([], [1, 2], ["dog", ""], 3):
        with pytest.raises(InvalidArgumentError, match="classes"):
            read_examples(images, classes=wrong)
    np.savez(tmp_path / "data.npz", inputs=np.zeros((2, 3), np.float32), labels=np.arange(2))
    with pytest.raises(InvalidArgumentError, match="does not take this argument"):
        read_examples(tmp_path / "data.npz", classes=names)
