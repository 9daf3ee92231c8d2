"""A model observed into a file: batch by batch, and on from where a run was stopped."""

import json

import filelock
import pytest
import torch
from pairs import Pairs
from torch import nn

from cp_compress import ObservationError, load_observation, observe, save_observation
from cp_compress.artifacts import observe_to_file

INPUTS = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


class Stopping(Pairs):
    """Data that stops whoever reads it at an example, once."""

    stop = None

    def __getitem__(self, index):
        if index == Stopping.stop:
            Stopping.stop = None
            raise KeyboardInterrupt
        return super().__getitem__(index)


def examples(inputs=INPUTS):
    return Stopping([(row, place % 3) for place, row in enumerate(inputs)])


def test_it_is_the_file_of_an_observation(tmp_path):
    model, data = network(), (INPUTS, torch.arange(50) % 3)
    digest = observe_to_file(model, data, tmp_path / "a.obs", batch_size=8, layers=["0"])
    assert save_observation(observe(model, data, batch_size=8), tmp_path / "b.obs", layers=["0"]) == digest
    assert sorted(one.name for one in tmp_path.glob("[!.]*")) == ["a.obs", "b.obs"]
    top = observe_to_file(model, data, tmp_path / "c.obs", batch_size=8, top_k=2)
    assert load_observation(tmp_path / "c.obs", digest=top).content.kept == 2


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    """Nothing is asked again but the batch that was under way and the few examples of the second look."""
    model, path = network(), tmp_path / "a.obs"
    expected = observe_to_file(network(), examples(), tmp_path / "b.obs", batch_size=8)
    Stopping.stop = 36
    with pytest.raises(KeyboardInterrupt):
        observe_to_file(model, examples(), path, batch_size=8)
    assert not path.exists()
    assert (tmp_path / "a.obs.partial").is_dir()
    asked = []
    forward = nn.ReLU.forward
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, batch: asked.append(len(batch)) or forward(self, batch))
    assert observe_to_file(network(), examples(), path, batch_size=8) == expected
    assert sum(asked) == 50 - 32 + 8  # and those of the second look
    assert sorted(one.name for one in tmp_path.glob("[!.]*")) == ["a.obs", "b.obs"]


@pytest.mark.parametrize("change", ["model", "data", "order", "cut", "bytes", "about"])
def test_what_was_kept_of_anything_else_is_dropped(tmp_path, change):
    path, folder = tmp_path / "a.obs", tmp_path / "a.obs.partial"
    model, inputs = network(), INPUTS
    Stopping.stop = 41
    with pytest.raises(KeyboardInterrupt):
        observe_to_file(model, examples(), path, batch_size=8)
    if change == "model":
        model = network().double().float()
        model[0].weight.data += 0.5
    elif change == "data":
        inputs = INPUTS + (torch.arange(50) == 3)[:, None]
    elif change == "order":
        inputs = INPUTS.roll(8, 0)
    elif change == "cut":
        content = (folder / "progress.jsonl").read_text()
        (folder / "progress.jsonl").write_text(content[:-20])
    elif change == "bytes":
        content = bytearray((folder / "logits").read_bytes())
        content[5] ^= 1
        (folder / "logits").write_bytes(content)
    else:
        about = json.loads((folder / "about.json").read_text())
        (folder / "about.json").write_text(json.dumps({**about, "torch": "0"}))
    observe_to_file(model, examples(inputs), path, batch_size=8)
    expected = observe(model, examples(inputs), batch_size=8)
    assert torch.equal(load_observation(path).logits, expected.logits)
    assert not folder.exists()


def test_two_processes_do_not_write_one_file(tmp_path):
    with filelock.FileLock(tmp_path / ".a.obs.lock"), pytest.raises(ObservationError, match="is in use"):
        observe_to_file(network(), (INPUTS, torch.arange(50) % 3), tmp_path / "a.obs")


def test_a_folder_of_others_in_the_place_of_unfinished_rows_stays(tmp_path):
    other = tmp_path / "a.obs.partial" / "thesis.tex"
    other.parent.mkdir()
    other.write_text("years of work")
    with pytest.raises(ObservationError, match=r"a\.obs\.partial is no unfinished observation"):
        observe_to_file(network(), (INPUTS, torch.arange(50) % 3), tmp_path / "a.obs")
    assert other.read_text() == "years of work"


def test_what_does_not_tell_its_content_is_run_anew(tmp_path):
    model = network()
    observe_to_file(lambda batch: model(batch), INPUTS, tmp_path / "a.obs")
    assert torch.equal(load_observation(tmp_path / "a.obs").logits, model(INPUTS))
    with pytest.raises(ObservationError, match="NaN or infinite"):
        observe_to_file(nn.Linear(5, 3), INPUTS * torch.inf, tmp_path / "b.obs")
