"""A small Llama that counts in words, trained here, from a fixed seed.

Let the environment variable CP_LM name a folder of `transformers`, such as that of SmolLM2-135M-Instruct, to gate a
real one on beginnings of docstrings of the standard library.
"""

import functools
import itertools
import os
import statistics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cp_compress import GenerationData

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
WORDS = ("end", "count", "from", "to", ":", *NUMBERS)


class Words:
    """One token a word; a tokenizer of transformers has the same method."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(WORDS[one] for one in ids if one or not skip_special_tokens)


def tokenizer():
    return AutoTokenizer.from_pretrained(os.environ["CP_LM"]) if "CP_LM" in os.environ else Words()


def tasks():
    """Return the prompt and the answer of each task: count from seven to ten : → seven eight nine ten."""
    return [
        (f"count from {NUMBERS[low]} to {NUMBERS[high]} :", " ".join(NUMBERS[low : high + 1]))
        for low, high in itertools.combinations(range(len(NUMBERS)), 2)
    ]


def encoded(text):
    return [WORDS.index(word) for word in text.split()]


def counting():
    if "CP_LM" in os.environ:
        texts = [getattr(statistics, name).__doc__ or "" for name in statistics.__all__]
        return [torch.tensor(tokenizer()(text[:120]).input_ids) for text in texts if len(text) > 120]
    prompts, answers = zip(*tasks(), strict=True)
    return GenerationData([torch.tensor(encoded(prompt)) for prompt in prompts], targets=answers)


@functools.cache
def reference():
    if "CP_LM" in os.environ:
        return AutoModelForCausalLM.from_pretrained(os.environ["CP_LM"]).eval()
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **shape, **special))
    rows = [torch.tensor([*encoded(prompt), *encoded(answer), 0]) for prompt, answer in tasks()]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(120):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
