"""Records of encoders, read from what the store holds of their stages; without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cl_bench.compute.stored import (
    EVALUATIONS,
    PREDICTORS,
    Detected,
    Evaluation,
    evaluation_complaint,
    status_complaint,
)
from cl_bench.spec import PredictorSpec, RunSpec
from cl_bench.spec.records import Level, Record
from cl_bench.store import Run, Store

STAGES = tuple(EVALUATIONS)
AVERAGE_PRECISIONS = sorted(Detected.model_fields.keys() - Evaluation.model_fields.keys() - {"halves"})
KEEPS = {"measure": "", "linear": "-2", "detection": "-2", PREDICTORS: ""}
"""Suffix of an evaluation's name; it changes when an evaluation keeps more fields, so that older files are ignored."""
Halves = tuple[float, float]
"""Performance on the test images at even places, and on those at odd ones."""


def load_record(spec: RunSpec, store: Store) -> Record | None:
    """Read the record of an encoder from the store; None unless every stage is there."""
    run = store.run(spec.pretrain.key)
    status = read_status(run)
    if status is None:
        return None
    evals: dict[str, dict[str, Any]] = {}
    if status["status"] == "complete":
        for stage in STAGES:
            found = read_evaluation(spec, run, stage, status["encoder_sha256"])
            if found is None:
                return None
            evals[stage] = found
    troubles = [status["detail"], *(f"{stage}: {e['diverged']}" for stage, e in evals.items() if "diverged" in e)]
    detail = "; ".join(t for t in troubles if t)
    whole = status["status"] == "complete" and not detail
    pretrain = spec.pretrain
    measured = evals.get("measure", {})
    shares = {
        "matching_precision": status.get("matching_precision"),
        "similarity_overlap": measured.get("similarity_overlap"),
    }
    optimum = status.get("position_only_loss")
    predicted, took = read_predictions(spec, run, status["encoder_sha256"]) if whole else ({}, {})
    aps = {name: evals["detection"][name] for name in AVERAGE_PRECISIONS} if whole else {}
    halves: dict[Level, Halves] = {}
    if whole:
        halves |= of_halves("instance", evals["linear"]["halves"])
        halves |= of_halves("dense", evals["detection"]["halves"][spec.detection.metric])
    return Record(
        key=pretrain.key,
        case=spec.case,
        method=str(pretrain.method),
        data=pretrain.data.label,
        views=pretrain.views,
        family=pretrain.objective.family,
        config=pretrain.objective.config,
        seed=pretrain.seed,
        status="complete" if whole else "diverged",
        detail=detail,
        performance={"instance": evals["linear"]["accuracy"], "dense": aps[spec.detection.metric]} if whole else {},
        halves=halves,
        extra={**aps, **{name: v for name, v in shares.items() if v is not None}} if whole else {},
        **of_measure(measured),
        **of_predictors(predicted),
        losses=read_losses(run, status),
        position_only_loss=math.nan if optimum is None else optimum,
        decomposition_error=status["decomposition_error"],
        seconds={"pretrain": status["seconds"], **{stage: e["seconds"] for stage, e in evals.items()}, **took},
        provenance=status["provenance"],
    )


def of_measure(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that the measuring of features gives; empty ones of an empty payload."""
    return {
        **{name: payload.get(name, {}) for name in ("alignment", "uniformity", "probes")},
        "similarities": {kind: tuple(bins) for kind, bins in payload.get("similarities", {}).items()},
    }


def of_predictors(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of a record that predictors give, from what is stored of each by name."""
    return {
        "predictors": {name: value for one in found.values() for name, value in one["values"].items()},
        "failed_predictors": {name: one["failed"] for name, one in found.items() if one["failed"]},
    }


def of_halves(level: Level, both: Sequence[float]) -> dict[Level, Halves]:
    """Return the performance on either half of the test images by level; empty if it was not measured."""
    return {level: (both[0], both[1])} if len(both) == 2 else {}


def lacking(spec: RunSpec, store: Store) -> list[PredictorSpec]:
    """Return the predictors of a spec that are missing and can be computed: the encoder is kept and did not diverge."""
    run = store.run(spec.pretrain.key)
    status = read_status(run) if spec.predictors else None
    if status is None or status["status"] != "complete" or not (run.path / "encoder.safetensors").exists():
        return []
    found, _ = read_predictions(spec, run, status["encoder_sha256"])
    return [predictor for predictor in spec.predictors if predictor.name not in found]


def read_status(run: Run) -> dict[str, Any] | None:
    """Return what is known of a run's pre-training; None where it has not ended."""
    return run.read("status", status_complaint)


def read_evaluation(spec: RunSpec, run: Run, stage: str, encoder_sha256: str) -> dict[str, Any] | None:
    """Return the stored payload of an evaluation; None if it is missing or of another encoder."""
    return run.read(evaluation_name(spec, stage), partial(evaluation_complaint, stage, encoder_sha256))


def read_predictions(
    spec: RunSpec, run: Run, encoder_sha256: str
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Return the stored results of a spec's predictors by name, and the seconds that all stored ones took.

    Results of other sources than the predictors' present ones are left out; the seconds are by stage, or empty.
    """
    stored = read_evaluation(spec, run, PREDICTORS, encoder_sha256) if spec.predictors else None
    if stored is None:
        return {}, {}
    asked = {predictor.name: predictor.source for predictor in spec.predictors}
    found = {name: what for name, what in stored["found"].items() if asked.get(name) == what["source"]}
    return found, {PREDICTORS: stored["seconds"]}


def read_losses(run: Run, status: dict[str, Any]) -> tuple[tuple[int, float], ...]:
    """Return ``Record.losses``; empty if the history is lost, since that is no reason to train again."""
    history = run.read_bytes("history.jsonl", status.get("history_sha256", "")) or b""
    return tuple((entry["step"], entry["loss"]) for entry in map(json.loads, history.splitlines()))


def evaluation_name(spec: RunSpec, stage: str) -> str:
    """Return the name of an evaluation in its run.

    L_a and L_u depend on the run's own views too, but the run's directory already identifies these.
    """
    of = spec.measure if stage == PREDICTORS else getattr(spec, stage)  # predictors use the same images
    return f"evals/{stage}-{of.key[:16]}{KEEPS[stage]}"
