"""Folders of transformers whose configuration asks for code, files, or networks without end."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile_payloads import python_code, written
from hostile_registry import add_case, hostile

GROUP = "folders of transformers"


@cache
def saved() -> tuple[dict, bytes]:
    """Return configuration and weights of a small classifier of images."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_channels=1,
    )
    with TemporaryDirectory() as folder:
        ViTForImageClassification(config).save_pretrained(folder)
        weights = Path(folder, "model.safetensors").read_bytes()
        return json.loads(Path(folder, "config.json").read_text()), weights


def reads(folder: Path, config=None, weights: bytes | None = None, **changes):
    """Write a folder, and return the call that reads it."""
    from cp_compress.artifacts import read_artifact

    good, content = saved()
    text = config if isinstance(config, (str, bytes)) else json.dumps({**good, **changes} if config is None else config)
    written(folder / "model/config.json", text)
    if weights != b"":
        written(folder / "model/model.safetensors", content if weights is None else weights)
    return lambda: read_artifact(folder / "model")


def _module(folder: Path) -> None:
    written(folder / "model/modeling_evil.py", python_code())


_REMOTE = {"AutoConfig": "modeling_evil.Config", "AutoModelForImageClassification": "modeling_evil.Model"}
_CONFIGS = {
    "a model type that only its own code knows": ({"model_type": "evil", "auto_map": _REMOTE}, "is never run"),
    "no model type": ({"model_type": None}, "transformers does not know it"),
    "a model type that is a list": ({"model_type": ["vit"]}, "transformers does not know it"),
    "a model type that is a path": ({"model_type": "../../evil"}, "transformers does not know it"),
    "an architecture of its own": ({"architectures": ["EvilForImageClassification"]}, "is for none of"),
    "an architecture that is a builtin": ({"architectures": ["eval"]}, "is for none of"),
    "architectures that are a number": ({"architectures": 7}, "config.json|is for none of|failed"),
    "another attention": ({"_attn_implementation": "kernels-community/evil"}, "can load other code"),
    "a kernel from the hub": ({"use_kernels": True, "kernel_config": {"a": "b"}}, "can load other code"),
    "a quantizer": ({"quantization_config": {"quant_method": "../../evil"}}, "only torchao, bitsandbytes"),
    "a quantizer that fetches kernels": ({"quantization_config": {"quant_method": "mxfp4"}}, "only torchao"),
    "a quantizer without a name": ({"quantization_config": ["torchao"]}, "only torchao"),
    "other code in a quantizer": (
        {"quantization_config": {"quant_method": "torchao", "kernel_config": {"a": "b"}}},
        "can load other code",
    ),
    "another's weights": ({"transformers_weights": "../../x.safetensors"}, "can load other code"),
    "a backbone in another's code": ({"use_timm_backbone": True}, "can load other code"),
    "a quantizer within a part": ({"vision_config": {"quantization_config": {"a": 1}}}, "can load other code"),
    "10^9 layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
    "50 000 layers": ({"num_hidden_layers": 50_000}, "a network of more than 10,"),
    "a negative number of layers": ({"num_hidden_layers": -3}, "failed|does not fit"),
    "layers that are a text": ({"num_hidden_layers": "many"}, "failed"),
    "2^40 hidden units": ({"hidden_size": 1 << 40}, "bytes of weights|failed"),
    "hidden units beyond 64 bits": ({"hidden_size": 1 << 70}, "failed|bytes of weights"),
    "2^30 classes": ({"num_labels": 1 << 30}, "num_labels = 1073741824"),
    "10^9 experts": ({"num_experts": 10**9}, "num_experts = 1000000000"),
    "an image of 2^30 pixels a side": ({"image_size": 1 << 30}, "bytes of weights|failed"),
    "no hidden units": ({"hidden_size": 0}, "failed|does not fit"),
    "patches of no pixels": ({"patch_size": 0}, "failed"),
    "an activation that is not there": ({"hidden_act": "__import__('os')"}, "failed"),
    "a dtype that is not there": ({"dtype": "os.system", "torch_dtype": "os.system"}, "failed"),
    "weights of another network": ({"intermediate_size": 16}, "does not fit|failed"),
}
for _name, (_changes, _tells) in _CONFIGS.items():

    def _build(folder, changes=_changes):
        action = reads(folder, **changes)
        _module(folder)
        return action

    add_case(GROUP, _name, _build, tells=_tells, names="model")

