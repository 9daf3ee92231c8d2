"""Class distances from trees and embeddings."""

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_predictions, embedding_distance, layer_features, observe, tree_distance
from cp_compress.model import parse_scheme

ANIMALS = {
    "cat": "feline",
    "lion": "feline",
    "feline": "mammal",
    "dog": "mammal",
    "mammal": "animal",
    "bird": "animal",
    "animal": "thing",
    "truck": "vehicle",
    "ship": "vehicle",
    "vehicle": "thing",
}
NAMES = ["cat", "lion", "dog", "bird", "truck", "ship"]


def test_tree_distances_by_hand():
    found = tree_distance(ANIMALS, NAMES)
    heights = {("cat", "lion"): 1, ("cat", "dog"): 2, ("dog", "bird"): 3, ("truck", "ship"): 1, ("bird", "ship"): 4}
    for (one, other), height in heights.items():
        assert found[NAMES.index(one), NAMES.index(other)] == height / 4
    assert torch.equal(found, found.t())
    assert not bool(found.diagonal().any())


def test_a_root_may_be_written_with_none_above_it():
    assert torch.equal(tree_distance({**ANIMALS, "thing": None}, NAMES), tree_distance(ANIMALS, NAMES))


@settings(max_examples=40)
@given(st.integers(3, 25), st.integers(0, 1000))
def test_tree_distances_are_heights_of_common_ancestors(size, seed):
    tree = networkx.DiGraph([(int(place), child) for child, place in enumerate(random_parents(size, seed), start=1)])
    parents = {str(child): str(parent) for parent, child in tree.edges}
    leaves = [node for node in tree if tree.out_degree(node) == 0]
    if len(leaves) < 2:
        return
    found = tree_distance(parents, [str(leaf) for leaf in leaves])
    height = {node: max(networkx.single_source_shortest_path_length(tree, node).values()) for node in tree}
    for row, one in enumerate(leaves):
        for column in range(row):
            common = networkx.lowest_common_ancestor(tree, one, leaves[column])
            top = height[0]
            assert float(found[row, column]) == pytest.approx(height[common] / top)


def random_parents(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return [int(torch.randint(0, child, (1,), generator=generator)) for child in range(1, size)]


@pytest.mark.parametrize(
    ("parents", "classes", "message"),
    [
        ({"a": "b", "b": "a"}, ["a", "b"], "cycle"),
        ({"a": "x", "b": "y"}, ["a", "b"], "single root"),
        ({"a": "x", "x": "y"}, ["a", "x"], "is above"),
        ({"a": "x"}, ["a", "b"], "a node with a parent"),
    ],
)
def test_what_is_no_tree_of_the_classes(parents, classes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        tree_distance(parents, classes)


def test_embedding_distances_are_those_of_class_means():
    observation = observe(digits_cnn(), digits())
    features, labels = layer_features(observation, ["classifier.1"])["classifier.1"], observation.labels
    means = torch.stack([features[labels == one].double().mean(0) for one in range(10)])
    euclidean = torch.tensor([[float((a - b).norm()) for a in means] for b in means], dtype=torch.float64)
    found = embedding_distance(features, labels, 10, metric="euclidean")
    torch.testing.assert_close(found, euclidean / euclidean.max(), atol=1e-6, rtol=0)
    centred = means - means.mean(0)
    cosine = 1 - torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=2)
    torch.testing.assert_close(
        embedding_distance(features, labels, 10), (cosine / cosine.max()).fill_diagonal_(0), atol=1e-6, rtol=0
    )


def test_they_are_costs():
    model, data = digits_cnn(), digits()
    reference, candidate = observe(model, data), observe(parse_scheme("prune(density=0.3)").compress(model), data)
    distance = embedding_distance(layer_features(reference, ["classifier.1"])["classifier.1"], reference.labels, 10)
    found = compare_predictions(candidate, reference, class_distance=distance)
    expected = sum(
        float(distance[a, b])
        for a, b in zip(reference.predictions.tolist(), candidate.predictions.tolist(), strict=True)
    )
    assert found.metrics["cost"] == pytest.approx(expected / len(reference))


def test_embeddings_may_be_arrays_and_lists():
    features, labels = torch.rand(12, 3), torch.arange(12) % 4
    expected = embedding_distance(features, labels, 4)
    assert torch.equal(embedding_distance(features.numpy(), labels.numpy(), 4), expected)
    assert torch.equal(embedding_distance(features.tolist(), labels.tolist(), 4), expected)


FEATURES, LABELS = torch.rand(6, 2), torch.arange(6) % 3


@pytest.mark.parametrize(
    ("features", "labels", "classes", "message"),
    [
        (FEATURES, LABELS - 1, 3, r"labels=\[-1, -1\]\): labels must lie in 0..2"),
        (FEATURES, LABELS + 1, 3, r"labels=\[3, 3\]\): labels must lie in 0..2"),
        (FEATURES, LABELS[:5], 3, r"labels='5 labels'\): one label for each of 6 rows"),
        (FEATURES, LABELS.float(), 3, r"labels='\(6,\) torch.float32'\): must be whole"),
        (FEATURES, ["a"] * 6, 3, "labels=.*must be whole"),
        (FEATURES[:, 0], LABELS, 3, r"features='\(6,\) torch.float32'\): must be finite"),
        (FEATURES[:, :, None], LABELS, 3, r"features='\(6, 2, 1\) torch.float32'\): must be finite"),
        (FEATURES.index_fill(0, torch.tensor([4]), float("nan")), LABELS, 3, "features='row 4'.: it holds NaN"),
        ("x", LABELS, 3, "features='x'.: must be finite"),
        (FEATURES, LABELS, 0, r"classes=0\): must be a whole number of 2 or more"),
    ],
)
def test_embeddings_of_another_form_are_refused(features, labels, classes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        embedding_distance(features, labels, classes)


def test_classes_without_examples_are_refused():
    with pytest.raises(InvalidArgumentError, match="needs an example"):
        embedding_distance(torch.rand(3, 2), torch.tensor([0, 0, 1]), 3)
