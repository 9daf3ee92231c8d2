"""Folders of transformers that are read although a count in their configuration, or a link, looks like too much."""

import shutil

import pytest
import torch

from cp_compress.artifacts import load_transformer
from cp_compress.base.errors import ArtifactError

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Qwen2", {"num_hidden_layers": 1, "num_key_value_heads": 2, "pad_token_id": 0}),  # max_window_layers is 28
        ("Albert", {"num_hidden_layers": 36, "embedding_size": 4}),  # all layers share the tensors of one
    ],
)
def test_counts_that_are_no_layers_of_their_own(tmp_path, kind, options):
    config = getattr(transformers, f"{kind}Config")(**SMALL, **options)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path)
    inputs = torch.randint(1, 30, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(load_transformer(tmp_path)(inputs), model(inputs).logits)


def test_a_snapshot_in_the_cache_of_the_hub(tmp_path):
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "saved")
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(tmp_path / "saved" / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert load_transformer(snapshot)(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    (snapshot / "model.safetensors").unlink()
    shutil.move(blobs / "model.safetensors", tmp_path / "outside")
    (snapshot / "model.safetensors").symlink_to("../../../outside")
    with pytest.raises(ArtifactError, match="link to a file outside"):
        load_transformer(snapshot)
