"""What stands behind a check on the page: pictures and maps, the classes that fell most, and absolute sizes."""

import base64
import copy
import io
import itertools
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from torch import nn

from cp_compress import TaskDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    Requirement,
    compare_attributions,
    compare_pointing,
    compare_predictions,
    judge,
    observe,
)
from cp_compress.fidelity.attributions.jaccard import unit_maps
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.known import parse_attribution_method
from cp_compress.fidelity.footprints import compare_footprints
from cp_compress.model import Prune
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.checks.outlines import draw_outlines, trace
from pytest_cp.checks.pictures import draw_maps, picture_of
from pytest_cp.checks.records import not_asserting, record_check
from pytest_cp.report.examples import Images
from pytest_cp.report.page import render_page


def page_of(measurement, requirement, evidence=None):
    """Return the page of one check."""
    subjects = {"candidate": {"name": "small", "digest": "c"}, "reference": {"name": "large", "digest": "r"}}
    with not_asserting():
        record = record_check(judge(measurement, [requirement]), "check_it", subjects)
    record |= {"test": "test_it", "evidence": evidence}
    empty = {name: [] for name in ("not_compared", "waivers", "sections", "notes")}
    return render_page(
        {
            "exit_status": 1,
            "outcomes": {"fail": 1},
            "checks": [json.loads(json.dumps(record))],
            "created": "now",
            "duration": 1.0,
            "provenance": {},
            "execution": {"device": None, "seed": 0},
            "environment": {},
            **empty,
        }
    )


@pytest.mark.parametrize(
    ("task", "network", "shape", "told"),
    [
        ("dense", nn.Conv2d(3, 4, 1), (6, 8, 8), "one answer per position"),
        ("multi_label", nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), (6, 5), "several labels"),
    ],
)
def test_structured_tasks_have_pictures_and_a_word_about_maps(task, network, shape, told):
    data = TaskDataset((torch.rand(6, 3, 8, 8), torch.randint(0, 2, shape)), task)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1)
    candidate, reference = observe(other.eval(), data), observe(network.eval(), data)
    measurement = compare_predictions(candidate, reference)
    evidence = gather_evidence(measurement, candidate, reference)
    (note,) = evidence["notes"]
    assert note.startswith("no attribution maps: ")
    assert told in note
    assert evidence["examples"]
    assert all(row["image"] and "reference_map" not in row for row in evidence["examples"])
    page = page_of(measurement, Requirement("agreement", "min", 1.0), evidence)
    assert told in page
    assert 'class="picture' in page


