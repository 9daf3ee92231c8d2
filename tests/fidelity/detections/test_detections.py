"""Two detectors, object by object: what is measured, what is refused, and what each fault and no fault gives."""

import random

import numpy as np
import pytest
import torch
import torchvision

from cp_compress import DetectionData, compare_detections
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.detections.average_precision import _dataset, _results, average_precision
from cp_compress.fidelity.detections.detecting import Detections
from cp_compress.fidelity.detections.matching import box_iou, greedy
from cp_compress.inputs.detection import as_objects

IMAGES, SIDE, CLASSES = 12, 64, ("background", "car", "dog", "cup")


def random_objects(generator, most=6, classes=(1, 2, 3)):
    count = generator.randint(1, most)
    corners = [[generator.uniform(0, 40), generator.uniform(0, 40)] for _ in range(count)]
    boxes = [[x, y, x + generator.uniform(4, 40), y + generator.uniform(4, 40)] for x, y in corners]
    labels = [generator.choice(classes) for _ in range(count)]
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}


def seen(target, generator, noise=2.0, misses=0.1):
    """Return what a detector with some noise finds of a target."""
    kept = [place for place in range(len(target["labels"])) if generator.random() > misses]
    boxes = target["boxes"][kept] + torch.tensor([[generator.gauss(0, noise) for _ in range(4)] for _ in kept]).reshape(
        -1, 4
    )
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = torch.tensor([generator.uniform(0.3, 1.0) for _ in kept])
    return {"boxes": boxes, "labels": target["labels"][kept], "scores": scores}


def playing(answers):
    """Return a model that gives each image, which holds its number, what is prepared for it."""
    return lambda images: [answers[round(float(image[0, 0, 0]))] for image in images]


@pytest.fixture(scope="module")
def images():
    found = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found[:, 0, 0, 0] = torch.arange(IMAGES).float()
    return found


@pytest.fixture(scope="module")
def targets():
    generator = random.Random(0)
    return [random_objects(generator) for _ in range(IMAGES)]


@pytest.fixture(scope="module")
def pair(targets):
    generator = random.Random(1)
    before = [seen(one, generator) for one in targets]
    return [seen(one, generator, misses=0.2) for one in before], before


def match_by_hand(old, new, threshold):
    """Return (old, new, iou) of pairs, by plain loops over torchvision's overlaps."""
    pairs, free = [], set(range(len(old["labels"])))
    overlaps = torchvision.ops.box_iou(old["boxes"], new["boxes"])
    for column in sorted(range(len(new["labels"])), key=lambda place: -float(new["scores"][place])):
        fits = [
            row for row in free if old["labels"][row] == new["labels"][column] and overlaps[row, column] >= threshold
        ]
        if fits:
            best = max(fits, key=lambda row: float(overlaps[row, column]))
            free.remove(best)
            pairs.append((best, column, float(overlaps[best, column])))
    return pairs


def above(found, threshold):
    kept = found["scores"] >= threshold
    return {name: values[kept] for name, values in found.items()}


def test_agrees_with_plain_loops(images, pair):
    found = compare_detections(*map(playing, pair), images, slices={"few": [0, 4, 7], "all": range(IMAGES)})
    after, before = ([above(one, 0.5) for one in side] for side in pair)
    pairs = [match_by_hand(old, new, 0.5) for old, new in zip(before, after, strict=True)]
    olds, news = (sum(len(one["labels"]) for one in side) for side in (before, after))
    hits = sum(map(len, pairs))
    changes = [
        abs(float(new["scores"][column] - old["scores"][row]))
        for old, new, some in zip(before, after, pairs, strict=True)
        for row, column, _ in some
    ]

    def f1(label=None, chosen=range(IMAGES)):
        def count(one):
            return len(one["labels"]) if label is None else int((one["labels"] == label).sum())

        same = sum(label in (None, int(before[image]["labels"][row])) for image in chosen for row, _, _ in pairs[image])
        return 2 * same / sum(count(before[image]) + count(after[image]) for image in chosen)

    assert found.metrics == pytest.approx(
        {
            "matched_f1": 2 * hits / (olds + news),
            "min_class_f1": min(map(f1, (1, 2, 3))),
            "min_slice_f1": min(f1(), f1(chosen=(0, 4, 7))),
            "mean_matched_iou": np.mean([iou for some in pairs for _, _, iou in some]),
            "mean_score_change": np.mean(changes),
            "lost_objects": 1 - hits / olds,
            "new_objects": 1 - hits / news,
        }
    )
    assert 0.3 < found["matched_f1"] < 1
    assert found.counts["matched_f1"] == olds + news
    assert [row[1:4] for row in found.details["tables"][1]["rows"]]
    assert sum(row[1] for row in found.details["tables"][1]["rows"]) == olds
    assert sum(row[2] for row in found.details["tables"][1]["rows"]) == news


