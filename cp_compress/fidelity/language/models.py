"""A causal language model ready to run on batches of token ids, with the mask where it takes one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.fidelity.observing.outputs import logits_in
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.side_by_side.masks import mask_parameter, parameters_of
from cp_compress.fidelity.side_by_side.sides import Side


class LanguageModel(Side):
    """A model of token ids, and the number of tokens of its vocabulary, once it was run."""

    def __init__(
        self,
        model: Model,
        device: torch.device | str | None,
        batch_size: int,
        *,
        who: str,
        deployed: bool = False,
    ) -> None:
        super().__init__(model, device, batch_size, who=who, deployed=deployed)
        self.vocabulary: int | None = None
        self._mask, self._mask_needed, self._mask_known = mask_parameter(self.runner.model)
        self._more = {"use_cache": False} if "use_cache" in parameters_of(self.runner.model) else {}

    @property
    def takes_mask(self) -> bool:
        """Whether the model can be told which places hold tokens."""
        return self._mask is not None

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (n, length, vocabulary) of ids (n, length), on the model's device.

        `mask` (n, length) is handed on where the model takes one and some place is padding.

        Raises ObservationError where the model cannot take them, or gives something else than logits.
        """
        padded = not bool(mask.all())
        given: dict[str, Any] = dict(self._more)
        positional = [ids.to(self.runner.device, copy=True)]
        if self._mask is not None and (padded or self._mask_needed):
            ours = mask.to(self.runner.device, copy=True)
            if self._mask:
                given[self._mask] = ours
            else:
                positional.append(ours)
        try:
            output = self.runner.model(*positional, **given)
        except ObservationError:
            raise
        except ArtifactError as error:
            raise ObservationError(str(error)) from error
        except TypeError as error:
            if self._mask_known or not padded:
                raise self._explain(ids, error) from error
            self._mask, self._mask_known = None, True  # what it hands its keywords on to takes none
            return self.logits(ids, mask)
        except (RuntimeError, ValueError, LookupError, MemoryError, AssertionError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or (is_out_of_memory(error) and len(ids) > 1):
                raise  # smaller batches may fit
            raise self._explain(ids, error) from error
        return self._as_logits(output, ids)

    def _explain(self, ids: Tensor, error: Exception) -> ObservationError:
        told = f"the {self.who} cannot take token ids of shape {tuple(ids.shape)}: {type(error).__name__}: {error}"
        return ObservationError(f"{told}. It maps ids (n, length) to logits; documents may be longer than it can read")

    def _as_logits(self, output: Any, ids: Tensor) -> Tensor:
        logits = logits_in(output)
        if isinstance(logits, (tuple, list)) and logits:
            logits = logits[0]
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            found = logits.dtype if isinstance(logits, Tensor) else type(output).__name__
            raise ObservationError(f"the {self.who} returned {found}; expected a floating-point tensor of logits")
        if logits.ndim != 3 or logits.shape[:2] != ids.shape or logits.shape[2] < 3:
            raise ObservationError(
                f"the {self.who} returned shape {tuple(logits.shape)} for ids of shape {tuple(ids.shape)}; expected "
                f"logits ({ids.shape[0]}, {ids.shape[1]}, vocabulary) with three tokens or more"
            )
        if self.vocabulary not in (None, logits.shape[2]):
            raise ObservationError(
                f"the {self.who} returned logits of {self.vocabulary} tokens, and then of {logits.shape[2]}"
            )
        self.vocabulary = logits.shape[2]
        return logits.detach()
