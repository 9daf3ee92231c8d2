"""Language models that were frozen: the most likely tokens of each place, on the documents that were frozen."""

import pytest
import torch
from torch import nn

from cp_compress import (
    ArtifactError,
    InvalidArgumentError,
    NothingComparedError,
    ObservationError,
    compare_language,
    compress,
    load_observation,
)
from cp_compress.artifacts import load_language_observation, observe_language_to_file, read_artifact
from cp_compress.cli.main import main
from pytest_cp import check_language_preserved

VOCABULARY = 50


class Recurrent(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.body = nn.Embedding(VOCABULARY, 16), nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, VOCABULARY)
        self.out.weight.data *= 8
        self.eval()

    def forward(self, ids):
        return self.out(self.body(self.embed(ids))[0])


REFERENCE = Recurrent()
CANDIDATE = compress(REFERENCE, "quantize(int8)")
GENERATOR = torch.Generator().manual_seed(0)
DOCUMENTS = [torch.randint(0, VOCABULARY, (length,), generator=GENERATOR) for length in range(4, 34)]


def make_reference():
    return REFERENCE


def make_documents():
    return DOCUMENTS


def freeze(tmp_path, model, name="reference.obs", top_k=30, **options):
    digest = observe_language_to_file(model, DOCUMENTS, tmp_path / name, top_k=top_k, **options)
    return load_language_observation(tmp_path / name, digest=digest)


def test_what_is_known_is_what_live_models_give(tmp_path):
    live = compare_language(CANDIDATE, REFERENCE, DOCUMENTS)
    reference = freeze(tmp_path, REFERENCE, top_k=8)
    candidate = freeze(tmp_path, CANDIDATE, "candidate.obs", top_k=8, batch_size=3)
    known = {"perplexity_ratio", "perplexity", "reference_perplexity", "token_agreement", "top_k_overlap"}
    for pair in ((CANDIDATE, reference), (candidate, REFERENCE), (candidate, reference)):
        found = compare_language(*pair, DOCUMENTS)
        assert set(found.metrics) == known
        assert {name: found[name] for name in known} == pytest.approx({name: live[name] for name in known}, rel=1e-6)
        assert found["token_agreement"] == live["token_agreement"]
        assert any("holds the 8 most likely tokens of each place" in note for note in found.notes)
    alone = compare_language(candidate, reference, None)
    assert alone.metrics == found.metrics
    with pytest.raises(ObservationError, match="8 most likely tokens of each place, and 9 are asked"):
        compare_language(CANDIDATE, reference, DOCUMENTS, top_k=9)


def test_what_is_written_are_the_largest_logits_and_the_normaliser(tmp_path):
    frozen = freeze(tmp_path, REFERENCE, top_k=VOCABULARY - 1)
    with torch.no_grad():
        logits = torch.cat([REFERENCE(ids[None])[0, :-1] for ids in DOCUMENTS])
    top = frozen.content.top
    torch.testing.assert_close(top.values, logits.sort(descending=True).values[:, :-1])
    torch.testing.assert_close(top.log_totals, logits.double().logsumexp(1), atol=1e-5, rtol=1e-6)
    targets = torch.cat([ids[1:] for ids in DOCUMENTS])
    expected = -logits.double().log_softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(frozen.content.tensor("nll"), expected, atol=1e-5, rtol=1e-5)


