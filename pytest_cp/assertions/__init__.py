"""How is each comparison asserted: measured, judged, recorded, and failed with the evidence?

Subjects come by position, what was made before what it is compared with, as in `torch.testing.assert_close(actual,
expected)`; requirements come by keyword. An assertion without any requirement is refused. Every `assert_*` returns
its `Check`; its twin `check_*` takes the same arguments and returns the check whether it passed or not.

With `confidence=` (in [0.5, 1)) a requirement is a claim about the population that the data was drawn from; a claim
that the data neither proves nor refutes is *inconclusive*, which fails, and the message says how many more examples
would decide it. Without it, the values on the given data are compared with their bounds.
"""

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
