"""Runs pushed to a hub and used from it: a small real server speaks what huggingface_hub asks for."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import segdistill
from segdistill import api, cli
from segdistill.config.deploy import PredictConfig, PushConfig
from segdistill.config.train import ObjectiveConfig, StudentConfig, TeacherConfig
from segdistill.models import hub_runs
from segdistill.models.hub_runs import find_run, pinned

pytestmark = pytest.mark.integration


class Hub(ThreadingHTTPServer):
    """Repositories in memory: by name a list of commits, each with its files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        commits = self.repositories[name]
        return commits[-1] if revision == "main" else next((c for c in commits if c[0] == revision), None)


class Handler(BaseHTTPRequestHandler):
    """The calls of huggingface_hub that creating, pushing and downloading take."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        hub.requests.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            there = name in hub.repositories
            if not there:
                hub.repositories[name] = []
                hub.private |= {name} if asked.get("visibility") == "private" else set()
            self.answer(409 if there else 200, {"url": f"{hub.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self.answer(200, {"files": files})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            lines = [json.loads(line) for line in body.splitlines()]
            new = {
                x["value"]["path"]: base64.b64decode(x["value"]["content"])
                for x in lines
                if x["key"] == "file"
            }
            commits = hub.repositories[match[1]]
            oid = hashlib.sha1(body).hexdigest()
            commits.append((oid, (commits[-1][1] if commits else {}) | new))
            url = f"{hub.url}/{match[1]}/commit/{oid}"
            self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url})
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", self.path):
            commits = hub.repositories[match[1]]
            sha = commits[-1][0] if commits else None
            info = {"id": match[1], "sha": sha, "private": match[1] in hub.private, "siblings": []}
            self.answer(200, info)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        assert match is not None, self.path
        name, revision, file = match.groups()
        if name not in hub.repositories:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif (found := hub.files(name, revision)) is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif file not in found[1]:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        else:
            content = found[1][file]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=found[0])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine, an empty cache, and a token that it takes."""
    server = Hub()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    # What HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN set, which are read when huggingface_hub is imported.
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub_runs._download.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    hub_runs._download.cache_clear()


@pytest.fixture
def pushed(hub: Hub, distilled: Path) -> dict[str, Any]:
    """What pushing a finished run returned."""
    return api.push(distilled, "me/student", PushConfig(license="apache-2.0", datasets=["me/shapes"]))


