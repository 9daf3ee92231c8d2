"""ONNX files as models, run by onnxruntime."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cp_compress.artifacts.fixed_batches import BatchSizes, run_in_sizes
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened
from cp_compress.artifacts.named_inputs import as_dtype, named_inputs
from cp_compress.artifacts.onnx.checks import check_graph
from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, MissingExtraError, ObservationError
from cp_compress.inputs.trees import TensorTree

if TYPE_CHECKING:
    import onnxruntime

_OWNER = "load_onnx"
_PLACES = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |This is an invalid model\. "
    r"|\S*\w+\.(?:cc|h):\d+ (?:[^()]*::\w+\(.*?\) (?=[A-Z]))?"
)
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(bool)": torch.bool,
}
_FLOATING = tuple(name for name, dtype in _DTYPES.items() if dtype.is_floating_point)
_GIVEN = (*_DTYPES, "tensor(uint16)", "tensor(uint32)", "tensor(uint64)", "tensor(int16)")


@explains_keywords
class OnnxModel:
    """An ONNX graph that maps a batch to logits, or to all that it gives by name; `load_onnx` makes it.

    Args:
        session: The session of onnxruntime.
        input: The description of the graph's input in onnxruntime, or those of several.
        output: The name of the output that is read, or those of several.
        content_digest: The digest of the file, its external tensors, and the names of inputs and outputs.
        weight_dtypes: The number of the file's tensors of two dimensions or more, and that of their values, by dtype.
        file_bytes: The size of the file and its external tensors; None where it is not known.
        only: Whether what examples hold beside these inputs is left out.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input: Any,
        output: str | Sequence[str],
        content_digest: str,
        weight_dtypes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        file_bytes: int | None = None,
        *,
        only: bool = False,
    ) -> None:
        self._session = session
        self.weight_dtypes = dict(weight_dtypes)
        fed = list(input) if isinstance(input, (list, tuple)) else [input]
        self.inputs = tuple(each.name for each in fed)
        self.outputs = (output,) if isinstance(output, str) else tuple(output)
        self.dtypes = {each.name: _DTYPES[each.type] for each in fed}
        self.content_digest = content_digest
        self.file_bytes = file_bytes
        self._only = only
        self._takes = f"the ONNX graph takes {_described(fed)}"
        first = next((each.shape[0] for each in fed if isinstance(each.shape[0], int)), None)
        self._sizes = BatchSizes() if first is None else BatchSizes(first, first, first)

    def __repr__(self) -> str:
        return f"OnnxModel({self.input!r} -> {self.output!r})"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first input."""
        return self.dtypes[self.inputs[0]]

    @property
    def input(self) -> str:
        """The name of the input, or of each, with commas between."""
        return ", ".join(self.inputs)

    @property
    def output(self) -> str:
        """The name of the output that is read, or of each, with commas between."""
        return ", ".join(self.outputs)

    def __call__(self, *batch: Any, **named: Any) -> Any:
        """Return the output for a batch (n, ...), or a dict of several, on the batch's device.

        Several inputs are given by name, or by position in the graph's order. Floating-point tensors are converted to
        the graph's floating-point dtype, others to its whole numbers where none changes. Raises ObservationError for a
        batch that the graph does not take.
        """
        given = named_inputs(self._takes, self.inputs, batch, named, only=self._only)
        device = next(iter(given.values())).device
        rows = {
            name: as_dtype("the ONNX graph", name, tensor.detach().cpu(), self.dtypes[name])
            for name, tensor in given.items()
        }
        tree = TensorTree(rows)
        found = run_in_sizes(self._run, tree, self._sizes)
        return {name: one.to(device) for name, one in found.items()} if isinstance(found, dict) else found.to(device)

    def _run(self, rows: TensorTree) -> Any:
        fed = {name: tensor.contiguous().numpy() for name, tensor in zip(rows.names, rows.tensors, strict=True)}
        try:
            outputs = self._session.run(list(self.outputs), fed)
        except Exception as error:  # onnxruntime has an exception class of its own for each status
            raise ObservationError(f"onnxruntime: {_reason_of(error)}") from error
        for name, output in zip(self.outputs, outputs, strict=True):
            if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
                raise ObservationError(f"output {name} of the ONNX graph is not a tensor of numbers")
        tensors = {name: torch.from_numpy(output) for name, output in zip(self.outputs, outputs, strict=True)}
        return tensors if len(tensors) > 1 else next(iter(tensors.values()))


@explains_keywords
def load_onnx(
    path: str | os.PathLike[str],
    *,
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    max_bytes: int = MAX_BYTES,
) -> OnnxModel:
    """Return an ONNX file as a model that maps a batch (n, ...) to logits, run by onnxruntime (extra `onnx`).

    A graph of several inputs is called with examples that are mappings of their names, or tuples in their order. One
    that gives several outputs gives them by name, so that `output=` of a comparison, or else "logits", says which is
    compared. A graph with a fixed batch size is called with batches of that size, the last one padded. It runs on as
    many threads as torch uses.

    Args:
        path: The file.
        input: The expected name of the graph's input, or None not to check it; or the names of all of its inputs, in
            the order of an example that is a tuple. Then what examples hold beside them is left out, such as an input
            that the exporter has found unused.
        output: The name of the only output that is read; by default all are.
        providers: Execution providers of onnxruntime; the model runs on the first.
        max_bytes: The largest size of the file together with its external tensors.

    Returns:
        The model.

    Raises:
        ArtifactError: If the file is damaged or too large, its external tensors are outside of its folder, or its
            inputs and outputs do not fit. The file is named.
        InvalidArgumentError: If a name or a provider does not exist.
        MissingExtraError: If onnxruntime is not installed.
    """
    return load_graph(path, input, output, providers, check_max_bytes(_OWNER, max_bytes))


def load_graph(
    path: str | os.PathLike[str],
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    limit: int = MAX_BYTES,
    change: Callable[[bytes], bytes] | None = None,
) -> OnnxModel:
    """Return what `load_onnx` does, of the graph that `change` makes of the file's content after checks."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("reading ONNX files", "onnx") from error
    if isinstance(providers, str) or not providers:
        reject(_OWNER, "providers", providers, "must be a list of execution providers of onnxruntime")
    unknown = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if unknown:
        rule = f"onnxruntime has {', '.join(onnxruntime.get_available_providers())} here"
        reject(_OWNER, "providers", unknown[0], rule)
    with opened(path, limit) as file:
        content = file.read()
    checked = check_graph(content, path, limit)
    given = content if change is None else change(content)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    if checked.external:
        folder = str(Path(path).resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = onnxruntime.InferenceSession(given, options, providers=list(providers))
    except Exception as error:
        raise ArtifactError(path, f"onnxruntime refuses it: {_reason_of(error)}") from error
    if session.get_providers()[0] != providers[0]:
        raise ArtifactError(path, f"runs on {session.get_providers()[0]} only, not on {providers[0]}")
    fed, read = _choose_inputs(session, input, path), _choose_outputs(session, output, path)
    # several outputs of which one is called logits had the digest of that one, and keep it
    told = ["logits"] if len(read) > 1 and "logits" in read else list(read)
    own = () if change is None else (hashlib.sha256(given).hexdigest(),)
    digest = digest_text("onnx", checked.digest, *own, *(each.name for each in fed), *told, *providers)
    only = input is not None and not isinstance(input, str)
    return OnnxModel(session, fed, read, digest, checked.weight_dtypes, checked.size, only=only)


def _choose_inputs(
    session: onnxruntime.InferenceSession, names: str | Sequence[str] | None, path: str | os.PathLike[str]
) -> list[Any]:
    inputs = {each.name: each for each in session.get_inputs()}
    asked = list(inputs) if names is None else [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in inputs:
            reject(_OWNER, "input", name, f"the graph takes {_described(inputs.values())}")
    left = [name for name in inputs if name not in asked]
    if left:
        rule = f"the graph also takes {', '.join(left)}, without which it does not run: name all"
        reject(_OWNER, "input", names, rule)
    if not inputs:
        raise ArtifactError(path, "takes nothing; a model takes a batch")
    chosen = [inputs[name] for name in asked]
    for each in chosen:
        if each.type not in _DTYPES or not each.shape:
            raise ArtifactError(path, f"takes {_described([each])}; a batch is a tensor (n, ...) of numbers")
        if isinstance(each.shape[0], int) and each.shape[0] < 1:
            raise ArtifactError(path, f"takes {_described([each])}, which is not a possible batch size")
    if len({each.shape[0] for each in chosen if isinstance(each.shape[0], int)}) > 1:
        told = f"takes {_described(chosen)}; the first dimension of each input must be that of the batch"
        raise ArtifactError(path, f"{told}, so make the others constants of the graph")
    return chosen


def _choose_outputs(
    session: onnxruntime.InferenceSession, name: str | None, path: str | os.PathLike[str]
) -> tuple[str, ...]:
    outputs = {each.name: each for each in session.get_outputs()}
    if name is not None and name not in outputs:
        reject(_OWNER, "output", name, f"the outputs of the graph are {_described(outputs.values())}")
    if name is not None or len(outputs) == 1:
        return (next(iter(outputs)) if name is None else name,)
    tensors = [each.name for each in outputs.values() if each.type.startswith("tensor(") and each.type in _GIVEN]
    if not any(outputs[each].type in _FLOATING for each in tensors):
        told = f"has the outputs {_described(outputs.values())}"
        raise ArtifactError(path, f"{told}, none of which is a floating-point tensor: name the one by output=")
    return tuple(tensors)


def _reason_of(error: Exception) -> str:
    """Return what onnxruntime says, without its codes and the places in its own source."""
    if "allocate memory" in str(error) or "bad_alloc" in str(error):
        return "it needs more memory than is available"
    return shortened(_PLACES.sub("", str(error)), 300) or type(error).__name__


def _described(values: Any) -> str:
    return ", ".join(shortened(f"{each.name} {each.type} {each.shape}", 120) for each in values)
