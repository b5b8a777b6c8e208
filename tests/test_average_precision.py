"""Average precision: cases whose value is known without computing it."""

import pytest
import torch

from cl_bench.evaluate.average_precision import Detections, Truth, coco_average_precision

CLASSES = ("cat", "dog", "bird")
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def truth(*boxes, labels=None):
    return Truth(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), _labels(labels, len(boxes)))


def found(*boxes, labels=None, scores=None):
    scores = [0.9] * len(boxes) if scores is None else scores
    return Detections(*truth(*boxes, labels=labels), torch.tensor(scores))


def _labels(labels, n):
    return torch.tensor([0] * n if labels is None else labels, dtype=torch.int64)


def ap(detections, truths):
    result = coco_average_precision(detections, truths, CLASSES)
    assert set(result) == {"coco_ap", "coco_ap50"}
    return pytest.approx(result["coco_ap"]), pytest.approx(result["coco_ap50"])


def test_perfect_detections_are_100():
    boxes = [(0, 0, 10, 10), (20, 5, 40, 30), (3, 4, 9, 30)]
    labels = [0, 1, 2]
    assert ap([found(*boxes, labels=labels)] * 2, [truth(*boxes, labels=labels)] * 2) == (100, 100)


def test_the_first_object_counts_like_any_other():
    """The first annotation must not have the id 0, which COCOeval reads as no match."""
    assert ap([found((0, 0, 10, 10))], [truth((0, 0, 10, 10))]) == (100, 100)


@pytest.mark.parametrize(("width", "thresholds"), [(61, 3), (76, 6), (94, 9), (49, 0)])
def test_a_box_of_known_iou_counts_at_the_thresholds_below_it(width, thresholds):
    """Of 100 x 10 pixels the detection covers ``width``: IoU = width / 100, and thresholds are .50, .55, ... .95."""
    expected = (10 * thresholds, 100 if thresholds else 0)
    assert ap([found((0, 0, width, 10))], [truth((0, 0, 100, 10))]) == expected


def test_shifted_boxes_of_iou_six_tenths():
    """10 wide, shifted by 2.5: 7.5 / 12.5 = 0.6 up to rounding, so a hair less gives .50, .55, .60."""
    assert ap([found((2.49, 0, 12.49, 10))], [truth((0, 0, 10, 10))]) == (30, 100)


def test_no_detections_are_0():
    assert ap([NOTHING, NOTHING], [truth((0, 0, 5, 5)), truth((1, 1, 9, 9))]) == (0, 0)


def test_an_image_without_objects():
    boxes = (0, 0, 10, 10)
    empty = truth()
    assert ap([found(boxes), NOTHING], [truth(boxes), empty]) == (100, 100)
    # A false positive there, of a higher score: precision is 1/2 wherever there is recall.
    assert ap([found(boxes, scores=[0.5]), found(boxes)], [truth(boxes), empty]) == (50, 50)


def test_a_false_positive_costs_only_above_the_true_one():
    box, wrong = (0, 0, 10, 10), (50, 50, 60, 60)
    assert ap([found(box, wrong, scores=[0.9, 0.1])], [truth(box)]) == (100, 100)
    assert ap([found(box, wrong, scores=[0.1, 0.9])], [truth(box)]) == (50, 50)


def test_a_second_detection_of_an_object_is_a_false_positive():
    box, other = (0, 0, 10, 10), (30, 30, 40, 40)
    detections = [found(box, box, other, scores=[0.9, 0.8, 0.7])]
    # Recall points 0..0.5 (51 of 101) at precision 1, the other 50 at 2/3.
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert ap(detections, [truth(box, other)]) == (expected, expected)


def test_classes_are_averaged_and_absent_ones_left_out():
    boxes = [(0, 0, 10, 10), (20, 20, 30, 30)]
    truths = [truth(*boxes, labels=[0, 1])]
    assert ap([found(boxes[0], labels=[0])], truths) == (50, 50)
    # Detections of a class that has no object anywhere do not count.
    assert ap([found(*boxes, (50, 50, 60, 60), labels=[0, 1, 2])], truths) == (100, 100)


def test_the_wrong_class_is_no_match():
    box = (0, 0, 10, 10)
    assert ap([found(box, labels=[1])], [truth(box, labels=[0])]) == (0, 0)


def test_only_the_order_of_scores_matters():
    box, wrong = (0, 0, 10, 10), (50, 50, 60, 60)
    for scores in ([0.2, 0.1], [9.0, -3.0]):
        assert ap([found(box, wrong, scores=scores)], [truth(box)]) == (100, 100)


def test_it_prints_nothing_and_leaves_its_input(capsys):
    detections, truths = [found((0, 0, 10, 10))], [truth((0, 0, 10, 10))]
    before = [t.clone() for t in (*detections[0], *truths[0])]
    first = coco_average_precision(detections, truths, CLASSES)
    assert coco_average_precision(detections, truths, CLASSES) == first
    assert capsys.readouterr().out == ""
    assert all(torch.equal(a, b) for a, b in zip(before, (*detections[0], *truths[0]), strict=True))


@pytest.mark.parametrize(
    ("detections", "truths", "message"),
    [
        ([NOTHING], [], "detections of 1 images, but truths of 0"),
        ([NOTHING], [truth()], "none of the 1 images has an object"),
        ([found((0, 0, 1, 1), labels=[3])], [truth((0, 0, 1, 1))], r"detections\[0\]: labels must be in 0..2"),
        ([NOTHING], [truth((0, 0, 1, 1), labels=[-1])], r"truths\[0\]: labels must be in 0..2"),
        ([found((0, 0, 1, 1), scores=[float("nan")])], [truth((0, 0, 1, 1))], r"detections\[0\].*finite"),
    ],
)
def test_what_makes_no_sense_is_refused(detections, truths, message):
    with pytest.raises(ValueError, match=message):
        coco_average_precision(detections, truths, CLASSES)
