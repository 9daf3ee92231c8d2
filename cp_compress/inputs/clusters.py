"""Which examples belong together, such as those of one patient, video or document: they are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.inputs.metadata import Metadata
from cp_compress.inputs.wrapping import layers_of

Clusters = Tensor | Sequence[Any] | str


def read_clusters(owner: str, clusters: Clusters | None, source: Any, count: int) -> Tensor | None:
    """Return the number (n,), int64, of the cluster of each of `count` examples, or None where each is its own.

    Args:
        owner: What an error is about, such as "compare_predictions".
        clusters: One entry an example, whole numbers or texts (a tensor, an array or a sequence), equal for examples of
            one cluster; or the name of a column of the data set's `metadata`. None for what the data set says itself.
        source: The data set, whose layers may have `clusters` and `metadata`, as `TaskDataset` does.
        count: The number of examples.

    Raises InvalidArgumentError for anything else.
    """
    if clusters is None:
        said = _said_by_data(owner, source, count)
        return None if said is None else _as_numbers(owner, said, count)
    return _as_numbers(owner, _column(owner, clusters, source, count), count)


def has_clusters(source: Any) -> bool:
    """Tell whether a data set says which of its examples belong together."""
    return any(getattr(layer, "clusters", None) is not None for layer, _ in layers_of(source))


def joined_clusters(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return the finest clusters (n,) that keep together what either of two (n,) does, such as identical inputs.

    >>> joined_clusters(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])).tolist()
    [0, 0, 0, 1]
    """
    if first is None or second is None:
        return second if first is None else first
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (torch.unique(each, return_inverse=True)[1].numpy().astype(np.int32) for each in (first, second))
    size = int(left.max()) + 1
    links = coo_array(
        (np.ones(len(left)), (left, right + size)), shape=(size + int(right.max()) + 1, size + int(right.max()) + 1)
    )
    _, groups = connected_components(links, directed=False)
    joined: Tensor = torch.unique(torch.as_tensor(groups[left], dtype=torch.int64), return_inverse=True)[1]
    return joined


def _said_by_data(owner: str, source: Any, count: int) -> Any:
    """Return the entries that a layer of a data set has, for the examples that its wrappers leave."""
    for layer, places in layers_of(source, range(count)):
        said = getattr(layer, "clusters", None)
        if said is None:
            continue
        entries = _column(owner, said, layer, None) if isinstance(said, str) else said
        return [entries[place] for place in places]
    return None


def _column(owner: str, clusters: Any, source: Any, count: int | None) -> Any:
    if not isinstance(clusters, str):
        return clusters
    for layer, places in layers_of(source, range(count or 0)):
        metadata = getattr(layer, "metadata", None)
        if not isinstance(metadata, Metadata):
            continue
        if clusters not in metadata.columns:
            reject(
                owner, "clusters", clusters, f"is no column of the metadata; known are {', '.join(metadata.columns)}"
            )
        column = metadata.columns[clusters]
        return column if count is None else [column[place] for place in places]
    rule = "names a column, but the data set has no metadata: TaskDataset(…, metadata=…), or give one entry an example"
    reject(owner, "clusters", clusters, rule)


def _as_numbers(owner: str, entries: Any, count: int) -> Tensor:
    rule = f"give one whole number or text for each of {count} examples, equal for those of one cluster"
    if isinstance(entries, Tensor):
        entries = entries.detach().cpu().numpy()
    try:
        values = np.asarray(entries)
    except (TypeError, ValueError):
        reject(owner, "clusters", entries, rule)
    if values.shape != (count,) or values.dtype.kind not in "iuUS" or not count:
        reject(owner, "clusters", f"{values.dtype} of shape {values.shape}", rule)
    if values.dtype.kind in "US" and not all(map(len, values)):
        reject(owner, "clusters", "", f"example #{int(np.argmin(list(map(len, values))))} has no entry; {rule}")
    return torch.as_tensor(np.unique(values, return_inverse=True)[1].reshape(-1), dtype=torch.int64)
