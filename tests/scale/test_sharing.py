"""A bundle that is sent away and fetched again is the same, or is not there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import fsspec
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import BundleError, UsageError
from leukoscope.core.files import sha256_file
from leukoscope.runtime.bundle import installed_bundles, read_bundle
from leukoscope.scale import fetching, sharing
from leukoscope.scale.sharing import pull_bundle, push_bundle


@pytest.fixture
def bundle() -> Path:
    return next(folder for folder in installed_bundles() if folder.name == "phantom")


@pytest.fixture
def store() -> Iterator[str]:
    """A place in fsspec's memory."""
    MemoryFileSystem.store.clear()
    yield "memory://store/model"
    MemoryFileSystem.store.clear()


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TRIES", 1)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_what_is_pushed_is_pulled(kind: str, bundle: Path, tmp_path: Path, store: str) -> None:
    folder = tmp_path / "my shelf"
    target = {"folder": str(folder), "file": folder.as_uri(), "memory": store}[kind]

    sent = push_bundle(bundle, target)
    got = pull_bundle(target, tmp_path / "got", sha256=sent.sha256)

    assert got.sha256 == sent.sha256 == read_bundle(tmp_path / "got").sha256
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    if kind == "memory":
        names = {path.split("/")[3] for path in MemoryFileSystem.store}
        assert names == {"README.md", "bundle"}, "nothing of the way is left"
    else:
        assert left_in(folder) == ["README.md", "bundle"]
        assert read_bundle(folder).sha256 == sent.sha256, "predict takes the shared folder"


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_what_is_there_is_replaced_only_when_asked(
    kind: str, bundle: Path, tmp_path: Path, store: str
) -> None:
    target = {"folder": str(tmp_path / "shelf"), "memory": store}[kind]
    push_bundle(bundle, target)
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    record = json.loads((other / "bundle.json").read_text())
    del record["files"]["LICENSE"]
    (other / "LICENSE").unlink()
    (other / "bundle.json").write_text(json.dumps(record | {"name": "other"}))

    with pytest.raises(BundleError, match=r"already(.|\n)*--replace"):
        push_bundle(other, target)
    assert pull_bundle(target, tmp_path / "got").record.name == "phantom"
    with pytest.raises(BundleError, match=r"already(.|\n)*--replace"):
        pull_bundle(target, tmp_path / "got")

    push_bundle(other, target, replace=True)
    pull_bundle(target, tmp_path / "got", replace=True)
    assert read_bundle(tmp_path / "got").record.name == "other", "no file of the first is left"


def test_a_folder_that_is_no_bundle_is_never_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf/bundle").mkdir(parents=True)
    (tmp_path / "shelf/bundle/thesis.md").write_text("years of work")
    with pytest.raises(BundleError, match="something else"):
        push_bundle(bundle, str(tmp_path / "shelf"), replace=True)
    with pytest.raises(BundleError, match="something else"):
        pull_bundle(str(bundle), tmp_path / "shelf/bundle", replace=True)
    assert (tmp_path / "shelf/bundle/thesis.md").exists()


