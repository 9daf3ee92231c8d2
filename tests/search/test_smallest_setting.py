"""The smallest setting of a codec: known thresholds, curves that are not monotone, repairs, fresh data, refusals."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from cp_compress import Prune, Requirement, parse_codec
from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.data.codec import open_streams
from cp_compress.data.container import Kind, seal
from cp_compress.examples import digits, digits_cnn
from cp_compress.inputs.seen import searched_digests
from cp_compress.search import CodecSpace, Integer, Real, find_smallest, search

KIND = Kind(99, "Flipping")
EXAMPLES = 400


@dataclass(frozen=True)
class Flipping:
    """A codec that takes `level` bytes more an example and keeps the sign of example i where i < kept(level)."""

    level: float
    kept: tuple[int, ...] | None = None
    lossless = False

    def encode(self, batch: Tensor) -> list[bytes]:
        if self.level < 0:
            raise CompressionError("no room")
        filling = bytes(round(100 * self.level))
        return [seal(KIND, tuple(row.shape), row.dtype, row.numpy().tobytes() + filling) for row in batch]

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        opened = open_streams(streams, KIND)
        rows = [torch.frombuffer(bytearray(bytes(each.payload)[:8]), dtype=torch.float32) for each in opened]
        values = torch.stack(rows)
        share = self.kept[round(self.level)] if self.kept is not None else self.level * EXAMPLES
        return torch.where(values[:, 1:] < share, values, values * torch.tensor([-1.0, 1.0]))

    def roundtrip(self, batch: Tensor) -> Tensor:
        return self.decode(self.encode(batch))


class Sign(nn.Module):
    """Class 1 for a positive first value; it has a parameter, so that a repair can make another of it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        value = inputs[:, 0] * self.scale
        return torch.stack([-value, value], 1)


def data(count=EXAMPLES, start=0):
    """Return inputs (±1, i), of the classes 1 and 0 in turns."""
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    labels = (torch.arange(start, start + count) + 1) % 2
    return torch.stack([2.0 * labels - 1, numbers], 1), labels


def family(kept=None, low=0, high=20):
    """Return levels at which so many of the examples keep their sign: by default level/20 of them."""
    counts = tuple(round(EXAMPLES * level / high) for level in range(high + 1)) if kept is None else tuple(kept)
    return CodecSpace(lambda point: Flipping(point["level"], counts), level=Integer(low, high))


def levels(found):
    return [trial.point["level"] for trial in found.trials]


@pytest.mark.parametrize("bound", [0.1, 0.5, 0.72, 0.95, 1.0])
def test_a_known_threshold_is_found_with_its_bytes(bound):
    found = find_smallest(family(), Sign(), data(), Requirement("accuracy", "min", bound))
    level = math.ceil(bound * 20)
    assert found.best.point == {"level": level}
    assert found.codec.level == level
    assert found.outcome == "pass"
    assert found.check.results[0].value == pytest.approx(level / 20)
    assert found.best.payload_bytes == 8 + 100 * level
    assert found.best.stored_bytes - found.best.payload_bytes == len(Flipping(0, (0,)).encode(data(1)[0])[0]) - 8
    assert {level - 1, level - 2, level} <= set(levels(found))
    assert len(set(levels(found))) == len(levels(found)) <= 9


def test_a_text_is_a_claim_by_a_paired_bound_which_needs_more_than_the_value():
    claimed = find_smallest(family(), Sign(), data(), "accuracy_drop <= 0.3")
    valued = find_smallest(family(), Sign(), data(), "accuracy_drop <= 0.3", confidence=None)
    assert valued.codec.level == 14
    result = claimed.check.results[0]
    assert (result.requirement.confidence, claimed.codec.level) == (0.95, 15)
    assert result.value == pytest.approx(0.25)
    assert 0.25 < result.interval.high <= 0.3
    assert [trial.outcome for trial in claimed.trials if trial.point["level"] == 14] == ["inconclusive"]


