"""Models that must keep what they say of decoded examples, and which examples each keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_real, reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.describing import describe
from cp_compress.fidelity.observing.batch_dependence import coarsest_dtype, look_again
from cp_compress.fidelity.observing.runner import Runner

if TYPE_CHECKING:
    from cp_compress.fidelity.observing.runner import Model

Measure = Callable[[Tensor, Tensor], Tensor]
"""What decoding did to outputs: a function (outputs on decoded examples, outputs on originals) -> damage (n,)."""
MEASURES = ("answer", "margin")
_LOOKED_AT_AGAIN = 16


class Rule:
    """What must hold of each example: the answer, the answer and its margin, or a measure of the user's."""

    def __init__(self, owner: str, measure: str | Measure, at_most: float | None) -> None:
        if not callable(measure) and measure not in MEASURES:
            rule = 'must be "answer", "margin", or a function (outputs decoded, outputs original) -> (n,)'
            reject(owner, "measure", measure, rule)
        if measure == "answer" and at_most is not None:
            reject(owner, "at_most", at_most, 'measure="answer" has no bound; measure="margin" has one')
        if measure != "answer" and at_most is None:
            reject(owner, "at_most", at_most, f"measure={describe(measure)} needs the most that an example may lose")
        rule = "must be a finite number of 0 or more" if measure == "margin" else "must be a finite number"
        least = 0.0 if measure == "margin" else -math.inf
        self.at_most = None if at_most is None else check_real(owner, "at_most", at_most, rule, at_least=least)
        self.owner, self.measure = owner, measure

    @property
    def name(self) -> str:
        """What the record of a store calls the measure."""
        return self.measure if isinstance(self.measure, str) else describe(self.measure)

    def __str__(self) -> str:
        if self.measure == "answer":
            return "the answer"
        return (
            f"the answer, its margin less by at most {self.at_most:g}"
            if self.measure == "margin"
            else (f"{self.name} ≤ {self.at_most:g}")
        )

    def holds(self, after: Tensor, before: Tensor, precision: float) -> Tensor:
        """Tell of which examples (n,) outputs on decoded examples keep what those on originals said.

        An answer must lead by more than rounding in other batches can change, `precision` of the largest logit, or by
        what it led by before; NaN keeps nothing.
        """
        if callable(self.measure):
            assert self.at_most is not None  # checked when the rule was made
            damage = self.measure(after, before)
            if not isinstance(damage, Tensor) or damage.shape != (len(before),):
                found = tuple(damage.shape) if isinstance(damage, Tensor) else type(damage).__name__
                reject(
                    self.owner,
                    "measure",
                    self.name,
                    f"returned {found} for {len(before)} examples, not ({len(before)},)",
                )
            return damage.cpu() <= self.at_most
        answers = before.argmax(dim=1)
        led, leads = _lead(before, answers), _lead(after, answers)
        room = precision * after.double().abs().amax(dim=1)
        kept = (after.argmax(dim=1) == answers) & (leads >= torch.minimum(led, room))
        return kept if self.at_most is None else kept & (led - leads <= self.at_most)


class Member:
    """One model, by its name: what it says of batches, in evaluation mode and without gradients."""

    def __init__(self, name: str, model: Model, rule: Rule, device: Any, batch_size: int) -> None:
        self.name, self.rule = name, rule
        self.digest = digest_model(model)
        self.runner = Runner(model, device)
        self._batches = BatchSize(batch_size)
        self._precision: float | None = None

    def ask(self, inputs: Tensor) -> Tensor:
        """Return outputs (n, ...) on the CPU; raises ObservationError, naming the model, where there are none."""
        found: list[Tensor] = []
        run = self.runner.compared if callable(self.rule.measure) else self.runner.logits

        def forward(part: slice) -> None:
            found.append(run(inputs[part]).detach().cpu())

        try:
            with torch.no_grad(), self.runner.evaluating():
                self._batches.run(len(inputs), forward)
        except ObservationError as error:
            raise ObservationError(f"model {self.name!r}: {error}") from error
        return torch.cat(found)

    def look(self, originals: Tensor, first: int) -> Tensor:
        """Return outputs on originals, of which the first is example `first`.

        Raises ObservationError for outputs that are not finite and for answers that depend on the rest of the batch.
        """
        found = self.ask(originals)
        finite = found.flatten(1).isfinite().all(dim=1)
        if not bool(finite.all()):
            place = first + int((~finite).nonzero()[0])
            raise ObservationError(f"model {self.name!r} gives NaN or Inf for example #{place}: nothing can be kept")
        if self._precision is None:
            dtype = coarsest_dtype(self.runner, found)
            self._precision = math.sqrt(torch.finfo(dtype).eps)
            count = min(len(originals), _LOOKED_AT_AGAIN)
            known, passes = found[:count], self.runner.passes
            seen = look_again(self.ask, originals[:count], known, lambda rows: rows.argmax(dim=1), self.runner)
            self.runner.passes = passes
            if seen.dependence is not None and seen.dependence.decides:
                told = f"model {self.name!r}: its answers {seen.dependence}, so no example can be kept by itself"
                raise ObservationError(told)
        kept = self.holds(found, found)
        if not bool(kept.all()):
            place = first + int((~kept).nonzero()[0])
            rule = f"example #{place} does not meet it even where nothing was changed ({self.name})"
            reject(self.rule.owner, "at_most", self.rule.at_most, rule)
        return found

    def holds(self, after: Tensor, before: Tensor) -> Tensor:
        """Tell of which examples (n,) the model keeps what it must."""
        assert self._precision is not None
        return self.rule.holds(after, before, self._precision)


def read_members(
    owner: str, argument: str, models: Any, rule: Rule, device: Any, batch_size: int
) -> tuple[Member, ...]:
    """Return the members of a committee; reject, as `owner`, anything but a mapping from names to models."""
    if not isinstance(models, Mapping) or not all(isinstance(name, str) and name for name in models):
        given = type(models).__name__
        reject(owner, argument, given, 'must be a mapping from names to models, such as {"resnet20": model}')
    return tuple(Member(name, model, rule, device, batch_size) for name, model in models.items())


def _lead(outputs: Tensor, answers: Tensor) -> Tensor:
    """Return by how much the logit of each answer (n,) leads over the largest other one (n,), float64."""
    values = outputs.double()
    own = values.gather(1, answers[:, None])
    return own[:, 0] - values.scatter(1, answers[:, None], -math.inf).amax(dim=1)
