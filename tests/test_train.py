"""Training as a whole: what it leaves, and that it learns."""

import json
import math
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from segdistill import api, build_model
from segdistill.config.architecture import Architecture
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.config.yaml import load
from segdistill.data.images import list_images
from segdistill.data.transforms import normalise
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.run_folder import RunFolder
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration


def state(run: Path) -> dict[str, Any]:
    """The state that a run would resume from."""
    found = Checkpoints(run / "checkpoints").load()
    assert found is not None
    return found[1]


def steps(run: Path) -> list[dict[str, Any]]:
    return RunFolder(run).history()[0]


# What a run leaves


@pytest.mark.parametrize(("log_every", "logged"), [(2, [2, 4, 5]), (None, [])])
def test_a_log_has_a_line_for_each_of_the_steps_that_are_asked_for(
    configure: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    log_every: int | None,
    logged: list[int],
) -> None:
    config = configure(tmp_path / "run", steps=5, evaluate_every=5, log_every=log_every)
    run = api.train(config, report=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    found = [
        re.match(r"train: (\d) of 5, 0:00:\d\d left, loss \S+ hard .+ lr .+ images/s$", line)
        for line in lines
    ]
    assert [int(match[1]) for match in found if match] == logged
    assert len(lines) == len(logged)
    assert [record["step"] for record in steps(run)] == (logged or [5])


def test_a_run_folder_holds_everything_that_later_verbs_need(distilled: Path) -> None:
    files = "config.yaml environment.json history.jsonl metrics.json model.safetensors model.json".split()
    files += ["cost.json", "report.html"]
    assert [name for name in files if not (distilled / name).is_file()] == []
    assert {path.name for path in (distilled / "figures").iterdir()} >= {"curves.png", "examples.png"}
    assert len(list((distilled / "checkpoints").glob("*.pt"))) == 2
    assert not (distilled / "nonfinite.json").exists()


def test_the_card_describes_student_and_teacher(distilled: Path, run: Path) -> None:
    card = json.loads((distilled / "model.json").read_text())
    assert (card["spec"], card["width"], card["size"]) == ("dsunet", 0.1, 32)
    assert card["labels"]["names"][0] == "background"
    assert card["teacher"]["spec"] == str(run)
    assert re.fullmatch("[0-9a-f]{64}", card["teacher"]["fingerprint"])
    assert json.loads((run / "model.json").read_text())["teacher"] is None


def test_the_environment_is_recorded(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert (environment["device"], environment["precision"], environment["processes"]) == ("cpu", "fp32", 1)


def test_history_has_every_term_of_every_step(distilled: Path) -> None:
    assert [record["step"] for record in steps(distilled)] == [1, 2, 3, 4, 5, 6]
    for record in steps(distilled):
        assert record.keys() == {"step", "loss", "hard", "soft", "lr", "images_per_second"}
        assert record["loss"] == pytest.approx(0.7 * record["hard"] + 0.3 * record["soft"], rel=1e-5)
        assert record["images_per_second"] > 0
    assert [record["step"] for record in RunFolder(distilled).history()[1]] == [3, 6]


def test_tensorboard_gets_the_same_numbers(distilled: Path) -> None:
    [events] = (distilled / "tensorboard").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    losses = [event.value for event in board.Scalars("train/loss")]
    assert losses == pytest.approx([record["loss"] for record in steps(distilled)], rel=1e-5)
    assert {"train/hard", "train/soft", "train/lr", "val/miou"} <= set(board.Tags()["scalars"])


def test_the_best_evaluation_is_kept(run: Path) -> None:
    scores = {evaluation["step"]: evaluation["miou"] for evaluation in RunFolder(run).history()[1]}
    metrics = json.loads((run / "metrics.json").read_text())
    best = max(scores, key=lambda step: scores[step])
    assert (metrics["best"]["step"], metrics["best"]["miou"]) == (best, scores[best])
    assert (metrics["last"]["step"], metrics["last"]["miou"]) == (6, scores[6])
    assert json.loads((run / "model.json").read_text())["metrics"]["step"] == best


def test_the_resolved_configuration_loads_to_an_equal_one(run: Path, configure: Any) -> None:
    assert load(TrainConfig, run / "config.yaml") == configure(run)


# That it learns


def test_a_few_images_are_learnt_by_heart(tmp_path: Path, configure: Any) -> None:
    config = configure(tmp_path / "run", steps=60, evaluate_every=60, optim=OptimConfig(lr=1e-2, clip=1.0))
    history = steps(api.train(config, report=False))
    losses = [record["hard"] for record in history]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(record["gradient_norm"] > 0 for record in history)


def test_a_teacher_alone_can_teach(tmp_path: Path, configure: Any, run: Path) -> None:
    objective = ObjectiveConfig(alpha=0.0, beta=1.0)
    config = configure(tmp_path / "run", objective=objective, teacher=TeacherConfig(spec=str(run)), steps=30)
    history = steps(api.train(replace(config, evaluate_every=30, optim=OptimConfig(lr=1e-2)), report=False))
    assert all("hard" not in record and record["loss"] == record["soft"] for record in history)
    losses = [record["soft"] for record in history]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_features_and_heads_train_along_and_are_no_part_of_the_student(
    tmp_path: Path, configure: Any, run: Path
) -> None:
    out = api.train(
        configure(
            tmp_path / "run",
            student=StudentConfig(width=0.05),
            teacher=TeacherConfig(spec=str(run)),
            objective=ObjectiveConfig(losses={"cosine": 0.5, "mgd": 0.1}, auxiliary=0.4),
        ),
        report=False,
    )
    assert all(0 < record["cosine"] < 2 for record in steps(out))
    assert all(record["mgd"] > 0 and record["auxiliary"] > 0 for record in steps(out))
    assert set(state(out)["adapters"]) == {"cosine", "mgd", "auxiliary_0", "auxiliary_1", "auxiliary_2"}
    assert (
        load_file(out / "model.safetensors").keys()
        == build_model(Architecture(width=0.05), 9).state_dict().keys()
    )


def test_a_student_sees_images_with_the_statistics_of_its_weights(tmp_path: Path, configure: Any) -> None:
    """In training, in its evaluations, and when it is loaded again or starts another training."""
    architecture = Architecture(spec="timm:mobilenetv3_small_050", decoder="lraspp", channels=8)
    torch.manual_seed(0)
    statistics = {"mean": "[0.2, 0.5, 0.9]", "std": "[0.1, 0.5, 2.0]"}
    save_file(build_model(architecture, 9).state_dict(), tmp_path / "first.safetensors", statistics)
    student = StudentConfig(**vars(architecture), weights=str(tmp_path / "first.safetensors"), norm_eval=True)
    seen: list[Tensor] = []
    out = api.train(configure(tmp_path / "run", student=student, steps=2, evaluate_every=2), report=False)
    network = load_network(str(out))
    assert (network.mean, network.std) == ((0.2, 0.5, 0.9), (0.1, 0.5, 2.0))
    network.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(normalise(torch.tensor([51, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)))
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([0.0, -1.0, 0.05]))
    scored = api.evaluate(out, EvaluateConfig(out=str(tmp_path / "scores.json")))
    best = json.loads((out / "metrics.json").read_text())["best"]
    assert scored["confusion"] == best["confusion"]
    again = StudentConfig(**vars(architecture), init=str(out))
    following = api.train(configure(tmp_path / "next", student=again, steps=1), report=False)
    assert load_network(str(following)).mean == (0.2, 0.5, 0.9)


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path, configure: Any) -> None:
    out = api.train(
        configure(tmp_path / "run", steps=2, evaluate_every=2, optim=OptimConfig(ema=0.99)), report=False
    )
    kept, saved = load_file(out / "model.safetensors"), state(out)
    assert all(torch.equal(tensor, saved["average"][f"module.{name}"]) for name, tensor in kept.items())
    assert not torch.equal(kept["head.weight"], saved["student"]["head.weight"])


def test_images_without_masks_join_the_mix(tmp_path: Path, configure: Any, run: Path, shapes: Path) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    config = configure(
        tmp_path / "run",
        data=DataConfig(root=str(shapes), unlabelled=[str(photos)], workers=0),
        teacher=TeacherConfig(spec=str(run)),
        batch=1,
        size=16,
        steps=0,
        epochs=1.0,
        evaluate_every=28,
    )
    history = steps(api.train(config, report=False))
    assert len(history) == 12 + len(list(list_images(photos))) == 28
    unlabelled = [record for record in history if record["hard"] == 0]
    assert len(unlabelled) >= 16
    assert all(record["loss"] == pytest.approx(0.3 * record["soft"]) for record in unlabelled)
    assert all(record["soft"] > 0 for record in unlabelled)


def test_an_epoch_is_a_pass_over_the_labelled_images_where_these_have_a_share(
    tmp_path: Path, configure: Any, run: Path, shapes: Path
) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    config = configure(
        tmp_path / "run",
        data=DataConfig(root=str(shapes), unlabelled=[str(photos)], unlabelled_share=0.25, workers=0),
        teacher=TeacherConfig(spec=str(run)),
        steps=0,
        epochs=1.0,
    )
    history = steps(api.train(config, report=False))
    assert len(history) == 12 / (4 * 0.75)
    assert all(record["hard"] > 0 and record["soft"] > 0 for record in history)


def test_further_data_sets_are_added(tmp_path: Path, configure: Any, shapes: Path) -> None:
    data = DataConfig(root=str(shapes), extra=[f"{shapes}@val"], workers=0)
    out = api.train(configure(tmp_path / "run", data=data, steps=0, epochs=1.0), report=False)
    assert steps(out)[-1]["step"] == (12 + 4) / 4


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {
                "runtime": RuntimeConfig(precision="bf16", channels_last=False),
                "optim": OptimConfig(name="adam", schedule="poly"),
            },
            id="bf16 and adam",
        ),
        pytest.param(
            {
                "augment": AugmentConfig(stretch=True, blur=1.0, jitter=1.0),
                "optim": OptimConfig(schedule="constant"),
            },
            id="stretched and blurred",
        ),
    ],
)
def test_other_settings_train_too(tmp_path: Path, configure: Any, changes: dict[str, Any]) -> None:
    history = steps(api.train(configure(tmp_path / "run", steps=2, **changes), report=False))
    assert [math.isfinite(record["loss"]) for record in history] == [True, True]


