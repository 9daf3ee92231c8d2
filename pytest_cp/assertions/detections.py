"""Detectors as an assertion: the objects that are found are those that the reference finds."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.detections.detecting import Detect
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices
from cp_compress.inputs.clusters import Clusters
from pytest_cp.assertions.bounds import DetectionsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, build_requirements, returning_twin
from pytest_cp.checks.streamed import assert_streamed
from pytest_cp.errors import DetectionsNotPreservedError


@taking_bounds(METRICS["detections"].values())
def assert_detections_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    min_class_objects: int = 1,
    detect: Detect | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[DetectionsBounds],
) -> Check:
    """Assert that the compressed detector finds the objects that the reference finds.

    Objects of one class are matched by their overlap, the surest first; with true objects in `dataset` the average
    precision of both models is compared, too. A `confidence` is about images.

    Args:
        compressed: The candidate: a `torch.nn.Module`, such as a detector of torchvision, or any callable from a list
            of images (channels, height, width) to a list of mappings with `boxes` (m, 4) as x1, y1, x2, y2, `labels`
            (m,) and `scores` (m,).
        reference: The model that it is compared with.
        dataset: `cp_compress.DetectionData`, images, a data set of pairs (image, target), or a pair of images and
            targets.
        score_threshold: The score from which an object counts as found; average precision takes all detections.
        iou_threshold: The overlap from which two boxes are of one object.
        min_class_objects: How many of the reference's objects a class needs for `min_class_f1`.
        detect: What turns (model, images) into such a list, such as a function that calls a processor.
        slices: Named subsets of the images, as masks (n,) or indices.
        clusters: Which images are not independent of each other: one whole number or text an image.
        confidence: The confidence of claims about the population of images, in [0.5, 1); None compares the values on
            the given data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more. Those on average precision need true objects.

    Returns:
        The check, whose `measurement` holds all metrics, tables by class and size, and the images that changed most.

    Raises:
        DetectionsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If both models are the same.
        ObservationError: If the models give no detections, or the reference finds nothing, the same in all images, or
            none of the true objects.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
        MissingExtraError: If there are true objects and `faster-coco-eval` is not installed.
    """
    __tracebackhide__ = True
    assertion = "assert_detections_preserved"
    requirements = build_requirements(assertion, METRICS["detections"].values(), bounds, confidence, family)
    options = {
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "min_class_objects": min_class_objects,
        "detect": detect,
        "slices": slices,
        "clusters": clusters,
    }
    subjects = compressed, reference, dataset
    return assert_streamed(
        COMPARISONS["detections"], subjects, requirements, assertion, DetectionsNotPreservedError, options
    )


check_detections_preserved = returning_twin(assert_detections_preserved)
