"""Graphs, programs and commands with several inputs and outputs by name, and examples that hold several arrays."""

import sys

import numpy as np
import pytest
import torch
from onnx_graphs import write_words
from torch import nn

from cp_compress.artifacts import ProgramModel, load_onnx, read_artifact, read_examples
from cp_compress.base.errors import ArtifactError, InvalidArgumentError, ObservationError
from cp_compress.fidelity import compare_attributions, compare_predictions, observe
from cp_compress.fidelity.outputs.comparison import compare_outputs
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.unlabeled import Unlabeled

COUNT, LENGTH = 23, 8
GENERATOR = torch.Generator().manual_seed(0)
MASK = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (COUNT, 1), generator=GENERATOR)).long()
IDS = torch.randint(3, 30, (COUNT, LENGTH), generator=GENERATOR) * MASK


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(30, 6), nn.Linear(6, 4)

    def forward(self, input_ids, attention_mask):
        keep = attention_mask[..., None].float()
        hidden = self.embed(input_ids) * keep
        return {"logits": self.head(hidden.sum(1) / keep.sum(1)), "hidden": hidden}


MODEL = Words().eval()
TOKENS = {"input_ids": IDS, "attention_mask": MASK}
BATCH = torch.export.Dim("batch", min=1, max=1024)
SHAPES = {"input_ids": {0: BATCH}, "attention_mask": {0: BATCH}}


def exported(path, how):
    first = {name: tensor[:4] for name, tensor in TOKENS.items()}
    args, keywords = ((), first) if how == "keywords" else (tuple(first.values()), {})
    shapes = {"dynamic_shapes": None if how == "fixed" else SHAPES}
    torch.export.save(torch.export.export(MODEL, args, keywords, **shapes), path)
    return read_artifact(path, layers=how == "fixed")


PROGRAM = """
import sys, numpy
given, held = numpy.load(sys.argv[1]), numpy.load(sys.argv[3])
keep = given["attention_mask"][..., None].astype("float32")
hidden = held["E"][given["input_ids"]] * keep
numpy.savez(sys.argv[2], logits=(hidden.sum(1) / keep.sum(1)) @ held["W"].T + held["B"], hidden=hidden)
"""


def served(path, size=None):
    weights, script = path / "weights.npz", path / "serve.py"
    arrays = MODEL.embed.weight, MODEL.head.weight, MODEL.head.bias
    np.savez(weights, **{name: one.detach().numpy() for name, one in zip("EWB", arrays, strict=True)})
    script.write_text(PROGRAM)
    return ProgramModel([sys.executable, script, "{input}", "{output}", weights], batch_size=size)


