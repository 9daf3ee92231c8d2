"""Agreement of two models on corrupted images."""

import math

import pytest
import torch

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.data import CORRUPTION_NAMES, CorruptedDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import observe
from cp_compress.fidelity.robustness import compare_robustness
from cp_compress.model import parse_scheme


def seen(scheme=None):
    model = digits_cnn()
    return observe(model if scheme is None else parse_scheme(scheme).compress(model), digits())


def test_cells_are_those_of_corrupted_data_sets():
    candidate, reference = seen("prune(density=0.3)"), seen()
    found = compare_robustness(candidate, reference, ["fog", "gaussian_noise"], [2, 5], seed=3)
    for cell in found.details["cells"]:
        data = CorruptedDataset(digits(), cell["corruption"], cell["severity"], seed=3)
        before, after = observe(reference.model, data), observe(candidate.model, data)
        assert cell["agreement"] == pytest.approx(float((before.predictions == after.predictions).double().mean()))
        assert cell["reference_accuracy"] == pytest.approx(float((before.predictions == before.labels).double().mean()))
    cells = found.details["cells"]
    assert found.metrics["corrupted_agreement"] == pytest.approx(sum(cell["agreement"] for cell in cells) / 4)
    assert found.metrics["worst_corrupted_agreement"] == min(cell["agreement"] for cell in cells)
    ratios = []
    for name in ("fog", "gaussian_noise"):
        rows = [cell for cell in cells if cell["corruption"] == name]
        ratios.append(sum(1 - cell["accuracy"] for cell in rows) / sum(1 - cell["reference_accuracy"] for cell in rows))
    assert found.metrics["corruption_error_ratio"] == pytest.approx(sum(ratios) / 2)


def test_all_fifteen_and_the_harder_the_compression_the_less_they_agree():
    values = [
        compare_robustness(seen(scheme), seen(), severities=[3], examples=50).metrics["corrupted_agreement"]
        for scheme in ("quantize(int8)", "prune(density=0.4)", "prune(density=0.1)")
    ]
    assert values == sorted(values, reverse=True)
    found = compare_robustness(seen("quantize(int8)"), seen(), severities=[1], examples=20)
    assert [cell["corruption"] for cell in found.details["cells"]] == list(CORRUPTION_NAMES)


def test_no_error_of_the_reference_leaves_no_ratio():
    found = compare_robustness(seen("prune(density=0.3)"), seen(), ["brightness"], [1], examples=[0, 1, 2])
    assert math.isnan(found.metrics["corruption_error_ratio"])
    assert found.counts["corruption_error_ratio"] == 0


@pytest.mark.parametrize("wrong", [1, 2, 4, 5])
def test_a_drop_of_one_image_meets_its_bound(wrong):
    images = torch.linspace(0, 1, 50).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    def wrong_below(count):
        # contrast leaves flat images as they are
        return lambda batch: torch.stack([batch[:, 0, 0, 0] * 49 + 0.5 - count, torch.zeros(len(batch))], dim=1)

    data = images, torch.zeros(50, dtype=torch.int64)
    candidate, reference = observe(wrong_below(wrong + 1), data), observe(wrong_below(wrong), data)
    found = compare_robustness(candidate, reference, ["contrast"], [1, 3, 5]).metrics
    assert found["worst_corrupted_accuracy_drop"] == found["corrupted_accuracy_drop"] == 0.02
    assert found["corrupted_agreement"] == found["worst_corrupted_agreement"] == 0.98
    assert found["corruption_error_ratio"] == (wrong + 1) / wrong


@pytest.mark.parametrize(
    ("corruptions", "severities"), [(["frost"], [1]), ([], [1]), (["fog"], []), (["fog"], [9]), (["fog", "fog"], [1])]
)
def test_refusals(corruptions, severities):
    with pytest.raises(InvalidArgumentError):
        compare_robustness(seen("quantize(int8)"), seen(), corruptions, severities, examples=4)


def test_only_images_are_corrupted():
    data = torch.rand(10, 6), torch.zeros(10, dtype=torch.int64)
    models = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
    with pytest.raises(InvalidArgumentError, match="images"):
        compare_robustness(*(observe(model, data) for model in models), ["fog"], [1])


class Overflowing(torch.nn.Module):
    """Answers as the digits network; what is brighter than the data gives NaN."""

    def __init__(self, limit):
        super().__init__()
        self.network, self.limit = digits_cnn(), limit

    def forward(self, images):
        logits = self.network(images)
        return torch.where(images.flatten(1).mean(1, keepdim=True) > self.limit, torch.nan, logits)


def test_logits_that_are_no_numbers_on_corrupted_images_are_no_agreement():
    brightest = float(torch.stack([image for image, _ in digits()]).flatten(1).mean(1).max())
    candidate = observe(Overflowing(brightest + 0.001), digits())
    with pytest.raises(ObservationError, match=r"NaN.*images corrupted by brightness at severity 5"):
        compare_robustness(candidate, seen(), ["brightness"], [5], examples=50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"severities": 3}, r"severities=3\): give a sequence"), ({"corruptions": 3}, r"corruptions=3\): give names")],
)
def test_what_is_no_sequence_is_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        compare_robustness(seen("quantize(int8)"), seen(), **arguments)
