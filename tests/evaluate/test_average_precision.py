"""Average precision: cases whose value is known without computing it, an oracle, and detectron2's own figures."""

import json
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import oracles
import pytest
import torch
from helpers import ROOT, rng, some
from hypothesis import assume, given
from hypothesis import strategies as st

from cl_bench.evaluate.average_precision import Detections, Truth, coco_average_precision, voc07_average_precision

CLASSES = ("cat", "dog", "bird")
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
RULES = {"coco": coco_average_precision, "voc07": voc07_average_precision}
FIGURES = ROOT / "tests" / "files" / "voc07_by_detectron2.json"
STORED = range(4)
seeds = st.integers(0, 2**31)


def truth(*boxes, labels=None, difficult=None):
    hard = None if difficult is None else torch.tensor(difficult)
    return Truth(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), _labels(labels, len(boxes)), hard)


def found(*boxes, labels=None, scores=None):
    scores = [0.9] * len(boxes) if scores is None else scores
    objects = truth(*boxes, labels=labels)
    return Detections(objects.boxes, objects.labels, torch.tensor(scores))


def _labels(labels, n):
    return torch.tensor([0] * n if labels is None else labels, dtype=torch.int64)


def measured(rule, detections, truths):
    """AP and AP50."""
    result = RULES[rule](detections, truths, CLASSES)
    assert list(result) == [f"{rule}_ap", f"{rule}_ap50"]
    return tuple(pytest.approx(value, abs=1e-9) for value in result.values())


@pytest.fixture(params=RULES)
def ap(request):
    """By either rule, where the two agree."""
    return partial(measured, request.param)


@pytest.fixture(params=RULES.values(), ids=RULES)
def average_precision(request):
    return request.param


def test_perfect_detections_are_100(ap):
    boxes = [(0, 0, 10, 10), (20, 5, 40, 30), (3, 4, 9, 30)]
    labels = [0, 1, 2]
    assert ap([found(*boxes, labels=labels)] * 2, [truth(*boxes, labels=labels)] * 2) == (100, 100)


def test_the_first_object_counts_like_any_other(ap):
    """The first annotation must not have the id 0, which COCOeval reads as no match."""
    assert ap([found((0, 0, 10, 10))], [truth((0, 0, 10, 10))]) == (100, 100)


@pytest.mark.parametrize(("width", "thresholds"), [(61, 3), (76, 6), (94, 9), (49, 0)])
def test_a_box_of_known_iou_counts_at_the_thresholds_below_it(ap, width, thresholds):
    """Of 100 x 10 pixels the detection covers ``width``: IoU = width / 100, and thresholds are .50, .55, ... .95."""
    expected = (10 * thresholds, 100 if thresholds else 0)
    assert ap([found((0, 0, width, 10))], [truth((0, 0, 100, 10))]) == expected


def test_shifted_boxes_of_iou_six_tenths(ap):
    """10 wide, shifted by 2.5: 7.5 / 12.5 = 0.6 up to rounding, so a hair less gives .50, .55, .60."""
    assert ap([found((2.49, 0, 12.49, 10))], [truth((0, 0, 10, 10))]) == (30, 100)


def test_no_detections_are_0(ap):
    assert ap([NOTHING, NOTHING], [truth((0, 0, 5, 5)), truth((1, 1, 9, 9))]) == (0, 0)


def test_an_image_without_objects(ap):
    boxes = (0, 0, 10, 10)
    empty = truth()
    assert ap([found(boxes), NOTHING], [truth(boxes), empty]) == (100, 100)
    # A false positive there, of a higher score: precision is 1/2 wherever there is recall.
    assert ap([found(boxes, scores=[0.5]), found(boxes)], [truth(boxes), empty]) == (50, 50)


