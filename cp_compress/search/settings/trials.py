"""The search for the smallest setting of a codec: bisection along its parameter, then its neighbours."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.errors import CompressionError, InvalidArgumentError, ObservationError
from cp_compress.data.codec import Codec
from cp_compress.data.container import payload_size
from cp_compress.data.dataset import CompressedDataset
from cp_compress.inputs.reading import LabeledData
from cp_compress.search.results import describe_check, trial_table
from cp_compress.search.settings.results import SettingTrial
from cp_compress.search.settings.spaces import CodecSpace
from cp_compress.search.spaces import Integer, Point
from cp_compress.search.strategies.bisection import Bisection
from cp_compress.search.strategy import Axis, End
from cp_compress.search.trials import Trial

if TYPE_CHECKING:
    from torch import nn

    from cp_compress.fidelity.judging.judgement import Check
    from cp_compress.fidelity.judging.measurement import Measurement
    from cp_compress.fidelity.observing.runner import Model

_OWNER = "find_smallest"
_SAMPLED = 32
_PLACES = tuple(place / 16 for place in range(17))
Repair = Callable[["nn.Module", Codec], "nn.Module"]
JudgeDecoded = Callable[["Model", Any, LabeledData], "tuple[Check, Measurement | None]"]


class SettingSearch:
    """Trials of one family, and the best of them with its model."""

    def __init__(
        self,
        family: CodecSpace,
        axis: MildAxis,
        judge_decoded: JudgeDecoded,
        model: Model,
        batch_size: int,
        data: LabeledData,
        repair: Repair | None,
        progress: bool,
    ) -> None:
        self.family, self.axis, self.judge, self.data = family, axis, judge_decoded, data
        self.given, self.repair, self.batch_size, self.progress = model, repair, batch_size, progress
        self.trials: list[SettingTrial] = []
        self.best: SettingTrial | None = None
        self.model: Model | None = None  # the candidate of the best
        self._asked: list[
            tuple[Point, SettingTrial]
        ] = []  # what each point turned out to be, its own trial or an equal
        self._by_content: dict[str, SettingTrial] = {}
        self._limited = False

    def bisect(self, count: int) -> None:
        """Bisect in so many trials, and try the mildest setting before it is said that none holds.

        Settings for which an earlier one stands cost no trial, but no more than twice as many are asked for in all: in
        the last bracket of a Real there is no end of them.
        """
        run = Bisection(feasible_at=self.axis.mild_end).start(self.family, count, 0)
        while len(self.trials) < count and len(self._asked) < 2 * count:
            points = run.ask(1)
            if not points:
                break
            self._try(points[0])
            run.tell(points[0], self._told())
        if self.best is None and not self._is_tried(self.axis.point(1.0)):
            self._try(self.axis.point(1.0))

    def _told(self) -> Trial:
        """Return the last trial for the bisection, to which a setting refused for being too mild says "stronger"."""
        point, found = self._asked[-1]
        trial = found.as_trial()
        refused = trial.error is not None and self.axis.place(point) > self.axis.accepted
        return dataclasses.replace(trial, too_mild=refused)

    def look_around(self, neighbours: int, count: int) -> None:
        """Try the neighbours of the best, stronger ones first, and those of any that is better, `count` in all."""
        step = self._step()
        end = len(self.trials) + count
        while self.best is not None:
            best = self.best
            missing = [point for point in self._around(best.point, step, neighbours) if not self._is_tried(point)]
            if not missing:
                return
            for point in missing:
                if len(self.trials) >= end:
                    self._limited = True
                    return
                self._try(point)
                if self.best is not best:
                    break

    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know of the trials."""
        mildest = max(self.trials, key=lambda trial: self.axis.place(trial.point))
        if self.best is None:
            why = mildest.error if mildest.check is None else describe_check(mildest.check)
            return (f"no setting holds, up to the mildest, {mildest.codec}: {why}",)
        notes = []
        if (self.axis.point(0.0), self.best) in self._asked:
            notes.append("the strongest setting of the range holds, so a smaller one may exist outside the range")
        if self._limited:
            notes.append("not all neighbours of the result were tried; with more trials a smaller setting may be found")
        place = self.axis.place(self.best.point)
        milder = [trial for trial in self.trials if self.axis.place(trial.point) > place and trial.outcome != "pass"]
        if milder:
            named = ", ".join(f"{trial.codec} ({trial.outcome})" for trial in milder)
            notes.append(f"not every milder setting holds, so the result may be partly due to chance: {named}")
        return tuple(notes)

    def _try(self, point: Point) -> None:
        number = len(self.trials) + 1
        try:
            codec = self.family.codec(point)
        except InvalidArgumentError as error:
            found, candidate = _failed(SettingTrial(number, dict(point), None), error), self.given
        else:
            found, candidate = self._judged(SettingTrial(number, dict(point), codec), codec)
        self._asked.append((dict(point), found))
        if found in self.trials:
            return
        self.trials.append(found)
        if found.outcome == "pass" and (self.best is None or _bytes(found) < _bytes(self.best)):
            self.best, self.model = found, candidate
        if self.progress:
            from tqdm import tqdm

            tqdm.write(f"{found.codec} {trial_table([found.as_trial()]).splitlines()[1]}", file=sys.stderr)

    def _judged(self, trial: SettingTrial, codec: Codec) -> tuple[SettingTrial, Model]:
        """Return a trial with what was found, and its candidate.

        An earlier trial stands for this one where its data is the same, and the best where it takes as many bytes.
        """
        candidate = self.given
        try:
            stored = CompressedDataset(self.data, codec, batch_size=self.batch_size)
        except (CompressionError, InvalidArgumentError) as error:
            return _failed(trial, error), candidate
        payload, whole = stored.payload_bytes / len(stored), stored.bytes_per_example
        if self.best is not None and payload == self.best.payload_bytes:
            return self.best, candidate
        content = ""
        if self.repair is None:  # what a repair makes depends on other data than this
            content = f"{payload} {LabeledData(stored).digest(self.batch_size)}"
            if content in self._by_content:
                return self._by_content[content], candidate
        trial = dataclasses.replace(trial, payload_bytes=payload, stored_bytes=whole)
        try:
            if self.repair is not None:
                candidate = self.repair(self.given, codec)  # type: ignore[arg-type]
                if not callable(candidate):
                    rule = f"it returned {type(candidate).__name__} for {codec}; it must return a model"
                    reject(_OWNER, "repair", self.repair, rule)
            check, clean = self.judge(candidate, stored, self.data)
        except (CompressionError, ObservationError) as error:
            return _failed(trial, error), candidate
        found = dataclasses.replace(trial, check=check, clean=clean)
        if content:
            self._by_content[content] = found
        return found, candidate

    def _is_tried(self, point: Point) -> bool:
        return any(asked == point for asked, _ in self._asked)

    def _step(self) -> float:
        """Return the distance of the best place from the next stronger one that was tried and does not hold."""
        if self.best is None:
            return 0.0
        place = self.axis.place(self.best.point)
        below = [self.axis.place(trial.point) for trial in self.trials if trial.outcome != "pass"]
        return place - max((other for other in below if other < place), default=0.0)

    def _around(self, point: Mapping[str, Any], step: float, neighbours: int) -> list[Point]:
        """Return the neighbours of a point, the nearest first, the stronger ones before the milder."""
        name, parameter = self.axis.name, self.axis.parameter
        offsets = [-offset for offset in range(1, neighbours + 1)] + list(range(1, neighbours + 1))
        if isinstance(parameter, Integer):
            signs = [offset if self.axis.mild_end == "high" else -offset for offset in offsets]
            values = [point[name] + sign for sign in signs]
            return [{name: value} for value in values if parameter.low <= value <= parameter.high]
        places = [self.axis.place(point) + offset * step for offset in offsets]
        return [self.axis.point(place) for place in places if 0 <= place <= 1]


