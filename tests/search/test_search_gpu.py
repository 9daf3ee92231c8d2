"""A search on a GPU: the model stays there, and the result is that of the CPU."""

import pytest
import search_subjects
import torch

from cp_compress.search import Latency, search

pytestmark = pytest.mark.gpu


def test_a_search_on_a_gpu_finds_what_one_on_the_cpu_finds(gpu):
    def jitter(candidate, scheme):
        with torch.no_grad():
            candidate.bias += 1e-3 * torch.rand(2, device=candidate.bias.device)
        return candidate

    torch.get_device_module(gpu).manual_seed(1)
    expected = torch.rand(3, device=gpu)
    torch.get_device_module(gpu).manual_seed(1)
    model, constraint = search_subjects.model().to(gpu), search_subjects.agreement(0.75)
    options = {"objective": "parameters", "constraints": constraint, "finish": jitter}
    found = search(model, search_subjects.space(), **options)
    assert torch.equal(torch.rand(3, device=gpu), expected)
    assert found.best.weight.device.type == gpu.type
    on_cpu = search(search_subjects.model(), search_subjects.space(), **{**options, "finish": None})
    assert found.scheme == on_cpu.scheme


def test_time_is_measured_where_the_models_are(gpu):
    candidate, reference = search_subjects.model().to(gpu), search_subjects.model().to(gpu)
    assert Latency(repeats=7).measure(candidate, reference, search_subjects.data()[0]) > 0
    assert candidate.weight.device.type == gpu.type
