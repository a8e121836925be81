"""Spec strings: what each of them names, which of them are code, and when code is refused."""

from pathlib import Path

import pytest

from segdistill.models.card import CARD
from segdistill.models.spec import (
    KINDS,
    NetworkSpec,
    display_name,
    parse_architecture,
    parse_spec,
    require_trust,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dsunet", {"kind": "builtin", "architecture": "dsunet"}),
        ("fcn_resnet50", {"kind": "torchvision", "architecture": "fcn_resnet50"}),
        ("smp:Unet/resnet18", {"kind": "smp", "architecture": "Unet", "encoder": "resnet18"}),
        ("smp:Unet", {"kind": "smp", "architecture": "Unet"}),
        ("a/b.py:build", {"kind": "function", "path": Path("a/b.py"), "function": "build"}),
        ("C:/a/b.py:build", {"kind": "function", "path": Path("C:/a/b.py"), "function": "build"}),
        ("package.module:build", {"kind": "function", "module": "package.module", "function": "build"}),
        ("smpl:build", {"kind": "function", "module": "smpl", "function": "build"}),
        ("a/b.onnx", {"kind": "file", "path": Path("a/b.onnx")}),
        ("C:/a/b.pte", {"kind": "file", "path": Path("C:/a/b.pte")}),
    ],
)
def test_each_form_is_parsed_into_its_parts(text: str, expected: dict[str, object]) -> None:
    spec = parse_spec(text)
    assert spec == NetworkSpec(text=text, **expected)
    assert spec.is_code is (spec.kind == "function")
    if not KINDS[spec.kind].trained:
        assert parse_architecture(text) == spec


@pytest.mark.parametrize("source", ["nvidia/segformer-b0", "nvidia/segformer-b0@main", "C:/folder"])
def test_a_network_of_hugging_face_is_named_without_asking_the_hub(source: str) -> None:
    expected = NetworkSpec(text=f"hf:{source}", kind="hf", architecture=source)
    assert parse_architecture(f"hf:{source}") == expected
    assert not expected.is_code


def test_a_folder_of_hugging_face_holds_a_network_or_a_run(tmp_path: Path) -> None:
    assert parse_spec(f"hf:{tmp_path}").kind == "hf"
    (tmp_path / CARD).write_text("{}")
    assert parse_spec(f"hf:{tmp_path}").kind == "run"


@pytest.mark.parametrize("name", ["mine", "dsunet", "os:path", "odd.onnx"])
def test_a_run_folder_is_one_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Path(name, CARD).write_text("{}")
    assert parse_spec(name) == NetworkSpec(text=name, kind="run", path=Path(name))


def test_a_folder_named_like_an_architecture_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dsunet").mkdir()
    Path("dsunet", CARD).write_text("{}")
    assert parse_architecture("dsunet").kind == "builtin"


def test_a_folder_without_a_model_is_a_run_folder_still(tmp_path: Path) -> None:
    assert parse_spec(str(tmp_path)).kind == "run"


@pytest.mark.parametrize(
    "text", ["dsunett", ":build", ".:build", ".relative:build", "nofile.py", "no/folder"]
)
def test_what_names_nothing_is_refused_with_the_choices(text: str) -> None:
    for parse in (parse_spec, parse_architecture):
        with pytest.raises(ValueError, match="there is no network") as caught:
            parse(text)
        assert all(kind.form in str(caught.value) for kind in KINDS.values())


def test_the_nearest_name_is_proposed() -> None:
    with pytest.raises(ValueError, match=r"no network 'dsunett'; did you mean dsunet\? A network is"):
        parse_spec("dsunett")


@pytest.mark.parametrize("text", ["runs/1", "model.onnx"])
def test_a_trained_network_is_no_architecture(text: str) -> None:
    with pytest.raises(ValueError, match="there is no network"):
        parse_architecture(text)


def test_code_that_a_file_names_needs_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGDISTILL_TRUST", raising=False)
    # The last could be an exported file; a model.json that names it would run the package.
    for text in ("evil.py:build", "evil.package:build", "evil:package.onnx"):
        with pytest.raises(ValueError, match=f"model.json names the network '{text}', whose code would run"):
            require_trust(text, Path("model.json"))
    for text in ("dsunet", "fcn_resnet50", "smp:Unet/resnet18", "hf:a/b", "model.onnx", "runs/1", ""):
        require_trust(text, Path("model.json"))
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")
    require_trust("evil.py:build", Path("model.json"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/runs/teacher", "teacher"),
        ("../nets/mine.py:build", "mine.py:build"),
        ("mine.nets:build", "mine.nets:build"),
        ("runs/teacher/model.onnx", "model.onnx"),
        ("hf:/networks/segformer", "hf:segformer"),
        ("hf:nvidia/segformer-b0@main", "hf:nvidia/segformer-b0@main"),
        ("smp:unet/resnet18", "smp:unet/resnet18"),
        ("timm:resnet18", "timm:resnet18"),
        ("fcn_resnet50", "fcn_resnet50"),
    ],
)
def test_the_name_for_others_has_no_folders_of_this_machine(text: str, name: str) -> None:
    assert display_name(text) == name