def test_the_mild_end_is_where_the_bytes_are():
    def shrinking(point):
        return Flipping(20 - point["level"], tuple(range(0, EXAMPLES + 1, 20)))

    found = find_smallest(
        CodecSpace(shrinking, level=Integer(0, 20)), Sign(), data(), "accuracy >= 0.9", confidence=None
    )
    assert found.best.point == {"level": 2}
    assert found.codec.level == 18


def test_a_real_parameter_is_found_to_the_width_of_its_last_bracket():
    space = CodecSpace(lambda point: Flipping(point["share"]), share=Real(0.0, 1.0))
    found = find_smallest(space, Sign(), data(), Requirement("accuracy", "min", 0.633), trials=9)
    assert 0.633 - 1 / EXAMPLES <= found.codec.level <= 0.633 + 2**-9 + 1 / EXAMPLES


def test_a_smaller_setting_beyond_a_dip_is_found_among_the_neighbours():
    kept = [0] * 8 + [400, 400, 0] + [400] * 10  # 10 fails by chance, and is what bisection tries first
    bisected = find_smallest(family(kept), Sign(), data(), "accuracy >= 0.9", confidence=None, neighbours=0)
    assert bisected.codec.level == 11
    looked = find_smallest(family(kept), Sign(), data(), "accuracy >= 0.9", confidence=None, neighbours=2)
    assert looked.codec.level == 8
    assert {6, 7, 9, 10} <= set(levels(looked))
    assert len(set(levels(looked))) == len(levels(looked))
    assert any("not every milder setting holds" in note and "(fail)" in note for note in looked.notes)


def test_where_none_holds_it_says_so_and_the_mildest_was_tried():
    kept = [100] * 21
    found = find_smallest(family(kept), Sign(), data(), "accuracy_drop <= 0.3")
    assert (found.codec, found.check, found.best, found.model, found.gate) == (None, None, None, None, None)
    assert found.outcome == "fail"
    assert 20 in levels(found)
    assert "no setting holds, up to the mildest" in found.notes[0]
    assert str(found).startswith("no setting of")
    narrowly = [0] * 20 + [300]
    undecided = find_smallest(family(narrowly), Sign(), data(), "accuracy_drop <= 0.27")
    assert (undecided.codec, undecided.outcome) == (None, "inconclusive")
    assert "more examples would decide" in undecided.notes[0]
    hasty = find_smallest(family(), Sign(), data(), "accuracy >= 1", confidence=None, trials=1)
    assert hasty.codec.level == 20


def test_a_setting_that_the_codec_refuses_is_a_trial_with_its_error():
    counts = tuple(range(0, EXAMPLES + 1, 20))
    refusing = CodecSpace(lambda point: Flipping(point["level"], counts), level=Integer(-10, 20))
    found = find_smallest(refusing, Sign(), data(), "accuracy >= 0.1", confidence=None)
    assert found.codec.level == 2
    refused = [trial for trial in found.trials if trial.point["level"] < 0]
    assert all(trial.outcome == "error" and "no room" in trial.error and trial.check is None for trial in refused)
    with pytest.raises(CompressionError, match="no room"):
        find_smallest(CodecSpace(lambda p: Flipping(p["a"]), a=Integer(-9, -1)), Sign(), data(), "accuracy >= 0.1")


def test_a_repair_makes_the_candidate_and_what_it_costs_on_clean_data_is_in_the_trials():
    asked = []

    def turned(model, codec):  # what the codec broke is right again, what it left is wrong
        asked.append(codec.level)
        made = Sign()
        with torch.no_grad():
            made.scale.mul_(-1)
        return made

    model = Sign()
    found = find_smallest(family(), model, data(), Requirement("accuracy", "min", 0.0), repair=turned)
    assert found.codec.level == 0
    assert found.check.results[0].value == 1.0
    assert found.best.clean.metrics["accuracy"] == 0.0
    assert found.best.to_json()["clean_metrics"]["accuracy_drop"] == 1.0
    assert asked == levels(found)
    assert found.model is not model
    assert found.model.scale.item() == -1
    assert searched_digests(found.model) == found.search_digests
    unrepaired = find_smallest(family(), model, data(), Requirement("accuracy", "min", 0.5))
    assert unrepaired.model is model
    assert searched_digests(model) == frozenset()
    assert all(trial.clean is None for trial in unrepaired.trials)


