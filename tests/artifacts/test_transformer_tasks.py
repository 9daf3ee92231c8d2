"""Folders of transformers by task, quantised or with an adapter: what is read gives what the library's network does."""

import json

import pytest
import torch

from cp_compress import Quantize, compare_language
from cp_compress.artifacts import load_transformer, read_artifact
from cp_compress.base.errors import ArtifactError, InvalidArgumentError

transformers = pytest.importorskip("transformers")
TEXT = {"vocab_size": 30, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
HEADS = {"num_key_value_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0}
BERT = {"num_hidden_layers": 1, "num_labels": 5}


def saved(path, kind, config, **settings):
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()
    model.save_pretrained(path)
    return model


@pytest.fixture
def ids():
    return torch.randint(1, 30, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def llama(tmp_path):
    return saved(tmp_path / "llama", "LlamaForCausalLM", "LlamaConfig", **TEXT, **HEADS)


def test_causal_and_sequence_to_sequence_networks_are_the_librarys(tmp_path, llama, ids):
    read = load_transformer(tmp_path / "llama")
    assert type(read) is transformers.LlamaForCausalLM
    found = compare_language(Quantize("int8").compress(read), llama, ids)
    assert 0 < found.metrics["token_kl"] < 0.01
    base = load_transformer(tmp_path / "llama", task="causal_lm")
    torch.testing.assert_close(base(ids).logits, llama(ids).logits)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "vocab_size": 30,
        "max_position_embeddings": 32,
    }
    bart = saved(tmp_path / "bart", "BartForConditionalGeneration", "BartConfig", **sizes, **heads)
    bart.generation_config.update(eos_token_id=7, forced_eos_token_id=None, max_length=9)
    bart.generation_config.save_pretrained(tmp_path / "bart")
    read = read_artifact(tmp_path / "bart", task="seq2seq_lm")
    assert read.generation_config.eos_token_id == 7
    assert torch.equal(read.generate(ids, do_sample=False), bart.generate(ids, do_sample=False))


def test_classifiers_of_tokens_and_errors_about_tasks(tmp_path, ids):
    tagger = saved(tmp_path / "tagger", "BertForTokenClassification", "BertConfig", **TEXT, **BERT)
    read = load_transformer(tmp_path / "tagger")
    torch.testing.assert_close(read(ids), tagger(ids).logits)
    for task, told in (("causal_lm", "does not fit"), ("object_detection", "has no object_detection; it has")):
        with pytest.raises(ArtifactError, match=told):
            load_transformer(tmp_path / "tagger", task=task)
    with pytest.raises(InvalidArgumentError, match="task must be one of"):
        load_transformer(tmp_path / "tagger", task="token-classification")
    with pytest.raises(InvalidArgumentError, match="is for the task embedding"):
        load_transformer(tmp_path / "tagger", pooling="mean")
    saved(tmp_path / "masked", "BertForMaskedLM", "BertConfig", **TEXT, **BERT)
    with pytest.raises(ArtifactError, match=r"BertForMaskedLM.*is for none of"):
        load_transformer(tmp_path / "masked")


def test_embeddings_are_pooled_as_the_folder_says(tmp_path, ids):
    folder = tmp_path / "encoder"
    encoder = saved(folder, "BertModel", "BertConfig", **TEXT, **BERT)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0] * 3 + [1] * 4])
    with torch.no_grad():
        hidden = encoder(ids, attention_mask=mask).last_hidden_state
    rows = [one[kept != 0] for one, kept in zip(hidden, mask, strict=True)]
    expected = {
        "mean": torch.stack([one.mean(0) for one in rows]),
        "cls": torch.stack([one[0] for one in rows]),
        "last": torch.stack([one[-1] for one in rows]),
        "max": torch.stack([one.amax(0) for one in rows]),
    }
    for pooling, values in expected.items():
        read = load_transformer(folder, task="embedding", pooling=pooling)
        with torch.no_grad():
            torch.testing.assert_close(read(input_ids=ids, attention_mask=mask), values)
    with pytest.raises(ArtifactError, match="give pooling=, one of mean"):
        load_transformer(folder)
    steps = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in ("Transformer", "Pooling")]
    steps.append({"type": "sentence_transformers.models.Normalize", "path": ""})
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "modules.json").write_text(json.dumps(steps))
    with torch.no_grad():
        found = load_transformer(folder)(ids, mask)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected["mean"], dim=1))
    (folder / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode_weightedmean_tokens": True}))
    with pytest.raises(ArtifactError, match=r"weightedmean.*one of mean"):
        load_transformer(folder)
    (folder / "modules.json").write_text(json.dumps([*steps, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ArtifactError, match="Dense"):
        load_transformer(folder)
    (folder / "modules.json").write_text(json.dumps([steps[0], {**steps[1], "path": "../.."}]))
    with pytest.raises(ArtifactError):
        load_transformer(folder)


def test_encoders_that_were_saved_for_another_task_embed(tmp_path, llama, ids):
    masked = saved(tmp_path / "masked", "BertForMaskedLM", "BertConfig", **TEXT, **BERT)
    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    t5 = saved(tmp_path / "t5", "T5Model", "T5Config", **sizes, decoder_start_token_id=0)
    saved(tmp_path / "encoder", "T5EncoderModel", "T5Config", **sizes)
    for folder, encoder in (("masked", masked.bert), ("t5", t5.encoder), ("encoder", t5.encoder)):
        read = load_transformer(tmp_path / folder, task="embedding", pooling="mean")
        with torch.no_grad():
            expected = encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
            if folder != "encoder":
                torch.testing.assert_close(read(ids), expected)
            assert read(ids).shape == expected.shape
        assert not any("pooler" in name or "decoder" in name for name, _ in read.named_parameters())
    read = load_transformer(tmp_path / "llama", task="embedding", pooling="last")
    torch.testing.assert_close(read(ids), llama.model(ids).last_hidden_state[:, -1])
    file = tmp_path / "llama" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 1}))
    with pytest.raises(ArtifactError, match=r"unexpected keys.*model.layers.1"):
        load_transformer(tmp_path / "llama", task="embedding", pooling="last")
    widths = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    saved(tmp_path / "vit", "ViTModel", "ViTConfig", **widths, image_size=8, patch_size=4)
    with pytest.raises(ArtifactError, match="takes pixel_values; embeddings are made of token ids"):
        load_transformer(tmp_path / "vit", pooling="mean")


