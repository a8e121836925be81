"""How a time becomes candidates and steps: who is trained, for how long, and when the rungs end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from segdistill.config.search import SearchConfig
from segdistill.config.yaml import to_yaml
from segdistill.console import warn
from segdistill.data.datasets import open_validation
from segdistill.data.formats.table import open_layout
from segdistill.engine.runtime import find_device
from segdistill.files import first_line, usable_cores, write_atomic
from segdistill.searching import halving, latency
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.recipes import full_recipe

DEFAULT_STEPS = 5000
"""Steps of the full recipe that the rungs are planned for where it counts in epochs."""


def make_plan(folder: SearchFolder, session: Session, config: SearchConfig) -> None:
    """Choose who is trained, and for how long in the first rung; write down the full recipe of each."""
    with folder.exclusively("plan"):
        if folder.plan_file.is_file():
            return
        session.enter("plan")
        settings, recipe = folder.config, folder.recipe
        members, rest = latency.choose_members(folder.candidates, folder.latencies, settings.most)
        left_out = [
            {"name": key, "reason": f"not among the {settings.most} that are trained"} for key in rest
        ]
        seconds, failed = _estimate_steps(folder, members, config)
        left_out += [{"name": key, "reason": reason} for key, reason in failed.items()]
        members = [key for key in members if key not in failed]
        if not members:
            key, reason = next(iter(failed.items()))
            raise ValueError(f"none of the candidates within the budget can be trained; {key} {reason}")
        steps = settings.steps
        if not steps and seconds:
            count, steps = halving.affordable_steps(
                [seconds[key] for key in members],
                halving.HALVING_FRACTION * seconds_left(folder, config),
                settings.rungs,
                count_jobs(config),
                _estimate_scoring(folder, seconds),
            )
            left_out += [{"name": key, "reason": "no time left for it"} for key in members[count:]]
            members = members[:count]
        elif not steps:
            final = settings.final_steps or recipe.steps or DEFAULT_STEPS
            steps = max(1, final // 2 ** (halving.count_rungs(len(members), settings.rungs) + 1))
        for key in members:
            full = full_recipe(recipe, folder.candidates[key], settings, settings.final_steps)
            full = replace(full, out=f"{folder}-{key}")
            write_atomic(folder.path / "recipes" / f"{key}.yaml", to_yaml(full))
        folder.write(
            folder.plan_file,
            {"members": members, "steps": steps, "left_out": left_out, "step_seconds": seconds},
        )


def _estimate_steps(
    folder: SearchFolder, members: Sequence[str], config: SearchConfig
) -> tuple[dict[str, float], dict[str, str]]:
    """Estimated seconds of a training step of each candidate, where `hours` decides about steps.

    Returns:
        The seconds by key, and of candidates that cannot make a step the reasons.
    """
    settings, recipe = folder.config, folder.recipe
    if config.hours is None or (settings.steps and settings.final_steps):
        return {}, {}
    classes = len(open_layout(recipe.data.root, recipe.data.layout).labels)
    seconds, failed = {}, {}
    for key in members:
        full = full_recipe(recipe, folder.candidates[key], settings, 0)
        try:
            seconds[key] = latency.step_seconds(full, classes)
        except Exception as error:  # networks raise nearly anything
            failed[key] = f"cannot be trained: {first_line(error)[:300]}"
            warn(f"{key} {failed[key]}")
    return seconds, failed


def _estimate_scoring(folder: SearchFolder, step_seconds: Mapping[str, float]) -> list[float]:
    """Estimated seconds of what a training in a rung takes beside its steps."""
    full = {key: full_recipe(folder.recipe, folder.candidates[key], folder.config, 0) for key in step_seconds}
    images = len(open_validation(next(iter(full.values())).data))
    return [latency.scoring_seconds(full[key], step, images) for key, step in step_seconds.items()]


def open_rung(folder: SearchFolder, config: SearchConfig) -> Rung | None:
    """The rung that is to be trained, begun where the one before has ended; None at the end."""
    rungs, plan, settings = folder.rungs(), folder.plan, folder.config
    if not rungs:
        following = halving.first_rung(plan["members"], plan["steps"])
    else:
        results = folder.results(rungs[-1])
        if len(results) < len(rungs[-1].members):
            return rungs[-1]
        if not halving.ranking(results):
            reason = next(iter(results.values()))["failed"]
            raise ValueError(f"every candidate of rung {len(rungs)} failed; the first: {reason}")
        found = halving.next_rung(
            rungs[-1], results, last=bool(settings.rungs and len(rungs) >= settings.rungs)
        )
        if found is not None and not found.final and not _time_for(folder, config, found):
            found = halving.next_rung(rungs[-1], results, last=True)
        if found is None:
            return None
        following = found
    if following.final:
        following = replace(following, steps=final_steps(folder, config, following))
    folder.begin_rung(following)
    return following


def final_steps(folder: SearchFolder, config: SearchConfig, rung: Rung) -> int:
    """Steps of the full recipe: what the settings ask for, else what time is left for, else the recipe's."""
    if folder.config.final_steps or config.hours is None:
        return folder.config.final_steps
    seconds = seconds_per_step(folder)
    # Of the slower of both, as both are trained at once where there are processes for that.
    each = max((seconds[key] for key in rung.members if key in seconds), default=0.0)
    if not each:
        return 0
    rounds = -(-len(rung.members) // count_jobs(config))
    steps = int(seconds_left(folder, config) / (each * rounds))
    return max(1, min(steps, folder.recipe.steps or steps))


def _time_for(folder: SearchFolder, config: SearchConfig, rung: Rung) -> bool:
    """Whether another rung leaves enough time for the full recipe."""
    if config.hours is None:
        return True
    seconds = seconds_per_step(folder)
    added = rung.steps - folder.rungs()[-1].steps
    wanted = added * sum(seconds[key] for key in rung.members) / min(count_jobs(config), len(rung.members))
    return seconds_left(folder, config) - wanted >= halving.FINAL_FRACTION * 3600 * config.hours


def seconds_per_step(folder: SearchFolder) -> dict[str, float]:
    """Seconds of a step of each candidate that is still there: as its last rung took, else as estimated.

    What a training takes beside its steps is shared out among them.
    """
    before, estimated = folder.rungs(), folder.plan["step_seconds"]
    if not before:
        return estimated
    results = folder.results(before[-1])
    return {  # an interrupted training counts its last session alone, hence the estimate
        key: max(result["seconds"] / _steps_made(before, key), estimated.get(key, 0.0))
        for key, result in results.items()
    }


def _steps_made(rungs: Sequence[Rung], key: str) -> int:
    """Steps of a candidate in the last of some rungs alone."""
    own = [rung.steps for rung in rungs if key in rung.members]
    return own[-1] - (own[-2] if len(own) > 1 else 0)


def seconds_left(folder: SearchFolder, config: SearchConfig) -> float:
    """Seconds of `hours` that are not spent; 1 at least."""
    assert config.hours is not None
    return max(1.0, 3600 * config.hours - sum(folder.spent().values()))


def count_jobs(config: SearchConfig) -> int:
    """Candidates that are trained at a time."""
    if find_device(config.device).type != "cpu":
        return 1
    return config.jobs or usable_cores()
