"""Models that can be looked into through their wrapper, and those that cannot: said plainly."""

import copy

import pytest
import torch
from origin_subjects import Twice, damaged, multilayer, vectors
from torch import nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity import find_origin, observe


@pytest.mark.parametrize("both", [False, True])
def test_a_compiled_model_is_looked_through(both):
    model, data = multilayer(2), vectors()
    candidate = damaged(model, "2", 0.5)
    expected = find_origin(observe(candidate, data), observe(model, data))
    compiled = torch.compile(candidate, backend="eager")
    other = torch.compile(model, backend="eager") if both else model
    with torch.compiler.set_stance("force_eager"):
        found = find_origin(observe(compiled, data), observe(other, data))
    assert found == expected
    assert (found.layers[0].name, found.layers[0].share) == ("2", 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_torchscript_is_said_to_be_closed(inside):
    model, data = multilayer(2), vectors()
    candidate = damaged(damaged(model, "0", 0.1), "4", 0.5)
    script = torch.jit.script(candidate[4] if inside else candidate)
    if not inside:
        with pytest.raises(ObservationError, match=r"the candidate is TorchScript.*pass the module"):
            find_origin(observe(script, data), observe(model, data))
        with pytest.raises(ObservationError, match="the reference is TorchScript"):
            find_origin(observe(model, data), observe(script, data))
        return
    candidate[4] = script
    found = find_origin(observe(candidate, data), observe(model, data))
    assert [layer.name for layer in found.layers] == ["0"]
    assert any(note.startswith("1 parts could not be restored (4): it is TorchScript") for note in found.notes)


class InHalf(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs.half()).float()


def test_a_wrapper_around_one_of_the_models_is_named():
    model, data = multilayer(2), vectors()
    found = find_origin(observe(InHalf(damaged(model, "0", 0.5).half()), data), observe(model, data))
    assert found.layers == ()
    assert any("other names" in note and "inner; 0, 1" in note and "same wrapper" in note for note in found.notes)
    assert not any("shrink" in note for note in found.notes)


def test_a_layer_that_one_model_uses_at_more_places_is_named():
    model, data = Twice().eval(), vectors()
    candidate = copy.deepcopy(model)
    candidate.again = copy.deepcopy(candidate.first)
    candidate = damaged(candidate, "again", 0.5)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert any("(again): it is used in 1 places of the candidate, and in 2" in note for note in found.notes)
