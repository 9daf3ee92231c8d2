"""Labelled examples that are no tensors."""

from torch.utils.data import Dataset


class Pairs(Dataset):
    """A map-style data set that holds no tensors of its inputs."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]
