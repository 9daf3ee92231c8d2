"""A codec of several settings, of which each example has its own, chosen by whoever writes the data."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.data.codec import Codec, StreamCodec, as_codec

_OWNER = "PerExample"
_MOST = 256  # what the byte behind each stream can tell apart


@explains_keywords
@dataclass(frozen=True, repr=False)
class PerExample(StreamCodec):
    """Several settings of a codec; each example is stored at one of them, and decoding needs nothing but its stream.

    A stream is that of the setting, and one byte more: the number of the setting, which streams of JPEG and ZFP
    confirm, since they name theirs. Which setting an example gets is chosen when it is written:
    `write_preserved_store` takes the smallest at which models keep their answers, and `write_store(settings=…)` those
    that you give. `encode` is therefore refused, and so is everything that encodes other inputs as those of a stored
    data set were.

    Args:
        template: The expression of the codec, with {} in the place of the setting.
        values: The settings, numbers or texts, at most 256 with `otherwise`.
        otherwise: The expression of one more codec, the last setting, or None.

    Raises:
        InvalidArgumentError: If the template has not one place {}, a codec cannot be made, or two are the same.

    >>> codec = PerExample("jpeg(quality={})", (5, 50, 95))
    >>> streams = codec.encode_at(torch.rand(2, 3, 16, 16), (0, 2))
    >>> len(streams[0]) < len(streams[1]), codec.decode(streams).shape
    (True, torch.Size([2, 3, 16, 16]))
    """

    template: str
    values: tuple[float | int | str, ...]
    otherwise: str | None = None

    expression_name: ClassVar[str] = "per_example"
    positional_fields: ClassVar[tuple[str, ...]] = ("template", "values")

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or _places(self.template) != [""]:
            rule = 'must be an expression of a codec with one {}, such as "jpeg(quality={})"'
            reject(_OWNER, "template", self.template, rule)
        if not isinstance(self.values, (tuple, list)) or not self.values:
            reject(_OWNER, "values", self.values, "must be a tuple of one setting or more")
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) + (self.otherwise is not None) > _MOST:
            reject(_OWNER, "values", self.values, f"{len(self.values)} settings are too many; at most {_MOST} in all")
        if len(set(map(str, self.codecs))) < len(self.codecs):
            reject(_OWNER, "values", self.values, "two settings are the same codec")

    @functools.cached_property
    def codecs(self) -> tuple[Codec, ...]:
        """The codec of each setting, by its number."""
        texts = [self.template.format(value) for value in self.values]
        texts += [] if self.otherwise is None else [self.otherwise]
        return tuple(as_codec(_OWNER, text) for text in texts)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def lossless(self) -> bool:
        """Whether every setting is."""
        return all(codec.lossless for codec in self.codecs)

    def encode(self, batch: Tensor) -> NoReturn:
        """Always raise InvalidArgumentError: nothing says which setting an example is to have."""
        rule = "each example is stored at a setting of its own, which is chosen when a data set is written"
        reject(_OWNER, "encode", "a batch", f"{rule}; give them, as write_store(settings=…), or use one codec for all")

    def encode_at(self, batch: Tensor, settings: Sequence[int], *, first: int = 0) -> list[bytes]:
        """Return one stream per example of a batch (n, ...), stored at the settings of these numbers (n).

        `first` is the number that errors give the first example. Raises InvalidArgumentError or CompressionError,
        naming the example, as the codec of its setting does.
        """
        numbers = check_settings(_OWNER, settings, len(batch), len(self.codecs))
        found: list[bytes] = [b""] * len(batch)
        for number in sorted(set(numbers)):
            places = [place for place, one in enumerate(numbers) if one == number]
            streams = _encode(self.codecs[number], batch[places], [first + place for place in places])
            for place, stream in zip(places, streams, strict=True):
                found[place] = stream + bytes([number])
        return found

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return the examples of streams; raises CorruptStreamError, naming the example, for damaged ones.

        InvalidArgumentError is raised for anything but a sequence of one stream or more.
        """
        return self.read_by_setting(streams, lambda codec, part: codec.decode(part))

    def read_by_setting(self, streams: Sequence[bytes], read: Callable[[Codec, Sequence[bytes]], Tensor]) -> Tensor:
        """Return what `read` makes (k, ...) of the codec and the streams of each setting, joined in order (n, ...)."""
        if isinstance(streams, (bytes, bytearray, str)) or not isinstance(streams, Sequence) or len(streams) == 0:
            reject(_OWNER, "streams", type(streams).__name__, "must be a sequence of at least one stream (bytes)")
        groups: dict[int, list[int]] = {}
        for place, stream in enumerate(streams):
            groups.setdefault(self.setting_of(stream, place), []).append(place)
        found: list[Tensor] = [torch.empty(0)] * len(streams)
        for number, places in groups.items():
            try:
                rows = read(self.codecs[number], [streams[place][:-1] for place in places])
            except CorruptStreamError as error:
                if error.index is None:
                    raise
                place = places[error.index]
                told = str(error).replace(f"example #{error.index}", f"example #{place}", 1)
                raise CorruptStreamError(told, place) from error
            for place, row in zip(places, rows, strict=True):
                found[place] = row
                if (row.shape, row.dtype) != (found[0].shape, found[0].dtype):
                    rule = "all examples of a batch need one shape and dtype"
                    raise CorruptStreamError(f"example #{place} is {tuple(row.shape)}, {row.dtype}: {rule}", place)
        return torch.stack(found)

    def setting_of(self, stream: bytes, index: int = 0) -> int:
        """Return the number of the setting of a stream; raises CorruptStreamError where there is none of it."""
        if not isinstance(stream, (bytes, bytearray, memoryview)) or len(stream) < 2:
            raise CorruptStreamError(f"example #{index}: it is no stream of {len(self.codecs)} settings", index)
        number = int(stream[-1])
        if number >= len(self.codecs):
            told = f"its last byte names setting {number} of {len(self.codecs)}"
            raise CorruptStreamError(f"example #{index}: the stream is damaged: {told}", index)
        return number


