"""What a profile found: the seconds of each stage, the bottleneck, and what the run would be without each stage."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.tables import number, table
from cp_compress.pipeline.running import STAGES

OTHER = "other"
_LEAST = 1e-9


@explains_keywords
@dataclass(frozen=True, repr=False)
class PipelineProfile(Brief):
    """Where the time of one pipeline goes.

    Attributes:
        name: What the pipeline is called.
        facts: What it is made of: data, codec, model, batch size, workers, device.
        examples: The number of examples of a timed pass.
        seconds: The duration of the median pass.
        rates: The examples a second of every pass, in order.
        stages: The seconds of each stage in the median pass; those of loading are the sum over all workers.
        loading: The names of the stages that workers do where there are some.
        waiting: How long the process that runs the model waited for batches, in seconds; 0 without workers.
        overlapping: Whether loading and computing go on at the same time.
        notes: Sentences that a reader must see beside the figures.
    """

    name: str
    facts: Mapping[str, Any]
    examples: int
    seconds: float
    rates: tuple[float, ...]
    stages: Mapping[str, float]
    loading: tuple[str, ...]
    waiting: float
    overlapping: bool
    notes: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """The number of processes that load, 1 where the process that runs the model loads itself."""
        return max(1, int(self.facts["workers"]))

    @property
    def examples_per_second(self) -> float:
        """The examples a second of the median pass."""
        return self.examples / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """How much of the time each stage keeps its processes busy, as a share of the pass; together at most 1.

        With workers or a device, whose work overlaps, each side has a share of its own: at most 1 for loading and at
        most 1 for computing.
        """
        return {
            name: value / (self.seconds * (self.workers if name in self.loading else 1))
            for name, value in self.stages.items()
        }

    @property
    def other(self) -> float:
        """The seconds of the process that runs the model which no stage accounts for, such as those of the loader."""
        own = sum(value for name, value in self.stages.items() if name not in self.loading or not self.overlapping)
        return max(0.0, self.seconds - own - self.waiting)

    @property
    def at_best(self) -> dict[str, float]:
        """The examples a second that the run would come to at best if each stage took no time."""
        whole = self._modelled()
        return {
            name: self.examples / max(_LEAST, self.seconds - (whole - self._modelled(without=name)))
            for name in self.stages
        }

    @property
    def bottleneck(self) -> str:
        """The stage without which the run would gain most; of equal ones that which takes longest."""
        best = self.at_best
        return max(self.stages, key=lambda name: (best[name], self.shares[name]))

    def _modelled(self, without: str | None = None) -> float:
        """Return the seconds of a pass as the stages explain them: one side after the other, or the longer one."""
        stages = {name: 0.0 if name == without else value for name, value in self.stages.items()}
        loading = sum(stages[name] for name in self.loading) / self.workers
        computing = sum(stages.values()) - sum(stages[name] for name in self.loading)
        return max(loading, computing) if self.overlapping else loading + computing

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain Python types."""
        return {
            "name": self.name,
            **self.facts,
            "examples": self.examples,
            "seconds": self.seconds,
            "examples_per_second": self.examples_per_second,
            "rates": list(self.rates),
            "stages": dict(self.stages),
            "shares": self.shares,
            "loading": list(self.loading),
            "waiting": self.waiting,
            "other": self.other,
            "overlapping": self.overlapping,
            "bottleneck": self.bottleneck,
            "at_best": self.at_best,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        best = self.at_best
        rows = [("stage", "µs an example", "share", "examples/s if it were free")]
        for name, value in self.stages.items():
            mark = "  <- bottleneck" if name == self.bottleneck else ""
            rows.append(
                (
                    name,
                    number(1e6 * value / self.examples),
                    f"{self.shares[name]:.1%}",
                    f"{number(round(best[name]))}{mark}",
                )
            )
        for name, value in ((OTHER, self.other), ("waiting for batches", self.waiting)):
            if value:
                rows.append((name, number(1e6 * value / self.examples), f"{value / self.seconds:.1%}", ""))
        low, high = min(self.rates), max(self.rates)
        spread = (
            f" ({number(round(low))} to {number(round(high))} in {len(self.rates)} passes)"
            if len(self.rates) > 1
            else ""
        )
        first = f"{self.name}: {number(round(self.examples_per_second))} examples/s{spread}"
        return "\n".join([first, table(rows), *(f"note: {note}" for note in self.notes)])


@explains_keywords
@dataclass(frozen=True, repr=False)
class PipelineComparison(Brief):
    """Several pipelines that were run in turns, by name; the first one is what the others are compared with."""

    profiles: tuple[PipelineProfile, ...]

    def __getitem__(self, name: str) -> PipelineProfile:
        for one in self.profiles:
            if one.name == name:
                return one
        raise KeyError(f"no pipeline {name!r}; there are {', '.join(repr(one.name) for one in self.profiles)}")

    @property
    def stages(self) -> list[str]:
        """The stages that any of the pipelines has, in their order."""
        return [name for name in STAGES if any(name in one.stages for one in self.profiles)]

    def ratios(self, name: str) -> list[float]:
        """Return how many times as many examples a second a pipeline gave as the first one, in each turn."""
        return [mine / other for mine, other in zip(self[name].rates, self.profiles[0].rates, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return all profiles as plain Python types, each with its speed-up over the first one."""
        rows = []
        for one in self.profiles:
            ratios = self.ratios(one.name)
            told = {"speedup": statistics.median(ratios), "speedup_range": [min(ratios), max(ratios)]}
            rows.append({**one.to_json(), **told})
        return {"pipelines": rows}

    def __str__(self) -> str:
        """Return one line a pipeline: its speed, its speed-up over the first, and where its time goes."""
        names = self.stages
        rows = [("pipeline", "examples/s", "speed-up", "bottleneck", "at best", *(f"{name} µs" for name in names))]
        for one in self.profiles:
            ratios = self.ratios(one.name)
            spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 and one != self.profiles[0] else ""
            stages = [number(1e6 * one.stages[name] / one.examples) if name in one.stages else "" for name in names]
            best = number(round(one.at_best[one.bottleneck]))
            told = f"{statistics.median(ratios):.2f}{spread}"
            rows.append((one.name, number(round(one.examples_per_second)), told, one.bottleneck, best, *stages))
        notes = dict.fromkeys(f"{one.name}: {note}" for one in self.profiles for note in one.notes)
        return "\n".join([table(rows), *(f"note: {note}" for note in notes)])
