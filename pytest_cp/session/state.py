"""What one pytest process remembers over its session."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_cp.baselines import Baselines
from pytest_cp.checks.recorder import Record
from pytest_cp.session.cache import CompressedModelCache, last_used
from pytest_cp.waivers.waivers import Waivers

if TYPE_CHECKING:
    from cp_compress.data import Codec, CompressedDataset

_DATASETS = 2
"""What codecs made of so many data sets is held at a time."""


@dataclass
class SessionState:
    """Compressed subjects, failed checks of this process, and the records that reports are made of."""

    models: CompressedModelCache
    baselines: Baselines
    waivers: Waivers = field(default_factory=Waivers)
    records: list[Record] = field(default_factory=list)
    gate_tests: set[str] = field(default_factory=set)
    collected_gates: set[str] = field(default_factory=set)
    found_gates: list[pytest.Item] = field(default_factory=list)
    deselected: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    used_options: set[str] = field(default_factory=set)
    failed_attempts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    own_notes: list[str] = field(default_factory=list)
    collected: set[str] = field(default_factory=set)
    failed_parts: set[str] = field(default_factory=set)
    unread_modules: set[str] = field(default_factory=set)
    leftovers: list[str] = field(default_factory=list)
    gate_subjects: Any = None
    candidates: dict[str, int] = field(default_factory=dict)
    made_by: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    _datasets: dict[int, tuple[Any, dict[Any, CompressedDataset]]] = field(default_factory=dict)

    @property
    def not_compared(self) -> dict[str, tuple[str, str]]:
        """The gates that compared nothing, by their tests: how that came, in one word of the reports, and why."""
        kinds = {
            "deselected": self.deselected,
            "skipped": self.skipped,
            "no check": self.unchecked,
            "not run": self.not_run,
        }
        return {test: (kind, reason) for kind, found in kinds.items() for test, reason in found.items()}

    @property
    def all_gates(self) -> set[str]:
        """The gates that were collected, whether they ran or not."""
        return self.gate_tests | self.collected_gates | self.not_compared.keys()

    def told(self) -> list[str]:
        """Return the notes of this process, for the one that writes the reports."""
        return [*self.models.notes, *self.own_notes]

    def compressed_dataset(self, dataset: Any, codec: Codec) -> CompressedDataset:
        """Return the data set stored by the codec, encoded once for as long as tests use this data set."""
        from cp_compress.data import CompressedDataset

        # the data set itself is held, so that its id is not reused
        _, stored = last_used(self._datasets, id(dataset), lambda: (dataset, {}), _DATASETS)
        if codec not in stored:
            stored[codec] = CompressedDataset(dataset, codec)
        return stored[codec]


_STATE = pytest.StashKey[SessionState]()


def start_session(config: pytest.Config, waivers: Waivers) -> None:
    """Give a session its empty state, and a worker of pytest-xdist its share of the cores."""
    if is_worker(config):
        _share_cores(int(config.workerinput["workercount"]))  # type: ignore[attr-defined]
    models = CompressedModelCache(_cache_folder(config))
    config.stash[_STATE] = SessionState(models, Baselines(config), waivers)


def session_state(config: pytest.Config) -> SessionState:
    """Return the state of the session."""
    return config.stash[_STATE]


def is_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker of pytest-xdist, which writes no files."""
    return hasattr(config, "workerinput")


def _share_cores(workers: int) -> None:
    """Limit torch's threads: workers that each use every core run many times slower than with one thread."""
    share = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    torch = sys.modules.get("torch")
    if torch is not None:  # too late for the environment to count
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _cache_folder(config: pytest.Config) -> Path | None:
    given = config.getoption("--cp-cache-dir") or config.getini("cp_cache_dir")
    if given:
        return Path(config.rootpath, given)
    if not config.pluginmanager.has_plugin("cacheprovider"):
        return None
    folder = Path(config.getini("cache_dir"))
    return (folder if folder.is_absolute() else config.rootpath / folder) / "cp"
