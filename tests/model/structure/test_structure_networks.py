"""The structure oracles on torchvision's networks: smaller, equal to masked, equal after export and after a reload."""

from __future__ import annotations

import pytest
import torch
import torchvision
from model_networks import bits, same_bits, shake_norms, widened
from torch.utils.flop_counter import FlopCounterMode

from cp_compress.model import FilterPrune, NeuronPrune, StructurePrune, compression_report, load, save

# name, its options, share of parameters left, share of multiplications left at most
NETWORKS = [
    ("ResNet", {"block": torchvision.models.resnet.BasicBlock, "layers": [2, 2, 1, 1]}, 0.26, 0.3),
    ("mobilenet_v2", {"width_mult": 0.5}, 0.3, 0.35),
    ("DenseNet", {"growth_rate": 16, "block_config": (3, 4, 4, 3), "num_init_features": 32}, 0.27, 0.32),
]


def small_vgg(num_classes):
    """Return torchvision's VGG with an eighth of its channels and of its hidden neurons."""
    layers = torchvision.models.vgg.make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"], True)
    with torch.device("meta"):  # half a gigabyte of classifier that is replaced below
        model = torchvision.models.VGG(torch.nn.Identity(), num_classes=num_classes, init_weights=False)
    model.features = layers
    for index, (inputs, outputs) in zip((0, 3, 6), ((64 * 49, 512), (512, 512), (512, num_classes)), strict=True):
        model.classifier[index] = torch.nn.Linear(inputs, outputs)
    return model


def build(name, **options):
    make = small_vgg if name == "small_vgg" else getattr(torchvision.models, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake_norms(make(num_classes=10, **options))
        for tensor in model.parameters():
            if tensor.ndim == 2 and not tensor.any():  # the head of a vision transformer starts at zero
                tensor.data.normal_()
        for module in model.modules():
            # biases are all different: they tell which units are left
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and module.bias is not None:
                module.bias.data.copy_((1 + torch.randperm(len(module.bias))) / len(module.bias) / 10)
    return model.eval()


def count(model):
    return sum(tensor.numel() for tensor in model.parameters())


def multiplications(model, images):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def check(model, shrunk, images, folder):
    """Shrunk equals masked in float64; a reload equals it to the bit; the exported program equals it."""
    with torch.no_grad():
        expected = widened(model, shrunk).double()(images.double())
        assert expected.std(0).all()
        torch.testing.assert_close(shrunk.double()(images.double()), expected, rtol=1e-8, atol=1e-10)
        shrunk.float()
        save(shrunk, folder / "model.cp")
        loaded = load(folder / "model.cp", model)
        assert same_bits(bits(loaded), bits(shrunk))
        output = shrunk(images)
        assert torch.equal(loaded(images), output)
        exported = torch.export.export(shrunk, (images,)).module()
        # attention takes another path in an exported program than in eager mode
        torch.testing.assert_close(exported(images), output, rtol=1e-3, atol=1e-5 * float(output.abs().max()))


@pytest.mark.parametrize(("name", "options", "parameters", "flops"), NETWORKS)
def test_convolutional_networks(name, options, parameters, flops, tmp_path):
    model, images = build(name, **options), torch.randn(2, 3, 32, 32)
    before = bits(model)
    shrunk = FilterPrune(0.5, example_shape=(3, 32, 32)).compress(model)
    assert same_bits(bits(model), before)
    assert count(shrunk) < parameters * count(model)
    assert multiplications(shrunk, images) < flops * multiplications(model, images)
    actions = [layer.actions[0] for layer in compression_report(model, shrunk).layers if layer.actions]
    assert not any("zeroed" in action for action in actions)
    assert sum("removed" in action for action in actions) == sum(
        isinstance(module, torch.nn.Conv2d) for module in model.modules()
    )
    check(model, shrunk, images, tmp_path)


def test_a_network_with_linear_layers_between_its_filters_and_its_output():
    model = build("small_vgg")
    images = torch.randn(1, 3, 32, 32)
    shrunk = StructurePrune(0.25, example_shape=(3, 32, 32)).compress(model)
    widths = [shrunk.classifier[index].in_features for index in (0, 3, 6)]
    assert widths == [16 * 49, 128, 128]
    assert count(shrunk) < 0.07 * count(model)
    with torch.no_grad():
        expected = widened(model, shrunk)(images)
        torch.testing.assert_close(shrunk(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_hidden_neurons_of_a_vision_transformer_are_removed_and_the_rest_is_zeroed(tmp_path):
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 4, "num_heads": 3, "hidden_dim": 96, "mlp_dim": 384}
    model, images = build("VisionTransformer", **sizes), torch.randn(2, 3, 32, 32)
    shrunk = NeuronPrune(0.5, example_shape=(3, 32, 32)).compress(model)
    for block in shrunk.encoder.layers:
        assert (block.mlp[0].out_features, block.mlp[3].in_features) == (192, 192)
    assert count(model) - count(shrunk) == 4 * (2 * 192 * 96 + 192)
    assert multiplications(shrunk, images) < 0.75 * multiplications(model, images)
    actions = {layer.name: layer.actions for layer in compression_report(model, shrunk).layers}
    layer = "encoder.layers.encoder_layer_3"
    assert actions[f"{layer}.mlp.0.weight"] == ("192 of 384 neurons removed",)
    assert "48 of 96 neurons zeroed, not removed: " in actions[f"{layer}.mlp.3.weight"][0]
    assert "LayerNorm" in actions[f"{layer}.mlp.3.weight"][0]
    assert "inner dimensions zeroed, not removed: " in actions[f"{layer}.self_attention.in_proj_weight"][0]
    assert "neurons zeroed, not removed: " in actions[f"{layer}.self_attention.out_proj.weight"][0]
    check(model, shrunk, images, tmp_path)


def test_what_torch_pruning_cannot_trace_is_removed_layer_by_layer():
    sizes = {"stages_repeats": [2, 3, 2], "stages_out_channels": [8, 16, 32, 64, 128]}
    model, images = build("ShuffleNetV2", **sizes), torch.randn(2, 3, 32, 32)
    shrunk = FilterPrune(0.5, example_shape=(3, 32, 32)).compress(model)
    report = compression_report(model, shrunk)
    actions = [layer.actions[0] for layer in report.layers if layer.actions]
    assert sum(action.endswith("filters removed") for action in actions) > 10
    assert any("not removed: Torch-Pruning cannot trace the model" in action for action in actions)
    assert len(actions) == sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    with torch.no_grad():
        expected = widened(model, shrunk).double()(images.double())
        torch.testing.assert_close(shrunk.double()(images.double()), expected, rtol=1e-8, atol=1e-10)