def test_a_false_positive_costs_only_above_the_true_one(ap):
    box, wrong = (0, 0, 10, 10), (50, 50, 60, 60)
    assert ap([found(box, wrong, scores=[0.9, 0.1])], [truth(box)]) == (100, 100)
    assert ap([found(box, wrong, scores=[0.1, 0.9])], [truth(box)]) == (50, 50)


@pytest.mark.parametrize(("rule", "below", "above"), [("coco", 51, 50), ("voc07", 6, 5)])
def test_a_second_detection_of_an_object_is_a_false_positive(rule, below, above):
    """Recall points 0..0.5 at precision 1, those above at 2/3."""
    box, other = (0, 0, 10, 10), (30, 30, 40, 40)
    detections = [found(box, box, other, scores=[0.9, 0.8, 0.7])]
    expected = 100 * (below + above * 2 / 3) / (below + above)
    assert measured(rule, detections, [truth(box, other)]) == (expected, expected)


def test_classes_are_averaged_and_absent_ones_over_present(ap):
    boxes = [(0, 0, 10, 10), (20, 20, 30, 30)]
    truths = [truth(*boxes, labels=[0, 1])]
    assert ap([found(boxes[0], labels=[0])], truths) == (50, 50)
    # Detections of a class that has no object anywhere do not count.
    assert ap([found(*boxes, (50, 50, 60, 60), labels=[0, 1, 2])], truths) == (100, 100)


def test_the_wrong_class_is_no_match(ap):
    box = (0, 0, 10, 10)
    assert ap([found(box, labels=[1])], [truth(box, labels=[0])]) == (0, 0)
    assert ap([found(box, labels=[1])], [truth(box, (30, 30, 40, 40), labels=[0, 1])]) == (0, 0)


def test_only_the_order_of_scores_matters(ap):
    box, wrong = (0, 0, 10, 10), (50, 50, 60, 60)
    for scores in ([0.2, 0.1], [9.0, -3.0]):
        assert ap([found(box, wrong, scores=scores)], [truth(box)]) == (100, 100)


def test_of_equal_scores_the_first_counts_first(ap):
    box, wrong = (0, 0, 10, 10), (50, 50, 60, 60)
    assert ap([found(box, wrong)], [truth(box)]) == (100, 100)
    assert ap([found(wrong, box)], [truth(box)]) == (50, 50)
    assert ap([found(wrong), found(box)], [truth(), truth(box)]) == (50, 50)


def test_precision_is_the_best_one_at_that_recall_or_more(ap):
    """Wrong, right, right of two objects: 0, 1/2, 2/3."""
    box, other, wrong = (0, 0, 10, 10), (30, 30, 40, 40), (50, 50, 60, 60)
    expected = 100 * 2 / 3
    assert ap([found(wrong, box, other, scores=[0.9, 0.8, 0.7])], [truth(box, other)]) == (expected, expected)


def test_difficult_objects_count_neither_found_nor_missed(ap):
    box, hard = (0, 0, 10, 10), (30, 30, 40, 40)
    truths = [truth(box, hard, difficult=[False, True])]
    assert ap([found(box)], truths) == (100, 100)
    assert ap([found(hard, box, hard, hard, scores=[0.9, 0.8, 0.7, 0.95])], truths) == (100, 100)
    assert ap([found(hard)], truths) == (0, 0)
    assert ap([found(hard, box, scores=[0.9, 0.8])], [truth(box, hard, difficult=[False, False])]) == (100, 100)


def test_none_difficult_is_none_given(average_precision):
    box, other = (0, 0, 10, 10), (30, 30, 40, 40)
    none, given = ([truth(box, other, difficult=difficult)] for difficult in (None, [False, False]))
    assert average_precision([found(box)], none, CLASSES) == average_precision([found(box)], given, CLASSES)


def test_a_class_whose_objects_are_all_difficult_is_over_present(ap):
    box, hard, wrong = (0, 0, 10, 10), (30, 30, 40, 40), (50, 50, 60, 60)
    truths = [truth(box, hard, labels=[0, 1], difficult=[False, True])]
    assert ap([found(box, hard, wrong, labels=[0, 1, 1])], truths) == (100, 100)