def check_settings(owner: str, settings: Sequence[int], count: int, known: int) -> tuple[int, ...]:
    """Return the numbers of settings as a tuple; reject, as `owner`, anything but `count` of them below `known`."""
    rule = f"must be one number in 0…{known - 1} for each of the {count} examples"
    try:
        given = tuple(settings)
    except TypeError:
        reject(owner, "settings", type(settings).__name__, rule)
    if len(given) != count:
        reject(owner, "settings", f"{len(given)} numbers", rule)
    return tuple(check_integer(owner, "settings", one, rule, at_least=0, at_most=known - 1) for one in given)


def settings_for(owner: str, codec: Codec, settings: Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    """Return the checked settings of a codec that has one for each example; reject them with any other codec."""
    if isinstance(codec, PerExample):
        if settings is None:
            rule = "it needs the setting of each example: give settings=…, or call write_preserved_store to choose them"
            reject(owner, "codec", str(codec), rule)
        return check_settings(owner, settings, count, len(codec.codecs))
    if settings is not None:
        reject(owner, "settings", "given", f"only a PerExample codec has settings, not {codec}")
    return None


def _places(template: str) -> list[str | None]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return []


def _encode(codec: Codec, examples: Tensor, places: Sequence[int]) -> list[bytes]:
    """Return the streams of examples; an error of their codec names the place of the first that it refuses."""
    try:
        return codec.encode(examples)
    except (InvalidArgumentError, CompressionError):
        for row, place in enumerate(places):
            try:
                codec.encode(examples[row : row + 1])
            except (InvalidArgumentError, CompressionError) as error:
                raise type(error)(f"example #{place}, encoded alone: {error}") from error
        raise