def precision_by_hand(found, truth, label, threshold):
    """Return the average precision of a class: interpolated at 101 recalls, pairs made surest first."""
    rows = sorted(
        (
            (float(score), image, box)
            for image, one in enumerate(found)
            for box, kind, score in zip(*one, strict=True)
            if kind == label
        ),
        key=lambda row: -row[0],
    )
    free = {
        image: [box for box, kind in zip(one.boxes, one.labels, strict=True) if kind == label]
        for image, one in enumerate(truth)
    }
    number = sum(map(len, free.values()))
    hits = []
    for _, image, box in rows:
        overlaps = [float(torchvision.ops.box_iou(box[None].double(), other[None].double())) for other in free[image]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        hits.append(best is not None and overlaps[best] >= threshold)
        if hits[-1]:
            free[image].pop(best)
    right = np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / number
    highest = [max(precision[recall >= at - 1e-12], default=0.0) for at in np.linspace(0, 1, 101)]
    return float(np.mean(highest))


@pytest.fixture(scope="module")
def labelled(pair, targets):
    pytest.importorskip("faster_coco_eval")
    found = [
        Detections(*(one[name][one["scores"].argsort(descending=True)] for name in ("boxes", "labels", "scores")))
        for one in pair[1]
    ]
    return found, [as_objects(one, "target") for one in targets]


def test_average_precision_is_that_of_the_definition(labelled):
    found, truth = labelled
    measured = average_precision(found, truth)
    for label in (1, 2, 3):
        by_hand = [precision_by_hand(found, truth, label, at) for at in np.linspace(0.5, 0.95, 10)]
        assert measured.by_class[label] == pytest.approx(np.mean(by_hand), abs=1e-6)
        assert measured.at_half[label] == pytest.approx(by_hand[0], abs=1e-6)
    assert average_precision([found[0].above(2.0)] * IMAGES, truth).mean == 0


def test_average_precision_is_that_of_pycocotools(labelled):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    found, truth = labelled
    measured = average_precision(found, truth)
    truths = coco.COCO()
    truths.dataset = {**_dataset(truth, [1, 2, 3]), "info": {}}
    truths.createIndex()
    evaluation = COCOeval(truths, truths.loadRes(_results(found, [1, 2, 3])), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert measured.mean == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert measured.mean_at_half == pytest.approx(evaluation.stats[1], abs=1e-9)


def test_one_class_that_loses_much_is_caught_though_the_mean_hardly_moves(images):
    pytest.importorskip("faster_coco_eval")
    generator = random.Random(3)
    labels = range(1, 61)
    targets = [
        {
            "boxes": torch.tensor([[x, 0, x + 5.0, 20] for x in range(0, 60, 6)]),
            "labels": torch.tensor(generator.sample(labels, 10)),
        }
        for _ in range(IMAGES)
    ]
    targets[0]["labels"][:5] = targets[1]["labels"][:5] = targets[2]["labels"][:5] = 7
    before = [{**one, "scores": torch.full((10,), 0.9)} for one in targets]
    after = [
        {name: values[(one["labels"] != 7) | (torch.arange(10) % 3 > 0)] for name, values in one.items()}
        for one in before
    ]
    found = compare_detections(playing(after), playing(before), (images, targets))
    assert found["map_drop"] < 0.01
    assert found["max_class_ap_drop"] > 0.2
    assert found["min_class_f1"] < 0.85 < found["matched_f1"]
    worst = found.details["tables"][0]["rows"][0]
    assert worst[0] == "class 7"
    assert worst[4] == found["max_class_ap_drop"]
    assert {*found.metrics} == {metric.name for metric in COMPARISONS["detections"].metrics} - {"min_slice_f1"}
    assert {*found.evidence} == {metric.name for metric in COMPARISONS["detections"].metrics if metric.claims}


def test_what_became_of_lost_objects_is_told(images):
    boxes = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60], [0, 40, 20, 60]])
    old = {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "scores": torch.tensor([0.9, 0.8, 0.7])}
    new = {"boxes": boxes[:2], "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.4, 0.9])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    data = DetectionData(images[:2], classes=CLASSES)
    found = compare_detections(playing([new, empty]), playing([old, empty]), data)
    assert found["lost_objects"] == found["new_objects"] == 1
    assert np.isnan(found["mean_matched_iou"])
    assert found.counts["mean_matched_iou"] == 0
    assert any(
        "3 lost objects 1 are found with a score below the threshold, 1 as another class, and 1 not" in note
        for note in found.notes
    )
    assert found.details["flips"] == [{"before": "dog", "after": "car", "count": 1}]
    assert str(found.examples[0]) == "#0 (label image 0): 1 car, 1 dog, 1 cup → lost 1 car, 1 dog, 1 cup, new 1 car"
    assert len(found.examples) == 1
    nothing = compare_detections(playing([empty, empty]), playing([old, empty]), data)
    assert nothing["matched_f1"] == 0
    assert nothing["lost_objects"] == 1


def test_what_tells_nothing_is_refused(images, targets, pair):
    before = playing(pair[1])
    empty = playing([{"boxes": [], "labels": [], "scores": []}] * IMAGES)
    with pytest.raises(ObservationError, match="it finds nothing at all"):
        compare_detections(empty, empty, images)
    with pytest.raises(ObservationError, match="score_threshold that is deployed"):
        compare_detections(before, before, images, score_threshold=1.0)
    with pytest.raises(ObservationError, match="the same objects in all 12 images"):
        compare_detections(before, playing([pair[1][0]] * IMAGES), images)
    pytest.importorskip("faster_coco_eval")
    swapped = [{**one, "labels": one["labels"] % 3 + 1} for one in targets]
    with pytest.raises(ObservationError, match="it finds none of them"):
        compare_detections(before, before, (images, swapped))
    with pytest.raises(ObservationError, match="hold no object in any image"):
        compare_detections(before, before, (images, [{"boxes": [], "labels": []}] * IMAGES))
    cases = {
        "returned 3 results for": lambda some: [None] * 3,
        "it must be a mapping with boxes": lambda some: [torch.ones(2)] * len(some),
        "has no scores": lambda some: [{"boxes": [[0, 0, 1, 1]], "labels": [1]}] * len(some),
        "lies before its first": lambda some: [{"boxes": [[5, 5, 1, 1]], "labels": [1], "scores": [0.9]}] * len(some),
        "NaN or infinite": lambda some: (
            [{"boxes": [[0, 0, float("nan"), 1]], "labels": [1], "scores": [1.0]}] * len(some)
        ),
        "random": lambda some: [{"boxes": [[0, 0, 1, 1]], "labels": [1], "scores": torch.rand(1)} for _ in some],
        "cannot take a batch": lambda some: torch.stack(some) @ torch.ones(3, 3),
    }
    for told, model in cases.items():
        with pytest.raises(ObservationError, match=told):
            compare_detections(model, before, images)
    for told, data in {
        "no image": images[:0],
        "shape": images[0],
        "targets; each image needs one": (images, targets[:3]),
        "it takes images, targets": {"image": images},
        "are a str": "images",
        "it must be a floating-point tensor": (images * 255).byte(),
        "the target of image #0 has a box": (images, [{"boxes": [[0, 0, 5, -1]], "labels": [1]}] * IMAGES),
        "returns other images": Augmented(images),
    }.items():
        with pytest.raises(ObservationError, match=told):
            compare_detections(before, before, data)
    for name, wrong in {
        "score_threshold": {"score_threshold": 2},
        "iou_threshold": {"iou_threshold": 0},
        "detect": {"detect": 3},
        "min_class_objects": {"min_class_objects": 0},
        "slices": {"slices": {"none": []}},
    }.items():
        with pytest.raises(InvalidArgumentError, match=name):
            compare_detections(before, before, images, **wrong)


class Augmented(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        noise = 0.1 * torch.rand(3, SIDE, SIDE)
        noise[0, 0, 0] = 0
        return self.images[place] + noise


def test_the_form_of_the_data_and_the_batches_change_nothing(images, targets, pair):
    pytest.importorskip("faster_coco_eval")
    models = [playing(side) for side in pair]
    expected = compare_detections(*models, (images, targets))
    rows = list(zip(images, targets, strict=True))
    for data in (rows, {"images": list(images), "targets": targets}, DetectionData(images.numpy(), targets)):
        found = compare_detections(*models, data, batch_size=5)
        assert found.metrics == expected.metrics
        assert found.details["data_digest"] == expected.details["data_digest"]
    twice = compare_detections(*models, rows * 2)
    assert twice["matched_f1"] == expected["matched_f1"]
    assert twice.evidence["matched_f1"].count == expected.evidence["matched_f1"].count <= IMAGES
    interval = expected.evidence["matched_f1"].interval(0.9)
    assert interval.low < expected["matched_f1"] < interval.high
    assert compare_detections(*models, images, clusters=[0, 1] * 6).details["clusters"]["count"] == 2


def test_overlaps_and_greedy_matching():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 9, 4, generator=generator).sort(dim=2).values
    assert torch.allclose(box_iou(*boxes), torchvision.ops.box_iou(*boxes))
    assert box_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
    assert greedy(torch.zeros(0, 3), 0.5).tolist() == []
    assert greedy(torch.tensor([[0.4], [0.6]]), 0.5).tolist() == [-1, 0]
