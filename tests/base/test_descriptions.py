"""What a data set says of itself is heard through whatever it is wrapped in."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from cp_compress import CompressedDataset, TaskDataset
from cp_compress.base.errors import InvalidArgumentError, NothingComparedError, ObservationError
from cp_compress.data import JPEG, CorruptedDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    compare_pointing,
    compare_predictions,
    compare_reconstruction,
    forget_observations,
    observe,
)
from cp_compress.fidelity.observing.refusals import require_other_logits, same_data
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import layers_of, said_by

LETTERS = list("abcde")


def several_labels():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 8, 8, generator=generator)
    targets = torch.randint(0, 2, (20, 5), generator=generator)
    return images, targets, TaskDataset((images, targets), "multi_label", classes=LETTERS)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()


WRAPPINGS = {
    "loader": lambda data: DataLoader(data, batch_size=3),
    "subset": lambda data: Subset(data, range(20)),
    "loader of a subset of a subset": lambda data: DataLoader(Subset(Subset(data, range(20)), range(20))),
    "subset of a task's loader": lambda data: Subset(
        TaskDataset(DataLoader(data, batch_size=3), "multi_label"), range(20)
    ),
    "labelled data": LabeledData,
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_task_and_classes_are_heard_through(wrap):
    _, targets, data = several_labels()
    seen, plain = observe(linear(), wrap(data)), observe(linear(), data)
    assert (seen.task, seen.class_names) == ("multi_label", tuple(LETTERS))
    assert torch.equal(seen.labels, targets)
    assert torch.equal(seen.predictions, plain.predictions)


def test_corrupted_answers_stay_what_they_were():
    images, targets, _ = several_labels()
    targets[0, 1] = 9
    data = TaskDataset((images, targets), "multi_label", ignore_index=9, classes=LETTERS)
    seen = observe(linear(), DataLoader(CorruptedDataset(data, "fog", 1)))
    assert (seen.task, seen.class_names) == ("multi_label", tuple(LETTERS))
    assert torch.equal(seen.labels, torch.where(targets == 9, -100, targets))


def test_arrays_are_a_pair_too():
    images, targets, data = several_labels()
    seen = observe(linear(), TaskDataset((images.numpy(), targets.numpy()), "multi_label"))
    assert torch.equal(seen.labels, observe(linear(), data).labels)


def test_what_stores_one_class_says_so_of_a_loader():
    for store in (CompressedDataset, lambda data, codec: CompressedDataset(Subset(data, [1, 2]), codec)):
        with pytest.raises(InvalidArgumentError, match="its task is multi_label"):
            store(DataLoader(several_labels()[2]), JPEG(90))


def test_several_labels_without_a_task_name_the_way_to_say_it():
    images, targets, _ = several_labels()
    for data in ((images, targets), DataLoader(TensorDataset(images, targets))):
        with pytest.raises(ObservationError, match=r"0?, 5\); expected \(\d+,\), or TaskDataset\(dataset"):
            observe(linear(), data).labels  # noqa: B018


class Named(TensorDataset):
    classes = tuple(f"d{digit}" for digit in range(10))


def test_groups_by_name_work_with_a_loader():
    data = Named(*digits().tensors)
    groups = {"low": Named.classes[:5], "high": Named.classes[5:]}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    worse = copy.deepcopy(model)
    worse[1].weight.data += 0.1 * torch.randn(10, 64)
    found = [
        compare_predictions(observe(worse, one), observe(model, one), class_distance=groups).metrics["cost"]
        for one in (data, DataLoader(data, batch_size=32), Subset(data, range(len(data))))
    ]
    assert found[0] > 0
    assert found == found[:1] * 3


class Lines(Dataset):
    """Sequences of tokens of different lengths, tagged by the token's remainder."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(3, 15, (60,), generator=generator).tolist()
        self.rows = [torch.randint(1, 20, (length,), generator=generator) for length in lengths]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], self.rows[index] % 3


def padded(rows):
    inputs, targets = zip(*rows, strict=True)
    pad = nn.utils.rnn.pad_sequence
    return pad(inputs, batch_first=True), pad(targets, batch_first=True, padding_value=-100)


