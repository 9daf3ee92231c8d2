"""Served language models: what a stand-in on loopback says is what the model behind it says, and faults are errors."""

import math

import pytest
import torch
from completion_servers import CompletionServer, Words, cutting, dropping, refusing, saying, trickling
from hypothesis import given
from hypothesis import strategies as st

from cp_compress import Quantize, ServedModel, compare_language
from cp_compress.artifacts.served import connection
from cp_compress.artifacts.served.answers import Entry, most_likely
from cp_compress.base.errors import InvalidArgumentError, ObservationError

transformers = pytest.importorskip("transformers")
VOCABULARY = 60
TOLD = ("perplexity_ratio", "reference_perplexity", "perplexity", "token_agreement", "top_k_overlap")


def small_llama(seed):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCABULARY, **shape, **heads)).eval()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="module")
def reference():
    return small_llama(0)


@pytest.fixture(scope="module")
def candidate(reference):
    return Quantize("int4", group_size=32).compress(reference)


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in (30, 9, 17, 12)]


def begun(texts):
    return [torch.cat([torch.tensor([0]), ids]) for ids in texts]


def without_first(model, texts, reference):
    """Return what is measured by whole logits without each second token, where the ids 0 to 2 count as changed."""
    nll, old_nll, same, shared = [], [], [], []
    with torch.no_grad():
        for ids in texts:
            old, new = (each(ids[None]).logits[0, 1:-1].double().log_softmax(-1) for each in (reference, model))
            nll.append(-new.gather(1, ids[2:, None])[:, 0])
            old_nll.append(-old.gather(1, ids[2:, None])[:, 0])
            same.append((old.argmax(1) == new.argmax(1)) & (new.argmax(1) > 2))
            tops = zip(old.topk(5).indices.tolist(), new.topk(5).indices.tolist(), strict=True)
            shared.append(torch.tensor([len({*one} & {*other} - {0, 1, 2}) / 5 for one, other in tops]))
    nll, old_nll, same, shared = (torch.cat(each).double().mean() for each in (nll, old_nll, same, shared))
    found = ((nll - old_nll).exp(), old_nll.exp(), nll.exp(), same, shared)
    return dict(zip(TOLD, map(float, found), strict=True))


def test_ids_by_vllm_agree_with_the_live_model(reference, candidate, texts):
    live = compare_language(candidate, reference, texts, slices={"two": [0, 1]})
    with CompletionServer(candidate, "vllm").running() as url:
        served = ServedModel(url)
        found = compare_language(served, reference, texts, slices={"two": [0, 1]})
        # and the other way round, and with more than one request at once
        other = compare_language(candidate, ServedModel(url, concurrency=3), texts)
    known = {name: live.metrics[name] for name in (*TOLD, "worst_slice_perplexity_ratio")}
    assert found.metrics == pytest.approx(known, rel=2e-5)
    assert found.counts == {name: live.counts[name] for name in known}
    assert {"token_kl", "kl_quantile_0.99"} == found.details["not_known"].keys()
    assert [row["perplexity"] for row in found.details["positions"]] == pytest.approx(
        [row["perplexity"] for row in live.details["positions"]], rel=2e-5
    )
    assert found.details["data_digest"] == live.details["data_digest"]
    assert found.details["equal_outputs"] is False
    assert other.metrics["token_agreement"] == 1
    assert any("may have the reference" in note for note in other.notes)
    assert other.metrics["perplexity_ratio"] == pytest.approx(1, abs=1e-5)


