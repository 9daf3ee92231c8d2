"""Models and data named on a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.artifacts.transformers.names import TASKS
from cp_compress.base.arguments import did_you_mean
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.factories import make_from, meant_factory, names_file
from cp_compress.base.files import no_such_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cp_compress.fidelity.observing.runner import Model
    from cp_compress.search.spaces import Parameter


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", help="device for the models, such as cuda:0 (default: cuda if available, else cpu)")


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says more of the models CANDIDATE and REFERENCE that are no factories."""
    parser.add_argument(
        "--served-model", metavar="NAME", help="the name of CANDIDATE at its server, where it is an address"
    )
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help="the environment variable with the key of models that are addresses"
    )
    parser.add_argument(
        "--task", choices=[*TASKS], help="what models that are folders of transformers are for (default: as they say)"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA for CANDIDATE, where that is such a folder")


def read_device(options: argparse.Namespace) -> torch.device:
    """Return the device asked for; raises InvalidArgumentError for one that is not there."""
    import torch

    from cp_compress.base.devices import usable_device

    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(name, f"--device {name}")


def add_model_output(parser: argparse.ArgumentParser) -> None:
    """Add the part of what models give that is compared."""
    parser.add_argument(
        "--model-output",
        metavar="NAME",
        help="the part of what the models give that is compared: a name, or a place in a tuple (default: the logits)",
    )


def read_model_output(options: argparse.Namespace) -> Any:
    """Return the part of what models give that --model-output names, None for their logits."""
    from cp_compress.fidelity.observing.outputs import read_output

    named = vars(options).get("model_output")
    return None if named is None else read_output(named)


def add_moved(parser: argparse.ArgumentParser) -> None:
    """Add what attributions explain and boundaries move."""
    parser.add_argument(
        "--input",
        metavar="NAME",
        help="which of several inputs attributions explain and boundaries move: a name, or a place in a tuple",
    )
    parser.add_argument(
        "--at-layer", metavar="PATH", help="layer whose outputs boundaries move, such as one that embeds token ids"
    )


def can_be_compressed(model: Model) -> bool:
    """Return whether schemes compress a model: a module, but not one that an exported program holds."""
    from torch import nn

    from cp_compress.artifacts.exported_programs.models import ExportedModel

    return isinstance(model, nn.Module) and not isinstance(model, ExportedModel)


def read_equivalent(text: str, reference: Model, architecture: str | None, device: torch.device) -> Model:
    """Return what --noise names: a model of its own, or the reference after a scheme."""
    from torch import nn

    from cp_compress.model import parse_scheme

    if "(" not in text or Path(text).is_file():  # a file may be called anything
        return read_model(text, architecture, device, "--noise")
    if not (can_be_compressed(reference) and isinstance(reference, nn.Module)):
        rule = "no scheme makes an equivalent of this reference: name another file, or leave --noise out"
        raise InvalidArgumentError(f"--noise {text}: {rule}")
    return parse_scheme(text).compress(reference)


def read_module(name: str, architecture: str | None, device: torch.device, what: str = "MODEL") -> nn.Module:
    """Return a model as `read_model` does; raises InvalidArgumentError for one that is no torch.nn.Module."""
    from torch import nn

    model = read_model(name, architecture, device, what)
    if not isinstance(model, nn.Module):
        rule = "only a torch.nn.Module can be compressed; give the model that it was made from"
        raise InvalidArgumentError(f"{what} {name} is an {type(model).__name__}: {rule}")
    return model


def read_pair(options: argparse.Namespace, device: torch.device) -> tuple[Model, Model]:
    """Return CANDIDATE and REFERENCE as `read_model` does; raises InvalidArgumentError for options of other kinds."""
    addresses = [is_address(name) for name in (options.candidate, options.reference)]
    if options.served_model is not None and not addresses[0]:
        raise InvalidArgumentError("--served-model names a model of a server, but CANDIDATE is no address")
    if options.api_key_env is not None and not any(addresses):
        raise InvalidArgumentError("--api-key-env is for servers, but neither model is an address")
    of_reference = ":" in options.reference and not addresses[1]
    architecture = options.architecture or (options.reference if of_reference else None)
    served = {"api_key_env": options.api_key_env}
    folders = [Path(name).is_dir() for name in (options.candidate, options.reference)]
    if (options.task is not None and not any(folders)) or (options.adapter is not None and not folders[0]):
        raise InvalidArgumentError("--task and --adapter are for folders of transformers, and there is none")
    task = {} if options.task is None else {"task": options.task}
    adapter = {} if options.adapter is None else {"adapter": options.adapter}
    reference = read_model(
        options.reference, options.architecture, device, "REFERENCE", served, task if folders[1] else {}
    )
    served["model"] = options.served_model
    more = {**task, **adapter} if folders[0] else {}
    return read_model(options.candidate, architecture, device, "CANDIDATE", served, more), reference


def is_address(name: str) -> bool:
    """Tell whether a text is the address of a server."""
    return name.startswith(("http://", "https://"))


def read_model(
    name: str,
    architecture: str | None,
    device: torch.device,
    what: str = "MODEL",
    served: Mapping[str, Any] | None = None,
    folder: Mapping[str, Any] | None = None,
) -> Model:
    """Return the model that a factory makes, or that a file or folder holds, in evaluation mode on a device.

    An address of http or https is that of a `ServedModel`, with the arguments `served`; a folder of transformers is
    read with the arguments `folder`.

    Raises InvalidArgumentError for a text that is neither, for a factory that gives no module, and for a file of
    weights without an architecture; ArtifactError for a file of an unsupported kind.
    """
    if is_address(name):
        from cp_compress.artifacts import ServedModel

        return ServedModel(name, **(served or {}))
    if Path(name).exists():
        return _from_file(name, architecture, device, what, folder or {})
    _require_factory(name, what)
    return _module(name, what).to(device).eval()


def require_path(name: str, what: str) -> Path:
    """Return a path that is there; raises InvalidArgumentError, with the nearest name, for one that is not."""
    path = Path(name)
    if not path.exists():
        raise InvalidArgumentError(f"{what} {name}: {no_such_file(name)}")
    return path


def _require_factory(name: str, what: str) -> None:
    """Refuse what is neither a file nor names a factory; a path that is not there is told as such."""
    if names_file(name):
        raise InvalidArgumentError(f"{what} {name}: {no_such_file(name)}")
    if "(" in name:
        role = "a codec is given by --codec" if what == "--data" else "a scheme makes a model, and is none"
        told = "" if what == "--data" else ': cp-compress compress MODEL --scheme "…" --output candidate.cp'
        raise InvalidArgumentError(f"{what} {name!r} is neither a file nor a factory; {role}{told}")
    if ":" in name:
        return
    near = did_you_mean(name, sorted(entry.name for entry in Path().iterdir())) if len(name) > 2 else ""
    form = f'{what} {name!r} is neither a file nor of the form "package.module:factory"'
    told = f"; {near}" if near else meant_factory(name)
    raise InvalidArgumentError(f"{form}{told}")


def _from_file(
    path: str, architecture: str | None, device: torch.device, what: str, folder: Mapping[str, Any]
) -> Model:
    """Return the model of a file or folder; weights alone go into the architecture."""
    from torch import nn

    from cp_compress.artifacts import load_safetensors, load_torch, read_artifact
    from cp_compress.artifacts.guards import MAX_BYTES
    from cp_compress.artifacts.recognition import recognise
    from cp_compress.base.errors import ArtifactError
    from cp_compress.model import load

    try:
        kind = recognise(path, MAX_BYTES)
    except ArtifactError:
        if Path(path).suffix != ".cp":
            raise
        kind = "cp"  # damaged, as its own reader says best
    if kind == "exported":
        return read_artifact(path, device=str(device))
    if folder and kind != "transformers":
        option = next(iter(folder)).replace("_", "-")
        raise InvalidArgumentError(f"--{option} is for folders of transformers, and {what} {path} holds {kind}")
    if kind in ("onnx", "transformers", "npz", "observation"):
        model = read_artifact(path, **folder)
        return model.to(device).eval() if isinstance(model, nn.Module) else model
    if architecture is None:
        raise InvalidArgumentError(f"{what} {path} is a file of weights: add --architecture package.module:factory")
    made = _module(architecture, "--architecture")
    readers = {"safetensors": load_safetensors, "torch": load_torch}
    found: nn.Module = readers[kind](path, factory=lambda: made) if kind in readers else load(path, made)
    return found.to(device).eval()


def _module(name: str, what: str) -> nn.Module:
    from torch import nn

    model = make_from(name, what)
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"{what} {name} returns a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def read_parameters(texts: Sequence[str]) -> dict[str, Parameter]:
    """Return the ranges of parameters written as "density=real(0.02, 1)", by name; raises InvalidArgumentError."""
    from cp_compress.search import parse_parameter

    parameters: dict[str, Parameter] = {}
    for text in texts:
        name, equals, expression = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InvalidArgumentError(f'--parameter {text!r}: must have the form "density=real(0.02, 1)"')
        if name.strip() in parameters:
            raise InvalidArgumentError(f"--parameter {text!r}: {name.strip()} is given twice")
        parameters[name.strip()] = parse_parameter(expression.strip())
    return parameters


def read_shape(text: str) -> tuple[int, ...]:
    """Return a shape written as "3,32,32"; for argparse."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(",") if part.strip())
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 3,32,32")
    return shape


def read_count(text: str) -> int:
    """Return a whole number of 1 or more; for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def read_share(text: str) -> float:
    """Return a number in (0, 1); for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        percent = f"; {value:g} % would be {value / 100:g}" if 1 < value < 100 else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1{percent}")
    return value


def example_input(shape: tuple[int, ...], batch_size: int, device: torch.device) -> Tensor:
    """Return random inputs of a shape: what is computed does not depend on their values."""
    import torch

    return torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0)).to(device)


def read_data(name: str, what: str = "--data", *, reader: Callable[[Any], Any] | None = None) -> Any:
    """Return the labelled examples that a factory makes, or that an .npz file or a folder of images holds.

    A `reader` reads what a factory makes for a comparison that takes data in another form.
    """
    from cp_compress.artifacts import read_examples
    from cp_compress.inputs.reading import LabeledData

    if reader is not None:
        _require_factory(name, what)
        return reader(make_from(name, what))
    if Path(name).exists():
        data = read_examples(name)
    else:
        _require_factory(name, what)
        data = make_from(name, what)
    LabeledData(data)
    return data
