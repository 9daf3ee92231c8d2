"""A specification names the model's classes for folders of images, and the search that found a candidate."""

import json

import numpy as np
import torch
from PIL import Image

from cp_compress.search import example_digests

TEXT = """
schema_version = 1
reference.model = "folders:make_model"
data.file = "images"
data.channels = 1
{classes}
[[candidate]]
scheme = "quantize(int8)"
[predictions]
{bound}
"""
MODEL = """
import torch
from torch import nn

class Brightest(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 6, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)) * 0.01)
            self.layer.weight[:, :6] += torch.eye(6)

    def forward(self, images):
        return self.layer(images.flatten(1))

def make_model():
    return Brightest().eval()
"""
NAMES = ("ant", "zebra", "bee", "yak", "cat", "dog")


def write_images(folder, names=("zebra", "dog", "bee", "yak")):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            pixels = rng.integers(0, 60, (4, 4)).astype(np.uint8)
            pixels.reshape(-1)[NAMES.index(name)] = 255
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")


def test_folders_say_how_they_map_to_the_models_classes(project):
    write_images(project.path)
    project.pytester.makepyfile(folders=MODEL)
    (project.path / "classes.txt").write_text("\n".join(NAMES))
    arguments = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")

    def run(classes, bound="max_accuracy_drop = 0.1"):
        (project.path / "gate.toml").write_text(TEXT.format(classes=classes, bound=bound))
        return project.run(*arguments)

    for classes in (f"data.classes = {json.dumps(NAMES)}", 'data.classes = "classes.txt"'):
        assert run(classes).result.ret == 0
    assert run("", "min_agreement = 0.9").result.ret == 0
    outcome = run("")
    assert outcome.failed_everywhere
    assert "the data names 4 classes (bee, dog, yak, zebra), but the model has 6 logits" in outcome.junit_messages[0]
    assert "zebra" in run('data.classes = ["ant", "bee", "dog", "yak"]').junit_messages[0]
    assert run("data.classes = 3").result.ret != 0


def test_a_candidate_of_a_search_keeps_the_mark_of_its_data(project):
    subjects = {}
    exec((project.path / "subjects.py").read_text(), subjects)
    inputs, labels = subjects["make_data"]()
    result = {"scheme": "prune(density=0.4)", "search_digests": example_digests((inputs[:7], labels[:7]))}
    (project.path / "found.json").write_text(json.dumps(result))
    torch.save(subjects["make_model"]().half().float().state_dict(), project.path / "weights.pt")
    text = """
    schema_version = 1
    reference.model = "subjects:make_model"
    data.examples = "subjects:make_data"
    [predictions]
    min_agreement = 0.1
    [[candidate]]
    search = "found.json"
    """
    arguments = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    for more in ("", 'file = "weights.pt"\nfactory = "subjects:make_model"\n'):
        (project.path / "gate.toml").write_text(text + more)
        outcome = project.run(*arguments)
        assert outcome.failed_everywhere
        assert "7 of its 120 examples (#0, #1, #2, #3, #4…) chose the compressed model" in outcome.junit_messages[0]
    result["search_digests"] = ["0" * 16]
    (project.path / "found.json").write_text(json.dumps(result))
    (project.path / "gate.toml").write_text(text)
    outcome = project.run(*arguments)
    assert outcome.result.ret == 0
    assert outcome.report["checks"][0]["subjects"]["candidate"]["name"] == "prune(density=0.4)"
    del result["scheme"]
    (project.path / "found.json").write_text(json.dumps(result))
    assert "names no scheme" in project.run(*arguments).junit_messages[0]
