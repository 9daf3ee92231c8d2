"""Metadata of each example beside its input and label: a table with one row per example, for slices."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.files import read_regular

_OWNER = "Metadata"
_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Metadata:
    """Columns of texts, each with one entry an example, in the order of the data.

    >>> metadata = Metadata({"time": ("day", "night", "day"), "age": ("3", "41", "18")})
    >>> metadata.where("time", equals="day").tolist(), metadata.where("age", at_least=18).tolist()
    ([True, False, True], [False, True, True])
    >>> sorted(metadata.slices("time"))
    ['day', 'night']
    """

    columns: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(
        self,
        column: str,
        *,
        equals: Any = None,
        one_of: Sequence[Any] | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Tensor:
        """Return the mask (n,), bool, of the examples that meet every condition given on a column.

        `equals` and `one_of` compare texts, or numbers where a number is given; `at_least` and `at_most` compare
        numbers, and an empty entry meets neither. Raises InvalidArgumentError for a column that is not there, no
        condition, and an entry that is no number where one is compared.
        """
        if column not in self.columns:
            reject(_OWNER, "column", column, f"known are {', '.join(self.columns)}")
        entries = self.columns[column]
        mask = torch.ones(len(entries), dtype=torch.bool)
        given = [[equals] if equals is not None else None, one_of]
        allowed_each = [allowed for allowed in given if allowed is not None]
        if not allowed_each and at_least is None and at_most is None:
            reject(_OWNER, "equals", None, "give a condition: equals, one_of, at_least or at_most")
        for allowed in allowed_each:
            mask &= torch.tensor(
                [any(_equal(entry, value) for value in allowed) for entry in entries], dtype=torch.bool
            )
        if at_least is not None:
            mask &= _numbers(column, entries) >= at_least
        if at_most is not None:
            mask &= _numbers(column, entries) <= at_most
        return mask

    def slices(self, column: str) -> dict[str, Tensor]:
        """Return a slice for each value of a column: its name and its mask (n,), as comparisons take them."""
        if column not in self.columns:
            reject(_OWNER, "column", column, f"known are {', '.join(self.columns)}")
        return {value: self.where(column, equals=value) for value in sorted(set(self.columns[column]))}


def read_metadata(path: str | os.PathLike[str], count: int) -> Metadata:
    """Return the metadata of `count` examples from a CSV file (UTF-8) with a header and one row an example.

    Raises InvalidArgumentError for a file of another form or another number of rows, and OSError for one that cannot
    be read.
    """
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row] or [[]]
    except (ValueError, csv.Error) as error:
        reject("read_metadata", "path", str(path), f"not a CSV file: {reason_of(error)}")
    if not header or len(set(header)) != len(header) or not all(header):
        reject(
            "read_metadata",
            "path",
            str(path),
            f"needs a header with distinct column names; found {shortened(header, 200)}",
        )
    ragged = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if ragged is not None:
        reject(
            "read_metadata", "path", str(path), f"row {ragged} does not have the {len(header)} columns of the header"
        )
    if len(rows) != count:
        reject("read_metadata", "path", str(path), f"has {len(rows)} rows for {count} examples")
    return Metadata({name: tuple(row[position] for row in rows) for position, name in enumerate(header)})


def _equal(entry: str, value: Any) -> bool:
    if isinstance(value, bool):
        return entry.strip().lower() == str(value).lower()
    if isinstance(value, (int, float)):
        try:
            return float(entry) == value
        except ValueError:
            return False
    return entry == str(value)


def _numbers(column: str, entries: Sequence[str]) -> Tensor:
    try:
        values = [float(entry) if entry.strip() else float("nan") for entry in entries]
    except ValueError as error:
        reject(_OWNER, "column", column, f"is compared with a number, but {error}")
    return torch.tensor(values, dtype=torch.float64)
