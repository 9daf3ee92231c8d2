"""Values are known again by what they are and do, here and in another process."""

import functools
import itertools
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cp_compress.base.identity import identify

RATE = 0.1


def make(rate, other=None):
    def optimizer(parameters):
        return [each * rate for each in parameters if each != other]

    return optimizer


def reads_a_global():
    return [RATE for _ in range(3)]


def inner_reads_a_global():
    return (lambda: RATE)()


def defaults(value=1, *, other=2):
    return value + other


def recursive(depth):
    return recursive(depth - 1) if depth else RATE


@dataclass
class Settings:
    rate: float


class Callable:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, value):
        return value * self.rate

    def method(self, value):
        return value


@pytest.mark.parametrize(
    "pair",
    [
        lambda x: make(x),
        lambda x: make(1, other=[x]),
        lambda x: Settings(x),
        lambda x: Callable(x),
        lambda x: Callable(x).method,
        lambda x: functools.partial(defaults, other=x),
        lambda x: [torch.tensor([float(x)])],
        lambda x: {"distance": np.full((40, 40), x)},
        lambda x: {1, "a", (x,)},
        lambda x: torch.nn.Linear(x, 2, bias=False),
        lambda x: eval(f"lambda value: value + {x}"),
        lambda x: eval(f"lambda value: [value + {x} for _ in (1, 2)]"),
    ],
)
def test_content_counts_behind_equal_names(pair):
    def ones(module):
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.ones_(module.weight)
        return module

    first, same, other = ones(pair(1)), ones(pair(1)), ones(pair(2))
    assert identify(first) == identify(same)
    assert identify(first) != identify(other)


@pytest.mark.parametrize("function", [reads_a_global, inner_reads_a_global, recursive])
def test_variables_that_a_function_reads_count(function, monkeypatch):
    before = identify(function)
    monkeypatch.setitem(globals(), "RATE", 0.2)
    assert identify(function) != before


def test_defaults_count(monkeypatch):
    before = identify(defaults)
    monkeypatch.setattr(defaults, "__kwdefaults__", {"other": 3})
    assert identify(defaults) != before


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


class Hidden(torch.nn.Module):
    def __init__(self, rate):
        super().__init__()
        self._rate = Settings(rate)


def local_class(rate):
    class Local:
        def __call__(self, value):
            return value * rate

    return Local()


@pytest.mark.parametrize(
    "pair",
    [
        np.float32,
        np.int64,
        Fraction,
        Decimal,
        Slotted,
        Hidden,
        local_class,
        lambda x: Path(str(x)),
        lambda x: re.compile(str(x)),
        lambda x: np.array([x, None], dtype=object),
        lambda x: np.random.default_rng(x),
        lambda x: torch.Generator().manual_seed(x),
        lambda x: [x, 2].index,
    ],
)
def test_values_of_any_kind_count(pair):
    def holding(value):
        return lambda: value

    assert identify(holding(pair(1))) == identify(holding(pair(1)))
    assert identify(holding(pair(1))) != identify(holding(pair(3)))


def test_what_cannot_be_told_is_never_the_same():
    assert identify(threading.Lock()) != identify(threading.Lock())


def test_no_address_stands_for_two_objects():
    def total(parts):
        return lambda value: sum(part(value) for part in parts)

    kinds = [make, Settings, Callable, lambda x: functools.partial(defaults, other=x), lambda x: Callable(x).method]
    for first, second in itertools.product(kinds, kinds):
        values = [
            identify(total([*(first(0.1 * n) for n in range(4)), second(last), {"rate": last}])) for last in (1.0, 5.0)
        ]
        assert values[0] != values[1]


def test_cycles_come_to_an_end():
    first, second = [1], [1]
    first.append(first), second.append(second)
    assert identify(first) == identify(second)


def test_types_are_told_apart():
    values = [1, 1.0, True, "1", b"1", (1,), [1], {1: None}, None, torch.tensor(1), np.array(1), int]
    assert len({identify(value) for value in values}) == len(values)


def test_another_process_gives_the_same_digest():
    named = "[t.make(0.3, {'b', 'a'}), t.Callable(2.0), t.inner_reads_a_global, t.Settings(1.0)]"
    script = f"import sys; sys.path.insert(0, sys.argv[1]); import test_identity as t; print(t.identify({named}))"
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    here = eval(named, {"t": sys.modules[__name__]})
    assert done.stdout == f"{identify(here)}\n"
