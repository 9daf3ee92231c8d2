"""Paths that users have written keep leading to the same objects."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "present", "names"),
    [
        (
            "cp_compress.fidelity.intervals",
            "cp_compress.fidelity.judging.intervals",
            ("BoundedMean", "Evidence", "Interval", "PairedDrop", "Proportion", "Quantile"),
        ),
        ("pytest_cp.messages", "cp_compress.base.numbers", ("number",)),
    ],
)
def test_former_paths(former, present, names):
    old, new = map(importlib.import_module, (former, present))
    assert all(getattr(old, name) is getattr(new, name) for name in names)