_TEXTS = {
    "a configuration that is no JSON": ("{'model_type': 'vit'}", "not valid JSON"),
    "a configuration that is not UTF-8": (b'{"model_type": "\xff"}', "not valid JSON"),
    "a configuration of 100 000 brackets": ("[" * 100_000, "nested too deeply"),
    "a configuration that is a list": ("[]", "is not a JSON object"),
    "an empty configuration": ("", "is empty"),
    "a configuration cut off": ('{"model_type": "vit", ', "not valid JSON"),
    "a configuration that says two model types": ('{"model_type": "vit", "model_type": "evil"}', "twice"),
    "a configuration of a number of 5000 digits": ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
}
for _name, (_text, _tells) in _TEXTS.items():
    add_case(GROUP, _name, lambda folder, text=_text: reads(folder, text), tells=_tells, names="config.json")


@hostile(GROUP, "a configuration of 65 MiB", tells="at most 67,108,864", names="config.json")
def _(folder):
    return reads(folder, " " * ((64 << 20) + 1))


@hostile(GROUP, "no configuration", tells="without a config.json", names="model")
def _(folder):
    action = reads(folder)
    (folder / "model/config.json").unlink()
    return action


@hostile(GROUP, "no weights", tells="holds no safetensors files", names="model")
def _(folder):
    return reads(folder, weights=b"")


@hostile(GROUP, "weights cut off", tells="failed|safetensors", names="model")
def _(folder):
    return reads(folder, weights=saved()[1][:-100])


@hostile(GROUP, "weights with a header beyond the file", tells="header would have", names="model.safetensors")
def _(folder):
    return reads(folder, weights=(1 << 60).to_bytes(8, "little") + saved()[1][8:])


@hostile(GROUP, "weights that are a link to the outside", tells="link to a file outside", names="model.safetensors")
def _(folder):
    action = reads(folder, weights=b"")
    written(folder / "secret", saved()[1])
    (folder / "model/model.safetensors").symlink_to(folder / "secret")
    return action


@hostile(GROUP, "a configuration that is a link to itself", tells="without a config.json", names="model")
def _(folder):
    action = reads(folder)
    (folder / "model/config.json").unlink()
    (folder / "model/config.json").symlink_to("config.json")
    return action


def _indexed(folder, places):
    action = reads(folder, weights=b"")
    written(folder / "model/part.safetensors", saved()[1])
    written(folder / "model/model.safetensors.index.json", json.dumps({"weight_map": places}))
    return action


for _name, _places in (
    ("an index that names files above", {"a": "../secret.safetensors"}),
    ("an index that names absolute files", {"a": "/etc/x.safetensors"}),
    ("an index that names pickles", {"a": "pytorch_model.bin"}),
    ("an index that names numbers", {"a": 7}),
    ("an index that names nothing", {}),
    ("an index that is a list", ["part.safetensors"]),
):
    add_case(
        GROUP,
        _name,
        lambda folder, places=_places: _indexed(folder, places),
        tells="lists no safetensors files",
        names="index.json",
    )


@hostile(GROUP, "an index that names a file that is not there", tells="cannot be opened", names="other.safetensors")
def _(folder):
    return _indexed(folder, {"a": "part.safetensors", "b": "other.safetensors"})


@hostile(f"control: {GROUP}", "the good folder is read", tells="", names="")
def _(folder):
    return reads(folder)