def test_a_student_trains_on_as_if_in_eight_bits(tmp_path: Path, configure: Any, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    start = StudentConfig(width=0.1, init=str(run))
    config = configure(
        tmp_path / "qat", student=start, quantize="int8", teacher=TeacherConfig(spec=str(run)),
        optim=OptimConfig(lr=1e-3, ema=0.5),
    )  # fmt: skip
    again = api.train(config, report=False)
    before, after = (load_file(folder / "model.safetensors") for folder in (run, again))
    assert list(before) == list(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "running" not in name and "num_batches" not in name}
    assert {"hard", "soft"} <= steps(again)[0].keys()
    file = tmp_path / "qat.onnx"
    data = EvaluationDataConfig(root=config.data.root, workers=0)
    record = api.export(again, ExportConfig(
        quantize="int8", out=str(file), data=data, calibration_images=4, max_loss=100
    ))  # fmt: skip
    scores = api.evaluate(file, EvaluateConfig(data=data, device="cpu", out=str(tmp_path / "scores.json")))
    assert scores["miou"] == pytest.approx(record["parity"]["miou_after"])


def test_a_student_may_start_from_another_run(tmp_path: Path, configure: Any, run: Path) -> None:
    config = configure(tmp_path / "run", steps=1, optim=OptimConfig(lr=1e-12, weight_decay=0))
    config = replace(config, student=replace(config.student, init=str(run)))
    ours, theirs = (
        load_file(api.train(config, report=False) / "model.safetensors"),
        load_file(run / "model.safetensors"),
    )
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"])


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_may_know_other_classes(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str], cached: bool
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    network = nn.Conv2d(3, 4, 1)\n    network.labels = ['background', 'disc', 'ring', 'sky']\n"
        "    return network\n"
    )
    teacher = TeacherConfig(
        spec=f"{file}:net", map={"disc": "disk", "sky": "ignore"}, shared_only=True,
        cache=str(tmp_path / "cache") if cached else None,
    )  # fmt: skip
    run = RunFolder(api.train(configure(tmp_path / "run", teacher=teacher), report=False))
    steps, _ = run.history()
    assert all(0 < step["soft"] < 10 for step in steps)
    assert "The teacher has no class" in " ".join(capsys.readouterr().err.split())