def pixels_of(picture):
    """Return the colours and opacities (height, width, 4) of a picture."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA")).astype(int)


@pytest.fixture(scope="module")
def pair():
    model, data = digits_cnn(), digits()
    return observe(Prune(0.3).compress(model), data), observe(model, data)


@pytest.mark.parametrize(
    "method",
    ["occlusion(window=2, stride=1)", "integrated_gradients(steps=20, baseline=0.5)", "grad_cam(layer='features.4')"],
)
def test_an_attribution_check_shows_the_maps_that_it_compared(pair, method):
    chosen = [3, 41, 99, 207]
    options = {"method": method, "examples": chosen}
    measurement = compare_attributions(*pair, **options)
    computed = len(pair[0]._derived)
    evidence = gather_evidence(measurement, *pair, options)
    assert evidence["notes"] == []
    assert len(pair[0]._derived) <= computed + 1  # no map was made again, only the sizes
    assert evidence["maps"]["method"] == str(parse_attribution_method(method))
    assert evidence["maps"]["of_check"]
    assert not evidence["maps"]["smoothing"]
    indices = measurement.per_example["example"]
    maps = [
        attribution_maps(seen, parse_attribution_method(method), indices, pair[1].predictions[indices]).maps
        for seen in pair
    ]
    for row in evidence["examples"]:
        place = chosen.index(row["index"])
        assert row["iou"] == pytest.approx(float(measurement.per_example["iou"][place]), abs=1e-4)
        subjects = {"candidate": pair[0], "reference": pair[1]}
        names = {who: str(int(seen.predictions[row["index"]])) for who, seen in subjects.items()}
        assert row["predicted"] == names
        units = [unit_maps(each)[place].reshape(each.shape[1:]).sum(dim=0) * each[0].numel() for each in maps]
        largest = max(float(torch.cat(units).abs().quantile(0.995)), 1e-9)
        assert row["scale"] == pytest.approx(largest, rel=0.01)
        for unit, picture in zip(units, (row["candidate_map"], row["reference_map"]), strict=True):
            seen, strength = pixels_of(picture), (unit.abs() / largest).clamp(0, 1).numpy()
            assert seen.shape[:2] == strength.shape
            assert np.abs((seen[..., 3] / 230) ** (1 / 0.7) - strength).max() < 0.06
            strong = strength > 0.2
            assert ((seen[..., 0] > seen[..., 2]) == (unit.numpy() > 0))[strong].all()
    page = page_of(measurement, Requirement("mean_iou", "min", 0.1), evidence)
    assert (
        f"Attribution maps by {evidence['maps']['method']}, as this check compared them".replace("'", "&#39;") in page
    )
    assert f"IoU of the maps {evidence['examples'][0]['iou']:.2f}<" in page
    assert not re.search(r"→ IoU", page)


def test_maps_on_a_check_of_something_else_are_told_to_be_context(pair):
    measurement = compare_predictions(*pair)
    evidence = gather_evidence(measurement, *pair, {"method": "not its own"})
    assert evidence["maps"]["method"] == "saliency()"
    page = page_of(measurement, Requirement("agreement", "min", 1.0), evidence)
    assert "by saliency(), for context: this check does not compare maps" in page
    assert "for context: not part of this check" in page


def test_strengths_in_masks_are_drawn_without_signs(pair):
    diagonal = torch.eye(8, dtype=torch.bool)
    options = {"method": "occlusion(window=2, stride=2)", "examples": 8, "must_look": diagonal}
    options["must_not_look"] = lambda inputs, labels: diagonal.flip(0).expand(len(inputs), 8, 8)
    measurement = compare_pointing(*pair, **options)
    evidence = gather_evidence(measurement, *pair, options)
    assert evidence["maps"]["method"] == measurement.details["method"]
    assert evidence["maps"]["method"].startswith("occlusion(window=2")
    assert not evidence["maps"]["signed"]
    seen = pixels_of(evidence["examples"][0]["candidate_map"])
    assert (seen[..., 0] >= seen[..., 2])[seen[..., 3] > 0].all()
    page = page_of(measurement, Requirement("pointing_mass", "min", 0.0), evidence)
    assert "both signs mixed" not in page
    (outline,) = {row["outline"] for row in evidence["examples"]}
    assert [outline] == draw_outlines({"must_look": diagonal[None], "must_not_look": diagonal.flip(0)[None]})
    assert page.count(f"data:image/svg+xml;base64,{outline}") == 1
    assert "The solid line surrounds where the model must look; the dashed line surrounds where it must not" in page


def test_maps_without_places_in_the_image_are_told_and_not_drawn(pair):
    layer = next(name for name, part in pair[1].model.named_modules() if isinstance(part, nn.Linear))
    options = {"method": f"saliency(layer={layer!r})", "examples": 4}
    measurement = compare_attributions(*pair, **options)
    evidence = gather_evidence(measurement, *pair, options)
    assert "have no places in the image" in evidence["maps"]["left_out"]
    assert "reference_map" not in evidence["examples"][0]
    page = page_of(measurement, Requirement("mean_iou", "min", 0.1), evidence)
    assert "have no places in the image, and are not drawn." in page
    assert 'class="picture' in page


def test_attributions_of_vectors_have_their_iou():
    data = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(12, dtype=torch.long)
    pair = [observe(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval(), data) for _ in range(2)]
    measurement = compare_attributions(*pair)
    evidence = gather_evidence(measurement, *pair, {"method": "saliency"})
    row = evidence["examples"][0]
    assert row["iou"] == pytest.approx(float(measurement.per_example["iou"].min()), abs=1e-4)
    page = page_of(measurement, Requirement("mean_iou", "min", 0.0), evidence)
    assert row["text"] in page
    assert f"IoU of the maps {row['iou']:.2f}<" in page


def test_large_maps_are_smoothed_and_their_signs_stay():
    """A map of alternating signs is strong and mixed; one of equal values has the mean strength everywhere."""
    chequered = torch.ones(2, 3, 224, 224)
    chequered[0, :, ::2, ::2] = chequered[0, :, 1::2, 1::2] = -1
    drawn = draw_maps(chequered, torch.ones(2, 3, 224, 224), signed=True)
    assert drawn.smoothing == pytest.approx(224 / 40, abs=0.05)
    assert drawn.places == (224, 224)
    assert drawn.signed
    assert drawn.mixed
    assert drawn.scales == [1.0, 1.0]
    mixed, positive = pixels_of(drawn.reference[0]), pixels_of(drawn.reference[1])
    assert max(mixed.shape[:2]) <= 64
    assert (mixed[..., 3] == 230).all()
    assert (mixed[8:-8, 8:-8, :3] == mixed[32, 32, :3]).all()
    assert mixed[32, 32, 1] < min(mixed[32, 32, 0], mixed[32, 32, 2])  # violet: neither of the two colours
    assert (positive[..., 0] > positive[..., 2] + 100).all()
    assert not pixels_of(drawn.difference[1])[..., 3].any()
    assert pixels_of(drawn.difference[0])[..., 3].all()


def test_a_difference_has_a_scale_of_its_own_and_rounding_stays_faint():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 1, 12, 12, generator=generator, dtype=torch.float64) + 0.5
    other = maps.clone()
    other[0, 0, 3, 4] *= 1.5
    other[1] *= 1 + 1e-7 * torch.rand(12, 12, generator=generator)
    drawn = draw_maps(maps, other, signed=True)
    changed, rounded = (pixels_of(picture)[..., 3] for picture in drawn.difference)
    assert changed[3, 4] == 230
    assert changed.sum() < 1.5 * 230
    assert not rounded.any()
    assert drawn.difference_scales[0] < drawn.scales[0]
    assert drawn.difference_scales[1] == pytest.approx(0.05 * drawn.scales[1], rel=0.01)


def test_where_smoothed_signs_nearly_cancel_the_colours_tell_which_prevails():
    """Gradients of a real network have signs that alternate from place to place; here one side's sum is above 0."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 224, 224, generator=generator)
    maps[..., :112] += 0.1
    maps[..., 112:] -= 0.1
    seen = pixels_of(draw_maps(maps, maps.flip(3), signed=True).reference[0])
    orange, blue = (seen[..., 0] > seen[..., 2] + 60), (seen[..., 2] > seen[..., 0] + 60)
    assert orange[:, :28].mean() > 0.9
    assert blue[:, -28:].mean() > 0.9


