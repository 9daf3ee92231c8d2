"""The epochs of one training: their results, when to stop, and the state to resume after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.training.checkpoints import pack_model, unpack_model
from cp_compress.training.distributed import share_buffers, wait_for_all, world
from cp_compress.training.loop import Loop, rebind
from cp_compress.training.validation import Validation


class Run:
    """Epochs of one training, what they found, and the best compressed model so far."""

    def __init__(self, loop: Loop, schedule: Any, total: int, judge: Validation | None, patience: int | None) -> None:
        self.loop, self.schedule, self.total = loop, schedule, total
        self.judge, self.patience = judge, patience
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: Tensor | None = None
        self.best_score, self.best_step, self.waited, self.stopped = float("-inf"), 0, 0, False

    def train(self, keep: Callable[[dict[str, Any]], None], progress: bool) -> None:
        """Train to the end, epoch by epoch; `keep` writes a checkpoint."""
        from tqdm import tqdm

        hidden = not progress or world()[0] != 0
        with tqdm(total=self.total, initial=self.step, desc="train", unit="step", disable=hidden) as bar:
            while self.step < self.total and not self.stopped:
                row = self._epoch(bar)
                self.history.append(row)
                bar.set_postfix({name: f"{row[name]:.3g}" for name in ("loss", "agreement") if name in row})
                if world()[0] == 0:
                    keep(self.state())
                wait_for_all()

    def _epoch(self, bar: Any) -> dict[str, float]:
        per_epoch = self.loop.task.steps_per_epoch
        end = min(self.total, (self.step // per_epoch + 1) * per_epoch)
        rows = []
        while self.step < end:
            rate = float(self.loop.optimizer.param_groups[0]["lr"])
            rows.append(self.loop.step(self.step))
            self.schedule.step()
            self.step += 1
            bar.update()
        share_buffers(self.loop.subject.model)
        row = {"step": float(self.step), "learning_rate": rate}
        row |= {name: sum(entry[name] for entry in rows) / len(rows) for name in rows[0]}
        multipliers = self.loop.multipliers.values.tolist()
        row |= {f"multiplier of {name}": value for name, value in zip(list(rows[0])[1:], multipliers, strict=True)}
        return row | self.loop.stage.figures | self._judge()

    def _judge(self) -> dict[str, float]:
        if self.judge is None:
            return {}
        candidate = self.loop.stage.candidate()
        found = self.judge(candidate)
        # while the density still falls, a candidate is not yet what was asked for
        if self.loop.stage.complete:
            if found[self.judge.monitor] * self.judge.sign > self.best_score:
                self.best_score, self.best_step = found[self.judge.monitor] * self.judge.sign, self.step
                self.best, self.waited = pack_model(candidate), 0
            else:
                self.waited += 1
                self.stopped = self.patience is not None and self.waited >= self.patience
        return found

    def result(self, architecture: nn.Module) -> tuple[nn.Module, int]:
        """Return the best compressed model, or the last where none was judged, and its step."""
        if self.best is not None:
            return unpack_model(self.best, architecture), self.best_step
        return self.loop.stage.finish(), self.step

    def state(self) -> dict[str, Any]:
        """Return all that `resume` needs."""
        loop = self.loop
        return {
            "step": self.step,
            "model": pack_model(loop.subject.model),
            "settled": loop.subject.settled,
            "masks": loop.subject.masks,
            "stage": loop.stage.state(),
            "optimizer": loop.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": loop.scaler.state_dict(),
            "multipliers": loop.multipliers.state(),
            "random": torch.get_rng_state(),
            "history": self.history,
            "best": [self.best, self.best_score, self.best_step, self.waited, self.stopped],
        }

    def resume(self, state: dict[str, Any] | None, architecture: nn.Module) -> None:
        """Go on from a state, if there is one."""
        if state is None:
            return
        loop = self.loop
        before, device = loop.subject.model, loop.task.device
        loop.subject.model = unpack_model(state["model"], architecture).to(device)
        rebind(loop.optimizer, before, loop.subject.model)
        loop.subject.settled, loop.subject.masks = state["settled"], state["masks"]
        loop.stage.restore(state["stage"])
        loop.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        loop.scaler.load_state_dict(state["scaler"])
        loop.multipliers.restore({name: _on_cpu(value) for name, value in state["multipliers"].items()})
        torch.set_rng_state(state["random"].cpu())
        self.step, self.history = state["step"], list(state["history"])
        self.best, self.best_score, self.best_step, self.waited, self.stopped = state["best"]


def _on_cpu(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.cpu()
