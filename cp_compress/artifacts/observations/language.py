"""A language model observed into a file: the most likely next tokens at each place of documents."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from cp_compress.artifacts.observations.format import TOKENS, VERSION, write_file
from cp_compress.artifacts.observations.saving import describe_batches, describe_model
from cp_compress.artifacts.observations.spool import Spool, spooling
from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.digests import examine
from cp_compress.base.environment import describe_environment
from cp_compress.base.files import replacing
from cp_compress.fidelity.frozen.content import IDS, LENGTHS, NLL, TOP
from cp_compress.fidelity.language.folding import MostLikely, most_likely
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.language.probing import probe, require_known_ids
from cp_compress.fidelity.language.streaming import in_batches
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.tokens import TokenData, pad

_OWNER = "observe_language_to_file"
_DOCUMENTS = 16


@explains_keywords
def observe_language_to_file(
    model: Model,
    documents: Any,
    path: str | os.PathLike[str],
    *,
    top_k: int = 64,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
) -> str:
    """Write what a language model says of documents to a file, and return its digest.

    Of each token but the first of a document are written the `top_k` most likely ones with their logits, the logarithm
    of the normaliser and the log-likelihood, and of the documents their ids; whole logits are never kept. Rows are
    kept on disk while the pass goes on, so that a run that was stopped goes on there when it is started again.

    Args:
        model: The model, as `compare_language` takes it; a served one is none.
        documents: The documents, as `compare_language` takes them.
        path: The file to write.
        top_k: How many tokens of each place are written, 2 or more.
        device: Where to run; by default where the model is.
        batch_size: The largest number of documents in one call.
        deployed_batch_size: The batch size of the deployed model, where answers depend on it.

    Returns:
        The digest of the file.

    Raises:
        ObservationError: If the model cannot be run on the documents, answers at random or returns NaN, if answers
            depend on who else is in the batch and no deployed batch size is given, and while another process writes the
            file.
        InvalidArgumentError: If an argument is not as described.
        OSError: If the file cannot be written.
    """
    rule = "must be a whole number of 1 or more"
    size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    check_integer(_OWNER, "top_k", top_k, "must be a whole number of 2 or more", at_least=2)
    if deployed_batch_size is not None:
        rule = f"must be a whole number in 1..{size}, the largest batch of a forward call (batch_size)"
        size = check_integer(_OWNER, "deployed_batch_size", deployed_batch_size, rule, at_least=1, at_most=size)
    data = documents if isinstance(documents, TokenData) else TokenData(documents)
    side = LanguageModel(model, device, size, who="model", deployed=deployed_batch_size is not None)
    content = examine(model)
    about = {
        "environment": describe_environment(),
        "model": content.digest if not content.uncovered else None,
        "data": data.digest(),
        "sizes": [batch_size, deployed_batch_size],
        "device": str(side.runner.device),
        "top_k": top_k,
    }
    with spooling(path, about) as spool:
        if about["model"] is None:  # nobody can tell whether it is the same one
            spool.clear()
        with torch.inference_mode(False), torch.no_grad(), side.runner.evaluating():
            probe(side, data)
            vocabulary = side.vocabulary or 0
            if top_k >= vocabulary:
                reject(_OWNER, "top_k", top_k, f"must be less than the {vocabulary} tokens of the vocabulary")
            _Pass(side, data, spool, top_k).run()
        require_known_batches(side, side)
        names = (*TOP, NLL, LENGTHS, IDS)
        document = {
            "version": VERSION,
            "kind": TOKENS,
            "model": describe_model(model),
            "data": {
                "name": type(data.source).__name__,
                "digest": about["data"],
                "count": len(data),
                "tokens": spool.rows(NLL),
            },
            "outputs": {"classes": vocabulary, "kept": top_k},
            "batches": describe_batches(side),
            "environment": describe_environment(),
        }
        with replacing(path) as file:
            return write_file(file, document, {name: spool.column(name) for name in names})


class _Pass:
    """One pass over the documents that are not yet in the spool."""

    def __init__(self, side: LanguageModel, data: TokenData, spool: Spool, top_k: int) -> None:
        self._side, self._data, self._spool, self._top_k = side, data, spool, top_k
        self._done = spool.rows(LENGTHS)

    def run(self) -> None:
        """Ask about all of them."""
        many = max(1, min(_DOCUMENTS, self._side.batch_size.limit)) if not self._side.deployed else None
        start = self._done
        first = self._side.batch_size.limit if many is None else many
        self._side.batches = first, first
        while start < len(self._data):
            step = min(first, len(self._data) - start)
            self._side.batch_size.run(step, lambda part, start=start: self._run_part(start, part))  # type: ignore[misc]
            start += step

    def _run_part(self, start: int, part: slice) -> None:
        documents, _ = self._data.read(range(start + part.start, start + part.stop))
        require_known_ids(documents, self._side.vocabulary or 0, start + part.start)
        found: list[MostLikely] = []
        for batch in in_batches(documents, self._side.vocabulary or 1, whole=self._side.deployed):
            ids, mask = pad(batch)
            found.append(most_likely(self._side.logits(ids, mask), ids, mask, self._top_k, "model"))
            self._side.batches = self._side.batches[0], len(batch)
        # what can run out of memory lies above, so that a repeated part adds nothing twice
        self._spool.append(
            {
                **dict(zip(TOP, _columns(found), strict=True)),
                NLL: torch.cat([one.nll for one in found]),
                LENGTHS: torch.tensor([len(ids) for ids in documents]),
                IDS: torch.cat(documents).int(),
            }
        )


def _columns(found: list[MostLikely]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.cat([one.logits for one in found]),
        torch.cat([one.tokens for one in found]).int(),
        torch.cat([one.log_totals for one in found]).double(),
    )
