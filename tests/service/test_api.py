from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.testclient import TestClient

from leukoscope.config.guarantees import Measured, Promise, StudyVerdict
from leukoscope.imaging.decode import decode_image
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.predictor import load_bundle
from leukoscope.service import uploads

AppWith = Callable[..., AbstractContextManager[TestClient]]


def files(*images: bytes, names: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [
        ("files", (names[i] if names else f"{i}.png", data, "image/png"))
        for i, data in enumerate(images)
    ]


def test_the_answers_are_those_of_the_predictor(
    client: TestClient, bundle: Path, red: bytes, foreign: bytes
) -> None:
    answer = client.post("/v1/predict", files=files(red, b"no image", foreign))
    assert answer.status_code == 200
    found = answer.json()
    expected = load_bundle(bundle, engine="onnxruntime").predict([red, foreign])
    for row, want in zip(found["predictions"], expected, strict=True):
        same = want.as_dict()
        assert {name: row[name] for name in same if name != "image"} == {
            name: value for name, value in same.items() if name != "image"
        }
    assert [row["index"] for row in found["predictions"]] == [0, 2]
    assert [(row["index"], row["image"]) for row in found["errors"]] == [(1, "1.png")]
    assert "expected an image" in found["errors"][0]["error"]
    assert found["predictions"][1]["decision"] == "reject"
    assert found["model_sha256"].startswith(found["model"].split("@")[1])
    assert "not a medical device" in found["disclaimer"]
    assert answer.headers["x-request-id"] == found["request_id"]


def test_explain_gives_a_picture_of_what_the_model_saw(client: TestClient, red: bytes) -> None:
    row = client.post("/v1/predict?explain=true", files=files(red)).json()["predictions"][0]
    head, data = row["heatmap"].split(",")
    assert head == "data:image/png;base64"
    assert decode_image(base64.b64decode(data)).image.shape == (32, 32, 3)


def test_similar_cases_come_where_asked_for(client: TestClient, red: bytes) -> None:
    row = client.post("/v1/predict?similar=2", files=files(red)).json()["predictions"][0]
    first, second = row["similar"]
    assert first.items() >= {"label": "benign", "image_id": "0" * 12, "acquisition": 1}.items()
    assert 0 <= first["distance"] < 0.1 < second["distance"]
    assert set(first) == {"label", "image_id", "acquisition", "distance"}
    assert "similar" not in client.post("/v1/predict", files=files(red)).json()["predictions"][0]
    assert client.post("/v1/predict?similar=21", files=files(red)).status_code == 422
    assert client.get("/v1/models").json()[0]["similar_cases"] == 3


def test_who_did_not_ask_for_cases_gets_none_though_the_batch_has_them(
    app_with: AppWith, red: bytes
) -> None:
    with app_with(threads=1) as client:
        asked: list[int] = [0, 3, 1, 0, 3, 1, 0, 3]
        found: dict[int, Any] = {}

        def ask(turn: int) -> None:
            path = f"/v1/predict?similar={asked[turn]}"
            found[turn] = client.post(path, files=files(red)).json()["predictions"][0]

        threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [len(found[turn].get("similar", ())) for turn in range(len(asked))] == asked


def test_an_older_bundle_has_no_cases_and_answers(
    app_with: AppWith, tiny_parts: ModuleType, tmp_path: Path, red: bytes
) -> None:
    save_bundle(tmp_path / "b", tiny_parts.build_record(), tiny_parts.bundle_files())
    with app_with(tmp_path / "b") as client:
        row = client.post("/v1/predict?similar=2", files=files(red)).json()["predictions"][0]
        assert row["similar"] == []
        assert client.get("/v1/models").json()[0]["similar_cases"] == 0
        page = client.post("/answers?fragment=true", files=files(red)).text
        assert "This bundle carries no training cases." in page
        assert "expect them to be rejected" in client.get("/").text


def test_a_model_without_maps_refuses_to_explain(
    app_with: AppWith, tiny_parts: ModuleType, tmp_path: Path, red: bytes
) -> None:
    graph = tiny_parts.build_graph(maps=False)
    save_bundle(tmp_path / "b", tiny_parts.build_record(), tiny_parts.bundle_files(graph))
    with app_with(tmp_path / "b") as client:
        answer = client.post("/v1/predict?explain=true", files=files(red))
        assert answer.status_code == 422
        assert "gives no heat maps" in answer.json()["detail"]
        assert client.post("/answers?fragment=true", files=files(red)).status_code == 200


@pytest.mark.parametrize(
    ("how", "names", "fields", "patients"),
    [
        ("one", ("a.png", "a.png", "b.png"), [], ["1"]),
        ("folder", ("x/a.png", "y/a.png", "x/b.png"), [], ["x", "y"]),
        ("field", ("a.png", "a.png", "a.png"), ["p", "q", "p"], ["p", "q"]),
    ],
)
def test_patients(
    client: TestClient, red: bytes, how: str, names: Any, fields: list[str], patients: list[str]
) -> None:
    answer = client.post(
        f"/v1/predict?by_patient={how}",
        files=files(red, red, red, names=names),
        data={"patient": fields},
    )
    rows = answer.json()["patients"]
    assert [row["patient"] for row in rows] == patients
    assert sum(row["n_images"] for row in rows) == 3
    wrong = client.post(f"/v1/predict?by_patient={how}", files=files(red))
    assert wrong.status_code == (200 if how == "one" else 422)


def test_several_models_by_name(
    app_with: AppWith, bundle: Path, tiny_parts: ModuleType, tmp_path: Path, red: bytes
) -> None:
    second = tiny_parts.build_record(name="second")
    save_bundle(tmp_path / "b", second, tiny_parts.bundle_files(record=second))
    with app_with(bundle, tmp_path / "b") as client:
        names = [row["name"] for row in client.get("/v1/models").json()]
        assert names == ["tiny", "second"]
        for name in names:
            found = client.post(f"/v1/predict?model={name}", files=files(red)).json()
            assert found["model"].startswith(f"{name}@")
        wrong = client.post("/v1/predict?model=third", files=files(red))
        assert wrong.status_code == 404
        assert "tiny, second" in wrong.json()["detail"]


@pytest.mark.parametrize(
    ("limits", "images", "status", "word"),
    [
        ({"max_files": 1}, 2, 413, "at most 1 images"),
        ({"max_file_mb": 1}, 0, 413, "at most 1 MiB for an image"),
        ({"max_body_mb": 1}, 0, 413, "at most 1 MiB in one request"),
        ({"memory_mb": 1}, 0, 429, "too many uploads"),
        ({"queue_images": 1}, 2, 429, "none of yours was taken"),
        ({"timeout_s": 1e-6}, 1, 503, "no answer within"),
        ({"max_pixels": 100}, 1, 422, "none of the images"),
    ],
)
def test_limits(
    app_with: AppWith, red: bytes, limits: Any, images: int, status: int, word: str
) -> None:
    sent = files(*[red] * images) if images else files(b"x" * (2 * 2**20))
    with app_with(**limits) as client:
        answer = client.post("/v1/predict", files=sent)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert word in problem["detail"]
        assert ("retry-after" in answer.headers) == (status in (429, 503))
        deadline = time.monotonic() + 10
        metrics = ""
        while "leukoscope_queue_images 0.0" not in metrics and time.monotonic() < deadline:
            metrics = client.get("/metrics").text
        assert "leukoscope_queue_images 0.0" in metrics  # nothing leaks
        assert "leukoscope_upload_bytes 0.0" in metrics


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x", "text/plain", 415),
        (b"x", "multipart/form-data", 415),
        (b"x", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\n\r\n", "multipart/form-data; boundary=edge", 400),
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", 422),
        (b"", "multipart/form-data; boundary=" + "e" * 5000, 400),
    ],
)
def test_forms_that_are_none(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status


@pytest.mark.parametrize("head", [b"x: " + b"y" * 9000, b"x: y\r\n" * 3000])
def test_the_head_of_a_part_is_bounded_whatever_the_parser_allows(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    endless = partial(uploads.MultipartParser, max_header_count=10**9, max_header_size=10**9)
    monkeypatch.setattr(uploads, "MultipartParser", endless)
    kind = "multipart/form-data; boundary=edge"
    body = b"--edge\r\n" + head.rstrip() + b"\r\n\r\nx\r\n--edge--\r\n"
    answer = client.post("/v1/predict", content=body, headers={"content-type": kind})
    assert (answer.status_code, "malformed" in answer.text) == (400, True)


def test_nothing_is_ready_before_the_models_are(app_with: AppWith, red: bytes) -> None:
    with app_with() as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        client.app.state.models._served = {}  # type: ignore[attr-defined]
        assert client.get("/healthz").status_code == 200
        for answer in (client.get("/readyz"), client.post("/v1/predict", files=files(red))):
            assert answer.status_code == 503
            assert "retry-after" in answer.headers
        assert "reload this page" in client.get("/").text


def test_a_key_is_asked_for_and_never_logged(
    app_with: AppWith, red: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = "a-key-of-twenty-chars"
    caplog.set_level(logging.INFO, logger="leukoscope.service")
    with app_with(api_key=key) as client:
        for header in ({}, {"x-api-key": "wrong"}, {"authorization": b"Bearer \xe9"}):
            answer = client.post("/v1/predict", files=files(red), headers=header)
            assert answer.status_code == 401
            assert "www-authenticate" in answer.headers
        for header in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            answer = client.post("/v1/predict", files=files(red), headers=header)
            assert answer.status_code == 200
        opened = ("/", "/healthz", "/readyz", "/static/page.css", "/docs", "/openapi.json")
        assert all(client.get(path).status_code == 200 for path in opened)
        assert client.get("/metrics").status_code == 401
        assert 'id="key"' in client.get("/").text
    assert key not in caplog.text
    assert key not in repr([record.__dict__ for record in caplog.records])


def test_keys_cannot_be_tried_without_end(app_with: AppWith) -> None:
    key = "a-key-of-twenty-chars"
    with app_with(api_key=key, rate_per_minute=3) as client:
        wrong = [
            client.get("/v1/models", headers={"x-api-key": f"wrong-{n}"}).status_code
            for n in range(5)
        ]
        assert wrong == [401, 401, 401, 429, 429]
        assert client.get("/v1/models", headers={"x-api-key": key}).status_code == 200


def test_a_host_that_is_none_is_a_wrong_request(app_with: AppWith) -> None:
    with app_with() as client:
        answer = client.get("/v1/models", headers={"host": "["})
        assert answer.status_code == 400
        assert "header Host" in answer.json()["detail"]


def test_the_rate_is_limited(app_with: AppWith) -> None:
    with app_with(rate_per_minute=3) as client:
        statuses = [client.get("/v1/models").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert client.get("/healthz").status_code == 200


def test_other_hosts_and_other_web_sites_are_refused(app_with: AppWith, red: bytes) -> None:
    with app_with(hosts=("testserver",)) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        foreign = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
        assert client.post("/v1/predict", files=files(red), headers=foreign).status_code == 403
        assert "access-control-allow-origin" not in client.get("/", headers=foreign).headers
    with app_with(cors_origins=("https://lab.example",), api_key="k" * 20) as client:
        ours = {"origin": "https://lab.example", "access-control-request-method": "POST"}
        answer = client.options("/v1/predict", headers=ours)
        assert answer.headers["access-control-allow-origin"] == "https://lab.example"


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/v1/models", "/nothing", "/static/page.js", "/static/../app.py"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-leukoscope-version"]
        assert "server" not in headers


def test_names_are_words_and_never_paths(client: TestClient, red: bytes) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a\x00b.png"):
        row = client.post("/v1/predict", files=files(red, names=(name,))).json()["predictions"][0]
        assert row["predicted"]
        assert "\x00" not in row["image"]
    page = client.post("/answers", files=files(red, names=("<script>alert(1)</script>",))).text
    assert "<script>alert" not in page
    assert client.get("/examples/tiny/..%2Fbundle.json").status_code == 404
    assert client.get("/static/..%2Fapp.py").status_code == 404


def test_a_fault_gives_500_without_a_trace_and_the_server_goes_on(
    app_with: AppWith, red: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()

    def on_answers(*_: Any) -> None:
        if broken.is_set():
            raise RuntimeError("secret detail")

    with app_with(on_answers=on_answers) as client:
        broken.set()
        answer = client.post("/v1/predict", files=files(red))
        assert answer.status_code == 500
        assert "secret" not in answer.text
        broken.clear()
        assert client.post("/v1/predict", files=files(red)).status_code == 200
    assert "secret detail" in caplog.text


def test_metrics_and_logs_tell_what_happened(
    app_with: AppWith, red: bytes, foreign: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="leukoscope.service")
    with app_with() as client:
        client.post("/v1/predict", files=files(red, foreign, b"x", names=("Doe.png", "b", "c")))
        text = client.get("/metrics").text
    assert 'leukoscope_requests_total{route="/v1/predict",status="200"} 1.0' in text
    assert 'decision="reject"' in text
    assert 'leukoscope_unreadable_total{reason="not-an-image"} 1.0' in text
    assert "leukoscope_batch_images_count" in text
    lines = [record for record in caplog.records if getattr(record, "fields", {}).get("images")]
    assert lines[0].fields["unreadable"] == 1  # type: ignore[attr-defined]
    assert "Doe" not in json.dumps([vars(line) for line in caplog.records], default=str)


def test_many_clients_get_their_own_answers(app_with: AppWith, tiny_parts: ModuleType) -> None:
    from leukoscope.runtime.heatmap import encode_png

    colours = {"benign": (150, 40, 40), "pre_b": (40, 150, 40), "pro_b": (40, 40, 150)}
    images = {name: encode_png(tiny_parts.colour(*rgb)) for name, rgb in colours.items()}
    wrong: list[str] = []
    with app_with(batch_images=4) as client:

        def ask(name: str) -> None:
            for _ in range(10):
                found = client.post("/v1/predict", files=files(images[name])).json()
                if found["predictions"][0]["predicted"] != name:
                    wrong.append(name)

        threads = [threading.Thread(target=ask, args=(name,)) for name in list(images) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_everybody_is_told_for_whom_a_model_is_calibrated(
    app_with: AppWith, tiny_parts: ModuleType, tmp_path: Path, red: bytes
) -> None:
    with app_with() as client:  # packed before there were promises
        none = "alibrated on images of the training patients; promises nothing for new patients"
        made = client.get("/v1/models").json()[0]["promise"]
        assert made["words"].endswith(none)
        assert made["unit"] is None
        assert none in client.post("/v1/predict", files=files(red)).json()["promise"]
        assert none in client.get("/").text
        assert none in client.post("/answers?fragment=true", files=files(red)).text
    promise = Promise(
        unit="patient", protocol="grouped", n_groups=25, n=2002, coverage=0.95,
        measured=Measured(value=0.956, low=0.916, high=0.983, reliable=False),
    )  # fmt: skip
    verdict = StudyVerdict(
        level="unsafe", headline="The ground gives it away.", sources={"ground": "shown"}
    )
    told = {"promise": promise, "verdict": verdict}
    record = tiny_parts.build_record().model_copy(update=told)
    save_bundle(tmp_path / "b", record, tiny_parts.bundle_files(tiny_parts.build_graph()))
    with app_with(tmp_path / "b") as client:
        made = client.get("/v1/models").json()[0]["promise"]
        assert (made["unit"], made["n_groups"], made["measured"]["value"]) == ("patient", 25, 0.956)
        assert made["words"] == promise.words
        assert client.get("/v1/models").json()[0]["verdict"] == verdict.model_dump()
        assert verdict.headline in client.get("/").text
        warning = "Judged unsafe by its study: most of its score can come from ground."
        assert client.post("/v1/predict", files=files(red)).json()["warning"] == warning
        assert warning in client.post("/answers", files=files(red)).text
        for text in (client.get("/").text, client.post("/answers", files=files(red)).text):
            assert "calibrated for new patients (25 patients held out)" in text
            assert "holds the true class in 95.6 % (interval 91.6 % to 98.3 %)" in text
            assert "Few groups" in text


def test_a_patient_without_a_usable_image_gets_a_page(client: TestClient, foreign: bytes) -> None:
    answer = client.post("/answers", files=files(foreign), data={"one_patient": "on"})
    assert answer.status_code == 200, answer.text
    assert "No image could be used" in answer.text
    assert "These images as one patient" in answer.text