MAKERS = {
    "onnx": lambda path: read_artifact(write_words(path / "words.onnx", MODEL)),
    "onnx of five": lambda path: read_artifact(write_words(path / "words.onnx", MODEL, 5)),
    "exported": lambda path: exported(path / "words.pt2", "args"),
    "exported by keyword": lambda path: exported(path / "words.pt2", "keywords"),
    "exported of four": lambda path: exported(path / "words.pt2", "fixed"),
    "command": served,
    "command of ten": lambda path: served(path, 10),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_several_inputs_and_outputs_by_name(tmp_path, kind):
    model, expected = MAKERS[kind](tmp_path), MODEL(**TOKENS)
    given = model(**TOKENS)
    assert list(given) == ["logits", "hidden"]
    for name, tensor in given.items():
        torch.testing.assert_close(tensor.detach(), expected[name].detach())
    data = {**TOKENS, "labels": expected["logits"].argmax(1)}
    pair = observe(model, data, batch_size=9), observe(MODEL, data)
    assert compare_predictions(*pair).metrics["accuracy"] == 1
    parts = [observe(one, TOKENS, output="hidden") for one in (model, MODEL)]
    assert compare_outputs(*parts).metrics["relative_error"] < 1e-6
    if kind == "exported by keyword":
        with pytest.raises(ObservationError, match="2 tensors by position: an example is a mapping"):
            model(IDS, MASK)
    elif "command" not in kind:
        torch.testing.assert_close(model(IDS, MASK)["logits"].detach(), expected["logits"].detach())
        assert observe(model, Unlabeled((IDS, MASK))).logits.shape == (COUNT, 4)
    if "command" not in kind:
        wrong = {
            "the examples have no 'attention_mask'": {"input_ids": IDS},
            "the examples have 'attention_masks'; did you mean attention_mask": {
                "input_ids": IDS,
                "attention_masks": MASK,
            },
            "the examples have 'token_type_ids': leave that out": {**TOKENS, "token_type_ids": IDS},
            "1 tensor by position": IDS,
        }
        for message, examples in wrong.items():
            with pytest.raises(ObservationError, match=message):
                observe(model, examples).logits  # noqa: B018
    if kind in ("onnx", "onnx of five", "command"):
        maps = compare_attributions(observe(model, TOKENS), observe(MODEL, TOKENS), "occlusion(mask_token=2)")
        assert maps.metrics["mean_iou"] > 0.999


def test_an_onnx_graph_says_what_it_takes(tmp_path):
    path = write_words(tmp_path / "words.onnx", MODEL)
    more = {**TOKENS, "token_type_ids": torch.zeros_like(IDS)}
    named = load_onnx(path, input=["attention_mask", "input_ids"])
    assert torch.equal(observe(named, more).logits, observe(load_onnx(path), TOKENS).logits)
    assert torch.equal(named(MASK, IDS)["logits"], named(**TOKENS)["logits"])
    assert torch.equal(named(**TOKENS)["hidden"], named(**more)["hidden"])
    assert load_onnx(path, output="hidden")(**TOKENS).shape == (COUNT, LENGTH, 6)
    for options, message in (
        ({"input": ["input_ids"]}, "also takes attention_mask"),
        ({"input": "ids"}, "the graph takes input_ids"),
        ({"output": "nothing"}, "the outputs of the graph are logits"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            load_onnx(path, **options)
    # whole numbers are converted where none changes
    for mask in (MASK.bool(), MASK.int(), MASK.to(torch.uint8)):
        assert torch.equal(named(input_ids=IDS.int(), attention_mask=mask)["logits"], named(**TOKENS)["logits"])
    with pytest.raises(ObservationError, match=r"takes torch.int64 as input_ids, not torch.float32"):
        named(input_ids=IDS.float(), attention_mask=MASK)


def test_what_a_command_must_write(tmp_path):
    for body, message in (
        ("numpy.savez(sys.argv[2], logits=numpy.zeros((2, 3), 'float32'))", r"of shape \(2, 3\) for 23 examples"),
        ("numpy.savez(sys.argv[2], logits=numpy.zeros((23, 3), 'int32'))", "one of them of floating-point"),
        ("numpy.savez(sys.argv[2], x=numpy.array([None]))", "no pickled objects"),
        ("pass", "there is no such file"),
    ):
        script = tmp_path / "serve.py"
        script.write_text(f"import sys, numpy\n{body}\n")
        with pytest.raises(ObservationError, match=message):
            ProgramModel([sys.executable, script, "{input}", "{output}"])(**TOKENS)


def test_arrays_of_a_file_are_inputs_by_name(tmp_path):
    labels = np.arange(COUNT) % 4
    ids, mask = IDS.numpy(), MASK.numpy()

    def read(arrays, **options):
        np.savez(tmp_path / "data.npz", **arrays)
        return LabeledData(read_examples(tmp_path / "data.npz", **options))

    both = {"input_ids": ids, "attention_mask": mask}
    for arrays, options in (
        (both, {}),
        ({f"inputs.{name}": one for name, one in both.items()}, {}),
        ({**both, "other": ids}, {"inputs": ["input_ids", "attention_mask"], "labels": "labels"}),
    ):
        data = read({**arrays, "labels": labels, "classes": np.array(list("abcd"))}, **options)
        assert data.labeled
        assert torch.equal(data.read_labels(), torch.from_numpy(labels))
        assert data.read([3])[0].names == ("input_ids", "attention_mask")
        assert data.source.classes == tuple("abcd")
    assert not read(both).labeled
    assert read({"inputs": ids}).read([1])[0].tolist() == [ids[1].tolist()]
    for arrays, options, message in (
        ({"inputs": ids, "label": labels}, {}, "holds no array 'labels'"),
        (both, {"labels": "truth"}, "holds no array 'truth'"),
        ({"x": ids, "labels": labels}, {}, "holds no array 'inputs'; it holds x"),
        ({**both, "labels": labels[:3]}, {}, r"labels of shape \(3,\); expected"),
        ({"input_ids": ids, "attention_mask": mask[:3]}, {}, r"and attention_mask of shape \(3, 8\)"),
    ):
        with pytest.raises(ArtifactError, match=message):
            read(arrays, **options)
    with pytest.raises(InvalidArgumentError, match="each once"):
        read(both, inputs=["input_ids", "input_ids"])