def test_texts_by_llama_cpp_python(reference, candidate, texts):
    words = Words()
    with CompletionServer(candidate, "llama-cpp-python").running() as url:
        found = compare_language(ServedModel(url), reference, begun(texts), tokenizer=words)
        late = compare_language(ServedModel(url), reference, texts, tokenizer=words, top_k=5)
        wide = compare_language(ServedModel(url), reference, texts, tokenizer=words, top_k=20)
    with CompletionServer(candidate, "llama-cpp-python", adds_first=True).running() as url:
        adding = compare_language(ServedModel(url), reference, begun(texts), tokenizer=words)
    expected = without_first(candidate, begun(texts), reference)
    exact = TOLD[:4]
    assert {name: found.metrics[name] for name in exact} == pytest.approx(
        {name: expected[name] for name in exact}, rel=2e-5
    )
    # where texts join tokens, the last of them may be the text's own, and does not count
    assert expected["top_k_overlap"] - 0.03 < found.metrics["top_k_overlap"] <= expected["top_k_overlap"]
    assert adding.metrics == found.metrics
    assert found.details["positions"][0]["first"] == 2
    expected = without_first(candidate, texts, reference)
    assert late.metrics.keys() == {"reference_perplexity", "token_agreement", "top_k_overlap"}
    assert late.metrics["token_agreement"] == pytest.approx(expected["token_agreement"])
    assert "perplexity" in late.details["not_known"]
    assert any("one place late" in note for note in late.notes)
    assert wide.counts["token_agreement"] == sum(len(ids) - 2 for ids in texts)


def test_prefixes_by_llama_cpp(reference, candidate, texts):
    with CompletionServer(candidate, "llama.cpp", most=VOCABULARY).running() as url:
        with pytest.raises(ObservationError, match=r'echo is supported.*ask="prefixes"'):
            compare_language(ServedModel(url), reference, texts[1:2], tokenizer=Words())
        found = compare_language(ServedModel(url, ask="prefixes"), reference, texts[1:2])
        written = candidate.generate(texts[1][None, :1], max_new_tokens=8, do_sample=False)
        every = compare_language(ServedModel(url, ask="prefixes"), reference, written)
    live, of_written = (compare_language(candidate, reference, data) for data in (texts[1:2], written))
    assert found.metrics["token_agreement"] == live.metrics["token_agreement"]
    assert found.metrics["top_k_overlap"] == pytest.approx(live.metrics["top_k_overlap"])
    assert "perplexity" in found.details["not_known"]
    assert every.metrics["perplexity"] == pytest.approx(of_written.metrics["perplexity"], rel=2e-5)


@pytest.mark.parametrize("kind", ["vllm", "llama-cpp-python"])
def test_documents_that_are_too_long_are_named(reference, candidate, texts, kind):
    server = CompletionServer(candidate, kind)
    server.context = 40
    long = torch.arange(3, 53)
    with server.running() as url, pytest.raises(ObservationError, match=r"document #4: .*(context|broadcast)"):
        compare_language(ServedModel(url, retries=1), reference, begun([*texts, long]), tokenizer=Words())


def test_both_models_may_be_served(reference, candidate, texts):
    live = compare_language(candidate, reference, begun(texts))
    with CompletionServer(candidate).running() as one, CompletionServer(reference).running() as other:
        found = compare_language(ServedModel(one), ServedModel(other), begun(texts))
    assert found.metrics == pytest.approx({name: live.metrics[name] for name in TOLD}, rel=2e-5)
    words = Words()
    with (
        CompletionServer(candidate, "llama-cpp-python").running() as one,
        CompletionServer(reference, "llama-cpp-python").running() as other,
    ):
        by_text = compare_language(ServedModel(one), ServedModel(other), begun(texts), tokenizer=words)
        mixed = compare_language(ServedModel(one), reference, begun(texts), tokenizer=words)
    assert by_text.metrics["token_agreement"] == mixed.metrics["token_agreement"]
    assert by_text.metrics["perplexity_ratio"] == pytest.approx(mixed.metrics["perplexity_ratio"], rel=2e-5)
    assert by_text.details["vocabulary"] is None
    assert all("_text" not in row.get("candidate_text", "") for row in by_text.details["tokens"])


def test_failures_that_pass_are_repeated(reference, candidate, texts):
    server = CompletionServer(candidate)
    with server.running() as url:
        known = compare_language(ServedModel(url), reference, texts).metrics
        server.faults = [refusing(500), refusing(429, headers=[("Retry-After", "0")]), dropping, cutting, refusing(503)]
        server.faults += [None, None, refusing(502)]
        assert compare_language(ServedModel(url, retries=5), reference, texts).metrics == known
        assert not server.faults