def test_detectors_are_called_as_those_of_torchvision(tmp_path):
    pytest.importorskip("torchvision")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    more = {"image_size": [32, 48], "patch_size": 8, "num_detection_tokens": 6, "num_labels": 4}
    saved(tmp_path / "yolos", "YolosForObjectDetection", "YolosConfig", **sizes, **more)
    detector = load_transformer(tmp_path / "yolos")
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = detector(list(images))
        output = detector.network(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
    scores, labels = output.logits.softmax(-1)[..., :-1].max(-1)
    torch.testing.assert_close(found[0]["scores"], scores[0])
    assert torch.equal(found[0]["labels"], labels[0])
    x, y, width, height = output.pred_boxes[0].unbind(-1)
    boxes = torch.stack([(x - width / 2) * 48, (y - height / 2) * 32, (x + width / 2) * 48, (y + height / 2) * 32], 1)
    torch.testing.assert_close(found[0]["boxes"], boxes)


def quantized(folder, llama, method):
    """Save the network as the library of a method does; return what it computes."""
    llama.save_pretrained(folder / "plain")
    options = {"torch_dtype": torch.float32} if transformers.__version__ < "4.56" else {"dtype": torch.float32}
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "plain", quantization_config=method, **options)
    model.save_pretrained(folder / "quantized")
    return model.eval()


def test_weights_of_torchao(tmp_path, llama, ids):
    torchao = pytest.importorskip("torchao.quantization")
    method = transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig())
    try:
        model = quantized(tmp_path, llama, method)
    except (ValueError, RuntimeError) as error:
        pytest.skip(f"this transformers cannot save it: {error}")
    read = load_transformer(tmp_path / "quantized")
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits)
    assert 0 < compare_language(read, llama, ids).metrics["token_kl"] < 0.01


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_bitsandbytes(tmp_path, llama, ids, bits):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    model = quantized(tmp_path, llama, transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True}))
    read = load_transformer(tmp_path / "quantized")
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits)


def test_methods_that_are_not_read(tmp_path, llama):
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    for method, told in (
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq, which needs: pip install gptqmodel"),
        ({"quant_method": "fp8"}, "quantised by 'fp8'; only torchao"),
    ):
        (tmp_path / "llama" / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
        with pytest.raises(ArtifactError, match=told):
            load_transformer(tmp_path / "llama")


@pytest.fixture
def lora(tmp_path, llama):
    """Save an adapter of two layers; return the network with it, as peft computes it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "llama"), config).eval()
    adapted.save_pretrained(tmp_path / "lora")
    return adapted


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_beside_the_weights_and_merged(tmp_path, llama, lora, ids):
    beside = load_transformer(tmp_path / "llama", adapter=tmp_path / "lora")
    merged = load_transformer(tmp_path / "llama", adapter=tmp_path / "lora", merge_adapter=True)
    assert type(merged.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    with torch.no_grad():
        expected = lora(ids).logits
        torch.testing.assert_close(beside(ids).logits, expected)
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-5)
    found = compare_language(merged, beside, ids)
    assert found.metrics["token_kl"] < 1e-6
    assert compare_language(beside, llama, ids).metrics["token_kl"] > 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_adapters_that_change_the_weights_beside_them(tmp_path, llama, ids, begun):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=begun)
    adapted = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "llama"), config).eval()
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.mul_(1.5)
        adapted.save_pretrained(tmp_path / "lora")
        for merge in (False, True):
            read = load_transformer(tmp_path / "llama", adapter=tmp_path / "lora", merge_adapter=merge)
            torch.testing.assert_close(read(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_that_are_refused(tmp_path, llama, lora):
    file = tmp_path / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    for changes, told in (
        ({"peft_type": "IA3"}, "only LORA"),
        ({"megatron_config": {"a": 1}}, "megatron_config, which is refused"),
        ({"target_modules": ["q_proj"]}, "holds tensors of no layer"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "holds nothing for"),
        ({"target_modules": ["nothing"]}, "failed"),
        ({"r": 8}, "failed|other shapes"),
        ({"r": 10**9}, "the rank r"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun by 'pissa_niter_4'.*as a plain LoRA"),
        ({"lora_alpha": float("inf")}, "lora_alpha = inf, which is no finite number"),
    ):
        file.write_text(json.dumps({**config, **changes}))
        with pytest.raises(ArtifactError, match=told):
            load_transformer(tmp_path / "llama", adapter=tmp_path / "lora")
    with pytest.raises(InvalidArgumentError, match="there is no adapter to merge"):
        load_transformer(tmp_path / "llama", merge_adapter=True)
    with pytest.raises(ArtifactError, match="not a folder"):
        load_transformer(tmp_path / "llama", adapter=tmp_path / "none")
