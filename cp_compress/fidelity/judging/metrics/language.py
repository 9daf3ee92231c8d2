"""What is measured of models that predict and write tokens."""

from __future__ import annotations

import math

from cp_compress.fidelity.judging.metric import Metric, declared

_INF = math.inf
_LLAMA = "llama.cpp, llama-perplexity --kl-divergence"

LANGUAGE = declared(
    Metric(
        "perplexity_ratio",
        "The candidate's perplexity over the reference's, over all tokens.",
        "lower",
        unchanged=1.0,
        high=_INF,
        start=1.02,
    ),
    Metric(
        "reference_perplexity",
        "The exponential of the reference's mean negative log-likelihood of the next token.",
        None,
        high=_INF,
    ),
    Metric(
        "perplexity",
        "The exponential of the candidate's mean negative log-likelihood of the next token.",
        None,
        high=_INF,
    ),
    Metric(
        "token_kl",
        "The mean over tokens of the Kullback-Leibler divergence of the candidate's next-token probabilities.",
        "lower",
        unchanged=0.0,
        high=_INF,
        unit="nats",
        source=_LLAMA,
        start=0.05,
    ),
    Metric(
        "kl_quantile",
        "A quantile of that divergence over tokens, written with its level: kl_quantile_0.99.",
        "lower",
        unchanged=0.0,
        high=_INF,
        claims=True,
        unit="nats",
        leveled=True,
        source=_LLAMA,
    ),
    Metric(
        "token_agreement",
        "The share of tokens at which both models hold one token for the most likely.",
        "higher",
        unchanged=1.0,
        claims=True,
        start=0.95,
    ),
    Metric(
        "top_k_overlap",
        "The mean share of the reference's k most likely tokens that are among the candidate's.",
        "higher",
        unchanged=1.0,
        claims=True,
        start=0.85,
    ),
    Metric(
        "worst_slice_perplexity_ratio",
        "The perplexity ratio of the named subset of documents where it is largest.",
        "lower",
        unchanged=1.0,
        high=_INF,
        start=1.05,
    ),
)

GENERATION = declared(
    Metric(
        "exact_generations",
        "The share of prompts for which both models generate the same.",
        "higher",
        unchanged=1.0,
        claims=True,
        start=0.6,
    ),
    Metric(
        "common_prefix",
        "The mean share of a generation that both models write before they part.",
        "higher",
        unchanged=1.0,
        claims=True,
        start=0.7,
    ),
    Metric(
        "edit_distance",
        "The mean number of changed tokens between both generations, over the longer one.",
        "lower",
        unchanged=0.0,
        claims=True,
        source="Levenshtein 1966, Binary codes capable of correcting deletions, insertions and reversals",
        start=0.2,
    ),
    Metric(
        "median_first_difference",
        "The median number of tokens before both part, where those that never do are censored.",
        "higher",
        unchanged=_INF,
        high=_INF,
        unit="tokens",
        source="Kaplan and Meier 1958, Nonparametric estimation from incomplete observations",
    ),
    Metric(
        "damaged_generations",
        "The share of prompts where both part though the reference's best token is no tie.",
        "lower",
        unchanged=0.0,
        claims=True,
        start=0.2,
    ),
    Metric(
        "mean_parting_margin",
        "The mean lead of the reference's best token where both part.",
        None,
        high=_INF,
        unit="logits",
    ),
    Metric(
        "min_slice_exact_generations",
        "The share of equal generations in the named subset of prompts where it is least.",
        "higher",
        unchanged=1.0,
        start=0.5,
    ),
    Metric(
        "word_error_rate",
        "The candidate's wrong words over the words of the true texts.",
        "lower",
        high=_INF,
        source="Morris et al. 2004, From WER and RIL to MER and WIL",
    ),
    Metric(
        "reference_word_error_rate",
        "The reference's wrong words over the words of the true texts.",
        None,
        high=_INF,
        source="Morris et al. 2004, From WER and RIL to MER and WIL",
    ),
    Metric(
        "word_error_rate_rise",
        "The candidate's word error rate minus the reference's.",
        "lower",
        unchanged=0.0,
        low=-_INF,
        high=_INF,
        start=0.01,
    ),
)
