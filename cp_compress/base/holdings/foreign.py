"""Values that are neither tensors, containers nor plain Python objects: what they hold, and which hold nothing."""

from __future__ import annotations

import array
import collections.abc
import ctypes
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import io
import logging
import mmap
import pathlib
import pickletools
import re
import sys
import sysconfig
import threading
import types
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cp_compress.base.holdings.tensors import NotVisibleError, told

_SETTINGS = (
    *(bool, int, float, complex, str, type(None), type(...), type(NotImplemented), range, slice, np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
    *(enum.Enum, pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern),
)
_BYTES = (bytes, bytearray, memoryview, array.array, mmap.mmap)
_POINTERS = (ctypes._Pointer, ctypes._SimpleCData, ctypes.CDLL, type(ctypes.pythonapi.Py_IncRef).__mro__[1])
_PASSED_OVER = (
    *(torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.utils.data.DataLoader),
    *(logging.Logger, logging.Handler, logging.LoggerAdapter, threading.Thread, threading.Event, threading.Condition),
    *(threading.Semaphore, threading.Barrier, threading.local, type(threading.Lock()), type(threading.RLock())),
    *(types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, types.GeneratorType, property),
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType),
    *(types.MethodDescriptorType, types.CoroutineType, types.CellType, types.GenericAlias, torch.Generator),
    *(collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView),
)
# compilers, process groups and autograd keep caches and handles, not weights
_MACHINERY = (
    *("torch._dynamo", "torch._inductor", "torch._subclasses", "torch._ops", "torch.fx", "torch.autograd"),
    *("torch.distributed.distributed_c10d", "torch.utils.hooks", "typing", "typing_extensions", "abc", "_abc"),
)
_LIBRARY_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = ("cp_compress", "pytest_cp")
_MANGLED = re.compile(r"\.?___torch_mangle_\d+")


@dataclass(frozen=True)
class Archive:
    """The size in bytes and the digest of what TorchScript writes."""

    size: int
    digest: str


def is_setting(value: object) -> bool:
    """Tell whether a value is a number, a text or the like: a setting, and no content to be counted."""
    return isinstance(value, _SETTINGS)


def is_passed_over(value: object) -> bool:
    """Tell whether a value holds nothing that a model computes with: optimisers, loggers, locks, compilers' caches."""
    kind = value if isinstance(value, types.FunctionType) else type(value)
    module = str(getattr(kind, "__module__", ""))
    if isinstance(value, nn.Module):
        return False
    return isinstance(value, _PASSED_OVER) or module.startswith(_MACHINERY) or _is_only_written(value)


def is_bookkeeping(module: nn.Module, name: str) -> bool:
    """Tell whether an attribute of a module is kept by torch's compilers or prints it: nothing is computed with it."""
    if name == "extra_repr":
        return True
    if name == "meta" and isinstance(module, torch.fx.GraphModule):
        return True
    return type(module).__module__.startswith("torch._dynamo") and name != "_orig_mod"


def code_of(module: nn.Module) -> str | None:
    """Return the code that a graph of `torch.fx` has instead of a class, or None."""
    return str(module.code) if isinstance(module, torch.fx.GraphModule) else None


def digest_bytes(head: bytes, data: Any) -> tuple[str, int]:
    """Return the digest and the number of bytes of what supports the buffer protocol."""
    view = memoryview(data).cast("B")
    digest = hashlib.sha256(head)
    digest.update(view)
    return digest.hexdigest(), view.nbytes


def digest_code(code: types.CodeType) -> str:
    """Return the digest of compiled code, and of the functions within it."""
    parts = [digest_code(part) if isinstance(part, types.CodeType) else told(part) for part in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, parts)).encode()).hexdigest()


def tensor_of(values: Any) -> Tensor | None:
    """Return a tensor that shares the memory of an array, or None where torch cannot."""
    if not values.flags.writeable or any(step < 0 for step in values.strides):
        return None
    try:
        return torch.from_numpy(values)
    except (TypeError, ValueError):
        return None


def is_packed(value: object) -> bool:
    """Tell whether a value is an object of a class of TorchScript, such as packed parameters."""
    return isinstance(value, (torch.ScriptObject, torch._C.ScriptObject))


def state_of(value: Any) -> Any:
    """Return the state of a packed value; raises NotVisibleError where it has none."""
    try:
        return value.__getstate__()
    except Exception as error:
        raise NotVisibleError("a script object that does not give its state") from error


def bytes_of(value: Any) -> Any:
    """Return the bytes that a value is, or None; raises NotVisibleError for pointers and open files."""
    if isinstance(value, _POINTERS):
        raise NotVisibleError("a pointer, whose memory nobody can see")
    if isinstance(value, (ctypes.Array, ctypes.Structure, *_BYTES)):
        try:
            return bytes(value) if not isinstance(value, mmap.mmap) else value[:]
        except ValueError as error:
            raise NotVisibleError(str(error)) from error
    if isinstance(value, io.BytesIO):
        return value.getvalue()
    if isinstance(value, io.StringIO):
        return value.getvalue().encode()
    if isinstance(value, io.IOBase):
        raise NotVisibleError("an open file")
    if isinstance(value, torch.UntypedStorage):
        return bytes(list(value))
    return None


