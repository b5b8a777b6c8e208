"""The objective's knob alone, which is known before anything is trained: what every other predictor has to beat."""

from cl_bench.predictors import Seen, predictor


@predictor("knob", better="high", level="encoder")
def knob(seen: Seen) -> float:
    """Weight that the objective gives to pushing features apart rather than together, in [0, 1] (ours).

    The share of L_u's weight in ``w_a L_a + w_u L_u``, and ``1 / (1 + temperature)`` of InfoNCE, whose lower
    temperatures push harder at what is near (Wang & Liu, CVPR 2021). It is the order of the grid within each family;
    where families are mixed, that they agree at 1/2 for equal weights and temperature 1 is ours.
    """
    return seen.knob
