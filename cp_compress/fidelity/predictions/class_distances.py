"""The cost of changing one class to another (matrices, groups, trees, embeddings), and the weight of an example."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.showing.brief import Brief

_FREE = "no change would cost anything"
ClassDistance = Tensor | Sequence[Sequence[float]] | Mapping[str, Sequence[int | str]]
Weights = Tensor | Sequence[float] | Mapping[int | str, float]
_OWNER = "compare_predictions"


def check_class_distance(class_distance: ClassDistance | None, owner: str = _OWNER) -> None:
    """Refuse a class distance that is wrong whatever the classes are, before a model runs to say which they are.

    Raises InvalidArgumentError, as `owner`, for what is no matrix of numbers or mapping of groups, for empty groups,
    and where no change would cost anything.
    """
    if class_distance is None:
        return
    if not isinstance(class_distance, Mapping):
        if not bool(_as_matrix(class_distance, owner).any()):
            reject(owner, "class_distance", class_distance, f"with all distances 0 {_FREE}")
        return
    for group, members in class_distance.items():
        if not _members(group, members, owner):
            rule = "holds no class; remove it or add classes"
            reject(owner, f"class_distance[{group!r}]", members, rule)
    if len(class_distance) < 2:
        reject(owner, "class_distance", dict(class_distance), f"with a single group or none {_FREE}")


def as_class_distance(class_distance: ClassDistance | None, names: tuple[str, ...], owner: str = _OWNER) -> Tensor:
    """Return a class distance as a float64 matrix (classes, classes).

    Raises InvalidArgumentError, as `owner`, for malformed ones, and as `check_class_distance`.
    """
    classes = len(names)
    if class_distance is None:
        return 1 - torch.eye(classes, dtype=torch.float64)
    check_class_distance(class_distance, owner)
    if isinstance(class_distance, Mapping):
        return _group_distance(class_distance, names, owner)
    matrix = _as_matrix(class_distance, owner)
    if matrix.shape != (classes, classes):
        reject(owner, "class_distance", class_distance, f"a distance matrix must have shape ({classes}, {classes})")
    if not bool(torch.isfinite(matrix).all()) or bool((matrix < 0).any()) or bool((matrix.diagonal() != 0).any()):
        rule = "distances must be finite and not negative, and 0 from a class to itself"
        reject(owner, "class_distance", class_distance, rule)
    return matrix


@dataclass(frozen=True, eq=False, repr=False)
class ChangeCosts(Brief):
    """What each change of a class to another costs; without a matrix where every change between groups costs 1.

    `groups` (classes,) are the groups, `matrix` (classes, classes) the distances where they are given.
    """

    groups: Tensor
    matrix: Tensor | None = None

    def of(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the costs (n,), float64, of changes between classes (n,)."""
        if self.matrix is not None:
            return self.matrix[before, after]
        return (self.groups[before] != self.groups[after]).double()

    @property
    def largest(self) -> float:
        """The largest cost of a change."""
        return 1.0 if self.matrix is None else float(self.matrix.max())


def as_change_costs(class_distance: ClassDistance | None, names: tuple[str, ...], owner: str = _OWNER) -> ChangeCosts:
    """Return the costs of changes by a class distance, in memory linear in the classes where it is no matrix.

    Raises InvalidArgumentError as `as_class_distance`.
    """
    numbers = torch.arange(len(names))
    if class_distance is None:
        return ChangeCosts(numbers)
    check_class_distance(class_distance, owner)
    if isinstance(class_distance, Mapping):
        return ChangeCosts(_groups_of_classes(class_distance, names, owner))
    return ChangeCosts(numbers, as_class_distance(class_distance, names, owner))


