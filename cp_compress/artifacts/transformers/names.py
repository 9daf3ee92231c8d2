"""The names by which a user says what a network of transformers is for; nothing heavy is loaded for them."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, tuple[str, ...]] = {
    "image_classification": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",),
    "sequence_classification": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",),
    "token_classification": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",),
    "causal_lm": ("MODEL_FOR_CAUSAL_LM_MAPPING",),
    "seq2seq_lm": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING"),
    "object_detection": ("MODEL_FOR_OBJECT_DETECTION_MAPPING",),
    "embedding": ("MODEL_FOR_TEXT_ENCODING_MAPPING", "MODEL_MAPPING"),
}
"""The tasks, each with the tables of transformers that name its classes."""

POOLINGS = ("mean", "cls", "last", "max")
"""How the outputs for the tokens of a text become one: their mean, the first, the last, or the largest numbers."""
