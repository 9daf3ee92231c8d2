"""What a network of transformers is for: the library's classes for each task, and the one that a folder means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cp_compress.artifacts.transformers.folders import CheckedFolder
from cp_compress.artifacts.transformers.names import TASKS
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

CLASSIFIERS = ("image_classification", "sequence_classification", "token_classification")
"""The tasks whose networks give logits of classes."""
_DEFAULT = CLASSIFIERS[:2]


def class_for(config: PretrainedConfig, checked: CheckedFolder, task: str | None) -> tuple[str, type[PreTrainedModel]]:
    """Return the task and the library's class for it: that of a folder's `architectures`, or of the task that is asked.

    Without either it is the first classifier. Raises ArtifactError where the library has none.
    """
    found = {name: _classes(config, name) for name in TASKS}
    named = checked.config.get("architectures") or []
    tasks = [task] if task is not None else [*TASKS]
    for name in tasks:
        for one in found[name]:
            if one.__name__ in named:
                # of T5 and its like, embeddings are made by the encoder alone
                encodes = name == "embedding" and getattr(config, "is_encoder_decoder", False)
                return name, found[name][0] if encodes else one
    known = [name for name in (tasks if task is not None else _DEFAULT) if found[name]]
    if known and (task is not None or not named):
        return known[0], found[known[0]][0]
    kind = shortened(named or type(config).__name__, 120)
    if task is not None:
        able = ", ".join(name for name, classes in found.items() if classes) or "none"
        raise ArtifactError(checked.path, f"is a {kind}, of which transformers has no {task}; it has {able} (task=)")
    raise ArtifactError(checked.path, f"is a {kind}, which is for none of {', '.join(TASKS)} in transformers")


def _classes(config: PretrainedConfig, task: str) -> list[Any]:
    import transformers

    classes: list[Any] = []
    for table in TASKS[task]:
        mapping = getattr(transformers, table, None) or {}
        found = mapping.get(type(config), ())
        classes += found if isinstance(found, (tuple, list)) else [found]
    return classes