@pytest.mark.parametrize(("rule", "expected"), [("coco", (100, 100)), ("voc07", (50, 50))])
def test_a_part_of_a_difficult_object_counts_by_voc_s_rule_alone(rule, expected):
    """COCO forgives whatever lies in a crowd, VOC what covers more than half of the object."""
    box, hard = (200, 0, 210, 10), (0, 0, 100, 100)
    detections = [found((0, 0, 10, 10), box, scores=[0.9, 0.8])]
    assert measured(rule, detections, [truth(box, hard, difficult=[False, True])]) == expected


@pytest.mark.parametrize(("rule", "at_half", "at_55"), [("coco", (10, 100), (20, 100)), ("voc07", (0, 0), (10, 100))])
def test_voc_s_thresholds_are_strict(rule, at_half, at_55):
    for width, expected in ((50, at_half), (55, at_55)):
        assert measured(rule, [found((0, 0, width, 10))], [truth((0, 0, 100, 10))]) == expected


@pytest.mark.parametrize(
    ("rule", "expected"), [("coco", (70 + 30 * 51 / 101, 100)), ("voc07", (100 * 6 / 11, 100 * 6 / 11))]
)
def test_voc_s_detections_go_to_the_object_they_overlap_most(rule, expected):
    """Two of the first object, whose IoU with the second is 0.8: COCO gives it one of them at .50 to .80."""
    box, other = (0, 0, 10, 10), (0, 0, 10, 8)
    assert measured(rule, [found(box, box, scores=[0.9, 0.8])], [truth(box, other)]) == expected


@pytest.mark.parametrize(("rule", "expected"), [("coco", (70, 100)), ("voc07", (0, 0))])
def test_voc_s_detections_go_to_a_difficult_object_too(rule, expected):
    box, hard = (0, 0, 10, 8), (0, 0, 10, 10)
    assert measured(rule, [found(hard)], [truth(box, hard, difficult=[False, True])]) == expected


@pytest.mark.parametrize(("rule", "expected"), [("coco", 0), ("voc07", 100 / 101)])
def test_voc_counts_detections_without_limit(rule, expected):
    box = (0, 0, 10, 10)
    detections = [found(*[(50, 50, 60, 60)] * 100, box, scores=[0.9] * 100 + [0.1])]
    assert measured(rule, detections, [truth(box)]) == (expected, expected)


@pytest.mark.parametrize(
    ("right", "points"), [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6), (7, 7), (9, 10), (10, 11)]
)
def test_voc_s_eleven_points(right, points):
    """Of 10 objects so many are found; in binary 3/10, 6/10 and 7/10 fall short of three, six and seven times 0.1."""
    boxes = [(20 * k, 0, 20 * k + 10, 10) for k in range(10)]
    expected = 100 * points / 11
    assert measured("voc07", [found(*boxes[:right])], [truth(*boxes)]) == (expected, expected)


def scene(seed, images=8):
    """Images of random objects and detections on whole and half pixels: near, duplicate and false ones, and none.

    No two scores are equal. Of an even seed, no object is of the last class.
    """
    g = rng(seed)
    detections, truths = [], []
    scores = iter((torch.randperm(1000, generator=g) / 1000).split(8))
    for _ in range(images):
        known = len(CLASSES) - 1 + seed % 2
        boxes, labels = _boxes(6, g), torch.randint(known, (6,), generator=g)
        n, m = torch.randint(6, (), generator=g), torch.randint(9, (), generator=g)
        of = torch.randint(int(n) + 1, (8,), generator=g)  # the last of them is no object of the image: false
        near = boxes[of] + torch.randint(-4, 5, (8, 4), generator=g) / 2 * (torch.rand(8, 1, generator=g) < 0.7)
        taken_for = torch.where(
            torch.rand(8, generator=g) < 0.2, torch.randint(len(CLASSES), (8,), generator=g), labels[of]
        )
        detections.append(Detections(near[:m], taken_for[:m], next(scores)[:m]))
        truths.append(Truth(boxes[:n], labels[:n], torch.rand(6, generator=g)[:n] < 0.3))
    return detections, truths