def answer(capsys: Any, *arguments: object) -> tuple[dict[str, Any], str]:
    """Run a command that must succeed; returns its JSON line and what it writes for people."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1]), " ".join(err.split())


def refusal(capsys: Any, *arguments: object) -> str:
    """Run a command that must be refused; returns its one line."""
    assert cli.main([str(argument) for argument in arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()[-1:]
    return line


def test_the_page_says_what_the_hub_and_people_want_to_know(
    hub: Hub, pushed: dict[str, Any], distilled: Path, tmp_path: Path
) -> None:
    [(commit, files)] = hub.repositories["me/student"]
    assert pushed["commit"] == commit
    assert pushed["url"] == f"{hub.url}/me/student"
    assert sorted(files) == pushed["files"]
    assert files["model.safetensors"] == (distilled / "model.safetensors").read_bytes()
    card = json.loads((distilled / "model.json").read_text())
    card["teacher"]["spec"] = Path(card["teacher"]["spec"]).name
    assert json.loads(files["model.json"]) == card
    page = ModelCard(files["README.md"].decode())
    best = json.loads((distilled / "metrics.json").read_text())["best"]
    assert page.data.library_name == "segdistill"
    assert page.data.license == "apache-2.0"
    assert page.data.datasets == ["me/shapes"]
    assert "semantic-segmentation" in page.data.tags
    assert page.data.metrics[:2] == ["mean_iou", "pixel_accuracy"]
    [score] = [result for result in page.data.eval_results if result.metric_type == "mean_iou"]
    assert score.metric_value == pytest.approx(best["miou"], abs=1e-4)
    assert (score.dataset_type, score.task_type) == ("me/shapes", "image-segmentation")
    assert f"| mean IoU | {best['miou']:.4f} |" in page.text
    assert "segdistill predict hf:me/student photo.jpg" in page.text
    for picture in re.findall(r"\]\((figures/\w+\.png)\)", page.text):
        assert files[picture].startswith(b"\x89PNG")
    assert "figures/examples.png" in files
    assert str(distilled.parent.parent) not in page.text  # the teacher by its name alone
    assert str(distilled.parent.parent) not in files["model.json"].decode()


def test_a_pushed_run_is_used_like_the_folder(
    hub: Hub, pushed: dict[str, Any], distilled: Path, shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    image = sorted(shapes.rglob("*.jpg"))[0]
    masks = []
    for target in (str(distilled), "hf:me/student", f"hf:me/student@{pushed['commit']}"):
        config = PredictConfig(out=str(tmp_path / str(len(masks))), device="cpu")
        [(mask, _)] = segdistill.predict(target, image, config)
        masks.append(mask.read_bytes())
    assert masks[0] == masks[1] == masks[2]
    options = ["--data.root", shapes, "--device", "cpu", "--out", tmp_path / "scores.json"]
    own, _ = answer(capsys, "evaluate", distilled, *options)
    hubs, err = answer(capsys, "evaluate", "hf:me/student", *options)
    assert hubs["miou"] == own["miou"]
    assert f"hf:me/student is hf:me/student@{pushed['commit']}, in {tmp_path / 'hub'}" in err
    assert torch.equal(
        next(segdistill.load_student("hf:me/student").parameters()),
        next(segdistill.load_student(distilled).parameters()),
    )
    answer(capsys, "pack", "hf:me/student", "--out", tmp_path / "packed")
    assert (tmp_path / "packed" / "model.safetensors").stat().st_size < pushed["bytes"]
    assert "name the data set with --data.root" in refusal(capsys, "evaluate", "hf:me/student")
    assert "name the file with --out" in refusal(capsys, "export", "hf:me/student", *options[:2])
    assert "is not a run folder" in refusal(capsys, "calibrate", "hf:me/student", *options[:2])


def test_a_training_starts_from_it_and_is_taught_by_it(
    pushed: dict[str, Any], configure: Any, tmp_path: Path
) -> None:
    pinned_name = f"hf:me/student@{pushed['commit']}"
    run = api.train(
        configure(
            tmp_path / "run",
            student=StudentConfig(width=0.1, init="hf:me/student"),
            teacher=TeacherConfig(spec="hf:me/student"),
            objective=ObjectiveConfig(alpha=0, beta=1.0),
            steps=1,
        ),
        report=False,
    )
    assert json.loads((run / "model.json").read_text())["teacher"]["spec"] == pinned_name
    assert (
        json.loads((run / "history.jsonl").read_text().splitlines()[0])["soft"] < 1
    )  # it starts as its teacher


def test_a_revision_is_pinned_and_a_process_keeps_its_commit(
    hub: Hub, pushed: dict[str, Any], run: Path
) -> None:
    first = find_run("hf:me/student")
    again = api.push(run, "me/student")
    assert again["commit"] != pushed["commit"]
    assert find_run("hf:me/student") == first
    asked = len(hub.requests)
    assert pinned("hf:me/student") == f"hf:me/student@{pushed['commit']}"
    assert len(hub.requests) == asked
    hub_runs._download.cache_clear()
    assert pinned("hf:me/student") == f"hf:me/student@{again['commit']}"
    assert find_run(f"hf:me/student@{pushed['commit']}") == first


def test_a_dry_run_writes_the_same_and_sends_nothing(
    hub: Hub, pushed: dict[str, Any], distilled: Path, tmp_path: Path, capsys: Any
) -> None:
    asked = len(hub.requests)
    options = ["--license", "apache-2.0", "--datasets", '["me/shapes"]', "--dry_run", tmp_path / "dry"]
    record, err = answer(capsys, "push", distilled, "me/student", *options)
    assert len(hub.requests) == asked
    assert err.startswith(f"Making weights, card and page of {distilled} ready for me/student")
    assert "Nothing was sent" in err
    for name, content in hub.repositories["me/student"][0][1].items():
        assert (tmp_path / "dry" / name).read_bytes() == content
        assert f"{name}, {len(content):,} bytes" in err
    assert record["files"] == pushed["files"]
    assert (
        segdistill.load_student(f"hf:{tmp_path / 'dry'}").labels == segdistill.load_student(distilled).labels
    )
    assert "is not empty" in refusal(capsys, "push", distilled, "me/student", *options)


def test_private_stays_private(hub: Hub, run: Path, capsys: Any) -> None:
    api.push(run, "me/secret", PushConfig(private=True))
    assert hub.private == {"me/secret"}
    api.push(run, "me/secret", PushConfig(private=True))
    api.push(run, "me/open")
    commits = len(hub.repositories["me/open"])
    assert "is there and is public" in refusal(capsys, "push", run, "me/open", "--private", "true")
    assert len(hub.repositories["me/open"]) == commits


def test_refused_with_what_to_do(
    hub: Hub, pushed: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    assert "no repository of that name" in refusal(capsys, "predict", "hf:me/none", tmp_path)
    assert "has no revision 'v9'" in refusal(capsys, "predict", "hf:me/student@v9", tmp_path)
    assert "neither a folder that exists nor ORG/NAME" in refusal(capsys, "predict", "hf:a b", tmp_path)
    assert "is not of the form ORG/NAME" in refusal(capsys, "push", run, "a/b/c")
    (tmp_path / "empty").mkdir()
    assert "no model.json" in refusal(capsys, "push", tmp_path / "empty", "me/x")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refused me/student: " in refusal(capsys, "push", run, "me/student")
    assert "HF_TOKEN, gives access" in refusal(capsys, "push", run, "me/student")


def test_without_a_network_the_cache_is_used(
    hub: Hub, pushed: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder = find_run("hf:me/student")
    hub_runs._download.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_run("hf:me/student") == folder
    line = refusal(capsys, "predict", "hf:me/other", tmp_path)
    assert "hf:me/other is not in the cache of huggingface_hub, and http://127.0.0.1" in line
    assert "`hf download me/other --local-dir FOLDER` elsewhere, and name the folder as hf:FOLDER" in line
    assert "--dry_run DIR writes what would be sent" in refusal(capsys, "push", run, "me/other")


def test_a_repository_of_another_library_is_no_run(hub: Hub) -> None:
    hub.repositories["me/segformer"] = [("a" * 40, {"config.json": b"{}"})]
    hub.repositories["me/other"] = [("b" * 40, {"model.json": b'{"layers": []}', "model.safetensors": b""})]
    assert find_run("hf:me/segformer") is None
    assert find_run("hf:me/other") is None
    hub.repositories["me/torn"] = [("c" * 40, {"model.json": b'{"spec": 1, "labels": 2, "size": 3}'})]
    with pytest.raises(ValueError, match=r"has a model\.json but no model\.safetensors"):
        find_run("hf:me/torn")


def test_code_of_a_stranger_is_not_run(hub: Hub, run: Path, tmp_path: Path, capsys: Any) -> None:
    copy = shutil.copytree(run, tmp_path / "code")
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(card | {"spec": "evil.py:network", "width": 1.0}))
    api.push(copy, "me/code")
    assert "whose code would run with your rights" in refusal(
        capsys, "export", "hf:me/code", "--out", "x.onnx"
    )
    with pytest.raises(ValueError, match="whose code would run with your rights"):
        segdistill.load_student("hf:me/code")
    assert (
        "is made by the function `evil.py:network`" in hub.repositories["me/code"][0][1]["README.md"].decode()
    )