@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_outlines_surround_the_places_of_a_mask(mask):
    """The area within closed lines (the shoelace formula, holes negative) and their length are those of the mask."""
    lines = trace(torch.from_numpy(mask))
    pairs = [list(zip(line, [*line[1:], line[0]], strict=True)) for line in lines]
    area = sum(a[1] * b[0] - b[1] * a[0] for line in pairs for a, b in line) / 2
    length = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for line in pairs for a, b in line)
    padded = np.pad(mask, 1)
    assert area == mask.sum()
    assert length == (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    assert all((a[0] == b[0]) != (a[1] == b[1]) for line in pairs for a, b in line)


def test_outlines_of_large_masks_are_small_and_single_places_stay():
    noise = torch.rand(2, 300, 200, generator=torch.Generator().manual_seed(0)) > 0.5
    noise[1] = False
    noise[1, 17, 41] = True
    drawn = [base64.b64decode(picture).decode() for picture in draw_outlines({"must_look": noise})]
    assert all(len(text) < 16_000 for text in drawn)
    assert 'viewBox="0 0 43 64"' in drawn[1]
    assert re.findall(r'd="([^"]*)"', drawn[1]) == ["M8 3h1v1h-1z"] * 2


def test_photographs_are_small_files_of_their_size():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 12, 16, generator=generator)
    images = nn.functional.interpolate(coarse, (300, 400), mode="bicubic").clamp(0, 1)
    content = base64.b64decode(picture_of(images[0], images))
    picture = Image.open(io.BytesIO(content))
    assert picture.size == (224, 168)
    assert len(content) < 15_000
    wanted = nn.functional.interpolate(images[:1], (168, 224), mode="area")[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(picture.convert("RGB")) / 255 - wanted).mean() < 0.03


def test_every_check_keeps_its_worst_example_before_any_keeps_a_second():
    def content(number):
        return base64.b64encode(bytes([number]) * 750).decode()

    def check(start):
        return {"evidence": {"examples": [{"image": content(start + place)} for place in range(3)]}}

    images = Images(12_500)
    images.choose([check(0), {"evidence": None}, check(10), check(20)])
    assert [place for place in range(30) if images.name(content(place))] == [0, 1, 10, 20]
    assert images.left_out == 5


def test_of_many_classes_those_that_fell_most_are_shown():
    labels = torch.arange(100).repeat(4)
    inputs, matrix = nn.functional.one_hot(labels, 100).float(), torch.eye(100)
    broken = matrix.clone()
    broken[70] = matrix[71]
    data = inputs, labels
    measurement = compare_predictions(observe(lambda x: x @ broken, data), observe(lambda x: x @ matrix, data))
    page = page_of(measurement, Requirement("max_class_accuracy_drop", "max", 0.5))
    assert "(the 40 of 100 whose accuracy fell most)" in page
    assert page.count(", before: ") == 40
    assert page.index("class 70, before") < page.index("class 0, before")


def test_a_footprint_is_shown_in_absolute_figures_and_times(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("cp_compress.model.footprints.time.perf_counter", lambda: next(clock) * 0.5)
    small, large = nn.Linear(10, 100), nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 100))
    measurement = compare_footprints(small, large, torch.zeros(3, 10), ["speedup", "flops_ratio"])
    assert measurement.details["candidate"]["latency_seconds"] == 0.5
    page = page_of(measurement, Requirement("speedup", "min", 2.0))
    table = page[page.index("<caption>Sizes") :].partition("</table>")[0]
    columns = [
        re.findall(rf"<{tag}[^>]*>([^<]+)</{tag}>", part)
        for tag, part in zip(
            ("th", "td", "td"),
            (table.partition("</thead>")[0], *table.partition("</thead>")[2].split("</tr><tr>")),
            strict=True,
        )
    ]
    found = {title: (before, after) for title, before, after in zip(*columns, strict=True)}
    assert found["parameters"] == ("11,200", "1,100")
    assert found["FLOPs per batch"] == ("66,000", "6,000")
    assert found["milliseconds per batch (median)"] == ("500", "500")
    assert "bytes on disk" in page
