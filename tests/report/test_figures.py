"""Figures of similarities and of training, read off the artists."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from helpers import KINDS, record
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import StepPatch

from cl_bench.report import RowResult, figures
from cl_bench.report.figures import KINDS as FIGURES
from cl_bench.report.figures import Kind, drawn, similarity_figure, training_figure
from cl_bench.spec.records import RANDOM_INIT, Record

BINS = 4


def encoder(
    config: str, family: str, performance: float, seed: int = 0, overlap: float = 0.5, **more: object
) -> Record:
    """Positives lie in the last bin but for the overlap; nothing lies in the first."""
    others = (0.0, 0.0, 1.0, 0.0)
    known = {
        "performance": {"instance": 1.0, "dense": performance},
        "extra": {"similarity_overlap": overlap},
        "similarities": {"positive": (0.0, 0.0, overlap, 1 - overlap), "same_image": others, "other_images": others},
        "losses": ((0, 7.0), (10, 6.0), (19, 5.0 - performance / 100)),
        "position_only_loss": 4.5,
    }
    return record(config, family, seed=seed, **{**known, **more})


def untrained(**more: object) -> Record:
    known = {"losses": (), "position_only_loss": math.nan, **more}
    return encoder(RANDOM_INIT, RANDOM_INIT, 14.0, overlap=0.7, **known)


def row_of(*records: Record, random_init: tuple[Record, ...] = (), scheme: str = "dense") -> RowResult:
    return RowResult(
        name="a-row",
        title="A row",
        method="dense_index",
        scheme=scheme,  # type: ignore[arg-type]
        data="single_object",
        views="overlapping",
        records=records,
        random_init=random_init,
        judgements=(),
        expected=len(records),
        profile="smoke",
        detection_protocol="",
        linear_protocol="",
    )


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Figure]]:
    """Draws and gives the figure, which is saved as ever."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **options: object) -> None:
        saved.append(figure)
        save(figure, *args, **options)

    def drawing(kind: Callable[..., None], row: RowResult) -> Figure:
        image = io.BytesIO()
        kind(row, image)
        assert image.getvalue().startswith(b"\x89PNG")
        return saved[-1]

    monkeypatch.setattr(Figure, "savefig", remember)
    yield drawing


SWEEP = [
    *(encoder(f"info_nce-t{k}", "info_nce", 10.0 + 2 * k, overlap=0.1 * k) for k in range(1, 6)),
    *(encoder(f"align_uniform-a1-u{k}", "align_uniform", 5.0 - k, overlap=0.2 * k) for k in range(1, 4)),
]


def stairs(figure: Figure) -> dict[str, list[np.ndarray]]:
    """Return the histograms of each panel in the order of PAIRS, by the first line of its title."""
    panels = {axes.get_title().partition("\n")[0]: axes for axes in figure.axes}
    drawn = {n: [p.get_data().values for p in a.patches if isinstance(p, StepPatch)] for n, a in panels.items()}
    return {name: found for name, found in drawn.items() if found}


def test_the_best_the_median_and_the_worst_of_each_family_are_shown(draw: Callable[..., Figure]) -> None:
    figure = draw(similarity_figure, row_of(*SWEEP, random_init=(untrained(),)))
    shown = stairs(figure)
    assert set(shown) == {
        *("InfoNCE, best: t5 (detection 20.0)", "InfoNCE, median: t3 (detection 16.0)"),
        *("InfoNCE, worst: t1 (detection 12.0)", "random initialisation"),
        *(
            f"$L_a$ & $L_u$, {rank}: a1-u{k} (detection {5 - k}.0)"
            for k, rank in enumerate(("best", "median", "worst"), 1)
        ),
    }
    others, same, positive = shown["InfoNCE, best: t5 (detection 20.0)"]
    assert positive == pytest.approx(SWEEP[4].similarities["positive"]) and list(others) == list(same) == [0, 0, 1, 0]
    assert all(a.get_xlim() == (0, 1) for a in figure.axes)  # no pair lies below


def test_histograms_and_overlaps_are_means_over_seeds(draw: Callable[..., Figure]) -> None:
    seeds = [encoder("info_nce-t1", "info_nce", 10.0 + 4 * s, seed=s, overlap=0.2 + 0.4 * s) for s in range(2)]
    figure = draw(similarity_figure, row_of(*seeds))
    (shown,) = stairs(figure).values()
    assert shown[2] == pytest.approx([0, 0, 0.4, 0.6])
    (axes,) = [a for a in figure.axes if "overlap?" in a.get_title()]
    marks = {line.get_marker(): line.get_xydata() for line in axes.lines}
    assert marks["^"] == pytest.approx(np.array([[0.4, 12.0]])) and not len(marks["o"]) and "x" not in marks


def test_overlap_is_drawn_against_dense_performance(draw: Callable[..., Figure]) -> None:
    figure = draw(similarity_figure, row_of(*SWEEP, random_init=(untrained(), untrained(seed=1))))
    (axes,) = [a for a in figure.axes if "overlap?" in a.get_title()]
    marks = {line.get_marker(): sorted(map(tuple, np.array(line.get_xydata()))) for line in axes.lines}
    expected = {m: [(0.1 * k, 10 + 2 * k) for k in range(1, 6)] for m in "^"} | {"x": [(0.7, 14.0)] * 2}
    expected["o"] = [(0.2 * k, 5.0 - k) for k in range(1, 4)]
    assert {m: np.array(v) for m, v in marks.items()} == {m: pytest.approx(np.array(v)) for m, v in expected.items()}


def test_untrained_encoders_of_other_images_are_not_shown(draw: Callable[..., Figure]) -> None:
    elsewhere = untrained(data="multi_object")
    figure = draw(similarity_figure, row_of(*SWEEP, random_init=(elsewhere,)))
    assert "random initialisation" not in stairs(figure) and len(figure.axes) == 7


