"""The inputs and outputs of the parts of a model while it runs, read by hooks that are removed afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

CallHook = Callable[[tuple[Any, ...], dict[str, Any], Any], None]
InputHook = Callable[[tuple[Any, ...], dict[str, Any]], None]


@contextlib.contextmanager
def watching(
    model: nn.Module, hooks: Mapping[str, CallHook], input_hooks: Mapping[str, InputHook] | None = None
) -> Iterator[None]:
    """Call hooks whenever the parts at their paths run, until the block ends.

    Those of `hooks` are called with (arguments, keywords, output) after a run, those of `input_hooks` with (arguments,
    keywords) before it. Tensors are the model's own: it may overwrite them as soon as a hook returns, and arguments
    while the part runs, so a hook takes from them what it needs at once, or a copy (`nested_tensors.copied`).
    """
    handles = []
    try:
        for path, input_hook in (input_hooks or {}).items():

            def pre_hook(module: nn.Module, args: Any, keywords: Any, hook: InputHook = input_hook) -> None:
                hook(args, keywords)

            # ahead of the model's own hooks, which belong to the part
            part = model.get_submodule(path)
            handles.append(part.register_forward_pre_hook(pre_hook, with_kwargs=True, prepend=True))
        for path, call_hook in hooks.items():

            def forward_hook(
                module: nn.Module, args: Any, keywords: Any, output: Any, hook: CallHook = call_hook
            ) -> None:
                hook(args, keywords, output)

            handles.append(model.get_submodule(path).register_forward_hook(forward_hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
