"""The first screen of the report in words: what was trained from what, the result, and what became worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from segdistill.engine.bootstrap import LEVEL, Interval
from segdistill.models.spec import BUILTIN, TORCHVISION, display_name
from segdistill.reporting.comparison import TIMES, amount, different_images, same_size, spread_of
from segdistill.reporting.evidence import points
from segdistill.reporting.intervals import RunIntervals
from segdistill.reporting.records import TEACHER, Records
from segdistill.reporting.seeds import SeedGroup, gains, trainings

FALL = 0.03
"""IoU that a class has to lose to be named."""
MOST_CLASSES = 6
"""Classes that are named by run: of what was trained, and of those that fell."""
INTERVAL = f"{LEVEL:.0%} interval".replace("%", "\u00a0%")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run.

    Attributes:
        number: the score, or the difference to the first run.
        sentence: what the number is, with its interval.
        tone: "better" or "worse" where a difference exceeds its interval.
    """

    number: str
    sentence: str
    tone: str = ""


def origins(runs: Sequence[Records]) -> tuple[list[str], str]:
    """What each run was trained from, and what is the same for all of several runs, in sentences."""
    facts = [(_data_sentence(run), _schedule(run), _scored(run)) for run in runs]
    same = [len(runs) > 1 and len(set(each)) == 1 for each in zip(*facts, strict=True)]
    own = [
        " ".join(
            filter(
                None, [_networks(run), *(fact for fact, shared in zip(each, same, strict=True) if not shared)]
            )
        )
        for run, each in zip(runs, facts, strict=True)
    ]
    common = " ".join(fact for fact, shared in zip(facts[0], same, strict=True) if shared and fact)
    return own, f"All of them: {common[0].lower()}{common[1:]}" if common else ""


def _networks(run: Records) -> str:
    """Student and teacher, in a sentence."""
    student = run.config.get("student") or {}
    spec = run.card.spec if run.card else student.get("spec")
    size = run.network("student").get("parameters")
    parts = [
        ""
        if size is None and spec
        else "a student" + ("" if size is None else f" of {amount(size)} parameters"),
        network_in_words(spec) if spec else "",
        _taught(run),
    ]
    sentence = ", ".join(filter(None, parts))
    return f"{sentence[0].upper()}{sentence[1:]}."


def network_in_words(spec: str) -> str:
    """What a spec string names, for readers who know none."""
    kind, _, rest = spec.partition(":")
    if spec in BUILTIN:
        return f"a U-Net of depthwise separable blocks ({spec})"
    if spec in TORCHVISION:
        return f"{spec} of torchvision"
    if kind == "timm":
        return f"{rest} of timm with a light decoder"
    if kind == "smp":
        architecture, _, encoder = rest.partition("/")
        return f"{architecture}{f' on {encoder}' if encoder else ''} of segmentation_models.pytorch"
    if kind == "hf":
        return f"{display_name(spec).partition(':')[2]} of Hugging Face"
    if rest:  # of code: file.py:function, package.module:function
        return f"{rest} of {Path(kind).name}"
    return f"the network {display_name(spec)}"


