"""Confusion matrices: which action outranks an annotated one, and the classes that a picture shows."""

import re

import numpy as np
import pytest

from vmae_det.evaluation.confusion_matrix import (
    NOT_DETECTED,
    NOT_SCORED,
    ConfusionMatrix,
    count_confusions,
    predicted_actions,
)
from vmae_det.visualization.confusion_matrix import MAX_CLASSES, confusion_section, draw_matrix

NAMES = ("sit", "stand", "talk")


def confusions(annotated, scored, is_detected=(True, True)):
    """Return {(annotated, predicted): count} for persons 0 and 1."""
    person, action = np.array(annotated).T
    scored = np.array(scored, dtype=float).reshape(-1, 3).T
    rows = (scored[0].astype(int), scored[1].astype(int), scored[2])
    predicted, _, _ = predicted_actions(len(NAMES), (person, action), rows, np.array(is_detected))
    matrix = count_confusions(NAMES, action, predicted)
    cells = zip(*matrix.counts.nonzero())
    return {(NAMES[row], matrix.columns[column]): matrix.counts[row, column] for row, column in cells}


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        # Person 0 sits and talks.
        ([(0, 0, 0.9), (0, 2, 0.8), (0, 1, 0.1)], {("sit", "sit"): 1, ("talk", "talk"): 1}),
        # A wrong action between the two outranks only the lower one.
        ([(0, 0, 0.9), (0, 1, 0.5), (0, 2, 0.1)], {("sit", "sit"): 1, ("talk", "stand"): 1}),
        # An annotated action without a score loses to any wrong one; other right actions are not wrong.
        ([(0, 0, 0.9), (0, 1, 0.01)], {("sit", "sit"): 1, ("talk", "stand"): 1}),
        ([(0, 0, 0.9)], {("sit", "sit"): 1, ("talk", NOT_SCORED): 1}),
        # A tie is a confusion. The best of several rows counts.
        ([(0, 0, 0.5), (0, 1, 0.5), (0, 2, 0.1), (0, 2, 0.7)], {("sit", "stand"): 1, ("talk", "talk"): 1}),
        # Scores of another person do not count.
        ([(1, 0, 0.9), (1, 2, 0.9)], {("sit", NOT_SCORED): 1, ("talk", NOT_SCORED): 1}),
        ([], {("sit", NOT_SCORED): 1, ("talk", NOT_SCORED): 1}),
    ],
)
def test_the_action_that_outranks_an_annotated_one(scored, expected):
    assert confusions([(0, 0), (0, 2)], scored) == expected


def test_a_person_whom_no_box_reaches():
    found = confusions([(0, 0), (1, 1)], [(1, 0, 0.9), (1, 1, 0.2)], (False, True))
    assert found == {("sit", NOT_DETECTED): 1, ("stand", "sit"): 1}


def test_with_one_action_per_person_it_is_the_usual_matrix():
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 3, 50), rng.random((50, 3))
    person, action = np.divmod(np.arange(150), 3)
    order = rng.permutation(150)
    rows = tuple(values[order] for values in (person, action, score.ravel()))
    predicted, _, _ = predicted_actions(len(NAMES), (np.arange(50), label), rows, np.ones(50, dtype=bool))
    matrix = count_confusions(NAMES, label, predicted)
    usual = np.zeros((3, 3), dtype=int)
    np.add.at(usual, (label, score.argmax(axis=1)), 1)
    assert (matrix.counts[:, :3] == usual).all()
    assert not matrix.counts[:, 3:].any()


@pytest.fixture
def many():
    """30 classes; class n is taken for n + 1 in n of 101 cases, and for class 0 in one."""
    counts = np.diag(np.full(30, 100))
    for index in range(29):
        counts[index, index] -= index
        counts[index, index + 1] += index
    counts[:, 0] += 1
    return ConfusionMatrix(
        [f"class {n}" for n in range(30)], np.hstack([counts, np.ones((30, 1), int)]), ("none",)
    )


def test_the_most_confused_classes(many):
    assert many.confused_pairs(3) == [(28, 29), (27, 28), (26, 27)]
    chosen = many.most_confused(5)
    assert chosen == [25, 26, 27, 28, 29]
    part = many.select(chosen, "other")
    assert part.columns[4:] == ["class 29", "other", "none"]
    assert part.counts[1].tolist() == [0, 74, 26, 0, 0, 1, 1]  # class 0 is among the others
    assert (part.counts.sum(axis=1) == 102).all()


def texts(svg, kind):
    return re.findall(rf'<text class="{kind}(?: strong)?"[^>]*>([^<]*)', svg)


def test_the_picture_shows_percentages_of_rows():
    svg = draw_matrix(ConfusionMatrix(["sit", "<stand>"], np.array([[3, 1, 0], [0, 399, 1]]), ["none"]))
    assert texts(svg, "v") == ["75", "25", "100", "&lt;1"]
    assert texts(svg, "n") == ["4", "400"]
    assert re.findall(r'<rect class="(right|wrong|none)"', svg) == ["right", "wrong", "right", "none"]
    assert "sit → &lt;stand&gt;: 1 of 4" in svg
    assert "<stand>" not in svg


def test_an_empty_row_is_drawn_without_numbers():
    assert texts(draw_matrix(ConfusionMatrix(["a", "b"], np.array([[0, 0], [1, 1]]))), "v") == ["50", "50"]


def test_many_classes_are_limited_to_the_most_confused(many):
    page = confusion_section(many)
    assert f"{MAX_CLASSES} of 30 classes" in page
    assert len(texts(page, "n")) == MAX_CLASSES
    assert ">other classes<" in page
    assert "class 5<" not in page
    pairs = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td><td>(.*?)</td>", page)
    assert pairs[0] == ("class 28", "class 29", "28")


def test_without_confusions():
    page = confusion_section(ConfusionMatrix([str(n) for n in range(40)], np.eye(40, dtype=int)))
    assert page == "<p>No class is taken for another one.</p>"
