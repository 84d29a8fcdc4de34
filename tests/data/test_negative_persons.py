"""Persons without an action: boxes with all labels 0 in training, false positives in evaluation."""

import numpy as np
import pytest
import torch

from vmae_det.config.checks import unused_keys
from vmae_det.data.loader import build_train_dataset
from vmae_det.data.negative_persons import add_negative_persons
from vmae_det.evaluation import evaluate_frame_map
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import ConfigError

ROWS = """\
a,902,0.1,0.1,0.5,0.5,1,0
a,902,0.1,0.1,0.5,0.5,2,0
a,903
b,902,0.5,0.5,0.9,0.9,1,0
"""
PERSONS = """\
a,902,0.2,0.1,0.5,0.5,,0.9
a,902,0.28,0.1,0.8,0.5,,0.9
a,902,0.34,0.1,0.8,0.5,,0.9
a,902,0.6,0.6,0.9,0.9,,0.79
a,902.0001,0.6,0.1,0.9,0.5,,0.8
a,903,0.1,0.1,0.5,0.5,,0.9
a,904,0.1,0.1,0.5,0.5,,0.9
b,903,0.1,0.1,0.5,0.5,,0.9
c,902,0.1,0.1,0.5,0.5,,0.9
"""
# The first overlaps the annotated box, the second is neither, and the fourth has a low score. Video c is not
# annotated.
NEGATIVES = [("a", 902, 0.34), ("a", 902, 0.6), ("a", 903, 0.1)]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "persons.csv").write_text(PERSONS)
    return tmp_path


@pytest.mark.parametrize(
    ("keyframes", "more"),
    [("annotated_keyframes", []), ("all_keyframes", [("a", 904, 0.1), ("b", 903, 0.1)])],
)
def test_persons_that_match_no_annotated_box_are_negatives(files, keyframes, more):
    rows, persons = read_action_csv(files / "rows.csv"), read_person_boxes(files / "persons.csv")
    result = add_negative_persons(rows, persons, keyframes, 0.8)
    assert result.action.tolist() == [1, 2, -1, 1] + [-1] * (3 + len(more))
    found = zip(result.videos[result.video], result.timestamp, result.boxes[:, 0])
    assert list(found)[4:] == NEGATIVES + more


def write_dataset(folder, mini_ava, persons="person_boxes: persons.csv\n"):
    """Write a set with the class walk: its first video is annotated, in three keyframes."""
    name = min(path.stem for path in (mini_ava / "videos").glob("*.mp4"))
    box, other = "0.1,0.1,0.5,0.9", "0.5,0.1,0.9,0.9"
    (folder / "map.txt").write_text("2: walk\n")
    (folder / "rows.csv").write_text(f"{name},902,{box},2,0\n{name},903\n{name},905,{box},2,0\n")
    lines = [f"{name},{second},{box},,1\n{name},{second},{other},,1\n" for second in (902, 903, 904, 905)]
    (folder / "persons.csv").write_text("".join(lines))
    (folder / "excluded.csv").write_text(f"{name},905\n")
    (folder / "own.yaml").write_text(
        f"type: detection\nvideos: {mini_ava}/videos\nvideo_start: 900\nannotations: rows.csv\n"
        f"label_map: map.txt\nexcluded: excluded.csv\n{persons}"
    )
    return name


def test_negatives_are_training_boxes_without_labels(mini_ava, tmp_path, tiny_cfg):
    write_dataset(tmp_path, mini_ava)

    def build(*keys):
        cfg = tiny_cfg("detect", "MODEL.ROI_HEAD.NUM_CLASSES", 1, "INPUT.FLIP", 0.0, *keys)
        cfg.DATASETS.TRAIN = (str(tmp_path / "own.yaml"),)
        return build_train_dataset(cfg, "detection").datasets[0]

    assert len(build()) == 1  # off by default
    dataset = build("DATASETS.NEGATIVE_PERSONS", "annotated_keyframes")
    assert [dataset.keyframes[index][1] for index in range(len(dataset))] == [902, 903]
    assert dataset.num_negatives == 3
    assert dataset.class_counts(1).tolist() == [1]
    for second, labels in enumerate([[[1], [0]], [[0], [0]]]):
        clip, extra = dataset.load(second, np.random.default_rng(0))
        assert extra["labels"].tolist() == labels
        sides = [[0.1, 0.1, 0.5, 0.9], [0.5, 0.1, 0.9, 0.9]] * np.array([192, 144] * 2)
        np.testing.assert_allclose(clip.boxes.numpy(), sides, rtol=1e-5)
        (sample,) = dataset[3, second]
        (again,) = dataset[3, second]
        assert len(sample["boxes"]) == len(sample["labels"])
        assert torch.equal(sample["boxes"], again["boxes"])
    more = build("DATASETS.NEGATIVE_PERSONS", "all_keyframes")
    assert [more.keyframes[index][1] for index in range(len(more))] == [902, 903, 904]  # 905 is excluded
    few = build(
        *("DATASETS.NEGATIVE_PERSONS", "annotated_keyframes"), *("DATASETS.NEGATIVE_PERSON_SCORE", 1.0)
    )
    assert few.num_negatives == 3
    (line,) = unused_keys(tiny_cfg("finetune", "DATASETS.NEGATIVE_PERSONS", "all_keyframes"))
    assert line.startswith("DATASETS.NEGATIVE_PERSONS: all_keyframes has no effect")
    write_dataset(tmp_path, mini_ava, persons="")
    with pytest.raises(ConfigError, match=r"NEGATIVE_PERSONS: all_keyframes, but .* has no person_boxes"):
        build("DATASETS.NEGATIVE_PERSONS", "all_keyframes")


@pytest.mark.parametrize(
    ("protocol", "keyframe", "ap"),
    [
        ("challenge", "v,903\n", 1 / 2),
        ("challenge", "", 1),  # a keyframe that the ground truth does not name is not scored
        ("slowfast", "", 1 / 2),
        ("mmaction2", "v,903\n", 1),
    ],
)
def test_a_person_without_an_action_is_a_false_positive(tmp_path, protocol, keyframe, ap):
    box = "0.1,0.1,0.5,0.9"
    (tmp_path / "truth.csv").write_text(f"v,902,{box},1,0\n{keyframe}")
    (tmp_path / "found.csv").write_text(f"v,902,{box},1,0.5\nv,903,{box},1,0.9\n")
    (tmp_path / "map.txt").write_text("1: walk\n")
    paths = [tmp_path / name for name in ("truth.csv", "found.csv", "map.txt")]
    assert evaluate_frame_map(*paths, protocol=protocol).mean_ap == ap
