"""The settings of what a training minimises: `objective` of `segdistill train`."""

import math
from dataclasses import dataclass, field

from segdistill.config.values import Scheduled, is_weight, largest, require


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised: alpha * hard + beta * soft + the weighted sum of further losses (docs/losses.md)."""

    alpha: Scheduled = 0.7
    """Weight of the hard loss (cross entropy with the masks); two numbers: from first to last step."""
    beta: Scheduled = 0.3
    """Weight of the soft loss (KL divergence from the teacher), or two; unused without a teacher."""
    temperature: Scheduled = 2.0
    """Softens both distributions of the soft loss, which is multiplied by its square; one number or two."""
    losses: dict[str, Scheduled | dict[str, Scheduled]] = field(default_factory=dict)
    """Further losses by name, each a weight (or two), or a mapping of `weight` and the loss's own options."""
    label_smoothing: float = 0.0
    """Fraction of the hard loss's target that is spread over all classes."""
    class_weights: float = 0.0
    """Exponent e of the hard loss's class weights, frequency ** -e; 0 weighs pixels alike, 0.5 is usual."""
    auxiliary: float = 0.0
    """Weight of the hard and soft loss of auxiliary heads on inner layers, which are not saved."""
    student_layer: str | None = None
    """Module of the student whose output feature losses compare; null takes its deepest."""
    teacher_layer: str | None = None
    """Module of the teacher whose output feature losses compare; null takes its deepest."""
    soft_on_void: bool = True
    """Whether void pixels, for which only the teacher has classes, take part in the losses of logits."""

    def __post_init__(self) -> None:
        weights = {name: self.weight(name) for name in self.losses}
        for name, weight in {"alpha": self.alpha, "beta": self.beta, **weights}.items():
            setting = f"objective.losses.{name}" if name in weights else f"objective.{name}"
            require(is_weight(weight), setting, weight, "0 or more, and finite (one number, or two)")
        require(is_weight(self.temperature, above=True), "objective.temperature", self.temperature,
                "above 0, and finite (one number, or two)")  # fmt: skip
        both = largest(self.alpha) + largest(self.beta)
        require(both > 0 or any(map(largest, weights.values())), "objective.alpha and objective.beta", 0,
                "not both 0, unless objective.losses names another")  # fmt: skip
        require(0 <= self.label_smoothing < 1, "objective.label_smoothing", self.label_smoothing,
                "from 0 to below 1")  # fmt: skip
        require(0 <= self.class_weights <= 2, "objective.class_weights", self.class_weights, "from 0 to 2")
        possible = 0 <= self.auxiliary < math.inf and (both > 0 or not self.auxiliary)
        require(possible, "objective.auxiliary", self.auxiliary,
                "0 or more, and finite; 0 where alpha and beta, which its heads have too, are 0")  # fmt: skip

    def weight(self, name: str) -> Scheduled:
        """The weight of one of `losses`; a mapping without one has the weight 1."""
        value = self.losses[name]
        return value.get("weight", 1.0) if isinstance(value, dict) else value

    @property
    def weighted(self) -> list[str]:
        """The names of `losses` that have a weight above 0 at some step."""
        return [name for name in self.losses if largest(self.weight(name)) > 0]
