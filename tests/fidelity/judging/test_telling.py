"""Data that cannot tell models apart is refused, for what is required of it; honest data is not."""

import numpy as np
import pytest
import torch
from scipy import stats

from cp_compress import observe
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.exact import hypergeometric_tails
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.judging.skill import skill_of
from cp_compress.fidelity.judging.telling import require_telling
from cp_compress.inputs.tasks import IGNORED, TaskDataset

AGREEMENT, VALUES = Requirement("agreement", "min", 0.9), Requirement("mean_kl", "max", 0.1)
ACCURACY, CLASSES = Requirement("accuracy_drop", "max", 0.02), Requirement("max_class_accuracy_drop", "max", 0.05)


def reference(answers, labels, classes=10, wrapped=None):
    """Return an observation of a model that gives these answers, each with logits of its own."""
    answers, labels = torch.as_tensor(answers), torch.as_tensor(labels)
    logits = torch.nn.functional.one_hot(answers, classes) + torch.linspace(0, 0.5, len(answers))[:, None]
    data = logits, labels
    return observe(torch.nn.Identity(), data if wrapped is None else wrapped(data))


def generator(seed=0):
    return np.random.default_rng(seed)


def refused(seen, *requirements):
    with pytest.raises(ObservationError) as caught:
        require_telling(seen, requirements)
    return str(caught.value)


def test_labels_that_do_not_fit_are_refused_where_they_matter_only():
    labels = generator().integers(0, 10, 300)
    for other in ((labels + 1) % 10, generator(1).permutation(labels), generator(2).integers(0, 10, 300)):
        seen = reference(labels, other)
        assert require_telling(seen, [AGREEMENT, VALUES]) == ()
        told = refused(seen, AGREEMENT, ACCURACY)
        assert "accuracy_drop ≤ 0.02" in told
        assert "chance" in told
        assert "order of the model's classes" in told


def test_a_candidate_that_must_be_right_itself_is_judged_whatever_the_reference_is():
    labels = generator().integers(0, 10, 300)
    seen = reference((labels + 1) % 10, labels)
    assert require_telling(seen, [Requirement("accuracy", "min", 0.9)]) == ()
    assert "accuracy ≥ 0.05" in refused(seen, Requirement("accuracy", "min", 0.05))


def test_labels_in_another_order_are_named_though_some_classes_fit():
    labels = generator().integers(0, 10, 500)
    order = np.array([0, 1, 3, 2, 5, 4, 7, 6, 9, 8])
    told = refused(reference(labels, order[labels]), ACCURACY)
    assert "takes labels for other classes" in told
    assert "('8' by '9', '9' by '8'" in told


def test_one_mistake_of_each_of_many_classes_is_no_other_order():
    labels = np.arange(200)
    answers = np.where(labels % 10 < 3, labels, (labels + 1) % 200)
    assert require_telling(reference(answers, labels, 200), [ACCURACY]) == ()


def test_a_weak_reference_is_doubted_on_few_examples_and_not_on_many():
    rng = generator()
    labels = rng.integers(0, 2, 60)
    weak = np.where(rng.random(60) < 0.6, labels, 1 - labels)
    assert "too little to show" in require_telling(reference(weak, labels, 2), [ACCURACY])[0]
    labels = rng.integers(0, 2, 3000)
    weak = np.where(rng.random(3000) < 0.6, labels, 1 - labels)
    assert require_telling(reference(weak, labels, 2), [ACCURACY]) == ()


def test_a_rare_class_that_is_found_better_than_by_chance_is_skill():
    rng = generator()
    labels = (rng.random(1000) < 0.05).astype(int)
    found = np.where(labels == 1, rng.random(1000) < 0.5, rng.random(1000) < 0.05).astype(int)
    seen = reference(found, labels, 2)
    assert skill_of(seen).accuracy < 0.95
    assert skill_of(seen).shown
    assert require_telling(seen, [ACCURACY, AGREEMENT]) == ()


def test_a_reference_of_a_tenth_of_skill_is_refused_on_one_data_set_of_a_hundred_at_most():
    rng = generator(5)
    for classes, count in ((2, 200), (10, 100), (10, 40), (3, 60)):
        refusals = 0
        for _ in range(100):
            labels = rng.integers(0, classes, count)
            random = rng.integers(0, classes, count)
            answers = np.where(rng.random(count) < 0.1, labels, random)
            try:
                require_telling(reference(answers, labels, classes), [ACCURACY])
            except ObservationError:
                refusals += 1
        assert refusals <= 5  # of 100 at 1 %, more than 5 have a probability below 0.001


def test_one_answer_to_everything_is_refused_unless_nearly_all_labels_are_it():
    labels = generator().integers(0, 10, 100)
    seen = reference([3] * 100, labels)
    for required in (AGREEMENT, ACCURACY, CLASSES):
        assert "answers '3' for all 100 examples" in refused(seen, required)
    assert require_telling(seen, [VALUES]) == ()
    few = reference([3] * 30, labels[:30])
    assert "a model that always does meets agreement ≥ 0.9" in require_telling(few, [AGREEMENT])[0]
    rare = reference([0] * 1000, [0] * 990 + [1] * 10, 2)
    assert "99.0% of the labels are '0'" in require_telling(rare, [AGREEMENT, ACCURACY])[0]
    assert require_telling(reference([3] * 100, [3] * 100), [ACCURACY]) != ()


