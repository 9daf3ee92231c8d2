"""One forward pass for all checks; changes are noticed; nothing of the user's is changed."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import (
    compare_attributions,
    compare_boundaries,
    compare_embeddings,
    compare_predictions,
    forget_observations,
    layer_features,
    observe,
)
from cp_compress.fidelity.observing.runner import Runner


@pytest.fixture(autouse=True)
def _no_memory():
    forget_observations()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.batches = []

    def forward(self, inputs):
        self.batches.append(len(inputs))
        return self.linear(inputs)


@pytest.fixture
def data():
    return torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3


def test_one_forward_pass_for_many_checks(data):
    model = Counting()
    for _ in range(3):
        seen = observe(model, data, batch_size=4)
        assert seen.logits.shape == (10, 3)
    assert model.batches == [4, 4, 2, 2, 2]  # the first once more, to see that the model answers the same


def test_logits_are_those_of_the_model(data):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).train()
    expected = copy.deepcopy(model).eval()(data[0])
    seen = observe(model, data)
    torch.testing.assert_close(seen.logits, expected.detach())
    assert seen.predictions.tolist() == expected.argmax(dim=1).tolist()


@pytest.mark.parametrize("change", ["add_", "data", "load_state_dict", "buffer"])
def test_parameters_changed_in_place_are_noticed(data, change):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    before = observe(model, data).logits.clone()
    if change == "add_":
        with torch.no_grad():
            model[0].weight.add_(1)
    elif change == "data":
        model[0].weight.data *= -1
    elif change == "buffer":
        model[1].running_mean.fill_(3.0)
    else:
        other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        model.load_state_dict(other.state_dict())
    after = observe(model, data).logits
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, model(data[0]).detach())


def test_tensors_of_data_changed_in_place_are_noticed(data):
    model = nn.Linear(4, 3)
    before = observe(model, data).logits
    data[0].mul_(2)
    assert not torch.equal(before, observe(model, data).logits)


def test_a_map_style_data_set_that_changed_is_noticed(data):
    rows, model = Rows(data), nn.Linear(4, 3)
    before = observe(model, rows).logits
    rows.data = (-data[0], data[1])
    assert not torch.equal(before, observe(model, rows).logits)


def test_a_plain_attribute_that_changed_is_noticed(data):
    class Scaled(nn.Linear):
        scale = 1.0

        def forward(self, inputs):
            return self.scale * super().forward(inputs)

    model = Scaled(4, 3)
    model.scale = 1.0
    before = observe(model, data).logits
    model.scale = -1.0
    assert torch.equal(observe(model, data).logits, -before)


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ({"scale": 1.0}, lambda model: model.setting.update(scale=-1.0)),
        ([1.0], lambda model: model.setting.__setitem__(0, -1.0)),
        (torch.ones(1), lambda model: model.setting.neg_()),
    ],
)
def test_containers_and_tensors_as_attributes_are_noticed(data, attribute, change):
    class Scaled(nn.Linear):
        def forward(self, inputs):
            scale = self.setting["scale"] if isinstance(self.setting, dict) else self.setting[0]
            return scale * super().forward(inputs)

    model = Scaled(4, 3)
    model.setting = attribute
    before = observe(model, data).logits
    change(model)
    assert torch.equal(observe(model, data).logits, -before)


def test_results_changed_by_a_caller_are_not_handed_on(data):
    model = nn.Linear(4, 3)
    observe(model, data).logits.zero_()
    with pytest.raises(ObservationError, match="changed in place"):
        _ = observe(model, data).logits


def test_state_of_the_model_is_restored(data):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    _ = observe(model, data).logits
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Rows(Dataset):
    classes = ("red", "green", "blue")

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, index):
        return self.data[0][index], int(self.data[1][index])


def test_every_form_of_data_gives_the_same(data):
    model = nn.Linear(4, 3)
    forms = [
        data,
        TensorDataset(*data),
        Rows(data),
        DataLoader(Rows(data), batch_size=3),
        [(row, int(label)) for row, label in zip(*data, strict=True)],
        (data[0].numpy(), data[1].numpy()),
    ]
    seen = [observe(model, form) for form in forms]
    assert all(torch.equal(one.logits, seen[0].logits) for one in seen)
    assert len({one.data_digest for one in seen}) == 1
    assert seen[2].class_names == ("red", "green", "blue")
    assert seen[0].class_names == ("0", "1", "2")


def test_digest_does_not_depend_on_the_batch_size(data):
    model = nn.Linear(4, 3)
    digests = {observe(model, data, batch_size=size).data_digest for size in (1, 3, 10, 256)}
    assert len(digests) == 1


def test_batch_halves_when_memory_runs_out(data):
    class Small(Counting):
        def forward(self, inputs):
            if len(inputs) > 3:
                raise torch.cuda.OutOfMemoryError("too large")
            return super().forward(inputs)

    model = Small()
    seen = observe(model, data, batch_size=8)
    assert model.training
    torch.testing.assert_close(seen.logits, model.linear(data[0]).detach())
    assert max(model.batches) == 2
    assert len(seen.labels) == 10


def test_out_of_memory_at_one_example_is_raised(data):
    def never(inputs):
        raise torch.cuda.OutOfMemoryError("too large")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        _ = observe(never, data).logits


def test_output_with_a_logits_attribute(data):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    model = nn.Linear(4, 3)
    assert torch.equal(observe(lambda x: Output(model(x)), data).logits, observe(model, data).logits)


def test_other_device_leaves_the_model_where_it_is(data):
    model = nn.Linear(4, 3)
    runner = Runner(model, "meta")
    assert runner.module.weight.device.type == "meta"
    assert model.weight.device.type == "cpu"


class Backwards(BatchSampler):
    """Batches in an order of their own."""

    def __iter__(self):
        return reversed([*super().__iter__()])


ROWS = TensorDataset(torch.arange(12.0).reshape(3, 4), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2},
        {"batch_size": 2, "drop_last": True},
        {"batch_size": 3, "drop_last": True},
        {"sampler": SequentialSampler(range(2))},
        {"batch_sampler": BatchSampler(SequentialSampler(ROWS), 2, True)},
    ],
)
def test_a_loader_is_read_as_it_yields(options):
    loader = DataLoader(ROWS, **options)
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    seen = observe(nn.Identity(), loader)
    assert torch.equal(seen.logits, inputs)
    assert torch.equal(seen.labels, labels)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "dataset is empty"),
        ((torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), "dataset is empty"),
        ((torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64)), "first dimensions must be equal"),
        (5, "dataset is a int"),
        (DataLoader(ROWS, shuffle=True), "with a RandomSampler: .*use shuffle=False"),
        (DataLoader(ROWS, sampler=[2, 0]), "with a list: .*use shuffle=False"),
        (DataLoader(ROWS, batch_sampler=[[0, 1], [2]]), "with a list: .*use shuffle=False"),
        (DataLoader(ROWS, batch_sampler=BatchSampler(SubsetRandomSampler(range(3)), 2, False)), "SubsetRandomSampler"),
        (DataLoader(ROWS, batch_sampler=Backwards(SequentialSampler(ROWS), 2, False)), "with a Backwards"),
        (DataLoader(ROWS, batch_size=4, drop_last=True), "dataset is empty"),
    ],
)
def test_unreadable_data(broken, message):
    with pytest.raises(ObservationError, match=message):
        observe(nn.Linear(4, 3), broken)


def test_ragged_examples_are_named():
    rows = [(torch.zeros(4), 0), (torch.zeros(5), 0)]
    with pytest.raises(ObservationError, match=r"examples 0\.\.1 cannot form a batch"):
        _ = observe(nn.Linear(4, 3), rows).logits


def test_not_a_model(data):
    with pytest.raises(InvalidArgumentError, match="maps a batch to logits"):
        observe("resnet", data)


def test_a_pair_without_labels_is_no_data_set():
    with pytest.raises(ObservationError, match="a pair of a Tensor and a NoneType: inputs and labels must both be"):
        observe(lambda inputs: inputs, (torch.randn(4, 2), None))


def test_work_in_place_on_results_changes_no_later_result():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.add_(torch.randn(6, 4))
    data = torch.randn(30, 4), torch.arange(30) % 3
    pair = [observe(one, data) for one in (other, model)]

    def results():
        found = [
            compare_predictions(*pair),
            compare_embeddings(*pair, "0"),
            compare_boundaries(*pair, examples=8, max_distance=2.0),
            compare_attributions(*pair),
        ]
        tensors = [layer_features(pair[0], ["0"])["0"], layer_features(pair[0], ["0"], examples=[3, 1])["0"]]
        return found, tensors + [values for one in found for values in one.per_example.values()]

    before, tensors = results()
    kept = [values.clone() for values in tensors]
    for values in tensors:
        values.zero_()
    after, again = results()
    for one, same in zip(after, before, strict=True):
        assert one.metrics == pytest.approx(same.metrics, rel=0, abs=0, nan_ok=True)
    for values, expected in zip(again, kept, strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)


def test_predictions_changed_in_place_are_noticed(data):
    observation = observe(nn.Linear(4, 3), data)
    observation.predictions.zero_()
    with pytest.raises(ObservationError, match="changed in place"):
        _ = observation.predictions