@pytest.mark.parametrize("wrapped_as", ["attribute", "task data set", "subset"])
def test_batches_padded_to_lengths_of_their_own_are_joined(wrapped_as):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 3)).eval()
    worse = copy.deepcopy(model)
    worse[1].weight.data += 0.3 * torch.randn_like(worse[1].weight)
    data = DataLoader(Lines(), batch_size=8, collate_fn=padded)
    if wrapped_as == "attribute":
        data.task = "sequence"
    else:
        data = TaskDataset(data, "sequence")
    data = Subset(data, range(60)) if wrapped_as == "subset" else data
    assert len(LabeledData(data)) == 60
    found = []
    for size in (1, 8, 256):
        pair = observe(worse, data, batch_size=size), observe(model, data, batch_size=size)
        assert pair[0].predictions.shape == pair[0].labels.shape == (60, max(map(len, Lines().rows)))
        found.append(compare_predictions(*pair).metrics)
    with torch.no_grad():
        same = [(model(row).argmax(1) == worse(row).argmax(1)).double().mean() for row in Lines().rows]
    assert found[0]["agreement"] == pytest.approx(float(torch.stack(same).mean()))
    for metrics in found[1:]:
        assert metrics == pytest.approx(found[0])


def test_targets_and_answers_must_fit_in_each_batch():
    def data(lengths):
        rows = [(torch.ones(inputs, dtype=torch.int64), torch.zeros(targets).long()) for inputs, targets in lengths]
        return TaskDataset(DataLoader(rows, collate_fn=padded), "sequence")

    model = nn.Sequential(nn.Embedding(2, 4), nn.Linear(4, 3)).eval()
    # each is five and seven long over both batches
    with pytest.raises(ObservationError, match="the targets have shape"):
        observe(model, data([(5, 7), (7, 5)]), batch_size=1).labels  # noqa: B018


def test_a_shuffled_loader_is_refused_within_a_task():
    with pytest.raises(ObservationError, match="shuffle=False"):
        LabeledData(TaskDataset(DataLoader(several_labels()[2], shuffle=True), "multi_label"))


def test_positions_and_attributes_by_hand():
    inner = Named(torch.zeros(6, 1), torch.zeros(6).long())
    data = DataLoader(Subset(Subset(inner, [5, 4, 3, 2]), [3, 0]))
    assert [places for _, places in layers_of(data, [1, 0])] == [[1, 0], [1, 0], [0, 3], [5, 2]]
    assert said_by(data, "classes") == Named.classes
    assert said_by(data, "task") is None
    data.classes = ("own",)
    assert said_by(data, "classes") == ("own",)


def test_a_codec_is_heard_through():
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    stored = CompressedDataset((images, labels), JPEG(90))
    assert not same_data(DataLoader(stored), (images, labels))
    decoded = torch.stack([stored[index][0] for index in range(6)]), labels
    forget_observations()
    model = linear()
    require_other_logits(observe(model, DataLoader(stored)), observe(model, decoded))
    with pytest.raises(NothingComparedError):
        require_other_logits(observe(model, DataLoader(TensorDataset(*decoded))), observe(model, decoded))
    found = compare_reconstruction(DataLoader(stored), (images, labels))
    assert found.metrics["bytes_per_example"] == stored.bytes_per_example
    half = compare_reconstruction(Subset(stored, [0, 1]), (images[:2], labels[:2]))
    assert "bytes_per_example" not in half.metrics  # the mean of all says nothing of two


class Masked(Named):
    """Digits with masks, the upper half of each."""


def test_masks_are_those_of_the_examples_of_a_subset():
    data = Masked(*(part[:12] for part in digits().tensors))
    generator = torch.Generator().manual_seed(0)
    data.looked_at = torch.rand(12, 8, 8, generator=generator) > 0.5
    model = digits_cnn()
    worse = copy.deepcopy(model)
    worse.get_parameter("classifier.1.weight").data[3] *= 0.5
    chosen = [7, 2, 9]
    given = compare_pointing(
        observe(worse, Subset(data, chosen)),
        observe(model, Subset(data, chosen)),
        must_look=data.looked_at[chosen],
    )
    for part in (Subset(data, chosen), DataLoader(Subset(data, chosen))):
        named = compare_pointing(observe(worse, part), observe(model, part), must_look="looked_at")
        assert named.metrics == pytest.approx(given.metrics)
