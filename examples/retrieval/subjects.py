"""A search in the docstrings of the standard library, and an encoder for it.

The encoder is trained here, from a fixed seed, in a few seconds. Let the environment variable CP_ENCODER name a folder
of `transformers`, such as that of all-MiniLM-L6-v2, to gate a real one.
"""

import functools
import importlib
import inspect
import os
import re
import zlib

import torch
from torch import nn

from cp_compress import RetrievalData

HELD_BACK = ("statistics", "textwrap", "shutil", "heapq", "random", "calendar", "fractions", "difflib")
FOR_TRAINING = (
    "os",
    "os.path",
    "argparse",
    "logging",
    "subprocess",
    "threading",
    "socket",
    "email.message",
    "inspect",
    "string",
)
FOR_TRAINING += (
    "tarfile",
    "zipfile",
    "json",
    "pathlib",
    "datetime",
    "decimal",
    "ipaddress",
    "http.client",
    "unittest.case",
)
BUCKETS, WIDTH = 2**14, 64


def described(modules):
    """Return name, first sentence and the rest of each docstring that has both."""
    found = {}
    for module in map(importlib.import_module, modules):
        parts = dict(inspect.getmembers(module, inspect.isroutine))
        for name, kind in inspect.getmembers(module, inspect.isclass):
            parts |= {f"{name}.{method}": one for method, one in inspect.getmembers(kind, inspect.isroutine)}
        for name, part in parts.items():
            if getattr(part, "__module__", None) != module.__name__:
                continue
            first, _, rest = re.sub(r"\s+", " ", inspect.getdoc(part) or "").partition(". ")
            if len(first) > 15 and len(rest) > 40:
                found[f"{module.__name__}.{name}"] = (first, rest[:600])
    return found


def docstrings():
    """First sentences as queries, the rest of all docstrings as documents: its own rest is relevant to each."""
    parts = described(HELD_BACK)
    queries = {name: first for name, (first, _) in parts.items()}
    documents = {name: rest for name, (_, rest) in {**parts, **described(FOR_TRAINING)}.items()}
    return RetrievalData(queries, documents, {name: [name] for name in queries})


class Encoder(nn.Module):
    """The mean of vectors of words and of parts of words, through two layers."""

    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean")
        self.layers = nn.Sequential(nn.Linear(WIDTH, 128), nn.Tanh(), nn.Linear(128, WIDTH))

    def forward(self, ids, offsets):
        means = self.words(ids, offsets)
        return nn.functional.normalize(means + 0.3 * self.layers(means), dim=-1)


def pieces(text):
    words = re.findall(r"[a-z0-9]+", text.lower())
    parts = words + [f"{word[start : start + 4]}~" for word in words for start in range(max(1, len(word) - 3))]
    return [zlib.crc32(part.encode()) % BUCKETS for part in parts] or [0]


@functools.cache
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(os.environ["CP_ENCODER"])


def encode(model, texts):
    """From a batch of texts to embeddings (n, d) of length 1, as the search does it."""
    if isinstance(model, Encoder):
        rows, device = list(map(pieces, texts)), model.words.weight.device
        offsets = torch.tensor([0, *map(len, rows[:-1])], device=device).cumsum(0)
        return model(torch.tensor([one for row in rows for one in row], device=device), offsets)
    tokens = tokenizer()(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
    hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][:, :, None]
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@functools.cache
def reference():
    if "CP_ENCODER" in os.environ:
        from transformers import AutoModel

        return AutoModel.from_pretrained(os.environ["CP_ENCODER"]).eval()
    torch.manual_seed(0)
    model = Encoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    firsts, rests = zip(*described(FOR_TRAINING).values(), strict=True)
    for _ in range(4):
        for places in torch.randperm(len(firsts)).split(64):
            logits = (
                20 * encode(model, [firsts[one] for one in places]) @ encode(model, [rests[one] for one in places]).T
            )
            loss = nn.functional.cross_entropy(logits, torch.arange(len(places)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
