"""What the page and the server's API tell of a network: name, classes, parameters, scores."""

from typing import Any

from segdistill.models.card import read_card
from segdistill.models.hub_runs import find_run
from segdistill.models.spec import display_name
from segdistill.models.trained import TrainedNetwork


def describe_network(network: TrainedNetwork) -> dict[str, Any]:
    """The card of a network that is not fused yet (fusing changes the number of its parameters).

    Returns:
        `name` (without a path of this machine), `classes` (index, name, colour), `parameters`, `architecture`
        (spec of a run's student, else None) and `metrics` (scores of the run's last evaluation).
    """
    spec, labels = network.spec, network.labels
    folder = find_run(spec)
    run = None if folder is None else read_card(folder)
    return {
        "name": display_name(spec),
        "classes": [
            {"index": index, "name": name, "colour": labels.palette[index]}
            for index, name in enumerate(labels.names)
        ],
        "parameters": sum(p.numel() for p in network.parameters()) or None,
        "architecture": display_name(run.spec) if run else None,
        "metrics": {k: v for k, v in run.metrics.items() if isinstance(v, float)} if run else {},
    }