class MildAxis(Axis):
    """An axis that knows which end of its parameter is the mild one, and up to where the codec takes settings."""

    def __init__(self, owner: str, family: CodecSpace, mild_end: End, accepted: float) -> None:
        super().__init__(owner, family, mild_end)
        self.mild_end, self.accepted = mild_end, accepted


def find_axis(family: CodecSpace, data: LabeledData) -> MildAxis:
    """Return the family's axis as a sample of the data shows it."""
    return axis_on(_OWNER, family, data.inputs(range(min(len(data), _SAMPLED))))


def axis_on(owner: str, family: CodecSpace, sample: Tensor) -> MildAxis:
    """Return the family's axis: the end of the parameter at which examples (n, ...) take more bytes is the mild one.

    Rejects, as `owner`, a family without one numeric parameter, or whose sizes are the same at both ends.
    """
    sizes: dict[float, int] = {}
    refusals: list[Exception] = []
    axis = Axis(owner, family, "high")
    for place in _PLACES:  # not the ends alone: a codec may refuse one of them
        try:
            sizes[place] = sum(map(payload_size, family.codec(axis.point(place)).encode(sample)))
        except (CompressionError, InvalidArgumentError) as error:
            refusals.append(error)
    if not sizes:
        raise refusals[0]
    low, high = min(sizes), max(sizes)
    if sizes[low] == sizes[high]:
        found = f"the settings that the codec accepts take {sizes[high]} bytes on {len(sample)} examples at both ends"
        reject(owner, "codec_family", str(family), f"{found} of their range: there is nothing to find")
    if sizes[high] > sizes[low]:
        return MildAxis(owner, family, "high", high)
    return MildAxis(owner, family, "low", 1 - low)


def _bytes(trial: SettingTrial) -> float:
    assert trial.payload_bytes is not None
    return trial.payload_bytes


def _failed(trial: SettingTrial, error: Exception) -> SettingTrial:
    return dataclasses.replace(trial, error=f"{type(error).__name__}: {error}")
