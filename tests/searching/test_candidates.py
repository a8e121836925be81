"""What a search tries, and what it leaves out and why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill.config.search import LearningRates, SearchConfig
from segdistill.config.train import DataConfig, ObjectiveConfig, StudentConfig, TeacherConfig, TrainConfig
from segdistill.searching import candidates as module
from segdistill.searching.candidates import Candidate, input_sizes, list_candidates, read_candidates

pytestmark = pytest.mark.unit


def listed(**changes: Any) -> tuple[list[Candidate], dict[str, str]]:
    recipe = changes.pop("recipe_config", TrainConfig(data=DataConfig(root="x")))
    found, left_out = list_candidates(SearchConfig(**changes), recipe)
    return found, {entry.name: entry.reason for entry in left_out}


def test_dsunet_comes_in_every_width_stride_and_size() -> None:
    found, left_out = listed(families=["dsunet"], size=320, sizes=[0.7, 1.0])
    assert len({c.key for c in found}) == len(found) == 4 * 3 * 2
    assert {c.size for c in found} == {224, 320}
    assert "dsunet-w0.25-s2-224" in {c.key for c in found}
    assert left_out == {}


def test_sizes_are_multiples_of_16() -> None:
    assert input_sizes(100, [0.01, 0.99, 1.0, 1.3]) == [16, 96, 128]


def test_encoders_whose_weights_cannot_be_had_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fail(spec: Any, option: str) -> None:
        asked.append(spec.encoder)
        raise ValueError("the weights of timm:x could not be downloaded (offline)")

    monkeypatch.setattr(module, "download", fail)
    weights = tmp_path / "mine.pth"
    weights.touch()
    encoders = {"resnet18": "imagenet", "resnet34": "imagenet", "mobilenetv2_100": str(weights)}
    found, left_out = listed(families=["timm"], encoders=encoders, sizes=[1.0])
    assert asked == ["resnet18"]
    assert "could not be downloaded" in left_out["timm:resnet18"]
    assert left_out["timm:resnet34"].startswith("not tried")
    assert {c.student.spec for c in found} == {"timm:mobilenetv2_100"}
    assert {c.student.weights for c in found} == {str(weights)}
    assert {(c.student.decoder, c.student.channels) for c in found} == {
        (decoder, channels) for decoder in ("fpn", "lraspp", "deeplab") for channels in (None, 48)
    }
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist"):
        listed(families=["timm"], encoders={"resnet18": "absent.pth"})


def test_the_teachers_own_network_is_a_candidate_where_it_can_be_trained(run: Path, tmp_path: Path) -> None:
    recipe = TrainConfig(data=DataConfig(root="x"), teacher=TeacherConfig(spec=str(run)))
    [found], left_out = listed(families=["teacher"], sizes=[1.0], recipe_config=recipe)
    assert found.student == StudentConfig(width=0.1, init=str(run))
    assert left_out == {}
    file = tmp_path / "teacher.onnx"
    for teacher, reason in [
        (TeacherConfig(spec=str(file)), "an exported file cannot be trained"),
        (TeacherConfig(spec=[str(run), str(run)]), "several networks"),
        (TeacherConfig(spec="timm:resnet18", features_only=True), "without a head"),
    ]:
        config = replace(recipe, teacher=teacher, objective=ObjectiveConfig(alpha=1.0, beta=0.0))
        _, left_out = listed(families=["teacher", "dsunet"], sizes=[1.0], recipe_config=config)
        assert any(reason in text for text in left_out.values())


def test_a_file_names_more_with_sizes_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "candidates.yaml"
    file.write_text("- {spec: dsunet, width: 0.3, sizes: [40, 56]}\n- {spec: dsunet, width: 0.4}\n")
    found, _ = listed(families=[], candidates=str(file), size=64, sizes=[1.0])
    assert [(c.key, c.family) for c in found] == [
        ("dsunet-w0.3-s1-40", "file"), ("dsunet-w0.3-s1-56", "file"), ("dsunet-w0.4-s1-64", "file"),
    ]  # fmt: skip
    assert [Candidate.from_dict(c.to_dict()) for c in found] == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec: dsunet\n", "must be a list of students"),
        ("- {spec: dsunet, wide: 2}\n", "entry 1"),
        ("- {spec: dsunet, sizes: 40}\n", "sizes of entry 1 is 40"),
        ("- {spec: dsunet, lr: fast}\n", "lr of entry 1 is 'fast'"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "candidates.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_candidates(file)
    assert "\n" not in str(error.value)


def test_learning_rates_follow_the_weights_that_a_candidate_starts_from(run: Path, tmp_path: Path) -> None:
    file, weights = tmp_path / "candidates.yaml", tmp_path / "mine.pth"
    file.write_text("- {spec: dsunet, width: 0.3}\n- {spec: dsunet, width: 0.4, lr: 0.5}\n")
    weights.touch()
    found, _ = listed(
        families=["timm", "teacher", "recipe"],
        recipe="recipe.yaml",
        recipe_config=TrainConfig(
            data=DataConfig(root="x"), teacher=TeacherConfig(spec=str(run)), student=StudentConfig(width=0.7)
        ),
        encoders={"resnet18": str(weights)},
        candidates=str(file),
        lr=LearningRates(scratch=1.0, encoder=2.0, network=3.0),
        sizes=[1.0],
    )
    assert {(c.family, c.lr) for c in found} == {
        ("recipe", None), ("teacher", 3.0), ("timm", 2.0), ("file", 1.0), ("file", 0.5),
    }  # fmt: skip


def test_nothing_to_try_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no candidate"):
        listed(families=[])
