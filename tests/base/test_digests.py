"""Digests follow content: any change is seen, and nothing but content counts."""

import copy

import torch
from torch import nn

from cp_compress.base.digests import digest_model, digest_tensors, examining_once, forget_examined


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def test_copies_are_equal_in_any_mode():
    one = model()
    other = copy.deepcopy(one).eval()
    assert digest_model(one) == digest_model(other)


def test_every_kind_of_change_is_seen():
    changes = [
        lambda m: m[0].weight.data[0].neg_(),
        lambda m: m[1].running_var.add_(1),
        lambda m: m.__setitem__(2, nn.Flatten(1, 3)),
        lambda m: m.double(),
        lambda m: m[3].register_forward_hook(lambda *arguments: None),
        lambda m: setattr(m[0], "stride", (2, 2)),
    ]
    digests = {digest_model(model())}
    for change in changes:
        changed = model()
        change(changed)
        digests.add(digest_model(changed))
    assert len(digests) == len(changes) + 1


def test_callables_have_none():
    assert digest_model(lambda batch: batch) is None


def test_bits_count_not_values():
    assert digest_tensors([torch.tensor([0.0])]) != digest_tensors([torch.tensor([-0.0])])
    assert digest_tensors([torch.zeros(2, 3)]) != digest_tensors([torch.zeros(3, 2)])
    assert digest_tensors([torch.arange(6).view(2, 3).T]) == digest_tensors([torch.arange(6).view(2, 3).T.contiguous()])
    assert digest_tensors([torch.ones(2, dtype=torch.bfloat16)]) != digest_tensors([torch.ones(2, dtype=torch.float16)])


def test_models_are_examined_once_until_something_has_run():
    model = nn.Linear(2, 1)
    with examining_once():
        before = digest_model(model)
        with torch.no_grad():
            model.weight += 1
        assert digest_model(model) == before
        assert digest_model(nn.Linear(3, 1)) != before  # another model is no other's
        forget_examined()
        after = digest_model(model)
    assert after != before
    assert digest_model(model) == after
