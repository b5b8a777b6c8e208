"""Schemas of the payloads of a run's stored records; without torch and pytest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cl_bench.spec.records import Level

SLACK = 1e-5
"""Rounding allowance for float32 means of cosines outside [-1, 1], L_u above 0, and sums of shares above 1."""

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Halves = Annotated[list[Percent], Field(max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Portion = Annotated[float, Field(ge=-SLACK, le=1 + SLACK)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Alignment = Annotated[float, Field(ge=-1 - SLACK, le=1 + SLACK)]
Uniformity = Annotated[float, Field(le=SLACK, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Reason = Annotated[str, Field(min_length=1)]


class Payload(BaseModel):
    """Payload of a record; a text or a bool is not accepted as a number."""

    model_config = ConfigDict(strict=True)

    seconds: Seconds
    provenance: dict[str, Any]


class Trained(Payload):
    """Payload ``status`` of a complete encoder; the error of its decomposition may be infinite."""

    status: Literal["complete"]
    detail: Literal[""]
    decomposition_error: Annotated[float, Field(ge=0)]
    matching_precision: Share | None
    position_only_loss: Annotated[float, Field(allow_inf_nan=False)] | None
    encoder_sha256: Sha256
    history_sha256: Sha256


class Untrainable(Payload):
    """Payload ``status`` of an encoder that diverged."""

    status: Literal["diverged"]
    detail: Reason
    decomposition_error: Annotated[float, Field(ge=0)]


class Evaluation(Payload):
    """Payload of an evaluation of the encoder whose file has that hash."""

    encoder_sha256: Sha256


class Measured(Evaluation):
    """L_a and L_u at both levels, probes of dense features, and similarities of their pairs."""

    alignment: Annotated[dict[Level, Alignment], Field(min_length=2)]
    uniformity: Annotated[dict[Level, Uniformity], Field(min_length=2)]
    probes: dict[str, Portion]
    similarities: dict[str, list[Portion]]
    similarity_overlap: Portion


class Linear(Evaluation):
    """Linear evaluation over all test images and over each half of them."""

    accuracy: Percent
    halves: Halves


class Detected(Evaluation):
    """Average precision of detection by COCO and by VOC 2007, over all test images and over each half of them."""

    coco_ap: Percent
    coco_ap50: Percent
    voc07_ap: Percent
    voc07_ap50: Percent
    halves: dict[str, Halves]


class Predicted(BaseModel):
    """Values of one predictor by ``name@level``, or why it failed; ``source`` is the sha256 of its file."""

    model_config = ConfigDict(strict=True)

    source: Sha256
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    failed: str


class Predictions(Evaluation):
    """Results of an encoder's predictors, by name."""

    found: dict[str, Predicted]


class Unfinished(Evaluation):
    """An evaluation that diverged."""

    diverged: Reason


EVALUATIONS: dict[str, type[Evaluation]] = {"measure": Measured, "linear": Linear, "detection": Detected}
"""Evaluations without which a record is not complete."""

PREDICTORS = "predictors"
"""Name of the evaluation that may lack any of its parts."""


def status_complaint(payload: dict[str, Any]) -> str:
    """Return a complaint about a status, or an empty text if it is valid."""
    return _complaint(Untrainable if payload.get("status") == "diverged" else Trained, payload)


def evaluation_complaint(stage: str, encoder_sha256: str, payload: dict[str, Any]) -> str:
    """Return a complaint about an evaluation of that stage and encoder, or an empty text if it is valid."""
    whole = Predictions if stage == PREDICTORS else EVALUATIONS[stage]
    kind = Unfinished if "diverged" in payload else whole
    said = _complaint(kind, payload)
    return said or ("of another encoder" if payload["encoder_sha256"] != encoder_sha256 else "")


def _complaint(kind: type[Payload], payload: dict[str, Any]) -> str:
    try:
        kind.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return ""