def test_fresh_data_judges_the_answer_once_more_and_may_not_be_searched_on():
    fresh = data(100, start=EXAMPLES)  # all beyond what level 10 keeps
    found = find_smallest(family(), Sign(), data(), "accuracy >= 0.5", confidence=None, gate_data=fresh)
    assert found.codec.level == 10
    assert found.gate.results[0].value == 0
    assert "the setting fails on fresh data" in found.notes
    with pytest.raises(InvalidArgumentError, match="50 of its examples"):
        find_smallest(family(), Sign(), data(), "accuracy >= 0.5", gate_data=data(100, start=EXAMPLES - 50))
    allowed = find_smallest(
        family(),
        Sign(),
        data(),
        "accuracy >= 0.5",
        confidence=None,
        gate_data=data(100, start=EXAMPLES - 50),
        allow_shared_examples=True,
    )
    assert any("50 examples of the gate" in note for note in allowed.notes)


def test_the_result_is_json_that_a_gate_can_read():
    found = find_smallest(family(), Sign(), data(), "accuracy >= 0.5", gate_data=data(100, start=EXAMPLES))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["codec"] == str(found.codec)
    assert document["trials"][document["best_trial"] - 1]["payload_bytes"] == found.best.payload_bytes
    assert set(document["search_digests"]) == found.search_digests
    assert len(document["search_digests"]) == EXAMPLES


def test_real_codecs_on_digits_hold_what_was_asked_and_the_next_stronger_one_does_not():
    model, images = digits_cnn(), digits()
    space = CodecSpace("jpeg(quality={quality})", quality=Integer(1, 100))
    found = find_smallest(space, model, images, "accuracy_drop <= 0.02")
    quality = found.codec.quality
    assert found.check.results[0].interval.high <= 0.02
    (stronger,) = [trial for trial in found.trials if trial.point["quality"] == quality - 1]
    assert stronger.check.results[0].interval.high > 0.02
    decoded = found.codec.roundtrip(images.tensors[0])
    with torch.no_grad():
        right = [(model(batch).argmax(1) == images.tensors[1]).sum().item() for batch in (images.tensors[0], decoded)]
    assert found.check.results[0].value == pytest.approx((right[0] - right[1]) / 600)


def test_what_the_decoded_data_must_be_can_be_required_too():
    space = CodecSpace("zfp(precision={planes})", planes=Integer(2, 20))
    found = find_smallest(space, digits_cnn(), digits(), Requirement("psnr", "min", 40))
    images = digits().tensors[0]

    def psnr(planes):
        error = parse_codec(f"zfp(precision={planes})").roundtrip(images) - images
        return -10 * math.log10(float(error.double().square().mean()))

    assert psnr(found.codec.precision) >= 40 > psnr(found.codec.precision - 1)


def test_options_go_to_the_comparison():
    distance = [[0.0, 1.0], [0.0, 0.0]]  # a change from class 1, which half of the examples are of, costs nothing
    requirement = Requirement("cost", "max", 0.5)
    free = find_smallest(family(), Sign(), data(), requirement, options={"class_distance": distance})
    assert free.codec.level == 0
    assert find_smallest(family(), Sign(), data(), requirement).codec.level == 10


