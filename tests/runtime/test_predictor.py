from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leukoscope
from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.core.errors import BundleError, ImageError, UsageError
from leukoscope.core.files import sha256_file
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.imaging.decode import decode_image
from leukoscope.runtime import predictor as module
from leukoscope.runtime.bundle import read_bundle, save_bundle
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor, load_bundle

ENGINE = "onnxruntime"


@pytest.fixture
def predictor(tiny_bundle: Path) -> Predictor:
    return load_bundle(tiny_bundle, engine=ENGINE, threads=2)


@pytest.fixture
def images(tiny: SimpleNamespace, tmp_path: Path) -> list[Path]:
    """A red, a green and a blue picture: benign, pre_b and pro_b, at least by a third."""
    paths = []
    for name, rgb in (("red", (120, 60, 60)), ("grün", (60, 120, 60)), ("blue", (60, 60, 120))):
        paths.append(tmp_path / "images" / f"{name}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(encode_png(tiny.colour(*rgb)))
    return paths


def test_a_prediction_says_what_the_bundle_defines(
    predictor: Predictor, images: list[Path], tiny: SimpleNamespace
) -> None:
    answer = predictor.predict(images)[1]
    mean = decode_image(images[1]).image.mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(answer.logits, mean @ tiny.weights, atol=0.05)
    np.testing.assert_allclose(
        list(answer.probabilities.values()), softmax(np.array(answer.logits) / 2), atol=1e-9
    )
    assert answer.predicted == "pre_b"
    assert answer.image == str(images[1])
    assert answer.sha256 == sha256_file(images[1])
    assert answer.p_malignant == pytest.approx(
        answer.probabilities["pre_b"] + answer.probabilities["pro_b"]
    )
    assert answer.prediction_set == tuple(
        name for name, p in answer.probabilities.items() if 1 - p <= 0.8
    )
    assert answer.quality["brightness"] == pytest.approx(95, abs=2)
    assert answer.ood_score is not None
    assert answer.ood_score < 4
    assert answer.model == f"tiny@{sha256_file(predictor.bundle.folder / 'bundle.json')[:12]}"
    assert answer.heatmap is None


def test_the_columns_are_those_of_the_design(predictor: Predictor, images: list[Path]) -> None:
    assert list(predictor.predict(images)[0].as_dict()) == [
        "image", "sha256", "predicted", "p_benign", "p_pre_b", "p_pro_b", "p_malignant",
        "prediction_set", "decision", "reasons", "ood_score", "quality", "model", "heatmap",
    ]  # fmt: skip


def test_paths_bytes_and_arrays_agree(predictor: Predictor, images: list[Path]) -> None:
    path = images[0]
    answers = predictor.predict([path, str(path), path.read_bytes(), decode_image(path).image])
    assert [answer.image for answer in answers] == [str(path), str(path), "image-3", "image-4"]
    assert len({answer.logits for answer in answers}) == 1
    assert len({answer.sha256 for answer in answers[:3]}) == 1


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is missing")
def test_engines_agree(tiny_bundle: Path, images: list[Path], predictor: Predictor) -> None:
    other = load_bundle(tiny_bundle, engine="openvino", threads=1)
    for one, two in zip(predictor.predict(images), other.predict(images), strict=True):
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-4)
        assert one.ood_score == pytest.approx(two.ood_score, abs=1e-3)
        assert (one.decision, one.prediction_set) == (two.decision, two.prediction_set)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_the_batch_does_not_change_the_answers(
    batch_size: int, predictor: Predictor, images: list[Path]
) -> None:
    alone = [predictor.predict([path])[0] for path in images]
    together = predictor.predict(images, batch_size=batch_size)
    for one, two in zip(alone, together, strict=True):
        assert one.image == two.image
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)