def _boxes(n, g):
    corner, size = torch.randint(0, 30, (n, 2), generator=g), torch.randint(8, 40, (n, 2), generator=g)
    return torch.cat([corner, corner + size], 1).float()


def voc07(detections, truths):
    return tuple(voc07_average_precision(detections, truths, CLASSES).values())


@some(60)
@given(seed=seeds, images=st.integers(1, 6), levels=st.sampled_from([2, 10, 1000]))
def test_voc_s_is_the_oracle_s(seed, images, levels):
    """With few levels of scores, so that many are equal."""
    detections, truths = scene(seed, images)
    detections = [d._replace(scores=(d.scores * levels).floor()) for d in detections]
    assume(any(not t.difficult.all() for t in truths))
    expected = oracles.voc07_average_precision(
        *(
            [list(zip(*(f.tolist() for f in image), strict=True)) for image in images]
            for images in (detections, truths)
        ),
        len(CLASSES),
    )
    assert voc07(detections, truths) == pytest.approx(expected, abs=1e-9)


@some(20)
@given(seed=seeds)
def test_voc_s_knows_no_order_of_images_and_no_names_of_classes(seed):
    detections, truths = scene(seed)
    images, names = (torch.randperm(n, generator=rng(seed)) for n in (len(truths), len(CLASSES)))
    renamed = [[image._replace(labels=names[image.labels]) for image in side] for side in (detections, truths)]
    shuffled = ([side[i] for i in images] for side in renamed)
    assert voc07(*shuffled) == pytest.approx(voc07(detections, truths), abs=1e-9)


@some(20)
@given(seed=seeds)
def test_voc_s_is_not_lowered_by_what_comes_last_nor_raised_by_what_is_wrong(seed):
    detections, truths = scene(seed)
    before = voc07(detections, truths)
    label = torch.randint(len(CLASSES), (1,), generator=rng(seed))
    for box, score, sign in ((_boxes(1, rng(seed)), -1.0, 1), (torch.tensor([[100.0, 100, 110, 110]]), 2.0, -1)):
        more = [Detections(*map(torch.cat, zip(detections[0], (box, label, torch.tensor([score])), strict=True)))]
        after = voc07(more + detections[1:], truths)
        assert all(sign * (a - b) >= -1e-9 for a, b in zip(after, before, strict=True))


def by_detectron2(detections, truths, devkit):
    """AP and AP50 of detectron2's evaluator, which reads a VOC devkit; this writes one."""
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    names = [f"{i:06d}" for i in range(len(truths))]
    for folder in ("Annotations", "ImageSets/Main"):
        (devkit / folder).mkdir(parents=True)
    (devkit / "ImageSets/Main/test.txt").write_text("\n".join(names))
    for name, image in zip(names, truths, strict=True):
        (devkit / "Annotations" / f"{name}.xml").write_bytes(tostring(_annotation(image)))
    metadata = MetadataCatalog.get(str(devkit))
    metadata.set(thing_classes=list(CLASSES), dirname=str(devkit), split="test", year=2007)
    evaluator = PascalVOCDetectionEvaluator(str(devkit))
    evaluator.reset()
    for name, d in zip(names, detections, strict=True):
        instances = Instances((100, 100), pred_boxes=Boxes(d.boxes), pred_classes=d.labels, scores=d.scores)
        evaluator.process([{"image_id": name}], [{"instances": instances}])
    result = evaluator.evaluate()["bbox"]
    return result["AP"], result["AP50"]