def test_a_family_of_two_has_no_median_and_one_that_was_not_measured_says_so(draw: Callable[..., Figure]) -> None:
    figure = draw(similarity_figure, row_of(*SWEEP[:2]))
    assert [t.split(":")[0] for t in stairs(figure)] == ["InfoNCE, best", "InfoNCE, worst"]
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == ["$L_a$ & $L_u$: 0 measured"] * 3 + ["InfoNCE: 2 measured"]


def test_one_cell_has_no_others_in_its_image(draw: Callable[..., Figure]) -> None:
    similarities = {kind: shares for kind, shares in SWEEP[0].similarities.items() if kind != "same_image"}
    (shown,) = stairs(draw(similarity_figure, row_of(replace(SWEEP[0], similarities=similarities)))).values()
    assert list(shown[1]) == [0]


def curves(figure: Figure) -> dict[str, dict[str, np.ndarray]]:
    """Return the lines of each panel by their colour, and the dashed one by ``--``."""
    return {
        axes.get_title(): {
            "--" if line.get_linestyle() == "--" else str(line.get_color()): np.array(line.get_xydata())
            for line in axes.lines
        }
        for axes in figure.axes
        if axes.get_title()
    }


def test_losses_are_drawn_from_what_the_place_alone_reaches(draw: Callable[..., Figure]) -> None:
    figure = draw(training_figure, row_of(*SWEEP, random_init=(untrained(),)))
    found = curves(figure)
    assert set(found) == {"InfoNCE", "$L_a$ & $L_u$"}
    assert found["InfoNCE"].pop("--") == pytest.approx(np.array([[0, 0], [19, 0]]))
    assert len(found["InfoNCE"]) == 5  # each its own colour
    ends = sorted(line[-1][1] for line in found["InfoNCE"].values())
    assert ends == pytest.approx([5 - (10 + 2 * k) / 100 - 4.5 for k in range(5, 0, -1)])
    assert all(line[:2] == pytest.approx(np.array([[0, 2.5], [10, 1.5]])) for line in found["InfoNCE"].values())
    assert "knows only the place" in figure.legends[0].get_texts()[0].get_text()
    names = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"t1", "t5", "a1-u1"} <= names


def test_names_of_curves_keep_apart_and_near_their_own(draw: Callable[..., Figure]) -> None:
    many = [encoder(f"info_nce-t{k}", "info_nce", 10.0, losses=((0, 7.0), (19, 5 + k / 1000))) for k in range(30)]
    figure = draw(
        training_figure, row_of(*many, encoder("info_nce-far", "info_nce", 10.0, losses=((0, 1.0), (19, 1.0))))
    )
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts if text.get_text()[0] in "tf"]
    assert 2 <= len(boxes) < 31 and all(a.count_overlaps([b for b in boxes if b is not a]) == 0 for a in boxes)


def test_without_an_optimum_the_loss_itself_is_drawn(draw: Callable[..., Figure]) -> None:
    records = [replace(r, position_only_loss=math.nan) for r in SWEEP]
    figure = draw(training_figure, row_of(*records, scheme="instance"))
    found = curves(figure)["InfoNCE"]
    assert "--" not in found and not figure.legends
    assert all(line[0][1] == 7.0 for line in found.values())
    assert {axes.get_ylabel() for axes in figure.axes if axes.get_title()} == {"loss"}


def test_encoders_that_failed_downstream_still_have_a_curve(draw: Callable[..., Figure]) -> None:
    failed = replace(SWEEP[0], status="diverged", performance={}, extra={})
    assert len(curves(draw(training_figure, row_of(failed)))["InfoNCE"]) == 2
    assert not stairs(draw(similarity_figure, row_of(failed)))


def test_a_row_has_the_figures_that_there_is_something_for(tmp_path: Path) -> None:
    full = drawn(row_of(*SWEEP), tmp_path / "row")
    assert [kind for kind, _, _ in full] == list(FIGURES)
    assert [file.name for _, file, _ in full] == ["row.png", "row-similarities.png", "row-training.png"]
    bare = [replace(r, similarities={}, losses=()) for r in SWEEP]
    assert [kind.suffix for kind, _, _ in drawn(row_of(*bare), tmp_path / "row")] == [""]
    shapes = []
    for _, file, image in full:
        file.write_bytes(image)
        shapes.append(imread(file).shape[:2])
    assert shapes == [(810, 1860), (960, 1980), (810, 1860)]
    assert set(KINDS) == set(SWEEP[0].similarities)


def test_a_picture_is_drawn_again_only_where_it_would_be_another_or_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[str] = []

    def draw(row: RowResult, file: IO[bytes]) -> None:
        times.append(row.name)
        Figure(figsize=(1, 1)).savefig(file, format="png")

    monkeypatch.setattr(figures, "KINDS", (Kind("", draw),))
    ((_, file, image),) = drawn(row_of(*SWEEP), tmp_path / "row")
    for content, again in ((image, 1), (image[:-1], 2), (b"", 3), (image.replace(b"IDAT", b"IDAX"), 4), (image, 4)):
        file.write_bytes(content)
        assert drawn(row_of(*SWEEP), tmp_path / "row") == [(figures.KINDS[0], file, image)]
        assert len(times) == again
    other = replace(SWEEP[0], performance={**SWEEP[0].performance, "dense": 1.25})
    ((_, _, renewed),) = drawn(row_of(other, *SWEEP[1:]), tmp_path / "row")
    assert len(times) == 5 and renewed != image
    monkeypatch.setattr(figures, "_code", lambda: "edited")
    drawn(row_of(*SWEEP), tmp_path / "row")
    assert len(times) == 6
    imread(file)
