"""The input size of a finalist: of those that keep the budget, the best one on the held-out images."""

from segdistill import api
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.console import log
from segdistill.files import read_json
from segdistill.searching.folder import Rung, SearchFolder

Scores = dict[str, float]
"""Mean IoU on the held-out images by candidate: one network in several sizes."""


def choose_size(folder: SearchFolder, final: Rung, key: str) -> Scores:
    """Score a finalist in every input size that keeps the budget, and write the best one into its card.

    A network without layers of a fixed size runs on images of any size, and a larger one than it was trained
    for often pays.

    Returns:
        The scores, the best size first.
    """
    file = folder.path / "results" / f"{key}.sizes.json"
    if not file.is_file():
        folder.write(file, _score_sizes(folder, final, key))
    scores: Scores = read_json(file)
    candidates = folder.candidates
    best_first = sorted(scores, key=lambda other: (-scores[other], candidates[other].size))
    folder.run(final, key).write_input_size(candidates[best_first[0]].size)
    return {other: scores[other] for other in best_first}


def _score_sizes(folder: SearchFolder, final: Rung, key: str) -> Scores:
    network = folder.candidates[key].network
    alike = {
        other: candidate for other, candidate in folder.candidates.items() if candidate.network == network
    }
    scores: Scores = {}
    for other, candidate in alike.items():
        if folder.latencies[other]["verdict"] != "within":
            continue
        settings = EvaluateConfig(
            data=EvaluationDataConfig(workers=0), size=candidate.size, device=folder.config.device
        )
        log(f"Scoring {key} at {candidate.size} pixels on the held-out images")
        scores[other] = api.evaluate(folder.run(final, key).path, settings)["miou"] or 0.0
    return scores