def _annotation(image):
    """Of one image as VOC writes it: pixels are counted from 1, and the last one belongs to the box."""
    root = Element("annotation")
    for (x1, y1, x2, y2), label, difficult in zip(*(field.int().tolist() for field in image), strict=True):
        fields = {"name": CLASSES[label], "pose": "Unspecified", "truncated": 0, "difficult": difficult}
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        element = SubElement(root, "object")
        for parent, values in ((element, fields), (SubElement(element, "bndbox"), corners)):
            for key, value in values.items():
                SubElement(parent, key).text = str(value)
    return root


def write_figures(folder, commit):
    """Make ``FIGURES``: in tests/, where detectron2 is installed from ``commit`` (``folder`` is for its devkits).

    python -c "import test_average_precision as t; t.write_figures('/tmp/devkits', '<commit>')"
    """
    about = "AP and AP50 by detectron2's PascalVOCDetectionEvaluator of scene(seed, 40) in test_average_precision.py"
    figures = {str(seed): by_detectron2(*scene(seed, 40), Path(folder) / str(seed)) for seed in STORED}
    FIGURES.write_text(json.dumps({"about": about, "detectron2": commit, "figures": figures}, indent=1) + "\n")


def over_present(figures, truths):
    """Their mean over all classes, where one without objects counts as 0, as a mean over those that have one."""
    present = {int(label) for t in truths for label in t.labels[~t.difficult]}
    return pytest.approx([figure * len(CLASSES) / len(present) for figure in figures], abs=1e-6)


@pytest.mark.parametrize("seed", STORED)
def test_voc_s_is_what_detectron2_said(seed):
    detections, truths = scene(seed, 40)
    figures = json.loads(FIGURES.read_text())["figures"][str(seed)]
    assert voc07(detections, truths) == over_present(figures, truths)


@pytest.mark.parametrize("seed", range(100, 110))
def test_voc_s_is_what_detectron2_says(seed, tmp_path):
    how = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    pytest.importorskip("detectron2", reason=f"detectron2 is not installed ({how})")
    detections, truths = scene(seed, 20)
    assert voc07(detections, truths) == over_present(by_detectron2(detections, truths, tmp_path / "devkit"), truths)


def test_it_prints_nothing_and_leaves_its_input(average_precision, capsys):
    detections, truths = [found((0, 0, 10, 10))], [truth((0, 0, 10, 10), difficult=[False])]
    before = [t.clone() for t in (*detections[0], *truths[0])]
    first = average_precision(detections, truths, CLASSES)
    assert average_precision(detections, truths, CLASSES) == first
    assert capsys.readouterr().out == ""
    assert all(torch.equal(a, b) for a, b in zip(before, (*detections[0], *truths[0]), strict=True))


@pytest.mark.parametrize(
    ("detections", "truths", "message"),
    [
        ([NOTHING], [], "detections of 1 images, but truths of 0"),
        ([NOTHING], [truth()], "none of the 1 images has an object"),
        (
            [NOTHING],
            [truth((0, 0, 1, 1), difficult=[True])],
            "none of the 1 images has an object that is not difficult",
        ),
        ([NOTHING], [truth((0, 0, 1, 1), difficult=[0])], r"truths\[0\]: difficult must be bool"),
        ([NOTHING], [truth((0, 0, 1, 1), difficult=[False] * 2)], r"truths\[0\]: difficult must be bool"),
        ([found((0, 0, 1, 1), labels=[3])], [truth((0, 0, 1, 1))], r"detections\[0\]: labels must be in 0..2"),
        ([NOTHING], [truth((0, 0, 1, 1), labels=[-1])], r"truths\[0\]: labels must be in 0..2"),
        ([found((0, 0, 1, 1), scores=[float("nan")])], [truth((0, 0, 1, 1))], r"detections\[0\].*finite"),
    ],
)
def test_what_makes_no_sense_is_refused(average_precision, detections, truths, message):
    with pytest.raises(ValueError, match=message):
        average_precision(detections, truths, CLASSES)