def _as_matrix(class_distance: Tensor | Sequence[Sequence[float]], owner: str) -> Tensor:
    try:
        return torch.as_tensor(class_distance, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        reject(owner, "class_distance", class_distance, f"must be a matrix of numbers or a mapping of groups ({error})")


def _group_distance(groups: Mapping[str, Sequence[int | str]], names: tuple[str, ...], owner: str) -> Tensor:
    group_of = _groups_of_classes(groups, names, owner)
    return (group_of[:, None] != group_of[None, :]).double()


def _groups_of_classes(groups: Mapping[str, Sequence[int | str]], names: tuple[str, ...], owner: str) -> Tensor:
    group_of = torch.full((len(names),), -1)
    for number, (group, members) in enumerate(groups.items()):
        for member in _members(group, members, owner):
            index = _class_index(member, names, "class_distance", owner)
            if group_of[index] >= 0:
                reject(owner, "class_distance", {group: member}, f"class {names[index]} is in two groups")
            group_of[index] = number
    missing = [names[index] for index in (group_of < 0).nonzero().flatten().tolist()]
    if missing:
        reject(owner, "class_distance", dict(groups), f"classes {', '.join(missing)} are in no group")
    return group_of


def _members(group: str, members: object, owner: str) -> list[int | str]:
    if isinstance(members, str):
        return [members]
    if isinstance(members, Collection) and getattr(members, "ndim", 1) == 1:
        return list(members)
    reject(owner, f"class_distance[{group!r}]", members, "a group is a list of class indices or names")


def _class_index(member: int | str, names: tuple[str, ...], argument: str, owner: str) -> int:
    if isinstance(member, str) and member in names:
        return names.index(member)
    try:
        index = operator.index(member)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    truth = isinstance(member, bool) or getattr(member, "dtype", None) == torch.bool
    if not truth and 0 <= index < len(names):
        return index
    reject(owner, argument, member, f"not a class; classes are 0 to {len(names) - 1}, named {', '.join(names)}")


def as_class_weights(weights: Weights | None, names: tuple[str, ...], owner: str = _OWNER) -> Tensor:
    """Return a mapping from classes to weights as (classes,), float64, 1 where nothing is named.

    Raises InvalidArgumentError, as `owner`, for anything but a mapping, unknown classes and what is no weight.
    """
    by_class = torch.ones(len(names), dtype=torch.float64)
    if weights is not None and not isinstance(weights, Mapping):
        reject(owner, "weights", weights, "must be a mapping from classes to weights")
    rule = "weights must be finite numbers and not negative"
    for member, weight in (weights or {}).items():
        place = _class_index(member, names, "weights", owner)
        by_class[place] = check_real(owner, f"weights[{member!r}]", weight, rule, at_least=0)
    return by_class


def as_example_weights(weights: Weights | None, labels: Tensor, names: tuple[str, ...]) -> Tensor:
    """Return one weight for each example (n,), float64; raises InvalidArgumentError for what is none."""
    if weights is None:
        return torch.ones(len(labels), dtype=torch.float64)
    if isinstance(weights, Mapping):
        values = as_class_weights(weights, names)[labels]
    else:
        try:
            values = torch.as_tensor(weights, dtype=torch.float64).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            reject(_OWNER, "weights", weights, f"must be one number per example or a mapping from classes ({error})")
    if values.shape != labels.shape:
        reject(_OWNER, "weights", tuple(values.shape), f"one weight per example is needed, shape ({len(labels)},)")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or not bool(values.any()):
        reject(_OWNER, "weights", weights, "weights must be finite, not negative and not all 0")
    return values


@explains_keywords
def tree_distance(parents: Mapping[str, str | None], classes: Sequence[str]) -> Tensor:
    """Return the distances (classes, classes), float64 in [0, 1], of classes in a tree such as WordNet's.

    `parents` maps each node to the one above it, classes by their names; the only node without a parent, or with None
    for it, is the root. The distance of two classes is the height of the lowest node above both, over the root's
    height, where the height of a node is the number of links to the farthest class below it: 0 from a class to itself,
    1 where only the root is above both. Deng et al. 2010, "What does classifying more than 10,000 image categories tell
    us?", section 6.

    Raises InvalidArgumentError for classes that are not in the tree or are above another one, for links that form a
    cycle, and for several roots.

    >>> links = {"dog": "pet", "cat": "pet", "pet": "thing", "truck": "thing"}
    >>> tree_distance(links, ["dog", "cat", "truck"])[0].tolist()
    [0.0, 0.5, 1.0]
    """
    links = {child: above for child, above in parents.items() if above is not None}
    paths = [_path_to_root(name, links) for name in classes]
    roots = {path[-1] for path in paths}
    if len(roots) > 1 or len(classes) < 2:
        rule = "must lead from all classes, at least two, to a single root"
        reject("tree_distance", "parents", f"roots {', '.join(sorted(roots))}", rule)
    heights: dict[str, int] = {}
    for path in paths:
        for height, node in enumerate(path):
            heights[node] = max(heights.get(node, 0), height)
    inner = [name for name in classes if heights[name] > 0]
    if inner:
        reject("tree_distance", "classes", inner[0], "is above another class; only leaves can be classes")
    total = heights[paths[0][-1]]
    distance = torch.zeros(len(classes), len(classes), dtype=torch.float64)
    for row, path in enumerate(paths):
        for column in range(row):
            shared = set(paths[column])
            lowest = next(node for node in path if node in shared)
            distance[row, column] = distance[column, row] = heights[lowest] / total
    return distance


def _path_to_root(name: str, parents: Mapping[str, str]) -> list[str]:
    if name not in parents:
        reject("tree_distance", "classes", name, "must be a node with a parent")
    path = [name]
    while path[-1] in parents:
        above = parents[path[-1]]
        if above in path:
            reject("tree_distance", "parents", above, "the links from a class form a cycle")
        path.append(above)
    return path


@explains_keywords
def embedding_distance(
    features: Tensor | Sequence[Sequence[float]],
    labels: Tensor | Sequence[int],
    classes: int,
    *,
    metric: str = "cosine",
) -> Tensor:
    """Return the distances (classes, classes), float64 in [0, 1], of the mean embeddings of classes.

    Args:
        features: Finite embeddings (n, width), as `layer_features` returns them; a tensor, an array or lists.
        labels: The class (n,) of each row.
        classes: The number of classes, 2 or more; each needs an example.
        metric: "cosine" for 1 − cosine of the class means less the mean of all classes, or "euclidean" for their
            distance; both are divided by the largest value of all pairs.

    Returns:
        The matrix of distances.

    Raises:
        InvalidArgumentError: If an argument is not as described, a class has no example, or all class means are equal.

    >>> embedding_distance(torch.tensor([[0.0], [1.0], [3.0]]), torch.arange(3), 3, metric="euclidean")[0].tolist()
    [0.0, 0.333..., 1.0]
    """
    owner = "embedding_distance"
    check_choice(owner, "metric", metric, ("cosine", "euclidean"))
    check_integer(owner, "classes", classes, "must be a whole number of 2 or more", at_least=2)
    rows, numbers = _as_features(features, owner), _as_class_numbers(labels, owner)
    if len(numbers) != len(rows):
        reject(
            owner, "labels", f"{len(numbers)} labels", f"one label for each of {len(rows)} rows of features is needed"
        )
    other = numbers[(numbers < 0) | (numbers >= classes)].tolist()[:5]
    if other:
        reject(owner, "labels", other, f"labels must lie in 0..{classes - 1}")
    counts = torch.bincount(numbers, minlength=classes)
    if bool((counts == 0).any()):
        missing = (counts == 0).nonzero().flatten().tolist()
        reject(owner, "labels", missing, f"each of {classes} classes needs an example")
    sums = torch.zeros(classes, rows.shape[1], dtype=torch.float64)
    means = sums.index_add_(0, numbers, rows) / counts[:, None]
    if metric == "cosine":
        unit = torch.nn.functional.normalize(means - means.mean(0), dim=1)
        distance = (1 - unit @ unit.t()).clamp_min(0)
    else:
        distance = torch.cdist(means, means)
    distance.fill_diagonal_(0)
    if not bool(distance.any()):
        reject(owner, "features", tuple(rows.shape), "the mean embeddings of all classes are equal")
    scaled: Tensor = distance / distance.max()
    return scaled


def _as_features(features: object, owner: str) -> Tensor:
    rule = "must be finite real numbers of shape (n, width), one row per example"
    rows = _as_tensor(features, owner, "features", rule)
    if rows.ndim != 2 or not rows.shape[1] or rows.is_complex():
        reject(owner, "features", f"{tuple(rows.shape)} {rows.dtype}", rule)
    finite = rows.isfinite().all(dim=1)
    if not bool(finite.all()):
        reject(owner, "features", f"row {int((~finite).nonzero()[0, 0])}", f"it holds NaN or Inf; {rule}")
    return rows.detach().double().cpu()


def _as_class_numbers(labels: object, owner: str) -> Tensor:
    rule = "must be whole class numbers of shape (n,)"
    numbers = _as_tensor(labels, owner, "labels", rule)
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        reject(owner, "labels", f"{tuple(numbers.shape)} {numbers.dtype}", rule)
    return numbers.detach().long().cpu()


def _as_tensor(value: object, owner: str, argument: str, rule: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        reject(owner, argument, value, rule)
