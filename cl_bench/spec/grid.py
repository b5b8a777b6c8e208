"""Grid of a sweep: temperatures of InfoNCE and weightings of L_a and L_u."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from cl_bench.spec import AlignUniform, Frozen, InfoNCE, Negatives, NonNegative, Positive, Scope


class Grid(Frozen):
    """Grid of objectives in a sweep."""

    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)]
    weightings: Annotated[tuple[tuple[NonNegative, NonNegative], ...], Field(min_length=1)]
    negatives: Negatives = "both_views"
    positive_in_denominator: bool = True
    t: Positive = 1.0
    scope: Scope = "same_index"

    @field_validator("weightings", mode="before")
    @classmethod
    def _product(cls, value: Any) -> Any:
        """Expand ``{w_a = [...], w_u = [...]}`` to every pair; a list of pairs is returned unchanged."""
        if (
            isinstance(value, dict)
            and value.keys() == {"w_a", "w_u"}
            and all(isinstance(v, list) for v in value.values())
        ):
            return list(product(value["w_a"], value["w_u"]))
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Grid:
        names = [o.config for o in self.objectives()]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"more than one configuration is named {', '.join(twice)}")
        if (0.0, 0.0) in self.weightings:
            raise ValueError("a weighting of (0, 0) trains nothing")
        return self

    def objectives(self) -> tuple[InfoNCE | AlignUniform, ...]:
        """Return the objective of every point, InfoNCE first."""
        return (
            *(
                InfoNCE(temperature=t, negatives=self.negatives, positive_in_denominator=self.positive_in_denominator)
                for t in self.temperatures
            ),
            *(AlignUniform(w_a=a, w_u=u, t=self.t, scope=self.scope) for a, u in self.weightings),
        )
