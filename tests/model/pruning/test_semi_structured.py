"""2:4 models on sparse tensor cores: what is refused anywhere, and what runs on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import NMPrune, Quantize, compression_report, to_semi_structured
from cp_compress.model.pruning.semi_structured import holds_two_of_four


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the layers run sparse")
def test_without_cuda_it_says_so(model):
    with pytest.raises(CompressionError, match="CUDA"):
        to_semi_structured(NMPrune().compress(model))


def test_a_dense_model_is_refused_with_the_remedy(model):
    with pytest.raises(CompressionError, match=r"prune it with NMPrune\(2, 4\)"):
        to_semi_structured(model)
    with pytest.raises(CompressionError, match="no linear layers"):
        to_semi_structured(nn.Conv2d(4, 4, 1))


def test_what_nm_pruning_gives_is_recognised(model):
    assert not holds_two_of_four(model[0].weight)
    assert all(holds_two_of_four(layer.weight) for layer in NMPrune(1, 4).compress(model) if hasattr(layer, "weight"))


@pytest.mark.gpu
def test_on_cuda_the_layers_run_sparse_and_give_the_same_outputs(cuda, model):
    candidate = (NMPrune() | Quantize("float16", mode="dynamic")).compress(model.to(cuda))
    sparse = to_semi_structured(candidate)
    assert type(sparse[0].weight).__name__.startswith("SparseSemiStructured")
    inputs = torch.randn(64, 128, device=cuda)
    with torch.no_grad():
        torch.testing.assert_close(sparse(inputs), candidate(inputs), rtol=1e-2, atol=1e-2)
    # 10 outputs are no multiple that the kernels take
    assert "4.weight" in {skip.name for skip in compression_report(model, sparse).skipped}