def test_broken_images_are_named_and_the_rest_goes_on(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    cut, text, empty = tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "empty.png"
    cut.write_bytes(images[0].read_bytes()[:-300])
    text.write_text("no image")
    empty.touch()
    earlier = Failure("gone/*.png", "missing", "no file fits this pattern")
    given_images = [images[0], cut, text, empty, tmp_path, "nowhere.png", earlier, images[2]]
    answers = predictor.predict(given_images, batch_size=2, on_error="keep")
    assert [a.reason if isinstance(a, Failure) else a.predicted for a in answers] == [
        "benign",
        "truncated",
        "not-an-image",
        "empty",
        "unreadable",
        "missing",
        "missing",
        "pro_b",
    ]
    assert answers[6] is earlier
    assert str(answers[1]).startswith(f"{cut}: ")
    with pytest.raises(ImageError, match=r"cut\.png") as caught:
        predictor.predict(given_images)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), 17],
)
def test_what_is_no_image_is_a_failure(array: object, predictor: Predictor) -> None:
    (answer,) = predictor.predict([array], on_error="keep")  # type: ignore[list-item]
    assert isinstance(answer, Failure)
    assert (answer.path, answer.reason) == ("image-1", "not-an-image")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300), cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_any_bytes_give_an_answer(
    data: bytes, cut: int, flip: int, predictor: Predictor, tiny: SimpleNamespace
) -> None:
    whole = encode_png(tiny.colour(9, 9, 9, size=8))
    flipped = bytearray(whole)
    flipped[flip % len(whole)] ^= 0xFF
    answers = predictor.predict([data, whole[:cut], bytes(flipped), whole], on_error="keep")
    assert len(answers) == 4
    assert isinstance(answers[3], Prediction)


