"""What the project's own configuration file asks for, and what an invocation of pytest took away from it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import iniconfig
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# in the order in which pytest looks for them in each folder
_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the keys and values of pytest's own section of a configuration file; pytest gives no unknown ones."""
    if path is None or not path.is_file():
        return {}
    if path.suffix == ".toml":
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        tool = content.get("tool", {}).get("pytest", {})
        found = {**content.get("pytest", {}), **tool, **tool.get("ini_options", {})}
        found.pop("ini_options", None)
        return found
    sections = iniconfig.IniConfig(str(path))
    return {
        key: value for name in ("pytest", "tool:pytest") if name in sections for key, value in sections[name].items()
    }


def taken_away(config: pytest.Config) -> list[str]:
    """Return a sentence for each setting of the plugin in the project's own file that this run does without.

    `-c` names another file, `-o addopts=` empties the options that the file adds, and an option of the command line
    replaces one of them.
    """
    own = _own_file(config)
    if own is None:
        return []
    try:
        settings = read_settings(own)
    except (OSError, ValueError, iniconfig.ParseError):
        return [f"{own} cannot be read, so what it requires is not known"]
    file = Path(os.path.relpath(own, config.invocation_params.dir)).as_posix()
    other = config.inipath is None or not _same(config.inipath, own)
    keys = _dropped_keys(config, settings, file) if other else ()
    return [*keys, *_dropped_options(config, settings.get("addopts", ()), file)]


def _own_file(config: pytest.Config) -> Path | None:
    """Return the file that pytest would have read without `-c`: the first with settings, upwards from the tests."""
    if not config.getoption("inifilename", None):
        return config.inipath
    places = [config.invocation_params.dir / str(one).partition("::")[0] for one in config.args]
    folders = [path if path.is_dir() else path.parent for path in places if path.exists()]
    start = Path(os.path.commonpath(folders)) if folders else config.invocation_params.dir
    for top in (start, config.invocation_params.dir):
        for folder in (top, *top.parents):
            for path in (folder / name for name in _FILES):
                if path.is_file() and (path.name.lstrip(".") in ("pytest.ini", "pytest.toml") or _has_settings(path)):
                    return path
    return None


def _has_settings(path: Path) -> bool:
    try:
        return bool(read_settings(path))
    except (OSError, ValueError, iniconfig.ParseError):
        return False


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _dropped_keys(config: pytest.Config, settings: dict[str, Any], file: str) -> Iterator[str]:
    in_force = read_settings(config.inipath)
    for key, value in settings.items():
        if key.startswith("cp_") and _plain(in_force.get(key)) != _plain(value):
            now = f"{key} = {_plain(in_force[key])} instead" if key in in_force else "there is none"
            yield f"-c takes {key} = {_plain(value)} of {file} away from this run: {now}"


def _dropped_options(config: pytest.Config, addopts: Any, file: str) -> Iterator[str]:
    words = shlex.split(addopts) if isinstance(addopts, str) else [str(word) for word in addopts]
    for position, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not option.startswith("--cp-"):
            continue
        wanted = value if equals else "".join(words[position + 1 : position + 2])
        try:
            now = config.getoption(option)
        except ValueError:
            continue
        if str(now) == wanted or (isinstance(now, list) and wanted in now):
            continue
        told = f"{option}={now} instead" if now not in (None, []) else "there is none"
        yield f"the command line takes {option}={wanted}, which addopts of {file} adds, away from this run: {told}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
