"""What is installed stays the same while the tests run: what describes it is read once."""

import functools
from importlib.metadata import PathDistribution

_READ_BY_PYTEST = ("entry_points", "files", "metadata")


def remember_what_is_installed():
    """Keep the descriptions of installed packages: each run of pytest would read all of them again."""
    for name in _READ_BY_PYTEST:
        _remember(name, getattr(PathDistribution, name).fget)


def _remember(name, read):
    @functools.cache
    def read_once(path):
        return read(PathDistribution(path))

    setattr(PathDistribution, name, property(lambda distribution: read_once(distribution._path)))
