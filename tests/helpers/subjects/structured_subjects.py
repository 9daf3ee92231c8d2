"""Small models and data of tasks with many answers an example."""

import torch
from torch import nn

from cp_compress import TaskDataset
from cp_compress.examples import digits
from cp_compress.fidelity import observe
from cp_compress.model import parse_scheme


class Segmenter(nn.Module):
    """A class for each pixel of a digit: background, dim, bright."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return {"out": self.head(torch.relu(self.hidden(images)))}


class Tagger(nn.Module):
    """A tag for each token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)
        nn.init.normal_(self.rnn.weight_ih_l0)  # so that tags depend on tokens
        nn.init.normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0])


def several_labels():
    torch.manual_seed(1)
    inputs = torch.randn(150, 10)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    noise = 0.3 * torch.randn(150, 5)
    targets = ((model(inputs).detach() + noise) > 0).long()
    return model, TaskDataset((inputs, targets), "multi_label", classes=list("abcde"))


def segments():
    images = torch.stack([digits()[index][0] for index in range(60)])
    targets = (images[:, 0] > 0.3).long() + (images[:, 0] > 0.7).long()
    targets[:, 0] = 255
    targets[3] = 255  # an example without any answer that counts
    return Segmenter().eval(), TaskDataset((images, targets), "dense", ignore_index=255)


def tags():
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 20, (80, 12), generator=generator)
    targets = tokens % 4
    lengths = torch.randint(3, 13, (80,), generator=generator)
    targets[torch.arange(12)[None] >= lengths[:, None]] = -100
    return Tagger().eval(), TaskDataset((tokens, targets), "sequence")


SUBJECTS = {"multi_label": several_labels, "dense": segments, "sequence": tags}


def answers(task, scheme="prune(density=0.4)"):
    model, data = SUBJECTS[task]()
    return observe(parse_scheme(scheme).compress(model), data), observe(model, data)