def test_a_codec_space_is_no_space_of_schemes():
    with pytest.raises(InvalidArgumentError, match="find_smallest"):
        search(digits_cnn(), family(), objective="parameters", constraints=lambda *models: None)
    with pytest.raises(InvalidArgumentError, match="must return a codec"):
        CodecSpace(lambda point: Prune(0.5), level=Integer(1, 2)).codec({"level": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec_family": "jpeg(quality={q})"}, "must be a CodecSpace"),
        ({"requirements": []}, "at least one Requirement"),
        ({"requirements": "nonsense >= 1"}, "no comparison gives it"),
        ({"requirements": ["accuracy >= 0.5", "psnr >= 30"], "confidence": None}, "of one comparison"),
        ({"requirements": "compression >= 2", "confidence": None}, "of one comparison"),
        ({"trials": 0}, r"find_smallest\(trials=0\)"),
        ({"neighbours": -1}, r"find_smallest\(neighbours=-1\)"),
        ({"options": {"nonsense": 1}}, r"find_smallest\(options=\['nonsense'\]\)"),
        ({"batch_size": 0}, r"find_smallest\(batch_size=0\)"),
        ({"device": "nonsense"}, "nonsense"),
        ({"repair": 3}, r"find_smallest\(repair=3\)"),
        ({"requirements": "agreement >= 0.999"}, "the original data itself"),
        ({"codec_family": CodecSpace(lambda p: Flipping(1, (0, 400)), a=Integer(1, 2))}, "nothing to find"),
        (
            {"codec_family": CodecSpace(lambda p: Flipping(1), a=Integer(1, 2), b=Integer(1, 2))},
            "one numeric parameter",
        ),
    ],
)
def test_bad_arguments_are_named_before_any_trial(changes, message):
    given = {"codec_family": family(), "model": Sign(), "dataset": data(), "requirements": "accuracy >= 0.5"} | changes
    with pytest.raises(InvalidArgumentError, match=message):
        find_smallest(**given)


@pytest.mark.parametrize(
    ("template", "parameter"),
    [("zfp(precision={p}, layout='2d')", Integer(1, 64)), ("zfp(tolerance={p}, layout='2d')", Real(1e-8, 64, "log"))],
)
def test_settings_that_the_codec_refuses_at_the_mild_end_lead_back(template, parameter):
    found = find_smallest(CodecSpace(template, p=parameter), digits_cnn(), digits(), "accuracy_drop <= 0.02", trials=9)
    assert found.codec is not None
    assert found.best.payload_bytes <= 42


def test_a_setting_without_a_codec_is_a_trial_in_error():
    family = CodecSpace("jpeg(quality={p})", p=Integer(1, 400))
    found = find_smallest(family, digits_cnn(), digits(), "accuracy_drop <= 0.02", trials=6, neighbours=0)
    assert found.codec.quality <= 100
    assert any(trial.error and "quality must be" in trial.error for trial in found.trials)


def test_the_look_around_ends_and_says_so():
    """Every stronger setting holds, so that without an end it would walk to the strongest."""
    found = find_smallest(family([EXAMPLES] * 101, high=100), Sign(), data(), "accuracy >= 0.5", trials=1)
    assert len(found.trials) == 5
    assert any("not all neighbours" in note for note in found.notes)


def test_settings_that_another_stands_for_are_no_trials():
    space = CodecSpace("zfp(rate={p}, layout='2d')", p=Real(1.0, 8.0))
    found = find_smallest(space, digits_cnn(), digits(), "accuracy_drop <= 0.02", trials=12)
    decoded = [trial.codec.roundtrip(digits().tensors[0]) for trial in found.trials]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(decoded, 2))
    assert found.best.payload_bytes == 32


def test_an_answer_at_the_end_of_the_range_says_so():
    space = CodecSpace("zfp(tolerance={p}, layout='2d')", p=Real(1e-4, 1e-3))
    found = find_smallest(space, digits_cnn(), digits(), "accuracy_drop <= 0.02")
    assert any("the strongest setting of the range holds" in note for note in found.notes)
    inner = find_smallest(family(), Sign(), data(), Requirement("accuracy", "min", 0.5))
    assert not any("strongest setting" in note for note in inner.notes)


def test_a_repair_that_returns_no_model_is_told():
    with pytest.raises(InvalidArgumentError, match=r"find_smallest\(repair=.*returned NoneType"):
        find_smallest(family(), Sign(), data(), "accuracy >= 0.5", repair=lambda model, codec: None)