@pytest.mark.parametrize("fails", ["put_file", "mv"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_push_that_breaks_leaves_what_was_there(
    fails: str, replaced: bool, bundle: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if replaced:
        push_bundle(bundle, store)
    before = {path: file.getvalue() for path, file in MemoryFileSystem.store.items()}
    done: list[str] = []
    honest = getattr(MemoryFileSystem, fails)

    def breaking(self: Any, *arguments: Any, **options: Any) -> Any:
        done.append(str(arguments[0]))
        if len(done) == 5:
            raise ConnectionError("lost s3://key:secret@host/x?token=abc")
        return honest(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, fails, breaking)
    with pytest.raises(BundleError, match="cannot be written: ConnectionError") as failed:
        push_bundle(bundle, store, replace=replaced)

    assert "secret" not in str(failed.value)
    assert "abc" not in str(failed.value)
    assert {path: file.getvalue() for path, file in MemoryFileSystem.store.items()} == before


def test_a_file_that_arrives_changed_is_noticed_by_the_push(
    bundle: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Any, local: str, path: str, **_: Any) -> None:
        self.pipe_file(path, Path(local).read_bytes()[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", cut)
    with pytest.raises(BundleError, match=r"LICENSE: arrived changed"):
        push_bundle(bundle, store)
    assert MemoryFileSystem.store == {}


def test_a_damaged_or_other_bundle_never_gets_its_name(
    bundle: Path, tmp_path: Path, store: str
) -> None:
    push_bundle(bundle, store)
    with pytest.raises(BundleError, match=r"expected the bundle 0{64}, found"):
        pull_bundle(store, tmp_path / "got", sha256="0" * 64)
    system = fsspec.filesystem("memory")
    system.pipe_file("/store/model/bundle/model.onnx", b"another network")
    with pytest.raises(BundleError, match=rf"^{store}/bundle/model.onnx: changed or cut off"):
        pull_bundle(store, tmp_path / "got")
    system.rm("/store/model/bundle/model.onnx")
    with pytest.raises(BundleError, match=r"model.onnx: this file of the bundle is missing"):
        pull_bundle(store, tmp_path / "got")
    system.pipe_file("/store/model/bundle/bundle.json", b"{}")
    with pytest.raises(BundleError, match=rf"^{store}/bundle/bundle.json: this version reads"):
        pull_bundle(store, tmp_path / "got")
    system.rm("/store/model/bundle/bundle.json")
    with pytest.raises(BundleError, match=r"found no bundle.json"):
        pull_bundle(store, tmp_path / "got")
    assert left_in(tmp_path) == []


def test_no_name_or_link_leads_out_and_nothing_is_too_large(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(bundle, shelf)
    record = json.loads((shelf / "bundle.json").read_text())
    (shelf / "LICENSE").unlink()
    (shelf / "LICENSE").symlink_to("/etc/hostname")
    for name, told in (("../LICENSE", "no name for a file"), ("LICENSE", "leads out")):
        changed = record | {"files": {name: "0" * 64} | record["files"]}
        (shelf / "bundle.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match=told):
            pull_bundle(str(shelf), tmp_path / "got")
    for name, value, told in (
        ("MOST_BYTES", 1000, "may have 1,000 bytes"),
        ("MOST_FILES", 3, "at most 3 files"),
        ("MOST_RECORD_BYTES", 100, "its record 100"),
    ):
        with monkeypatch.context() as limit:
            limit.setattr(sharing, name, value)
            with pytest.raises(BundleError, match=told):
                pull_bundle(str(bundle), tmp_path / "got")
    assert left_in(tmp_path) == ["shelf"]


class Files(SimpleHTTPRequestHandler):
    """Serves a folder to who knows the password, and notes what it was asked."""

    def do_GET(self) -> None:
        seen = self.server.seen  # type: ignore[attr-defined]
        seen.asked.append(self.path)
        expected = f"Basic {base64.b64encode(b'lab:pass word').decode()}"
        if seen.locked and self.headers.get("Authorization") != expected:
            self.send_error(401)
        elif self.path.endswith("model.onnx") and seen.breaks:
            self.send_response(200)
            self.send_header("Content-Length", "605327")
            self.end_headers()
            self.wfile.write(b"half of it")
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(bundle: Path, tmp_path: Path, serve: Callable[..., Any]) -> SimpleNamespace:
    """A web server on this machine with a shared bundle below ``/lab``."""
    push_bundle(bundle, str(tmp_path / "www/lab"))
    seen = SimpleNamespace(asked=[], locked=False, breaks=False)
    server = serve(partial(Files, directory=str(tmp_path / "www")), seen=seen)
    seen.host = f"127.0.0.1:{server.server_port}"
    return seen


def test_from_a_web_server(web: Any, bundle: Path, tmp_path: Path) -> None:
    got = pull_bundle(f"http://{web.host}/lab", tmp_path / "got")
    assert got.sha256 == sha256_file(bundle / "bundle.json")
    with pytest.raises(UsageError, match="takes none"):
        push_bundle(bundle, f"http://{web.host}/lab")
    web.breaks = True
    with pytest.raises(BundleError, match=r"model.onnx: (changed or cut off|cannot be fetched)"):
        pull_bundle(f"http://{web.host}/lab", tmp_path / "half")
    assert left_in(tmp_path) == ["got", "www"]


def test_a_password_opens_and_is_not_told(web: Any, tmp_path: Path) -> None:
    web.locked = True
    pull_bundle(f"http://lab:pass%20word@{web.host}/lab?key=k1", tmp_path / "got")
    assert web.asked[-1].endswith("?key=k1")
    with pytest.raises(BundleError, match=rf"^http://{web.host}/lab/bundle.json\?…: ") as failed:
        pull_bundle(f"http://lab:wrong@{web.host}/lab?key=k1", tmp_path / "other")
    assert "the server answers 401" in str(failed.value)
    assert "wrong" not in str(failed.value)
    assert "k1" not in str(failed.value)


def test_an_unknown_kind_of_place_is_said(bundle: Path, tmp_path: Path) -> None:
    for call in (
        partial(push_bundle, bundle, "attic://box"),
        partial(pull_bundle, "attic://box", tmp_path / "got"),
        partial(push_bundle, bundle, "hf://datasets/owner/name"),
    ):
        with pytest.raises(UsageError, match=r"attic|repository of models"):
            call()


def test_the_card_says_what_the_record_says(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    record = json.loads((other / "bundle.json").read_text())
    score = {"metric": "accuracy", "protocol": "grouped", "value": 0.85, "low": 0.77, "high": 0.906}
    counts = {"n": 2002, "n_groups": 25, "group_unit": "patient", "confidence": 0.95}
    verdict = {"level": "unsafe", "headline": "It reads *stain*.", "sources": {"stain": "shown"}}
    record |= {"dataset": "our cells", "scores": [score | counts], "verdict": verdict}
    (other / "bundle.json").write_text(json.dumps(record))

    push_bundle(other, str(tmp_path / "shelf"))

    text = (tmp_path / "shelf/README.md").read_text()
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["pipeline_tag"] == "image-classification"
    assert values["datasets"] == ["our-cells"]
    assert "Shortcuts shown or not ruled out: stain." in values["limits"]
    ((result,),) = [row["results"] for row in values["model-index"]]
    (metric,) = result["metrics"]
    assert metric["type"] == "accuracy"
    assert metric["value"] == 0.85
    assert metric["name"] == "Accuracy (interval 0.770–0.906)"
    assert metric["args"]["n_groups"] == 25
    assert "| Accuracy | Patients held out | 85.0 % (77.0–90.6), level 95%" in body
    assert r"**Verdict of the study: Unsafe.** It reads \*stain\*." in body
    from huggingface_hub import ModelCard

    assert ModelCard(text).data.eval_results[0].metric_value == 0.85, "the hub's own reader"


def test_the_commands(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["bundle", *arguments])
        return done.exit_code, done.output

    code, said = run("push", str(bundle), "shelf")
    assert code == 0
    assert "leukoscope bundle pull shelf --sha256 " in said
    code, said = run("pull", "shelf")
    assert code == 0
    assert "bundle phantom: benign, early_pre_b, pre_b, pro_b; every hash fits" in said
    code, said = run("pull", "shelf", "--replace", "--json")
    assert json.loads(said[said.index("{") :])["place"] == "phantom"
    assert run("pull", "nowhere")[0] == 1


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's interface as a push and a pull of small files need."""

    def do_GET(self) -> None:
        files = self.server.files  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if files is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/lab/model/resolve/"):
            name = path.split("/", 5)[5]
            found = name in files
            headers = {"ETag": '"1"', "X-Repo-Commit": "c" * 40}
            missing = {"X-Error-Code": "EntryNotFound"}
            self._answer(200 if found else 404, files.get(name, b""), headers if found else missing)
        elif "/tree/" in path:
            self._json([self._entry(name) for name in files])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": "lab/model", "sha": "c" * 40, "siblings": siblings})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        hub: Any = self.server
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            hub.files, hub.made = {}, json.loads(sent)
            self._json({"url": "http://127.0.0.1/lab/model", "name": "lab/model"})
        elif self.path.endswith("/validate-yaml"):
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(sent)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": name, **mode} for name in names]})
        elif "/paths-info/" in self.path:
            asked = parse_qs(sent.decode())["paths"]
            self._json([self._entry(name) for name in hub.files if name in asked])
        else:
            hub.commits += 1
            for line in map(json.loads, sent.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
            url = "http://127.0.0.1/lab/model/commit/" + "c" * 40
            self._json({"success": True, "commitOid": "c" * 40, "commitUrl": url})

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]  # type: ignore[attr-defined]
        return {"type": "file", "oid": "a" * 40, "size": len(content), "path": name}

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {})

    def _answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(serve: Callable[..., Any]) -> Any:
    return serve(Hub, files=None, commits=0, made={})


def test_a_repository_on_the_hub(hub: Any, bundle: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_TOKEN": "hf_secret",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "leukoscope", "bundle", *arguments],
            env=os.environ | settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = run("push", str(bundle), "hf://lab/model")
    assert code == 0, said
    assert hub.made.get("visibility") == "private" or hub.made.get("private") is True
    assert hub.commits == 1, "all files at once, or none"
    assert "README.md" in hub.files

    code, said = run("pull", "hf://lab/model", "--out", "got")
    assert code == 0, said
    assert read_bundle(tmp_path / "got").sha256 == sha256_file(bundle / "bundle.json")

    code, said = run("push", str(bundle), "hf://lab/model")
    assert code == 1
    assert "--replace" in said
    hub.files["bundle/left.json"] = b"of an older bundle"
    hub.files["notes.md"] = b"of the lab"
    code, said = run("push", str(bundle), "hf://lab/model", "--replace")
    assert code == 0, said
    assert "bundle/left.json" not in hub.files
    assert "notes.md" in hub.files