def test_only_a_bounded_number_is_in_flight(
    predictor: Predictor, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is read at most two batches a thread ahead, whatever its length."""
    image, taken, answered, ahead = tiny.colour(1, 2, 3), 0, 0, []

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            ahead.append(taken - answered)
            yield image

    stream = predictor.predict_stream(endless(), batch_size=4)
    for answer in stream:
        answered += 1
        assert isinstance(answer, Prediction)
        if answered == 50:
            break
    stream.close()  # type: ignore[attr-defined]
    assert 4 < max(ahead) <= 2 * 2 * 4
    alive = [t.name for t in threading.enumerate() if t.name.startswith("leukoscope-predict")]
    assert not alive


def test_images_are_decoded_while_the_network_runs(
    predictor: Predictor, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, overlapped, loaded = threading.Event(), threading.Event(), itertools.count()
    infer, load = predictor.engine._infer, module.load_source

    def slow_infer(batch: np.ndarray) -> dict[str, np.ndarray]:
        running.set()
        overlapped.wait(10)  # a predictor that only takes turns waits in vain
        running.clear()
        return infer(batch)

    def watched_load(*args: object) -> object:
        if next(loaded) and running.wait(10):  # the first batch has nothing to overlap with
            overlapped.set()
        return load(*args)  # type: ignore[arg-type]

    object.__setattr__(predictor.engine, "_infer", slow_infer)
    monkeypatch.setattr(module, "load_source", watched_load)
    predictor.predict(images[:2], batch_size=1)
    assert overlapped.is_set()


def test_an_image_far_from_the_training_images_is_rejected(
    predictor: Predictor, tiny: SimpleNamespace
) -> None:
    (answer,) = predictor.predict([tiny.colour(0, 0, 250)], batch_size=1)
    assert answer.predicted == "pro_b"
    assert answer.decision == "accept"  # about 3: within the threshold of 4
    folder = predictor.bundle.folder
    ood = predictor.record.ood
    assert ood is not None
    strict = tiny.record(ood=ood.model_copy(update={"threshold": 1.0}))
    save_bundle(folder, strict, tiny.files())
    (answer,) = load_bundle(folder, engine=ENGINE).predict([tiny.colour(0, 0, 250)])
    assert answer.predicted == "pro_b"
    assert answer.decision == "reject"
    assert "unlike the images" in answer.reasons[0]


@pytest.mark.parametrize(("threshold", "size"), [(1.0, 3), (0.0, 1)])
def test_the_prediction_set_leads_to_review(
    threshold: float, size: int, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    conformal = Conformal(coverage=0.9, threshold=threshold, n_cal=50)
    save_bundle(tmp_path / "b", tiny.record(conformal=conformal), tiny.files())
    (answer,) = load_bundle(tmp_path / "b", engine=ENGINE).predict([tiny.colour(90, 80, 70)])
    assert len(answer.prediction_set) == size
    assert answer.predicted in answer.prediction_set
    assert answer.decision == "review"


def test_vector_scaling_and_thresholds_by_class_are_applied(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    image, old = tiny.colour(90, 80, 70), tiny.record()
    save_bundle(tmp_path / "old", old, tiny.files())
    (before,) = load_bundle(tmp_path / "old", engine=ENGINE).predict([image])
    bias = (0.0, 0.0, 12.0)
    calibration = Calibration(temperature=1.0, weights=(1.0, 0.5, 2.0), bias=bias, n_cal=50)
    conformal = Conformal(
        coverage=0.9, guarantee="class", threshold=1.0, thresholds=(0.0, 1.0, 0.5), n_cal=50
    )
    record = tiny.record(calibration=calibration, conformal=conformal)
    save_bundle(tmp_path / "b", record, tiny.files())
    (answer,) = load_bundle(tmp_path / "b", engine=ENGINE).predict([image])
    z = np.array(before.logits) * (1.0, 0.5, 2.0) + bias
    expected = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    assert list(answer.probabilities.values()) == pytest.approx(expected.tolist())
    assert answer.predicted == tiny.record().class_names[2]  # the bias decides, not the logit
    assert answer.prediction_set == record.class_names[1:]


def test_a_bundle_of_an_earlier_version_still_loads(tiny: SimpleNamespace, tmp_path: Path) -> None:
    save_bundle(tmp_path / "b", tiny.record(), tiny.files())
    path = tmp_path / "b" / "bundle.json"
    values = json.loads(path.read_text())
    for key in ("weights", "bias"):
        del values["calibration"][key]
    values["conformal"] = {"coverage": 0.9, "threshold": 0.8, "n_cal": 50}
    del values["operating_point"]
    path.write_text(json.dumps(values))
    record = read_bundle(tmp_path / "b").record
    assert record == tiny.record(files=record.files)
    values["conformal"]["thresholds"] = [0.5]
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"conformal\.thresholds: expected 3 numbers"):
        read_bundle(tmp_path / "b")


def test_a_bundle_without_ood_statistics_gives_no_score(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "b", tiny.record(ood=None), tiny.files())
    (answer,) = load_bundle(tmp_path / "b", engine=ENGINE).predict([tiny.colour(90, 80, 70)])
    assert answer.ood_score is None
    assert answer.as_dict()["ood_score"] is None


def test_heat_maps_are_written(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "other" / images[0].name
    twin.parent.mkdir()
    twin.write_bytes(images[1].read_bytes())
    answers = predictor.predict([*images, twin], explain=tmp_path / "heat")
    files = {answer.heatmap for answer in answers}
    assert len(files) == 4  # the same name in another folder has a file of its own
    for name in files:
        assert name is not None
        assert decode_image(Path(name)).image.shape == (224 + 48, 3 * 224 + 12, 3)


def test_heat_maps_need_a_head_that_gives_them(tiny: SimpleNamespace, tmp_path: Path) -> None:
    files = tiny.files() | {"model.onnx": tiny.graph(maps=False)}
    save_bundle(tmp_path / "b", tiny.record(), files)
    predictor = load_bundle(tmp_path / "b", engine=ENGINE)
    with pytest.raises(UsageError, match="no class activation maps"):
        predictor.predict([], explain=tmp_path / "heat")
    assert not (tmp_path / "heat").exists()


def test_wrong_use_is_told_at_once(predictor: Predictor, images: list[Path]) -> None:
    with pytest.raises(UsageError, match="expected a list of images"):
        predictor.predict(str(images[0]))  # type: ignore[call-overload]
    for none in (None, 5):
        with pytest.raises(UsageError, match=f"of images, got {none}\n  → write predict"):
            predictor.predict(none)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="at least one image"):
        predictor.predict_stream(images, batch_size=0)


def test_no_images_give_no_answers(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_logits_that_are_no_numbers_stop_the_run(predictor: Predictor, images: list[Path]) -> None:
    def broken(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.full((len(batch), 3), np.nan, np.float32)}

    object.__setattr__(predictor.engine, "_infer", broken)
    with pytest.raises(BundleError, match="not finite"):
        predictor.predict(images)


def test_what_trained_the_bundle_is_known(predictor: Predictor) -> None:
    assert predictor.trained_on_sha256 == {"aa", "bb"}


def test_load_bundle_checks_the_fit(tiny: SimpleNamespace, tmp_path: Path) -> None:
    files = tiny.files() | {"model.onnx": tiny.graph(classes=2)}
    save_bundle(tmp_path / "b", tiny.record(), files)
    with pytest.raises(BundleError, match="3 classes are named"):
        load_bundle(tmp_path / "b", engine=ENGINE)
    assert leukoscope.load_bundle is load_bundle


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_prediction_imports_nothing_heavy(
    engine: str, tiny_bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; import leukoscope\n"
        "bundle, image, engine, heat = sys.argv[1:]\n"
        "p = leukoscope.load_bundle(bundle, engine=engine)\n"
        "assert p.predict([image], explain=Path(heat))[0].predicted == 'benign'\n"
        "names = ('torch', 'torchvision', 'timm', 'sklearn', 'scipy', 'matplotlib', 'pandas',"
        " 'onnx')\n"
        "print([name for name in names if name in sys.modules])"
    )
    arguments = [str(tiny_bundle), str(images[0]), engine, str(tmp_path / "heat")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