def results(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[Result]:
    """The mean IoU of one run; of several, each later one's difference to the first.

    Of trainings that were each made with the same seeds, means over these.
    """
    first, *others = trainings(runs)
    if len(first.runs) > 1:
        return [_over_seeds(first, other) for other in others] or [_of_seeds(first)]
    if len(runs) == 1 or different_images(runs):
        return [
            result
            for run, each in zip(runs, found, strict=True)
            if (result := _alone(run, each, len(runs) > 1))
        ]
    later = zip(runs[1:], found[1:], strict=True)
    return [result for run, each in later if (result := _against(runs[0], run, each))]


def falls(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[str]:
    """Of each later run, the classes that lost `FALL` or more against the first, in a sentence.

    Where the first run is distilled and a later one is not, those that the first lost against that.
    """
    if different_images(runs):
        return []
    firsts = {group.runs[0].name for group in trainings(runs)}  # of each training one run
    lines = []
    for run, each in zip(runs[1:], found[1:], strict=True):
        if run.name not in firsts:
            continue
        swapped = is_distilled(runs[0]) and not is_distilled(run)
        before, after = (run, runs[0]) if swapped else (runs[0], run)
        lost = _lost(before, after)
        if lost:
            cause = "Under distillation, " if is_distilled(after) and not is_distilled(before) else ""
            number = "one class" if len(lost) == 1 else f"{len(lost)} classes"
            start = f"{cause}{number} fell by {100 * FALL:.0f} points of IoU or more"
            start = f"{start[0].upper()}{start[1:]} ({after.name} against {before.name})"
            named = [
                _fall(name, lost[name], each, -1 if swapped else 1) for name in list(lost)[:MOST_CLASSES]
            ]
            more = f", and {len(lost) - len(named)} more" if len(lost) > len(named) else ""
            lines.append(f"{start}: {'; '.join(named)}{more}.")
    return lines


def is_distilled(run: Records) -> bool:
    """Whether a run had a teacher."""
    return bool((run.config.get("teacher") or {}).get("spec") or (run.card and run.card.teacher))


def _taught(run: Records) -> str:
    """The teacher, or that there was none."""
    spec = (run.config.get("teacher") or {}).get("spec")
    if not run.config and run.card and run.card.teacher:
        spec = run.card.teacher.get("spec", "a teacher")
    if not spec:
        return "trained without a teacher" if run.config else ""
    specs = [spec] if isinstance(spec, str) else list(map(str, spec))
    size = run.network(TEACHER).get("parameters")
    known = f" ({amount(size)} parameters)" if size else ""
    return f"distilled from {' and '.join(map(network_in_words, specs))}{known}"


def _data_sentence(run: Records) -> str:
    """The labelled and the unlabelled images that were trained on, and the classes."""
    data, names = run.config.get("data") or {}, run.class_names
    more = ", \u2026" if len(names) > MOST_CLASSES else ""
    classes = f"{len(names)} classes ({', '.join(names[:MOST_CLASSES])}{more})" if names else ""
    if not data.get("root"):
        return f"{classes[0].upper()}{classes[1:]}." if classes else ""
    roots = [data["root"], *(str(root).partition("@")[0] for root in data.get("extra") or [])]
    labelled = " and ".join(Path(str(root)).name or str(root) for root in roots)
    share = data.get("labelled_share", 1.0)
    unlabelled = " and ".join(Path(str(root)).name for root in data.get("unlabelled") or [])
    text = f"Trained on the data set{'s' if len(roots) > 1 else ''} {labelled}"
    text += f" with {classes}" if classes else ""
    most = data.get("max_images")
    text += f", at most {most:,} images of each split" if most else ""
    text += "" if share == 1 else f", {100 * share:.3g}\u00a0% of the images with masks"
    return text + (f", and on images without masks of {unlabelled}" if unlabelled else "") + "."


def _schedule(run: Records) -> str:
    """How long the run trained."""
    last, config = (run.last or {}).get("step"), run.config
    if last is None or not config.get("batch"):
        return ""
    side = config.get("size")
    return f"{last:,} steps of {config['batch']} crops of {side}{TIMES}{side} pixels."


def _scored(run: Records) -> str:
    """Which weights were kept, and on what they were scored."""
    images, best = len(run.image_scores), run.scores.get("step")
    data = run.config.get("data") or {}
    held_out = f"{100 * data['val_share']:.3g}\u00a0% held-out images" if data.get("val_share") else ""
    where = held_out or f"split {data.get('val_split', 'val')}"
    if not images:
        return ""
    last = (run.last or {}).get("step")
    kept = "" if best is None or best == last else f"; the weights of step {best:,} were kept"
    return f"Scored on {images:,} validation images ({where}){kept}."


def _interval_text(interval: Interval | None) -> str:
    """The interval of a difference; empty where it is unknown."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{INTERVAL} {points(interval.low, 1)} to {points(interval.high, 1)}"


def _alone(run: Records, each: RunIntervals, named: bool) -> Result | None:
    """The mean IoU of one run."""
    miou = run.scores.get("miou")
    if miou is None:
        return None
    scored = [value for value in ((run.best or {}).get("iou") or {}).values() if value is not None]
    over = f" over {len(scored)} classes" if scored else ""
    images = f" on {len(run.image_scores):,} images" if run.image_scores else ""
    interval = spread_of(each.alone["miou"]) if "miou" in each.alone else ""
    start = f"{run.name}: mean IoU" if named else "Mean IoU"
    spread = f" ({INTERVAL} {interval})" if interval else ""
    return Result(number=f"{100 * miou:.1f}\u00a0%", sentence=f"{start}{over}{images}{spread}{_faster(run)}.")


def _faster(run: Records) -> str:
    """How a student compares with its teacher in latency."""
    student, teacher = (run.network(name).get("latency_ms") for name in ("student", TEACHER))
    if not student or not teacher or same_size(run.network("student"), run.network(TEACHER)):
        return ""
    factor = f"{max(student, teacher) / min(student, teacher):.1f}"
    word = "lower" if student < teacher else "higher"
    return "" if factor == "1.0" else f"; its latency is {factor}{TIMES} {word} than its teacher's"


def _against(first: Records, run: Records, each: RunIntervals) -> Result | None:
    """The difference of a run's mean IoU to the first's."""
    one, other = first.scores.get("miou"), run.scores.get("miou")
    if one is None or other is None:
        return None
    scores = f"{100 * other:.1f}\u00a0% against {100 * one:.1f}\u00a0%"
    found = each.difference.get("miou")
    interval = _interval_text(found)
    if not interval:
        verdict = "; how sure that is cannot be computed, for the counts of each image are missing"
    elif found is not None and found.resolved:
        verdict = f"; {interval}"
    else:
        verdict = f"; {interval}: within the spread, so the runs may be equally good"
    return Result(
        number=f"{points(other - one, 1)} points",
        sentence=f"Mean IoU of {run.name} against {first.name}: {scores}{verdict}.",
        tone=("better" if other > one else "worse") if found is not None and found.resolved else "",
    )


def _of_seeds(group: SeedGroup) -> Result:
    """The mean IoU of a training over several seeds."""
    scores = [100 * score for score in group.scores]
    return Result(
        number=f"{mean(scores):.1f} ± {stdev(scores):.1f}\u00a0%",
        sentence=f"Mean IoU of {group.name}, mean and standard deviation over {len(scores)} seeds: "
        f"{', '.join(f'{score:.1f}' for score in scores)}.",
    )


def _over_seeds(first: SeedGroup, other: SeedGroup) -> Result:
    """The difference of a training's mean IoU to another's, over several seeds."""
    each = gains(first, other)
    scores = [f"{100 * mean(group.scores):.1f}\u00a0%" for group in (other, first)]
    listed = ", ".join(points(gain, 1) for gain in each)
    alike = all(gain > 0 for gain in each) or all(gain < 0 for gain in each)
    note = "" if alike else ": not the same sign with every seed, so they may be equally good"
    return Result(
        number=f"{points(mean(each), 1)} ± {100 * stdev(each):.1f} points",
        sentence=f"Mean IoU of {other.name} against {first.name}, mean and standard deviation over "
        f"{len(each)} seeds: {scores[0]} against {scores[1]}. With the same seed: {listed}{note}.",
        tone=("better" if each[0] > 0 else "worse") if alike else "",
    )


def _lost(before: Records, after: Records) -> dict[str, float]:
    """Change in IoU of the classes that lost `FALL` or more, the largest loss first."""
    old, new = ((run.best or {}).get("iou") or {} for run in (before, after))
    changes = {
        name: new[name] - value
        for name, value in old.items()
        if value is not None and new.get(name) is not None
    }
    lost = {name: change for name, change in changes.items() if change <= -FALL}
    return dict(sorted(lost.items(), key=lambda item: item[1]))


def _fall(name: str, change: float, each: RunIntervals, sign: int) -> str:
    """One class that fell, with its interval and whether that excludes 0."""
    text, found = f"{name} {points(change, 1)}", each.classes.get(name)
    if found is None or found.low is None or found.high is None:
        return text
    low, high = sorted((sign * found.low, sign * found.high))
    note = "" if found.resolved else ", within the spread"
    return f"{text} ({points(low, 1)} to {points(high, 1)}{note})"
