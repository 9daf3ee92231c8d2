"""Saved baselines without a test: whole files, and checks whose test no longer exists."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from pytest_cp.baselines.entries import checked_test
from pytest_cp.baselines.files import BaselineFileError
from pytest_cp.baselines.session import Baselines

_NARROWING = ("keyword", "markexpr", "deselect", "lf", "last_failed", "stepwise")


def find_leftovers(
    session: pytest.Session, baselines: Baselines, collected: Collection[str], unread: Collection[str]
) -> list[str]:
    """Return a sentence for each saved check without its test, and for each file without its module.

    The collected folders are examined, except those that pytest ignores, and the folders of `collected`, the node IDs
    of tests. `unread` are the node IDs of modules that were skipped or failed as a whole. The result is empty without
    `--cp-baseline=check`, and if the command line selects individual tests. A damaged file gives one of the sentences.
    """
    if baselines.mode != "check" or _picks_tests(session.config):
        return []
    known: dict[str, set[str]] = {}
    homes: dict[str, Path] = {}
    for test in collected:
        path = baselines.path(test)
        known.setdefault(os.path.realpath(path), set()).add(test.partition("::")[2])
        homes.setdefault(os.path.realpath(path.parent), baselines.home(test))
    walked = {os.path.realpath(home / baselines.folder): home for home in _collected_folders(session)}
    excused = {os.path.realpath(baselines.path(module)) for module in unread}
    found = []
    for folder, home in sorted((homes | walked).items()):
        for path in sorted((home / baselines.folder).glob("*.json")):
            real = os.path.realpath(path)
            if real in known:
                found += _without_tests(baselines, path, known[real])
            elif real not in excused:
                found += _without_module(session, path, home, folder in walked)
    return found


def _picks_tests(config: pytest.Config) -> bool:
    return any(config.getoption(name, None) for name in _NARROWING) or any("::" in one for one in config.args)


def _without_tests(baselines: Baselines, path: Path, tests: set[str]) -> list[str]:
    try:
        names = sorted(baselines.read(path))
    except BaselineFileError as error:
        return [str(error)]
    lost = [name for name in names if checked_test(name) not in tests]
    return [f"{path} contains a check whose test no longer exists: {name}" for name in lost]


def _without_module(session: pytest.Session, path: Path, home: Path, walked: bool) -> list[str]:
    module = home / f"{path.stem}.py"
    if module.exists():
        if not walked or _ignored(session, module):  # beside a module that was asked for alone
            return []
        return [f"{path} contains checks of a module that was not collected or has no tests left: {module.name}"]
    # only a run of another file, such as a specification, knows which checks it still makes
    return [] if (home / path.stem).exists() else [f"{path} contains checks of a module that no longer exists"]


def _collected_folders(session: pytest.Session) -> Iterator[Path]:
    """Yield the folders in which pytest looked for tests."""
    met: set[str] = set()
    waiting = [session.config.invocation_params.dir / argument for argument in session.config.args]
    while waiting:
        folder = waiting.pop()
        if not folder.is_dir() or os.path.realpath(folder) in met:  # a link may lead back up
            continue
        met.add(os.path.realpath(folder))
        yield folder
        with os.scandir(folder) as entries:
            inner = [Path(entry.path) for entry in entries if entry.is_dir()]
        waiting += [path for path in inner if not _ignored(session, path)]


def _ignored(session: pytest.Session, path: Path) -> bool:
    hooks = session.gethookproxy(path.parent)
    return bool(hooks.pytest_ignore_collect(collection_path=path, config=session.config))
