"""Data stored so that models keep their answers: each example at the smallest setting at which all of them do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.devices import usable_device
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.base.parallel import check_parallel
from cp_compress.base.showing.describing import describe
from cp_compress.data.codec import Codec
from cp_compress.data.images import read_runs
from cp_compress.data.per_example import PerExample
from cp_compress.data.registry import parse_codec
from cp_compress.data.store.manifest import MANIFEST, read_manifest
from cp_compress.data.store.reading import StoredDataset
from cp_compress.data.store.shards import digest_bytes
from cp_compress.data.store.writing import write_store
from cp_compress.data.stream_dataset import Transform, check_task, check_transform
from cp_compress.inputs.reading import LabeledData
from cp_compress.search.settings.bisecting import Bisecting, Chosen
from cp_compress.search.settings.committee import Measure, Member, Rule, read_members
from cp_compress.search.settings.spaces import CodecSpace
from cp_compress.search.settings.trials import MildAxis, axis_on
from cp_compress.search.spaces import Integer

if TYPE_CHECKING:
    import torch

    from cp_compress.fidelity.observing.runner import Model

_OWNER = "write_preserved_store"
_LOSSLESS = "zfp(reversible=True, clip=None)"
_SAMPLED = 32
_NAMED = 10
_MOST_PROBES = 7  # 127 settings, and one more, fit into the byte that names them
Otherwise = Literal["refuse", "mildest", "lossless"]


@explains_keywords
def write_preserved_store(
    dataset: Any,
    codec_family: CodecSpace,
    path: str | os.PathLike[str],
    models: Mapping[str, Model],
    *,
    measure: str | Measure = "answer",
    at_most: float | None = None,
    otherwise: Otherwise = "refuse",
    held_back: Mapping[str, Model] | None = None,
    transform: Transform | None = None,
    probes: int = 7,
    device: torch.device | str | None = None,
    shard_size: int = 1024,
    batch_size: int = 256,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> StoredDataset:
    """Store each example at the smallest setting of a codec at which every model keeps its answer on what is decoded.

    Settings are bisected for all examples of a batch at once: each costs `probes` decodes and, of each model, as many
    forward passes and one more for the original. A milder setting need not keep what a stronger one keeps, so no
    setting is taken that was not tried: what is stored are the streams that every model was asked about, which is
    checked after they are written. The result is the smallest setting that bisection found, not the smallest there is.

    The store is read as any other. `StoredDataset.record` says for which models it holds, by name and digest, and by
    which measure, how many examples have each setting, and what models that were held back made of it: another network
    than those asked may well change its answers.

    Args:
        dataset: Labelled data as `write_store` takes it.
        codec_family: The codec with one parameter, such as `CodecSpace("jpeg(quality={q})", q=Integer(1, 100))`.
        path: The folder to write; its parent must exist.
        models: The models that must keep what they say, by name.

    Args: What is kept
        measure: "answer": the class with the largest logit. "margin": that, and of the distance of its logit from the
            next one no more than `at_most` is lost. Or a function (outputs on decoded examples, outputs on originals)
            of tensors (n, ...) that returns damage (n,).
        at_most: The bound of "margin" or of a function's damage; None for "answer".
        otherwise: What happens to examples that no setting keeps. "refuse" raises CompressionError, naming them, and
            writes nothing; "mildest" stores them at the mildest setting, and the record names them; "lossless" stores
            them by ZFP's reversible mode.
        held_back: Models that are not asked, by name; the record says what they make of the result.
        transform: A function from a batch (n, ...) as it is stored to what the models take, such as a normalisation. It
            is not stored: give the same one to `StoredDataset`.

    Args: The run
        probes: The largest number of settings to try for an example, 1…7. Of a family with more than 2^probes − 1
            settings, so many are taken, evenly spaced.
        device: Where models run; by default where they are.
        shard_size: The number of examples per shard.
        batch_size: The largest number of examples that are encoded, decoded and run together.
        jobs: The number of processes that write; models run in this one.
        overwrite: Whether to replace another store.
        progress: Whether to show a progress bar.

    Returns:
        The data set in the folder.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        CompressionError: If no setting keeps an example, and `otherwise` is "refuse".
        ObservationError: If a model cannot be run on the data, gives NaN, or its answers depend on the batch.

    >>> import tempfile
    >>> from cp_compress.examples import digits, digits_cnn
    >>> family = CodecSpace("jpeg(quality={quality})", quality=Integer(1, 100))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = write_preserved_store(digits(), family, f"{folder}/store", {"digits_cnn": digits_cnn()})
    ...     print(stored.record["measure"], stored.record["decodes"])
    answer 7
    """
    rule = Rule(_OWNER, measure, at_most)
    if not isinstance(codec_family, CodecSpace):
        told = 'must be a CodecSpace, such as CodecSpace("jpeg(quality={q})", q=Integer(1, 100))'
        reject(_OWNER, "codec_family", codec_family, told)
    check_choice(_OWNER, "otherwise", otherwise, get_args(Otherwise))
    check_transform(_OWNER, transform)
    told = f"must be a whole number in 1…{_MOST_PROBES}"
    probes = check_integer(_OWNER, "probes", probes, told, at_least=1, at_most=_MOST_PROBES)
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        check_integer(_OWNER, name, value, "must be a whole number of 1 or more", at_least=1)
    check_parallel(_OWNER, jobs, None)
    if device is not None:
        usable_device(device, f"{_OWNER}(device={str(device)!r}): it")
    members = read_members(_OWNER, "models", models, rule, device, batch_size)
    if not members:
        reject(_OWNER, "models", dict(models), "name at least one model that must keep its answers")
    beside = read_members(_OWNER, "held_back", held_back or {}, rule, device, batch_size)
    _refuse_asked(members, beside)
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    check_task(_OWNER, data)
    _refuse_other(Path(path), len(data), overwrite)
    sample = next(read_runs(data, 0, min(len(data), _SAMPLED), _SAMPLED))[0]
    family = _Settings(codec_family, axis_on(_OWNER, codec_family, sample), 2**probes - 1)
    lossless = parse_codec(_LOSSLESS) if otherwise == "lossless" else None
    shown = _Shown(transform)
    search = Bisecting(family.codecs, lossless, members, beside, shown)
    _choose(search, data, batch_size, progress)
    found = search.found
    unkept = [place for place, setting in enumerate(found.settings) if setting == len(family.codecs)]
    if unkept and (otherwise == "refuse" or found.refused):
        raise CompressionError(_refusal(unkept, family, found, rule, members))
    codec, settings = family.stored(found.settings, _LOSSLESS if lossless is not None else None)
    record = {
        "family": str(codec_family),
        "measure": rule.name,
        "at_most": rule.at_most,
        "models": {member.name: member.digest for member in members},
        "held_back": {one.name: _beside(one, found) for one in beside},
        "transform": None if transform is None else describe(transform),
        "settings": _distribution(codec, settings),
        "otherwise": otherwise,
        "not_kept": unkept if otherwise == "mildest" else [],
        "decodes": found.decodes,
        "forward_passes": max(-(-member.runner.passes // len(data)) for member in members),
    }
    stored = write_store(
        data,
        codec,
        path,
        settings=settings,
        record=record,
        shard_size=shard_size,
        batch_size=batch_size,
        jobs=jobs,
        overwrite=overwrite,
        progress=progress,
    )
    try:
        _require_tried(stored, found.digests, batch_size)
    except CompressionError:
        (stored.path / MANIFEST).unlink()  # what it says of the models does not hold: nobody may read it
        raise
    return stored


class _Settings:
    """The settings of a family that are tried, from the strongest to the mildest."""

    def __init__(self, family: CodecSpace, axis: MildAxis, most: int) -> None:
        count = most
        if isinstance(axis.parameter, Integer):
            count = min(most, axis.parameter.high - axis.parameter.low + 1)
        places = [place / max(1, count - 1) for place in range(count)]
        points = {axis.point(place)[axis.name]: None for place in places}  # each once, in order
        self.codecs: list[Codec] = []
        self.values: list[float | int | str] = []
        refused: InvalidArgumentError | None = None
        for value in points:
            try:
                self.codecs.append(family.codec({axis.name: value}))
            except InvalidArgumentError as error:  # a codec may refuse one end of its range
                refused = error
                continue
            self.values.append(value if isinstance(family.template, str) else str(self.codecs[-1]))
        if not self.codecs:
            assert refused is not None
            raise refused
        self.template = "{}"
        if isinstance(family.template, str):
            self.template = family.template.format_map({axis.name: "{}"})
        for codec, value in zip(self.codecs, self.values, strict=True):
            if self.template == "{}" and parse_codec(str(value)) != codec:
                rule = f"its codec is not the one that its text {codec} names, by which a store is read"
                reject(_OWNER, "codec_family", str(family), rule)

    def stored(self, settings: Sequence[int], lossless: str | None) -> tuple[PerExample, list[int]]:
        """Return the codec of those settings that are used, and the number that it gives the setting of each example.

        Where nothing is stored without loss, an example that is not kept has the mildest setting.
        """
        last = len(self.codecs) - 1
        chosen = settings if lossless is not None else [min(setting, last) for setting in settings]
        used = sorted({setting for setting in chosen if setting <= last})
        numbers = {setting: number for number, setting in enumerate(used)} | {last + 1: len(used)}
        values = tuple(self.values[setting] for setting in used)
        if not values:  # all of them without loss
            return PerExample("{}", (lossless or "",)), [0] * len(chosen)
        otherwise = lossless if last + 1 in chosen else None
        return PerExample(self.template, values, otherwise), [numbers[setting] for setting in chosen]


class _Shown:
    """What models are shown of a batch as it is stored."""

    def __init__(self, transform: Transform | None) -> None:
        self.transform = transform

    def __call__(self, batch: Tensor) -> Tensor:
        if self.transform is None:
            return batch
        shown = self.transform(batch)
        if not isinstance(shown, Tensor) or shown.shape[:1] != batch.shape[:1]:
            found = tuple(shown.shape) if isinstance(shown, Tensor) else type(shown).__name__
            rule = f"gave {found} for a batch {tuple(batch.shape)}; it must return one row per example"
            reject(_OWNER, "transform", self.transform, rule)
        return shown


def _choose(search: Bisecting, data: LabeledData, batch_size: int, progress: bool) -> None:
    from tqdm import tqdm

    with tqdm(total=len(data), desc="choose", unit=" examples", disable=not progress) as bar:
        for inputs, _ in read_runs(data, 0, len(data), batch_size):
            search.add(inputs)
            bar.update(len(inputs))


def _refuse_asked(members: Sequence[Member], beside: Sequence[Member]) -> None:
    """Reject a model that is held back and asked as well: what it does would be no news."""
    asked = {member.digest: member.name for member in members if member.digest is not None}
    objects = {id(member.runner.model) for member in members}
    for one in beside:
        if one.digest in asked or id(one.runner.model) in objects or one.name in {member.name for member in members}:
            reject(_OWNER, "held_back", one.name, "it is one of the models that are asked; hold back another one")


def _refuse_other(path: Path, count: int, overwrite: bool) -> None:
    """Reject, before any work, a place where no store can be written or that holds one which was not written so."""
    if not path.resolve().parent.is_dir():
        reject(_OWNER, "path", os.fspath(path), "its parent folder does not exist")
    if overwrite or not (path / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(path)
    except CorruptStreamError as error:
        reject(_OWNER, "path", os.fspath(path), f"it holds a store that cannot be read: {error}")
    if not isinstance(manifest.codec, PerExample) or manifest.examples != count:
        rule = f"it holds another store ({manifest.examples} examples by {manifest.codec})"
        reject(_OWNER, "path", os.fspath(path), f"{rule}; use overwrite=True to replace it")


def _refusal(unkept: Sequence[int], family: _Settings, found: Chosen, rule: Rule, members: Sequence[Member]) -> str:
    named = ", ".join(f"#{place}" for place in unkept[:_NAMED]) + (", …" if len(unkept) > _NAMED else "")
    who = ", ".join(member.name for member in members)
    refused = "" if found.refusal is None else f" (refused by the codec: {found.refusal})"
    remedy = 'extend the range, or use otherwise="lossless" or otherwise="mildest"'
    return (
        f"{_OWNER}: required was {rule} for {who}; {len(unkept)} of {len(found.settings)} examples keep it at no "
        f"setting that was tried, up to {family.codecs[-1]}: {named}{refused}; {remedy}"
    )


def _beside(member: Member, found: Chosen) -> dict[str, Any]:
    """Return what a model that was held back makes of the result."""
    kept, same = found.kept[member.name], found.same[member.name]
    answers: dict[str, Any] = {}
    if not callable(member.rule.measure):
        changed = [place for place, one in enumerate(same) if not one]
        answers = {
            "agreement": 1 - len(changed) / len(same),
            "changed": len(changed),
            "first_changed": changed[:_NAMED],
        }
    return {"digest": member.digest, "kept": sum(kept) / len(kept), **answers}


def _distribution(codec: PerExample, settings: Sequence[int]) -> dict[str, int]:
    counts = Counter(settings)
    return {str(one): counts[number] for number, one in enumerate(codec.codecs) if counts[number]}


def _require_tried(stored: StoredDataset, digests: Sequence[str], batch_size: int) -> None:
    """Raise CompressionError unless the streams on disk are those that the models were asked about."""
    for start in range(0, len(stored), batch_size):
        positions = range(start, min(start + batch_size, len(stored)))
        for place, stream in zip(positions, stored.streams(positions), strict=True):
            if digest_bytes(stream[:-1]) != digests[place]:
                told = "the data set gave other values when it was read again, or the codec other streams"
                raise CompressionError(f"{_OWNER}: example #{place} is not stored as it was tried: {told}")
