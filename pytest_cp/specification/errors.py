"""The error of a specification that cannot be used."""

from __future__ import annotations


class SpecificationError(Exception):
    """A specification cannot be read, or does not say what it must."""
