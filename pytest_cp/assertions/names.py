"""The assertion of each comparison; nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping

ASSERTIONS: Mapping[str, str] = {
    "predictions": "preserved_predictions",
    "embeddings": "embeddings_preserved",
    "attributions": "attribution_iou",
    "pointing": "pointing",
    "concepts": "concepts_preserved",
    "boundaries": "boundary_distance",
    "robustness": "robustness",
    "divergence": "no_divergence",
    "footprint": "footprint",
    "end_to_end": "end_to_end",
    "reconstruction": "reconstruction",
    "outputs": "outputs_preserved",
    "language": "language_preserved",
    "retrieval": "retrieval_preserved",
    "detections": "detections_preserved",
    "generation": "generation_preserved",
    "comparison": "comparison",
    "measurement": "measurement",
}
"""What follows `assert_` and `check_`, by the module of this folder that holds both: the name of the comparison, where
the assertion is about one of this package.
"""
