"""A small model and data set to try things on: handwritten digits that ship with scikit-learn, nothing downloaded."""

from __future__ import annotations

import functools
import importlib.resources

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from cp_compress.base.arguments import check_integer
from cp_compress.base.devices import keeping_random_state

_TEST_EXAMPLES = 600
_EPOCHS = 12
_BATCH = 64


class DigitImages(TensorDataset):
    """Grey images (n, 1, 8, 8), float32 in [0, 1], with their digits (n,), int64; `classes` names the digits."""

    classes = tuple(map(str, range(10)))


class DigitsCNN(nn.Module):
    """A convolutional network for 8×8 grey images: (n, 1, 8, 8) to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        # float32 whatever torch's default is, as the images are
        convolution = functools.partial(nn.Conv2d, kernel_size=3, padding=1, dtype=torch.float32)
        norm = functools.partial(nn.BatchNorm2d, dtype=torch.float32)
        linear = functools.partial(nn.Linear, dtype=torch.float32)
        self.features = nn.Sequential(
            convolution(1, 24),
            norm(24),
            nn.ReLU(),
            convolution(24, 48),
            norm(48),
            nn.ReLU(),
            nn.MaxPool2d(2),
            convolution(48, 64),
            norm(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), linear(256, 64), nn.ReLU(), linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (n, 10) of images (n, 1, 8, 8)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def digits() -> DigitImages:
    """Return 600 labelled test images of handwritten digits, none of which `digits_cnn` was trained on.

    >>> images = digits()
    >>> len(images), tuple(images[0][0].shape)
    (600, (1, 8, 8))
    """
    return _digit_images()[1]


def digits_training() -> DigitImages:
    """Return the 1,197 labelled images that `digits_cnn` is trained on."""
    return _digit_images()[0]


def digits_cnn() -> DigitsCNN:
    """Return a CNN trained on `digits_training`, in evaluation mode, with the same weights on every machine.

    They lie beside this module; `train_digits_cnn` is how they came about.

    >>> digits_cnn().training
    False
    """
    model = DigitsCNN()
    model.load_state_dict(_shipped_weights())
    return model.eval()


def train_digits_cnn(seed: int = 0) -> DigitsCNN:
    """Return a CNN trained on `digits_training` in seconds, in evaluation mode: another one for each seed.

    Networks of several seeds are equally good references: what differs between them is noise. The global random state
    is left alone; the same machine gives the same weights. Raises InvalidArgumentError for a seed that is no whole
    number of 0 or more.
    """
    check_integer("train_digits_cnn", "seed", seed, "must be a whole number of 0 or more", at_least=0)
    images, labels = digits_training().tensors
    threads = torch.get_num_threads()
    # so small a network trains fastest on one thread, and gives the same weights however many there are
    torch.set_num_threads(1)
    try:
        return _train(images, labels, seed)
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _digit_images() -> tuple[DigitImages, DigitImages]:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.tensor(source.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(source.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, training = order[:_TEST_EXAMPLES], order[_TEST_EXAMPLES:]
    return DigitImages(images[training], labels[training]), DigitImages(images[test], labels[test])


@functools.cache
def _shipped_weights() -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(importlib.resources.files("cp_compress").joinpath("digits_cnn.safetensors").read_bytes())


def _train(images: Tensor, labels: Tensor, seed: int) -> DigitsCNN:
    with keeping_random_state():
        torch.manual_seed(seed)
        model = DigitsCNN().train()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        steps = _EPOCHS * -(-len(images) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        with torch.enable_grad():
            for _ in range(_EPOCHS):
                for part in torch.split(torch.randperm(len(images)), _BATCH):
                    optimizer.zero_grad()
                    torch.autograd.backward(nn.functional.cross_entropy(model(images[part]), labels[part]))
                    optimizer.step()
                    schedule.step()
    return model.eval()