def test_in_assertions(tmp_path):
    reference, candidate = freeze(tmp_path, REFERENCE), freeze(tmp_path, CANDIDATE, "candidate.obs", top_k=6)
    live = check_language_preserved(CANDIDATE, REFERENCE, DOCUMENTS, min_token_agreement=0.5)
    for subjects in (
        (CANDIDATE, reference, DOCUMENTS),
        (candidate, reference, DOCUMENTS),
        (candidate, reference, None),
    ):
        found = check_language_preserved(*subjects, min_token_agreement=0.5, max_perplexity_ratio=1.5)
        assert found.passed
        assert found.record["subjects"]["reference"] == live.record["subjects"]["reference"]
        assert found.record["subjects"]["data"]["digest"] == live.record["subjects"]["data"]["digest"]
    with pytest.raises(InvalidArgumentError, match="its value is not known"):
        check_language_preserved(candidate, reference, None, max_token_kl=0.1)
    with pytest.raises(NothingComparedError, match="same content"):
        check_language_preserved(REFERENCE, reference, DOCUMENTS, min_token_agreement=0.5)
    with pytest.raises(InvalidArgumentError, match="must be the first argument"):
        check_language_preserved(reference, candidate, None, min_token_agreement=0.5)
    with pytest.raises(InvalidArgumentError, match="other weights"):
        check_language_preserved(
            compress(Recurrent(4), "quantize(int8)"), reference, DOCUMENTS, min_token_agreement=0.5
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda texts: texts[::-1], "document #0 is another one than was frozen there; it was frozen as #29"),
        (lambda texts: texts[:-1], "tells of 30 documents, and the data has 29"),
        (lambda texts: [*texts, texts[0]], "tells of 30 documents, and the data has 31"),
        (lambda texts: [(ids + 1) % VOCABULARY for ids in texts], "none of those that were frozen"),
        (lambda texts: [*texts[:7], texts[7][:-1], *texts[8:]], "document #7 is another one"),
    ],
)
def test_other_documents_are_an_error_that_says_which(tmp_path, change, told):
    reference = freeze(tmp_path, REFERENCE)
    with pytest.raises(ObservationError, match=told):
        compare_language(CANDIDATE, reference, change(DOCUMENTS))


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    expected = freeze(tmp_path, REFERENCE, batch_size=4).digest
    forward, asked = Recurrent.forward, []

    def stopping(self, ids):
        asked.append(len(ids))
        if len(asked) == stop:
            raise KeyboardInterrupt
        return forward(self, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recurrent, "forward", stopping)
        stop = None
        freeze(tmp_path, REFERENCE, "whole.obs", batch_size=4)
        whole, stop = len(asked), len(asked) - 2
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            freeze(tmp_path, REFERENCE, "again.obs", batch_size=4)
        assert not (tmp_path / "again.obs").exists()
        stop = None
        asked.clear()
        assert freeze(tmp_path, REFERENCE, "again.obs", batch_size=4).digest == expected
        assert len(asked) < whole - 4
    assert sorted(one.name for one in tmp_path.glob("[!.]*")) == ["again.obs", "reference.obs", "whole.obs"]


def test_kinds_of_files_are_not_mixed_up(tmp_path, capsys, monkeypatch):
    reference = freeze(tmp_path, REFERENCE)
    assert read_artifact(tmp_path / "reference.obs").digest == reference.digest
    with pytest.raises(ArtifactError, match="read it by load_language_observation"):
        load_observation(tmp_path / "reference.obs")
    with pytest.raises(ObservationError, match="holds the 30 most likely tokens"):
        reference(DOCUMENTS[0][None])
    with pytest.raises(InvalidArgumentError, match="less than the 50 tokens"):
        observe_language_to_file(REFERENCE, DOCUMENTS, tmp_path / "b.obs", top_k=50)
    monkeypatch.syspath_prepend(str(tmp_path))
    where = f"{__name__}:make_reference", f"{__name__}:make_documents"
    arguments = ["observe", where[0], "--data", where[1], "-o", str(tmp_path / "c.obs"), "--level", "language"]
    assert main([*arguments, "--top-k", "5", "--quiet"]) == 0
    assert "vocabulary  50" in capsys.readouterr().out
    assert load_language_observation(tmp_path / "c.obs").content.kept == 5
    assert main([*arguments, "--layer", "body"]) == 2
    assert main(["inspect", str(tmp_path / "c.obs")]) == 0
    assert "the 5 most likely tokens" in capsys.readouterr().out
