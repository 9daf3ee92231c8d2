"""ONNX files as models, run by onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.artifacts.fixed_batches import BatchSizes, run_in_sizes
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened
from cp_compress.artifacts.onnx.checks import check_graph
from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, MissingExtraError, ObservationError

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
}


@explains_keywords
class OnnxModel:
    """An ONNX graph that maps a batch to logits; `load_onnx` makes it.

    Args:
        session: The session of onnxruntime.
        input: The description of the graph's input in onnxruntime; its name is the attribute `input`.
        output: The name of the output that is read.
        content_digest: The digest of the file, its external tensors, and the names of input and output.
        weight_dtypes: The number of the file's tensors of two dimensions or more, and that of their values, by dtype.
        file_bytes: The size of the file and its external tensors; None where it is not known.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input: Any,
        output: str,
        content_digest: str,
        weight_dtypes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        file_bytes: int | None = None,
    ) -> None:
        self._session = session
        self.weight_dtypes = dict(weight_dtypes)
        self.input, self.output = input.name, output
        self.dtype = _DTYPES[input.type]
        self.content_digest = content_digest
        self.file_bytes = file_bytes
        first = input.shape[0]
        self._sizes = BatchSizes(first, first, first) if isinstance(first, int) else BatchSizes()

    def __repr__(self) -> str:
        return f"OnnxModel({self.input!r} -> {self.output!r})"

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the output for a batch (n, ...), on the batch's device.

        Floating-point batches are converted to the graph's floating-point dtype; others must have the graph's own.
        Raises ObservationError for a batch that the graph does not take.
        """
        if batch.dtype != self.dtype and not (batch.is_floating_point() and self.dtype.is_floating_point):
            raise ObservationError(f"the ONNX graph takes {self.dtype} as {self.input}, not {batch.dtype}")
        rows = batch.detach().to("cpu", self.dtype)
        return run_in_sizes(self._run, rows, self._sizes).to(batch.device)

    def _run(self, rows: Tensor) -> Tensor:
        try:
            (output,) = self._session.run([self.output], {self.input: rows.contiguous().numpy()})
        except Exception as error:  # onnxruntime has an exception class of its own for each status
            raise ObservationError(f"onnxruntime: {_reason_of(error)}") from error
        if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiu":
            raise ObservationError(f"output {self.output} of the ONNX graph is not a tensor of numbers")
        return torch.from_numpy(output)


@explains_keywords
def load_onnx(
    path: str | os.PathLike[str],
    *,
    input: str | None = None,
    output: str | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    max_bytes: int = MAX_BYTES,
) -> OnnxModel:
    """Return an ONNX file as a model that maps a batch (n, ...) to logits, run by onnxruntime (extra `onnx`).

    The graph must have one input. A graph with a fixed batch size is called with batches of that size, the last one
    padded. It runs on as many threads as torch uses.

    Args:
        path: The file.
        input: The expected name of the graph's input, or None not to check it.
        output: The name of the output with the logits; needed if there are several outputs, none of which is called
            "logits".
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
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("reading ONNX files", "onnx") from error
    limit = check_max_bytes(_OWNER, max_bytes)
    if isinstance(providers, str) or not providers:
        reject(_OWNER, "providers", providers, "must be a list of execution providers of onnxruntime")
    unknown = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if unknown:
        rule = f"onnxruntime has {', '.join(onnxruntime.get_available_providers())} here"
        reject(_OWNER, "providers", unknown[0], rule)
    with opened(path, limit) as file:
        content = file.read()
    checked = check_graph(content, path, limit)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    if checked.external:
        folder = str(Path(path).resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:
        raise ArtifactError(path, f"onnxruntime refuses it: {_reason_of(error)}") from error
    if session.get_providers()[0] != providers[0]:
        raise ArtifactError(path, f"runs on {session.get_providers()[0]} only, not on {providers[0]}")
    fed, read = _choose_input(session, input, path), _choose_output(session, output, path)
    digest = digest_text("onnx", checked.digest, fed.name, read, *providers)
    return OnnxModel(session, fed, read, digest, checked.weight_dtypes, checked.size)


def _choose_input(session: onnxruntime.InferenceSession, name: str | None, path: str | os.PathLike[str]) -> Any:
    inputs = {each.name: each for each in session.get_inputs()}
    if name is not None and name not in inputs:
        reject(_OWNER, "input", name, f"the graph takes {_described(inputs.values())}")
    if len(inputs) != 1:
        found = _described(inputs.values()) or "nothing"
        raise ArtifactError(
            path, f"takes {found}; a model takes a single batch, so make the others constants of the graph"
        )
    chosen = next(iter(inputs.values()))
    if chosen.type not in _DTYPES or not chosen.shape:
        raise ArtifactError(path, f"takes {_described([chosen])}; a batch is a tensor (n, ...) of numbers")
    if isinstance(chosen.shape[0], int) and chosen.shape[0] < 1:
        raise ArtifactError(path, f"takes {_described([chosen])}, which is not a possible batch size")
    return chosen


def _choose_output(session: onnxruntime.InferenceSession, name: str | None, path: str | os.PathLike[str]) -> str:
    outputs = {each.name: each for each in session.get_outputs()}
    if name is not None and name not in outputs:
        reject(_OWNER, "output", name, f"the outputs of the graph are {_described(outputs.values())}")
    if name is not None:
        return name
    if len(outputs) > 1 and "logits" not in outputs:
        raise ArtifactError(path, f"has the outputs {_described(outputs.values())}: name the logits by output=")
    return "logits" if "logits" in outputs else next(iter(outputs))


def _reason_of(error: Exception) -> str:
    """Return what onnxruntime says, without its codes and the places in its own source."""
    if "allocate memory" in str(error) or "bad_alloc" in str(error):
        return "it needs more memory than is available"
    return shortened(_PLACES.sub("", str(error)), 300) or type(error).__name__


def _described(values: Any) -> str:
    return ", ".join(shortened(f"{each.name} {each.type} {each.shape}", 120) for each in values)
