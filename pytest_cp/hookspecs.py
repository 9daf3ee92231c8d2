"""Hooks that a conftest.py or another plugin can implement to extend pytest_cp; each has a working example.

Each is called once per session. The hooks for the report (provenance and sections) are called when the session ends,
all others when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from cp_compress.data import Codec
    from cp_compress.fidelity import AttributionMethod, Comparison
    from cp_compress.fidelity.boundaries.directions import Directions
    from cp_compress.fidelity.observing.observation import Observation
    from cp_compress.model import Scheme


@pytest.hookspec
def pytest_cp_schemes() -> Iterable[type[Scheme]]:  # type: ignore[empty-body]
    """Return scheme classes, for use in markers, ini files, command lines and specifications.

    A scheme is a frozen dataclass. It has an `expression_name`, `positional_fields` (the fields that are written
    without their names) and a method `compress(model)` that returns a new model:

    ```python
    @dataclasses.dataclass(frozen=True)
    class Shrink:
        expression_name = "shrink"
        positional_fields = ()
        leaves = ()
        undoes = ()
        factor: float

        def compress(self, model):
            changed = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in changed.parameters():
                    parameter.mul_(self.factor)
            return changed

    def pytest_cp_schemes():
        return [Shrink]
    ```

    `--cp-scheme "shrink(factor=0.9)"` then compresses the reference model with it.

    `leaves` and `undoes` are optional. They hold any of "zeros", "pattern", "removed_channels", "factors" and
    "rounded_numbers": what later schemes must keep, and what this one destroys in a weight that it changes. A scheme
    that undoes what an earlier one left is refused. Without them the scheme is judged by its result: zeros that it
    makes must be kept, and zeros that an earlier scheme left must not be filled (`cp_compress.model.Scheme`).
    """


@pytest.hookspec
def pytest_cp_codecs() -> Iterable[type[Codec]]:  # type: ignore[empty-body]
    """Return codec classes, for use in markers, ini files, command lines and specifications.

    Like a scheme, a codec is a frozen dataclass with an `expression_name` and `positional_fields`. `encode(batch)`
    returns a list of bytes, one stream per example, and each stream records the shape of its example. `decode(streams)`
    returns a batch. `roundtrip(batch)` encodes and decodes. `lossless` says whether the round trip is exact:

    ```python
    @dataclasses.dataclass(frozen=True)
    class Half:
        expression_name = "half"
        positional_fields = ()
        lossless = False

        def encode(self, batch):
            files = [io.BytesIO() for _ in batch]
            for file, example in zip(files, batch):
                np.save(file, example.half().numpy())
            return [file.getvalue() for file in files]

        def decode(self, streams):
            arrays = [np.load(io.BytesIO(stream)) for stream in streams]
            return torch.from_numpy(np.stack(arrays)).float()

        def roundtrip(self, batch):
            return self.decode(self.encode(batch)).to(batch.device)

    def pytest_cp_codecs():
        return [Half]
    ```
    """


@pytest.hookspec
def pytest_cp_attribution_methods() -> Iterable[type[AttributionMethod]]:  # type: ignore[empty-body]
    """Return classes of attribution methods that `method="…"` of assertions and specifications may name.

    A method is a frozen dataclass that subclasses `cp_compress.fidelity.AttributionMethod`, with `expression_name` and
    `attribute(subject, inputs, target)`, which returns maps of the inputs' shape. `subject.logits` is the model;
    `inputs` (n, ...) require gradients; `target` (n,) are the classes that are explained:

    ```python
    @dataclasses.dataclass(frozen=True)
    class ProbabilityGradient(AttributionMethod):
        expression_name = "probability_gradient"
        temperature: float = 1.0

        def attribute(self, subject, inputs, target):
            shares = (subject.logits(inputs) / self.temperature).softmax(dim=1)
            return torch.autograd.grad(shares.gather(1, target[:, None]).sum(), inputs)[0]

    def pytest_cp_attribution_methods():
        return [ProbabilityGradient]
    ```

    Then `assert_attribution_iou(…, method="probability_gradient(temperature=2.0)")` compares its maps. Maps of another
    shape, NaN, and maps that do not depend on the model are errors of the check.
    """


@pytest.hookspec
def pytest_cp_directions() -> Mapping[str, Callable[[Observation, Tensor, int], Directions]]:  # type: ignore[empty-body]
    """Return families of directions by name, for use as `assert_boundary_distance(directions="axes")`.

    A family is a function that takes the reference's observation, the indices of the examples (k,) and the seed, and
    returns `Directions`:

    ```python
    def axes(observation, indices, seed):
        inputs = observation.data.inputs(indices)
        size = inputs[0].numel()
        rows = torch.eye(size).reshape(size, *inputs.shape[1:])
        return Directions(rows, tuple(f"axis {i}" for i in range(size)), ("axes",) * size)

    def pytest_cp_directions():
        return {"axes": axes}
    ```
    """


@pytest.hookspec
def pytest_cp_comparisons() -> Iterable[Comparison]:  # type: ignore[empty-body]
    """Return comparisons of your own, with the metrics that they give.

    `assert_comparison` takes them by name, a specification has a table of each, and their metrics can be required,
    waived and held to baselines as those of this package:

    ```python
    def compare_confidence(candidate, reference):
        changes = (candidate.logits.softmax(1).amax(1) - reference.logits.softmax(1).amax(1)).abs()
        return Measurement(
            "confidence", {"confidence_change": changes.mean().item()}, {"confidence_change": len(changes)}
        )

    def pytest_cp_comparisons():
        change = Metric("confidence_change", "The mean change of the largest probability.", "lower", unchanged=0.0)
        return [Comparison("confidence", compare_confidence, (change,))]
    ```

    Then `assert_comparison(compressed_model, reference_model, dataset, "confidence", max_confidence_change=0.05)`
    gates it, and so does the table `[confidence]` with `max_confidence_change = 0.05`.
    """


@pytest.hookspec
def pytest_cp_provenance(config: pytest.Config) -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return facts to include in every report, by name: where the weights come from, who started the run.

    ```python
    def pytest_cp_provenance(config):
        return {"model card": "https://models.example/7", "commit": os.environ.get("GIT_COMMIT", "unknown")}
    ```
    """


@pytest.hookspec
def pytest_cp_report_sections(document: dict[str, Any]) -> Iterable[Mapping[str, str]]:  # type: ignore[empty-body]
    """Return sections to add to every report, each with a plain-text `title` and `text`.

    `document` is a copy of the report's data:

    ```python
    def pytest_cp_report_sections(document):
        failed = [check["test"] for check in document["checks"] if check["outcome"] == "fail"]
        return [{"title": "Who decides", "text": f"{len(failed)} failures go to the release meeting."}]
    ```
    """
