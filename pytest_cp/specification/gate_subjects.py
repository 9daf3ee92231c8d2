"""What a specification names, made when a test first asks for it: models, data, slices and bounds from noise."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch

from cp_compress.artifacts import ProgramModel, ServedModel, read_artifact, read_examples
from cp_compress.artifacts.guards import MAX_BYTES
from cp_compress.artifacts.observations.loading import read_observation
from cp_compress.artifacts.recognition import recognise
from cp_compress.base.factories import make_from
from cp_compress.base.identity import identify
from cp_compress.data import CompressedDataset, parse_codec
from cp_compress.fidelity.frozen.observation import FrozenObservation
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.language.frozen_tokens import FrozenTokens
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.metadata import Metadata, read_metadata
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import mark_as_searched
from cp_compress.inputs.trees import Inputs, arguments_of
from cp_compress.model import compression_steps, parse_scheme
from pytest_cp.checks.call_options import OUTPUT
from pytest_cp.checks.conclusion import returning_twin
from pytest_cp.checks.execution import current_execution, using_execution
from pytest_cp.checks.naming import candidate_called
from pytest_cp.checks.recorder import Recorder
from pytest_cp.checks.records import recording
from pytest_cp.session.fixtures import chosen_device
from pytest_cp.session.options import read_search_result
from pytest_cp.session.state import session_state
from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.frozen import frozen_noise
from pytest_cp.specification.kinds import OWN_MODELS
from pytest_cp.specification.levels import assertion_of, bounds_of, levels, slack_of
from pytest_cp.specification.reading import FACTORY, Requirements, Specification, Table
from pytest_cp.specification.schema import DATA_OPTIONS, FILE_OPTIONS

Made = TypeVar("Made")
_OF_MODELS = frozenset(OWN_MODELS)


class GateSubjects:
    """The subjects of a specification; each is made once in a process."""

    def __init__(self, specification: Specification, config: pytest.Config) -> None:
        self._specification = specification
        self._folder = specification.path.parent
        self._config = config
        self._made: dict[str, Any] = {}
        if str(self._folder) not in sys.path:  # the factories that a specification names lie beside it
            sys.path.insert(0, str(self._folder))

    def check(self, candidate: Table, requirements: Requirements) -> Check:
        """Check a candidate against one table of requirements; raises what the assertion of its level raises."""
        __tracebackhide__ = True
        level = requirements.level
        assertion = assertion_of(level)
        taken = inspect.signature(assertion).parameters
        arguments = self._arguments(requirements)
        if levels()[level].kind == "data":
            return assertion(self._stored(candidate), self._dataset, **arguments)
        subjects = [self._model(candidate), self._reference]
        if "dataset" in taken:
            subjects.append(self._dataset)
        if "example_input" in taken:
            arguments["example_input"] = arguments_of(self._first_input().to(chosen_device(self._config)))
        if "codec" in candidate and "compressed_dataset" in taken:
            arguments["compressed_dataset"] = self._stored(candidate)
        with candidate_called(_model_name(candidate)):
            return assertion(*subjects, **arguments)

    @property
    def _reference(self) -> Model:
        return self._once("reference", lambda: self._read_model(self._specification.reference, "reference"))

    @property
    def _dataset(self) -> Any:
        table = self._specification.data
        return self._once("data", lambda: _read_data(table, self._folder)) if table else None

    @property
    def _metadata(self) -> Metadata:
        path = self._folder / self._specification.data["metadata"]
        return self._once("metadata", lambda: read_metadata(path, len(self._data)))

    @property
    def _data(self) -> Any:
        """The data as what the tables compare: what a comparison reads that streams, else labelled examples."""
        if self._dataset is None and isinstance(self._reference, (FrozenObservation, FrozenTokens)):
            return self._reference.data
        named = (levels()[one.level] for one in self._specification.requirements)
        streamed = next((one for one in named if one.kind == "streamed"), None)
        return LabeledData(self._dataset) if streamed is None else streamed.read(self._dataset)

    def _first_input(self) -> Inputs:
        data = self._data
        if isinstance(data, LabeledData):
            return data.read([0])[0]
        found = data.first_input()
        if not isinstance(found, torch.Tensor):
            rule = "a model whose input is no tensor has no size or speed here; leave the table [footprint] out"
            raise SpecificationError(f"data: the first input is a {type(found).__name__}: {rule}")
        return found

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        if name not in self._made:
            self._made[name] = make()
        return cast(Made, self._made[name])

    def _model(self, candidate: Table) -> Model:
        if "search" in candidate:
            return self._once(f"found {candidate['name']}", lambda: self._found(candidate))
        if "scheme" in candidate:
            return self._once(f"scheme {candidate['scheme']}", lambda: self._compressed(candidate["scheme"]))
        if not candidate.keys() & _OF_MODELS:
            return self._reference
        return self._once(f"candidate {candidate['name']}", lambda: self._read_model(candidate, candidate["name"]))

    def _found(self, candidate: Table) -> Model:
        """Return what a search has found, with the digests of the examples that it has seen."""
        try:
            scheme, digests = read_search_result(self._folder / candidate["search"])
        except ValueError as error:
            raise SpecificationError(f"candidate {candidate['name']}: {error}") from error
        plain = {key: value for key, value in candidate.items() if key != "search"}
        if not plain.keys() & {"scheme", "codec", *_OF_MODELS}:
            if scheme is None:
                rule = "the result names no scheme; say by scheme, model, file, command, served or codec what was found"
                raise SpecificationError(f"candidate {candidate['name']}: search = {candidate['search']!r}: {rule}")
            plain["scheme"] = scheme
        made = self._model(plain)
        # a copy of what others may make too, who have not searched for it
        model = copy.deepcopy(made) if isinstance(made, torch.nn.Module) else made
        mark_as_searched(model, digests)
        return model

    def _compressed(self, scheme: str) -> Model:
        if not isinstance(self._reference, torch.nn.Module):
            kind = type(self._reference).__name__
            raise SpecificationError(
                f"scheme {scheme}: the reference is a {kind}; only a torch.nn.Module can be compressed"
            )
        models = session_state(self._config).models
        return models.compress(self._reference, parse_scheme(scheme), chosen_device(self._config))

    def _stored(self, candidate: Table) -> CompressedDataset:
        return session_state(self._config).compressed_dataset(self._dataset, parse_codec(candidate["codec"]))

    def _read_model(self, table: Table, name: str) -> Model:
        if "command" in table:
            return ProgramModel([self._beside(part) for part in table["command"]])
        if "observation" in table:
            return read_observation(self._folder / table["observation"], digest=table.get("digest"))
        if "served" in table:
            return ServedModel(**table["served"])
        if "model" in table:
            made: Model = make_from(table["model"], f"{name}.model")
            return made
        options = {key: table[key] for key in FILE_OPTIONS if key in table}
        if "factory" in options:
            factory = options["factory"]
            options["factory"] = lambda: make_from(factory, f"{name}.factory")
        if "adapter" in options:
            options["adapter"] = self._folder / options["adapter"]
        return read_artifact(self._folder / table["file"], **options)

    def _read_equivalent(self, path: Path) -> Model:
        """Return the model of a file; weights alone go into the architecture of the reference."""
        made_by = self._specification.reference.get("factory", self._specification.reference.get("model"))
        alone = made_by is not None and recognise(path, MAX_BYTES) in ("cp", "safetensors", "torch")
        return read_artifact(path, factory=made_by if alone else None)

    def _beside(self, argument: str) -> str:
        beside = self._folder / argument
        return str(beside) if beside.is_file() else argument

    def _arguments(self, requirements: Requirements) -> dict[str, Any]:
        given = {name: value for name, value in requirements.arguments.items() if name != "candidates"}
        made = (*levels()[requirements.level].made, OUTPUT)
        for name, value in given.items():
            if name == "slices":
                given[name] = {label: self._slice(label, one) for label, one in value.items()}
            elif name == "clusters":
                given[name] = self._clusters(requirements.level, value)
            elif isinstance(value, list):
                given[name] = tuple(value)
            elif name in made and isinstance(value, str) and FACTORY.fullmatch(value):
                given[name] = make_from(value, f"{requirements.level}.{name}")
            elif name in ("replay", "save_to"):
                given[name] = self._folder / value
        for name in bounds_of(requirements.level):
            value = given.get(name)
            if isinstance(value, str):
                given[name] = self._noise_bound(requirements.level, name, value, given)
        return given

    def _slice(self, label: str, condition: Any) -> Any:
        if isinstance(condition, Mapping):
            return self._metadata.where(**condition)
        return make_from(condition, f"slice {label}") if isinstance(condition, str) else condition

    def _clusters(self, level: str, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if FACTORY.fullmatch(given):
            return make_from(given, f"{level}.clusters")
        columns = self._metadata.columns
        if given not in columns:
            known = ", ".join(columns)
            raise SpecificationError(f"{level}.clusters = {given!r}: no column of the metadata; known are {known}")
        return list(columns[given])

    def _noise_bound(self, level: str, argument: str, text: str, given: dict[str, Any]) -> float:
        """Return the bound that equivalent references meet among each other, plus the slack in the text."""
        bounds = bounds_of(level)
        claimed = ("confidence", "clusters", "family")
        options = {name: value for name, value in given.items() if name not in bounds and name not in claimed}
        asked = (
            f"noise {level} {argument} {identify(options)}"  # by content: the text of a large tensor leaves most out
        )
        found = self._once(asked, lambda: self._noise(level, argument, options))
        metric = bounds[argument]
        worst = min(found) if metric.direction == "min" else max(found)
        low, high = metric.low, metric.high
        bound = min(high, max(low, worst + slack_of(text)))
        of_what = f"the worst of {len(found)} pairs of equivalent references has {worst:.6g}"
        if bound == (low if metric.direction == "min" else high):
            rule = f"so the bound would be {bound:.6g}, which every value meets"
            raise SpecificationError(f"{level}.{argument} = {text!r}: {of_what}, {rule}")
        note = f"{level}.{argument} = {text!r} means {bound:.6g}: {of_what}"
        notes = session_state(self._config).own_notes
        if note not in notes:
            notes.append(note)
        return bound

    def _noise(self, level: str, argument: str, options: dict[str, Any]) -> list[float]:
        if isinstance(self._reference, FrozenObservation) and not self._specification.noise:
            return frozen_noise(self._reference, level, bounds_of(level)[argument].name, options)
        references = [self._reference, *(self._equivalent(text) for text in self._specification.noise)]
        check = returning_twin(assertion_of(level))
        values = []
        apart = dataclasses.replace(current_execution(), any_source=True)  # they may come from several trainings
        with (
            using_execution(apart),
            recording(Recorder("noise")),
        ):  # what the references are among each other is no result of the gate
            for one, other in itertools.permutations(references, 2):
                if compression_steps(other) and not compression_steps(one):
                    continue  # the compressed one comes first
                found: Check = check(one, other, self._dataset, **options, **{argument: 0.0})
                values.append(found.worst.value)
        return values

    def _equivalent(self, text: str) -> Model:
        """Return another reference: of a factory, a file, or this reference after a scheme."""
        if (self._folder / text).is_file():
            return self._once(f"file {text}", lambda: self._read_equivalent(self._folder / text))
        if FACTORY.fullmatch(text):
            return self._once(f"model {text}", lambda: cast(Model, make_from(text, "noise.references")))
        return self._once(f"scheme {text}", lambda: self._compressed(text))


def _model_name(candidate: Table) -> str | None:
    """Return what a candidate's model is called, or None where its scheme says it, or the reference's own name."""
    if not candidate.keys() & _OF_MODELS:
        return None
    return str(candidate["name"]).removesuffix(f" + {candidate.get('codec')}")


def _read_data(table: Table, folder: Path) -> Any:
    if "file" in table:
        options = {key: table[key] for key in DATA_OPTIONS if key in table}
        if "size" in options:
            options["size"] = tuple(options["size"])
        if isinstance(options.get("classes"), str):
            options["classes"] = folder / options["classes"]
        return read_examples(folder / table["file"], **options)
    return make_from(table["examples"], "data.examples")
