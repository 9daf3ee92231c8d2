"""Weight files go into a model as its own `load_state_dict` puts them there, with every hook that it has."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cp_compress.artifacts import load_safetensors, load_torch
from cp_compress.base.errors import ArtifactError


class Cloning(nn.Linear):
    """Gives copies of its tensors as its state dict."""

    def __init__(self):
        super().__init__(4, 4)
        self._register_state_dict_hook(
            lambda module, state, prefix, versions: {name: value.clone() for name, value in state.items()}
        )


class Remembering(nn.Module):
    """Computes in a copy of its weights that is made anew after loading."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_load_state_dict_post_hook(lambda module, keys: module.remember())
        self.remember()

    def remember(self):
        self.turned = self.linear.weight.detach().t().clone()

    def forward(self, batch):
        return batch @ self.turned + self.linear.bias


class Migrating(nn.Linear):
    """Stored its weight transposed, and its bias under another name, in its first version."""

    _version = 2

    def __init__(self):
        super().__init__(4, 4)

    def _load_from_state_dict(self, state, prefix, versions, *rest):
        if versions.get("version", 1) < 2:
            state[prefix + "weight"] = state[prefix + "weight"].t()
            if prefix + "offset" in state:
                state[prefix + "bias"] = state.pop(prefix + "offset")
        super()._load_from_state_dict(state, prefix, versions, *rest)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, batch):
        return self.second(self.first(batch))


def normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


def old_linear():
    model = nn.Linear(4, 4)
    state = model.state_dict()
    state._metadata[""]["version"] = 1
    state["offset"] = state.pop("bias")
    return state


@pytest.mark.parametrize("factory", [Cloning, Remembering, Migrating, Tied, normed])
def test_files_are_loaded_as_load_state_dict_loads_them(tmp_path, factory):
    state = factory().state_dict()
    torch.save(state, tmp_path / "model.pt")
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "model.safetensors")
    inputs = torch.randn(5, 4)
    for path, load, content in (
        (tmp_path / "model.pt", load_torch, state),
        (tmp_path / "model.safetensors", load_safetensors, load_file(tmp_path / "model.safetensors")),
    ):
        expected = factory()
        expected.load_state_dict(content)
        assert torch.equal(load(path, factory)(inputs), expected(inputs))


def test_older_versions_are_brought_up_to_date_by_the_model_itself(tmp_path):
    state = old_linear()
    torch.save(state, tmp_path / "model.pt")
    read = load_torch(tmp_path / "model.pt", Migrating)
    assert torch.equal(read.weight, state["weight"].t())
    assert torch.equal(read.bias, state["offset"])
    state._metadata = {"": "version 1"}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="_metadata is not a table of versions"):
        load_torch(tmp_path / "model.pt", Migrating)


def test_tied_tensors_once_and_dtypes_of_the_file(tmp_path):
    state = Tied().bfloat16().state_dict()
    del state["second.weight"]
    torch.save(state, tmp_path / "model.pt")
    for dtype, expected in (("model", torch.float32), ("file", torch.bfloat16)):
        read = load_torch(tmp_path / "model.pt", Tied, dtype=dtype)
        assert read.first.weight is read.second.weight
        assert {value.dtype for value in read.state_dict().values()} == {expected}
        assert torch.equal(read.second.weight, state["first.weight"].to(expected))
    torch.save(Cloning().bfloat16().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="cannot be given the file's"):
        load_torch(tmp_path / "model.pt", Cloning, dtype="file")
    torch.save({**Tied().state_dict(), "second.weight": torch.zeros(4, 4)}, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="are one tensor in the model, and differ"):
        load_torch(tmp_path / "model.pt", Tied)


@pytest.mark.parametrize(
    ("factory", "rule"),
    [
        (lambda: nn.Linear(4, 4, device="meta"), "weight is on the meta device"),
        (lambda: nn.LazyLinear(4), "weight has no shape yet"),
    ],
)
def test_models_that_cannot_be_filled_yet(tmp_path, factory, rule):
    save_file(nn.Linear(4, 4).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=f"model.safetensors: .*{rule}"):
        load_safetensors(tmp_path / "model.safetensors", factory)
