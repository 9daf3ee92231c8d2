"""Two encoders, query by query: what is measured, what is refused, and what each fault and no fault gives."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from cp_compress import Quantize, RetrievalData, compare_retrieval
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.retrieval import ranking
from cp_compress.fidelity.retrieval.ranking import Vectors, rank_correlation
from cp_compress.inputs.items import Items

QUERIES, DOCUMENTS, WIDTH, K = 30, 70, 12, 5


class Encoder(nn.Module):
    def __init__(self, normalize=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 24), nn.Tanh(), nn.Linear(24, 16))
        self.normalize = normalize

    def forward(self, batch):
        found = self.layers(batch)
        return nn.functional.normalize(found, dim=-1) if self.normalize else found


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    documents = torch.randn(DOCUMENTS, WIDTH, generator=generator)
    queries = documents[:QUERIES] + 0.4 * torch.randn(QUERIES, WIDTH, generator=generator)
    relevant = [{query: 2, query + 30: 1} for query in range(QUERIES)]
    return RetrievalData(queries, documents, relevant)


@pytest.fixture(scope="module")
def compressed(reference):
    return Quantize("int4", group_size=8).compress(reference)


def ranked(model, data, similarity, index=None):
    """Return all documents of each query, best first, and the scores, by plain NumPy."""
    with torch.no_grad():
        both = zip((model, index or model), (data.queries, data.corpus), strict=True)
        queries, documents = (one(items.batch(range(len(items)))).double().numpy() for one, items in both)
    if similarity == "cosine":
        queries, documents = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, documents))
    if similarity == "euclidean":
        scores = -np.linalg.norm(queries[:, None] - documents[None], axis=2)
    else:
        scores = queries @ documents.T
    return np.argsort(-scores.astype(np.float32), axis=1, kind="stable"), scores


def by_hand(order, relevant, k):
    values = []
    for documents, grades in zip(order, relevant, strict=True):
        gains = [grades.get(int(one), 0) for one in documents[:k]]
        ideal = sorted(grades.values(), reverse=True)
        discounted = [sum(gain / math.log2(place + 2) for place, gain in enumerate(row[:k])) for row in (gains, ideal)]
        first = next((place for place, gain in enumerate(gains) if gain > 0), None)
        recall = sum(gain > 0 for gain in gains) / len(grades)
        values.append((recall, 0 if first is None else 1 / (first + 1), discounted[0] / discounted[1]))
    return np.mean(values, axis=0)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_agrees_with_brute_force(reference, compressed, data, similarity, monkeypatch):
    pytest.importorskip("ir_measures")
    monkeypatch.setattr(ranking, "_SCORES", 130)  # many blocks of documents
    monkeypatch.setattr(ranking, "_QUERIES", 13)
    found = compare_retrieval(compressed, reference, data, similarity=similarity, k=K, batch_size=8)
    (before, old_scores), (after, scores) = (ranked(one, data, similarity) for one in (reference, compressed))
    shared = [len(set(one) & set(other)) / K for one, other in zip(before[:, :K], after[:, :K], strict=True)]
    tau = [kendalltau(old[top], new[top])[0] for top, old, new in zip(before[:, :K], old_scores, scores, strict=True)]
    old, new = (by_hand(order, data.relevant, K) for order in (before, after))
    expected = {
        "result_overlap": np.mean(shared),
        "first_result_agreement": np.mean(before[:, 0] == after[:, 0]),
        "result_rank_correlation": np.mean(tau),
    }
    for place, name in enumerate(("recall", "mrr", "ndcg")):
        expected |= {f"reference_{name}": old[place], name: new[place], f"{name}_drop": old[place] - new[place]}
    assert found.metrics == pytest.approx(expected, abs=1e-9)
    assert 0.5 < found["result_overlap"] < 1
    sliced = compare_retrieval(
        compressed, reference, data, similarity=similarity, k=K, slices={"all": range(QUERIES), "few": [3]}
    )
    assert {*sliced.metrics} == {metric.name for metric in COMPARISONS["retrieval"].metrics}
    assert {*sliced.evidence} == {metric.name for metric in COMPARISONS["retrieval"].metrics if metric.claims}
    assert sliced["min_slice_result_overlap"] == min(np.mean(shared), shared[3])


def test_a_kept_index_is_that_of_the_reference(reference, compressed, data):
    plain = data.queries.source, data.corpus.source
    found = compare_retrieval(compressed, reference, plain, similarity="dot", k=K, index="reference")
    anew = compare_retrieval(compressed, reference, plain, similarity="dot", k=K)
    before, after = (ranked(one, data, "dot", reference)[0][:, :K] for one in (reference, compressed))
    shared = [len(set(one) & set(other)) / K for one, other in zip(before, after, strict=True)]
    assert found["result_overlap"] == pytest.approx(np.mean(shared))
    assert found.metrics != anew.metrics
    doubled = torch.cat([torch.eye(3), torch.eye(3)])
    near = Vectors(torch.eye(3), doubled, "euclidean", torch.device("cpu")).best(2)
    assert near.documents.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not near.scores.any()


def test_equal_scores_are_in_the_order_of_the_documents():
    corpus = torch.tensor([[1.0], [3.0], [3.0], [2.0], [3.0], [-1.0], [-2.0]])
    for size in (1, 3, 100):
        queries = torch.tensor([[1.0], [-1.0]])
        found = Vectors(queries, corpus, "dot", torch.device("cpu"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "_SCORES", size)
            best = found.best(4)
        assert best.documents.tolist() == [[1, 2, 4, 3], [6, 5, 0, 3]]
        assert best.scores.tolist() == [[3, 3, 3, 2], [2, 1, -1, -2]]
    scores = torch.tensor([[2.0, 2.0, 1.0, -torch.inf], [1.0, 1.0, 1.0, 1.0]])
    tau = rank_correlation(scores, torch.tensor([[1.0, 2.0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0]]))
    assert float(tau[0]) == pytest.approx(kendalltau([2, 2, 1], [1, 2, 0])[0])
    assert math.isnan(tau[1])


def test_the_form_of_the_data_changes_nothing(reference, compressed, data):
    queries, corpus = (one.batch(range(len(one))) for one in (data.queries, data.corpus))
    named = {f"d{place}": row for place, row in enumerate(corpus)}
    relevant = {
        f"q{query}": {f"d{document}": grade for document, grade in row.items()}
        for query, row in enumerate(data.relevant)
    }
    triples = torch.tensor([(query, *pair) for query, row in enumerate(data.relevant) for pair in row.items()])
    forms = [
        (queries, corpus, triples),
        {"queries": list(queries), "documents": corpus.numpy(), "qrels": data.relevant},
        {"queries": {f"q{place}": row for place, row in enumerate(queries)}, "corpus": named, "relevant": relevant},
    ]
    pytest.importorskip("ir_measures")
    expected = compare_retrieval(compressed, reference, data, similarity="cosine", k=K)
    for form in forms:
        found = compare_retrieval(compressed, reference, form, similarity="cosine", k=K)
        assert found.metrics == expected.metrics
        assert found.details["data_digest"] == expected.details["data_digest"]
    assert found.examples[0].before.startswith("d")


def words(text):
    return torch.tensor([float(text.count(letter)) for letter in "abcdefghijkl"])


def test_texts_and_a_reranker(reference, compressed):
    texts = ["a bad cab", "deaf head", "high jail", "lab bill", "aged kid", "face", "gild", "bell"]

    def encode(model, batch):
        return model(torch.stack(list(map(words, batch))))

    both = compare_retrieval(compressed, reference, (texts[:4], texts), similarity="dot", k=2, encode=encode)
    assert both.examples == () or "'" in both.examples[0].label

    def score(model, queries, documents):
        return (encode(model, queries) * encode(model, documents)).sum(1)

    def pairs(data):
        return compare_retrieval(compressed, reference, data, similarity="model", k=2, score=score, batch_size=5)

    assert pairs((texts[:4], texts)).metrics == pytest.approx(both.metrics, abs=1e-12)
    short = pairs(RetrievalData(texts[:4], texts, shortlists=[[5, 1, 0], [7, 6, 2, 3], [4, 2], [3]]))
    assert short.counts["result_overlap"] == 2
    assert short.counts["result_rank_correlation"] == 3


def faulty(reference, what):
    model = copy.deepcopy(reference)
    if what == "scale":
        model.layers[0].weight.data *= 1.2
    elif what == "channel":
        model.layers[2].weight.data[:, :4] = 0
    elif what == "swapped":
        model.layers[0].weight.data = model.layers[0].weight.data.roll(1, 1)
    return model


@pytest.mark.parametrize(("what", "most"), [("scale", 0.999), ("channel", 0.95), ("swapped", 0.5)])
def test_faults_are_told_from_harmless_changes(reference, data, what, most):
    def measure(candidate, **options):
        plain = RetrievalData(data.queries.source, data.corpus.source)
        return compare_retrieval(candidate, reference, plain, similarity="cosine", k=K, **options)

    found = measure(faulty(reference, what))
    assert found["result_overlap"] < most
    half = measure(copy.deepcopy(reference).bfloat16().float())
    assert half["result_overlap"] > found["result_overlap"]
    same = measure(copy.deepcopy(reference).double().float(), batch_size=7)
    assert same["result_overlap"] == 1
    assert same["result_rank_correlation"] == 1


def test_an_embedding_without_its_normalization_is_caught(reference, data):
    bare = copy.deepcopy(reference)
    bare.normalize = False
    for similarity in ("dot", "euclidean", "cosine"):
        with pytest.raises(ObservationError, match="reference's embeddings are normalised"):
            compare_retrieval(bare, reference, data, similarity=similarity)
    with pytest.raises(ObservationError, match="candidate's embeddings are normalised"):
        compare_retrieval(reference, bare, data, similarity="dot")
    plain = RetrievalData(data.queries.source, data.corpus.source)
    assert compare_retrieval(reference, bare, plain, similarity="cosine")["result_overlap"] == 1


def test_judgements_that_do_not_fit_and_data_that_tell_nothing(reference, compressed, data):
    pytest.importorskip("ir_measures")
    queries, corpus = data.queries.source, data.corpus.source

    def measure(*given, candidate=compressed, original=reference, **options):
        return compare_retrieval(candidate, original, given, similarity="cosine", **options)

    shifted = [{(query + 37) % DOCUMENTS: 1} for query in range(QUERIES)]
    with pytest.raises(ObservationError, match="no better than chance by these judgements"):
        measure(queries, corpus, shifted)
    assert any("too little to show" in note for note in measure(queries[:4], corpus, shifted[:4]).notes)
    some = measure(queries, corpus, data.relevant[:25] + ((),) * 5)
    assert some.counts["ndcg"] == 25
    assert any("5 queries have no relevant document" in note for note in some.notes)
    with pytest.raises(ObservationError, match="same score for all queries"):
        measure(queries, corpus[:1].expand(20, -1))
    with pytest.raises(ObservationError, match="does not read the query"):
        measure(queries[:1].expand(20, -1), corpus)
    repeated = measure(queries.repeat(2, 1), corpus)
    assert repeated.evidence["result_overlap"].count == QUERIES
    assert measure(queries, corpus, clusters=[0, 1, 2] * 10).details["clusters"]["count"] == 3


def test_what_cannot_be_compared_is_refused(reference, data):
    queries, corpus = data.queries.source, data.corpus.source
    candidate = copy.deepcopy(reference)
    broken = lambda batch: reference(batch) * torch.where(batch[:, :1] == corpus[7, 0], torch.nan, 1.0)  # noqa: E731
    cases = {
        "NaN or infinite values for #7 of the documents": (broken, {}),
        "returned shape": (lambda batch: batch[:, :, None], {}),
        "say by encode=": (lambda batch: {"last_hidden_state": batch}, {}),
        "nothing but zeros": (lambda batch: reference(batch) * 0, {"reference": lambda batch: 2 * batch}),
        "random": (lambda batch: torch.rand(len(batch), 4), {}),
        "who else is in the batch": (lambda batch: batch - 9 * batch.mean(0), {}),
        "cannot take a batch": (lambda batch: batch @ torch.ones(3, 3), {}),
        "embeddings of one space": (lambda batch: batch[:, :5], {"index": "reference"}),
    }
    for told, (model, options) in cases.items():
        other = options.pop("reference", reference)
        with pytest.raises(ObservationError, match=told):
            compare_retrieval(model, other, (queries, corpus), similarity="cosine", **options)
    for name, wrong in {
        "similarity": {"similarity": "cos"},
        "k": {"k": DOCUMENTS},
        "index": {"index": "old"},
        "score": {"score": len},
        "encode": {"similarity": "model", "encode": len},
        "batch_size": {"batch_size": 0},
        "slices": {"slices": {"none": []}},
    }.items():
        with pytest.raises(InvalidArgumentError, match=name):
            compare_retrieval(candidate, reference, (queries, corpus), **{"similarity": "cosine", **wrong})
    for told, given in {
        "dataset is a list": [queries, corpus],
        "it takes queries, corpus": {"queries": queries},
        "the queries are none": (queries[:0], corpus),
        "which there is not": (queries, corpus, [{900: 1}] * QUERIES),
        "an entry for each of 30 queries": (queries, corpus, [[0]]),
        "grades are whole numbers": (queries, corpus, [{0: 0.5}] * QUERIES),
        "no relevant document": (queries, corpus, [()] * QUERIES),
        "the documents are a str": (queries, "text"),
    }.items():
        with pytest.raises(ObservationError, match=told):
            compare_retrieval(candidate, reference, given, similarity="cosine")


def test_memory_is_that_of_embeddings_and_one_block_of_scores():
    found = Vectors(torch.randn(300, 4), torch.randn(500, 4), "dot", torch.device("cpu"))
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_SCORES", 2048)
        patch.setattr(
            Vectors, "scores", lambda self, one, other: sizes.append(len(one) * len(other)) or one.float() @ other.T
        )
        best = found.best(3)
    assert max(sizes) <= 2048
    assert torch.equal(best.documents[:, 0], (found.queries @ found.documents.T).argmax(1))


def test_a_measurement_is_what_it_must_be(reference, compressed, data):
    found: Measurement = compare_retrieval(
        compressed, reference, (data.queries.source, data.corpus.source), similarity="dot", k=1
    )
    found.check("compare_retrieval", COMPARISONS["retrieval"].metrics)
    assert "result_rank_correlation" not in found.metrics  # one document has no order


class Shifting(torch.utils.data.Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, place):
        return torch.rand(WIDTH)


def test_items_are_read_in_the_form_that_models_take_them(reference):
    ids = Items([torch.tensor([5, 6, 7]), torch.tensor([8])], "the queries").batch([1, 0])
    assert ids["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7]]
    assert ids["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    rows = {"input_ids": [[5, 6, 7], [8]], "attention_mask": [[1, 1, 1], [1]]}
    listed = Items(rows, "the queries")
    assert torch.equal(listed.batch([1, 0])["input_ids"], ids["input_ids"])
    whole = Items({"input_ids": torch.ones(3, 2).long(), "token_type_ids": torch.zeros(3, 2).long()}, "the queries")
    assert {name: one.shape for name, one in whole.batch([0, 2]).items()} == {
        "input_ids": (2, 2),
        "token_type_ids": (2, 2),
    }
    assert whole.repeated().tolist() == [0, 0, 0]
    named = Items({"q1": "one", "q2": "two"}, "the queries")
    assert (named.batch([1]), named.name(1), named.name(0)) == (["two"], "q2", "q1")
    assert Items(["one", "two"], "the queries").digest() == Items(("one", "two"), "the documents").digest()
    assert Items(["one"], "a").digest() != Items(["two"], "a").digest()
    with pytest.raises(ObservationError, match="the queries are others when #0 is read again"):
        compare_retrieval(copy.deepcopy(reference), reference, (Shifting(), torch.randn(20, WIDTH)), similarity="dot")
    with pytest.raises(ObservationError, match="one row an item"):
        Items({"input_ids": torch.ones(3, 2), "attention_mask": torch.ones(2, 2)}, "the queries")


def test_equal_documents_tie_whatever_batch_they_are_in():
    class Rounding(nn.Module):
        """Rounds otherwise in other batches, as kernels do."""

        def __init__(self, sign):
            super().__init__()
            self.sign = nn.Parameter(torch.tensor(float(sign)))

        def forward(self, batch):
            return batch * (1 + self.sign * len(batch) * 2e-7)

    documents = torch.eye(6).repeat(2, 1)[:10]  # the last batch is smaller
    found = compare_retrieval(Rounding(1), Rounding(-1), (torch.eye(6), documents), similarity="dot", k=3, batch_size=6)
    assert found.metrics["first_result_agreement"] == found.metrics["result_overlap"] == 1