FAULTS = {
    "overloaded": (refusing(503, "no room"), "asked 2 times.*503.*no room"),
    "closed": (dropping, "asked 2 times.*closed the connection"),
    "cut": (cutting, "ended early"),
    "trickling": (trickling, "did not answer within 0.3 s"),
    "html": (saying(b"<html>Welcome</html>"), "answered HTML.*OpenAI-compatible"),
    "text": (saying(b"ok"), "no JSON"),
    "not allowed": (refusing(403), "403.*api_key_env"),
    "elsewhere": (lambda handler: handler._send(307, b"", [("Location", "http://127.0.0.1/x")]), "leads elsewhere"),
    "too long": (refusing(400, "maximum context length is 8 tokens"), "context length is 8"),
    "error in 200": (saying(b'{"error": {"message": "loading"}}'), "loading.*no completion"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failures_that_stay_are_errors_that_name_the_document(reference, candidate, texts, fault):
    fault, told = FAULTS[fault]
    server = CompletionServer(candidate)
    with server.running() as url:
        server.faults = [None, None, None, None, fault, fault]
        with pytest.raises(ObservationError, match=f"(?s)candidate: document #2: .*{told}"):
            compare_language(ServedModel(url, retries=1, timeout_s=0.3), reference, texts)


def edit(change):
    def changed(answer):
        told = answer["choices"][0]["logprobs"]
        return change(answer, told) or answer

    return changed


def fewer(answer, told):
    told["top_logprobs"] = [top and dict(list(top.items())[:2]) for top in told["top_logprobs"]]


def shifted(answer, told):
    if len(told["tokens"]) > 3:
        told["top_logprobs"] = [None, None, None, *told["top_logprobs"][1:-2]]


def bad_number(value):
    def change(answer, told):
        if len(told["tokens"]) > 3:
            told["token_logprobs"][3] = value

    return change


ANSWERS = {
    "no logprobs": (lambda answer, told: answer["choices"][0].update(logprobs=None), "gives no log-probabilities"),
    "fewer": (fewer, "gives [23] tokens a place, 5 were asked for"),
    "NaN": (bad_number(math.nan), "nan for a log-probability at token 3"),
    "infinite": (bad_number(-math.inf), "inf for a log-probability at token 3"),
    "a probability": (bad_number(0.7), "0.7 for a log-probability"),
    "a text": (bad_number("-1"), "for a log-probability"),
    "other model": (lambda answer, told: answer.update(model="large"), "answered as 'large'"),
    "more counted": (lambda answer, told: answer["usage"].update(prompt_tokens=7), "tokens of ours as 7"),
    "other places": (shifted, "cannot be believed"),
    "lists apart": (lambda answer, told: told.update(tokens=["token_id:3"] * 2), "of one size"),
    "no choices": (lambda answer, told: {"choices": []}, "no completion"),
    "zeros": (
        lambda answer, told: told.update(
            top_logprobs=[top and dict.fromkeys(top, 0.0) for top in told["top_logprobs"]]
        ),
        "sum is",
    ),
}


@pytest.mark.parametrize("fault", ANSWERS)
def test_answers_that_prove_nothing_are_refused(reference, candidate, texts, fault):
    change, told = ANSWERS[fault]
    server = CompletionServer(candidate)
    server.change = edit(change)
    with server.running() as url, pytest.raises(ObservationError, match=told):
        compare_language(ServedModel(url), reference, texts)


def test_other_tokenizers_are_refused(reference, candidate, texts):
    class Shifted(Words):
        def word(self, token):
            return super().word(token + 1 if token > 2 else token)

    for kind, told in (("llama-cpp-python", "reads the text as other tokens"),):
        with CompletionServer(candidate, kind, tokenizer=Shifted()).running() as url:
            with pytest.raises(ObservationError, match=told):
                compare_language(ServedModel(url), reference, texts, tokenizer=Words())
            with pytest.raises(ObservationError, match="give tokenizer="):
                compare_language(ServedModel(url), reference, texts)
    with (
        CompletionServer(candidate, "llama-cpp-python", adds_first=True).running() as url,
        pytest.raises(ObservationError, match="9 tokens of ours as 10"),
    ):
        compare_language(ServedModel(url), reference, texts, tokenizer=Words())


def test_a_model_that_changes_meanwhile_is_refused(reference, candidate, texts):
    server = CompletionServer(candidate)
    asked = []

    def exchange(answer):
        asked.append(1)
        server.model = reference if len(asked) > 3 else candidate
        return answer

    server.change = exchange
    with server.running() as url, pytest.raises(ObservationError, match="document #0 again"):
        compare_language(ServedModel(url), small_llama(2), texts)


def test_names_of_models_and_addresses(reference, candidate, texts):
    with CompletionServer(candidate, name="tiny-q4").running() as url:
        assert compare_language(ServedModel(url, model="tiny-q4"), reference, texts).metrics["perplexity"] > 1
        with pytest.raises(ObservationError, match="no model 'tiny'; it has tiny-q4"):
            compare_language(ServedModel(url, model="tiny"), reference, texts)
        with pytest.raises(ObservationError, match="no logits"):
            ServedModel(url)(texts[0])
    with pytest.raises(ObservationError, match="refused: is the server running"):
        compare_language(ServedModel(url, retries=0), reference, texts)
    for wrong, told in (
        ("127.0.0.1:8000", "must be the address"),
        ("ftp://127.0.0.1/v1", "must be the address"),
        ("http://127.0.0.1:99999/v1", "must be the address"),
        ("http://me:hidden@127.0.0.1/v1", "api_key_env"),
        ("http://127.0.0.1/v1?key=hidden", "queries"),
        (7, "must be the address"),
    ):
        with pytest.raises(InvalidArgumentError, match=told) as error:
            ServedModel(wrong)
        assert "hidden" not in str(error.value)
    for options in ({"timeout_s": 0}, {"retries": -1}, {"concurrency": 0}, {"ask": "both"}, {"model": ""}):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            ServedModel(url, **options)


def test_keys_are_sent_and_never_shown(reference, candidate, texts, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "hidden-key-1")
    server = CompletionServer(candidate, key="hidden-key-1")
    with server.running() as url:
        served = ServedModel(url, api_key_env="SERVER_KEY", retries=0)
        found = compare_language(served, reference, texts)
        assert "hidden" not in f"{found.to_json()}{vars(served)}{served!r}{vars(served._asking)}"
        server.faults = [None, None, refusing(400, "Incorrect API key provided: hidden-key-1")]
        with pytest.raises(ObservationError, match="Incorrect API key provided: …"):
            compare_language(ServedModel(url, api_key_env="SERVER_KEY", retries=0), reference, texts)
        with pytest.raises(ObservationError, match=r"401.*api_key_env"):
            compare_language(ServedModel(url), reference, texts)
        monkeypatch.delenv("SERVER_KEY")
        with pytest.raises(ObservationError, match="variable SERVER_KEY, api_key_env, is not set"):
            compare_language(served, reference, texts)
    with pytest.raises(InvalidArgumentError) as error:
        ServedModel(url, api_key_env="sk-hidden")
    assert "hidden" not in str(error.value)


def told_by_texts(row, names, own, count):
    """Return what llama-cpp-python tells of a place: a table by text, in which what reads alike is joined."""
    order = sorted(range(len(row)), key=lambda one: -row[one])
    table = {names[one]: row[one] for one in order[:count]}
    table.update({names[own]: row[own]})
    return Entry(names[own], row[own], list(table.items())), [names[one] for one in order[:count]]


@given(
    st.lists(st.floats(-9, -0.1), min_size=6, max_size=8, unique=True),
    st.lists(st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g"]), min_size=8, max_size=8),
    st.integers(0, 5),
    st.integers(2, 4),
)
def test_what_tables_by_text_prove(row, names, own, count):
    names = [name if not name or names.index(name) == place else f"{name}{place}" for place, name in enumerate(names)]
    entry, true = told_by_texts(row, names, own, count)
    found = [key for key, _ in most_likely(entry, count)]
    assert not found or found[0] == true[0] or (found[0] == "" and "" in true)
    assert {key for key in found if key} <= set(true)
    if "" not in [*true, names[own]]:
        assert found == true