def array_of(value: Any) -> Any:
    """Return the numpy array that an array of another library gives of itself, or None."""
    if not hasattr(type(value), "__array__"):
        return None
    try:
        made = np.asarray(value)
    except Exception as error:
        raise NotVisibleError(f"an array that cannot be read: {error}") from error
    return None if made.dtype.hasobject else made


def has_more_than_attributes(value: Any) -> bool:
    """Tell whether a value is of a type written in another language: it may hold what no attribute shows."""
    kind = type(value)
    pointer = ctypes.sizeof(ctypes.c_void_p)
    plain = object.__basicsize__ + pointer * (2 + len(list(slots_of(kind))))
    return kind.__basicsize__ > plain and not issubclass(kind, BaseException)


def reduced(value: Any) -> Any:
    """Return what a value is pickled as, but for its class; raises NotVisibleError where it is not."""
    try:
        made = value.__reduce_ex__(4)
    except Exception as error:
        raise NotVisibleError("nobody can see what it holds") from error
    if isinstance(made, str):
        return made
    arguments, state, items, pairs = (*made[1:5], None, None, None)[:4]
    return arguments, state, list(items or ()), list(pairs or ())


def slots_of(kind: type) -> Iterator[str]:
    """Yield the names of the slots of a class and its bases."""
    for part in kind.__mro__:
        names = vars(part).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                hidden = name.startswith("__") and not name.endswith("__")
                yield f"_{part.__name__.lstrip('_')}{name}" if hidden else name


def closure_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables that a function has captured, and its defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield "defaults", function.__defaults__
    yield "keyword defaults", function.__kwdefaults__


def variables_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables of its module that a function reads, but for modules and what libraries define."""
    for name in sorted(names_read(function.__code__)):
        value = function.__globals__.get(name)
        if value is not None and not isinstance(value, types.ModuleType) and not is_of_class(value):
            yield name, value


def is_of_class(value: object) -> bool:
    """Tell whether a value is a class or function of a library, or a descriptor: no content of its own."""
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return is_of_library(value)
    return hasattr(type(value), "__get__") and not isinstance(value, types.MethodType)


def function_in(name: str, value: object) -> types.FunctionType | None:
    """Return the function of a method in a class that may run in a call, or None."""
    if name.startswith("__") and name not in ("__call__", "__getattr__", "__getitem__", "__torch_function__"):
        return None
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    return value if isinstance(value, types.FunctionType) else None


def is_of_library(value: Any) -> bool:
    """Tell whether a class or function comes with Python or an installed package."""
    name = str(getattr(value, "__module__", None) or "")
    top = name.partition(".")[0]
    if top in _OWN or top in ("builtins", "torch", *_OWN) or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file:
        return False
    above = pathlib.Path(file).parents[name.count(".") + (pathlib.Path(file).name == "__init__.py")]
    return str(file).startswith(_LIBRARY_FOLDERS) or _holds_packages(str(above))


@functools.cache
def _holds_packages(folder: str) -> bool:
    """Tell whether a folder, such as that of `pip install --target`, is one that packages were installed into."""
    try:
        return any(entry.suffix == ".dist-info" for entry in pathlib.Path(folder).iterdir())
    except OSError:
        return False


def archive_of(module: Any) -> Archive:
    """Return the archive that TorchScript writes for a module or function; the names it makes up do not count."""
    try:
        content = module.save_to_buffer()
    except Exception as error:
        raise NotVisibleError(f"a TorchScript that cannot be saved: {error}") from error
    parts = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            name = _unmangled(entry.filename.partition("/")[2])
            if name.endswith((".debug_pkl", "version", "byteorder", ".data/serialization_id")):
                continue
            data = archive.read(entry)
            if name.endswith(".pkl"):
                told_ops = [(op.name, _unmangled(arg)) for op, arg, _ in pickletools.genops(data)]
                data = repr(told_ops).encode()
            elif name.startswith("code/"):
                data = _unmangled(data.decode("utf-8", "replace")).encode()
            parts.append((name, hashlib.sha256(data).hexdigest()))
    return Archive(len(content), hashlib.sha256(repr(sorted(parts)).encode()).hexdigest())


def _unmangled(value: Any) -> Any:
    return _MANGLED.sub("", value) if isinstance(value, str) else value


@functools.lru_cache(maxsize=4096)
def names_read(code: types.CodeType) -> frozenset[str]:
    """Return the names that code looks up in its module; those of attributes, which `co_names` lists too, are none."""
    inner = [names_read(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(own).union(*inner)


def _is_only_written(value: object) -> bool:
    """Tell whether a value is a file that is open for writing alone, as a log is."""
    if not isinstance(value, io.IOBase) or isinstance(value, (io.BytesIO, io.StringIO)):
        return False
    try:
        return not value.readable()
    except ValueError:  # closed
        return True