def test_one_answer_to_nearly_everything_is_a_note_unless_labels_are_alike():
    labels = generator().integers(0, 10, 200)
    notes = require_telling(reference([3] * 198 + [4, 5], labels), [AGREEMENT])
    assert notes == (
        "the reference answers '3' 198 times of 200, more often than its labels: a model that always does has an "
        "agreement of 0.99",
    )
    rare = reference([0] * 980 + [1] * 20, [0] * 990 + [1] * 10, 2)
    assert require_telling(rare, [AGREEMENT]) == ()


def test_logits_that_do_not_depend_on_the_example_are_refused_for_every_requirement():
    for count, inputs in ((200, torch.ones(200, 4)), (200, torch.randn(200, 4) * 1e-12)):
        seen = observe(lambda batch: batch + torch.arange(4.0), (inputs, torch.arange(count) % 4))
        told = refused(seen, VALUES)
        assert ("all inputs are the same" in told) == bool((inputs == inputs[0]).all())
    few = observe(lambda batch: batch + torch.arange(4.0), (torch.ones(5, 4), torch.arange(5) % 4))
    assert "one example is compared" in require_telling(few, [VALUES])[0]


def test_class_names_of_another_number_are_refused_unless_the_labels_fit():
    labels = generator().integers(0, 4, 200)

    def named(folder):
        def wrap(data):
            dataset = torch.utils.data.TensorDataset(*data)
            dataset.classes, dataset.numbered_by_folder = ("ant", "bee", "cat", "dog"), folder
            return dataset

        return wrap

    fitting = reference(labels, labels, 10, named(False))
    assert (
        "names 4 classes (ant, bee, cat, dog), but the model has 10 logits" in require_telling(fitting, [ACCURACY])[0]
    )
    assert require_telling(fitting, [AGREEMENT]) == ()
    told = refused(reference(labels, labels, 10, named(True)), ACCURACY)
    assert "folders are numbered in sorted order" in told
    assert "classes=" in told
    assert "10 logits" in refused(reference(labels + 4, labels, 10, named(False)), ACCURACY)


def test_absent_classes_and_those_that_can_lose_nothing_are_named():
    labels = generator().integers(0, 3, 200)
    answers = np.where(labels == 2, 1, labels)
    notes = require_telling(reference(answers, labels, 5), [CLASSES])
    assert "only 3 of 5 classes have examples" in notes[0]
    assert notes[0].endswith("says nothing of 3, 4")
    assert notes[1] == "the reference is right on no example of 2, which can lose nothing"
    assert require_telling(reference(answers, labels, 5), [ACCURACY]) == ()


def test_inputs_that_look_scaled_twice_are_noted():
    images = torch.rand(100, 12, generator=torch.Generator().manual_seed(0))
    for scaled, noted in ((images, False), (images / 255, True), (images * 0.01 - 0.005, False)):
        notes = require_telling(observe(torch.nn.Identity(), (scaled, torch.arange(100) % 12)), [VALUES])
        assert any("scaled by 1/255 twice" in note for note in notes) == noted


@pytest.mark.parametrize("task", ["multi_label", "dense", "sequence"])
def test_tasks_of_many_answers_are_held_to_the_same(task):
    rng = torch.Generator().manual_seed(0)
    if task == "multi_label":
        logits = torch.randn(300, 6, generator=rng) - 1.5
        right = (logits > 0).long()
        form = lambda labels: labels  # noqa: E731
    else:
        classes_last = torch.randn(300, 8, 5, generator=rng)
        right = classes_last.argmax(-1)
        logits = classes_last if task == "sequence" else classes_last.movedim(-1, 1)
        form = lambda labels: torch.where(torch.arange(8) < 6, labels, IGNORED)  # noqa: E731

    def seen(labels):
        return observe(torch.nn.Identity(), TaskDataset((logits, form(labels)), task))

    noisy = torch.where(torch.rand(right.shape, generator=rng) < 0.7, right, right.roll(1, 0))
    assert require_telling(seen(noisy), [ACCURACY, AGREEMENT]) == ()
    if task != "multi_label":
        refused(seen((right + 1) % 5), ACCURACY)
        refused(seen(right.roll(1, 0)), ACCURACY)
    else:
        refused(seen(1 - right), ACCURACY)
        assert require_telling(seen(right.roll(1, 0)), [ACCURACY]) != ()
    assert require_telling(seen(right.roll(1, 0)), [AGREEMENT, VALUES]) == ()


def test_places_that_are_all_ignored_and_few_examples_are_no_error():
    logits = torch.randn(40, 8, 5, generator=torch.Generator().manual_seed(0))
    ignored = TaskDataset((logits, torch.full((40, 8), IGNORED)), "sequence")
    assert require_telling(observe(torch.nn.Identity(), ignored), [ACCURACY, AGREEMENT]) == ()
    labels = np.arange(12) % 3
    assert require_telling(reference((labels + 1) % 3, labels, 3), [ACCURACY, AGREEMENT]) != ()


def test_exact_tests_of_classes_are_those_of_scipy():
    rng = generator()
    for count in (2, 7, 100, 3000):
        marked, drawn = rng.integers(1, count + 1, 30).astype(float), rng.integers(0, count + 1, 30).astype(float)
        hits = rng.integers(np.maximum(0, marked + drawn - count), np.minimum(marked, drawn) + 1).astype(float)
        expected = stats.hypergeom.sf(hits - 1, count, marked, drawn)
        assert hypergeometric_tails(hits, marked, drawn, count) == pytest.approx(expected, rel=1e-8, abs=1e-200)
