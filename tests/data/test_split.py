"""A training and a validation set by video: deterministic, stratified, and without changes to the data."""

import numpy as np
import pytest

from vmae_det.data.catalog import get_dataset
from vmae_det.data.split import choose_validation, split_dataset, write_annotated_persons
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.formats.video_list import read_video_list


def test_each_class_has_videos_in_both_sets():
    counts = np.zeros((60, 4), dtype=int)
    counts[np.arange(60), np.repeat([0, 1, 2, 3], [40, 15, 3, 2])] = 1
    chosen = choose_validation(counts, seed=0)
    assert counts[chosen].sum(axis=0).tolist() == [8, 3, 1, 1]
    assert (choose_validation(counts, seed=0) == chosen).all()
    assert (choose_validation(counts, seed=1) != chosen).any()


def test_the_last_video_of_a_class_stays_in_the_training_set():
    counts = np.array([[5, 0, 1], [5, 2, 0], [5, 3, 0], [5, 0, 0]])
    for seed in range(10):
        chosen = choose_validation(counts, seed)
        assert not chosen[0]
        assert counts[chosen].sum(axis=0)[1] > 0
        assert (counts[~chosen].sum(axis=0) > 0).all()


def test_two_videos_with_different_classes_are_split_too():
    chosen = choose_validation(np.array([[1, 1, 0], [0, 0, 1]]), seed=0)
    assert chosen.tolist() == [False, True]  # one class is lost, not two


def test_detection_is_split_by_video(mini_ava, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in mini_ava.rglob("*") if path.is_file()}
    spec = get_dataset(str(mini_ava / "train.yaml"))
    split = split_dataset(spec, tmp_path / "data", seed=0)
    train, val = (get_dataset(str(path)) for path in (split.train, split.val))
    rows, train_rows, val_rows = (read_action_csv(part.annotations) for part in (spec, train, val))
    names = [{str(part.videos[number]) for number in part.video} for part in (rows, train_rows, val_rows)]
    assert names[1] | names[2] == names[0]
    assert not names[1] & names[2]
    assert len(train_rows) + len(val_rows) == len(rows)
    assert split.videos == (len(names[1]), len(names[2]))
    persons = [read_person_boxes(part.person_boxes) for part in (spec, train, val)]
    for part, own in zip(persons[1:], names[1:]):
        assert set(part.videos) <= own
    assert len(persons[1]) + len(persons[2]) == len(persons[0])
    assert (val.video_start, val.excluded.resolve()) == (900.0, spec.excluded.resolve())
    assert not split.annotated_persons
    after = {path: path.stat().st_mtime_ns for path in mini_ava.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("excluded", [1, 2])
def test_videos_without_labels_do_not_validate(mini_ava, tmp_path, excluded):
    """Three videos with one keyframe each. The keyframes of the last ones are excluded."""
    names = sorted(path.stem for path in (mini_ava / "videos").glob("*.mp4"))[:3]
    rows = [f"{name},902,0.1,0.1,0.5,0.9,{action},0" for action, name in enumerate(names, 1)]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    (tmp_path / "excluded.csv").write_text("\n".join(f"{name},902" for name in names[-excluded:]))
    text = [
        *("type: detection", f"videos: {mini_ava}/videos", "annotations: rows.csv", "video_start: 900"),
        *("excluded: excluded.csv", f"label_map: {mini_ava}/annotations/mini_ava_actions.pbtxt"),
    ]
    (tmp_path / "own.yaml").write_text("\n".join(text))
    split = split_dataset(get_dataset(str(tmp_path / "own.yaml")), tmp_path / "data", seed=0)
    if excluded == 2:
        assert split is None
        return
    (video,) = read_action_csv(get_dataset(str(split.val)).annotations).videos
    assert video in names[:2]
    assert split.missing == 2  # classes 1 and 2, whose labels are all in one of the two sets


def test_videos_without_an_action_are_in_both_sets(mini_ava, tmp_path):
    names = sorted(path.stem for path in (mini_ava / "videos").glob("*.mp4"))
    rows = [f"{names[0]},902,0.1,0.1,0.5,0.9,1,0", f"{names[1]},902,0.1,0.1,0.5,0.9,1,0"]
    (tmp_path / "rows.csv").write_text("\n".join([*rows, f"{names[2]},902", f"{names[3]},902"]))
    text = [
        *("type: detection", f"videos: {mini_ava}/videos", "annotations: rows.csv", "video_start: 900"),
        f"label_map: {mini_ava}/annotations/mini_ava_actions.pbtxt",
    ]
    (tmp_path / "own.yaml").write_text("\n".join(text))
    split = split_dataset(get_dataset(str(tmp_path / "own.yaml")), tmp_path / "data", seed=0)
    for part in (split.train, split.val):
        rows = read_action_csv(get_dataset(str(part)).annotations)
        assert sorted(rows.action) == [-1, 1]


def test_annotated_boxes_replace_missing_person_boxes(mini_ava, tmp_path):
    lines = (mini_ava / "train.yaml").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("person_boxes"))
    text = text.replace(": videos", f": {mini_ava}/videos").replace(
        ": annotations", f": {mini_ava}/annotations"
    )
    (tmp_path / "own.yaml").write_text(text)
    spec = get_dataset(str(tmp_path / "own.yaml"))
    split = split_dataset(spec, tmp_path / "data", seed=0)
    assert split.annotated_persons
    val = get_dataset(str(split.val))
    rows, persons = read_action_csv(val.annotations), read_person_boxes(val.person_boxes)
    boxes = {
        (str(rows.videos[v]), t, *box) for v, t, box in zip(rows.video, rows.timestamp, rows.boxes.tolist())
    }
    found = {
        (str(persons.videos[v]), t, *box)
        for v, t, box in zip(persons.video, persons.timestamp, persons.boxes.tolist())
    }
    assert found == boxes
    assert (persons.score == 1).all()
    whole = get_dataset(str(write_annotated_persons(spec, tmp_path / "whole")))
    assert len(read_person_boxes(whole.person_boxes)) > len(persons)
    assert val.part_of == whole.part_of == str(tmp_path / "own.yaml")
    again = write_annotated_persons(val, tmp_path / "again")  # a part of a part
    assert get_dataset(str(again)).part_of == str(tmp_path / "own.yaml")


def test_a_list_is_split_by_class(mini_ava, tmp_path):
    spec = get_dataset(str(mini_ava / "clips_train.yaml"))
    _, labels = spec.labeled_videos()
    names = read_video_list(spec.annotations).names
    (tmp_path / "double.csv").write_text("".join(f"{n} {i}\n" for n, i in zip(names, labels)) * 2)
    text = f"type: classification\nvideos: {mini_ava}\nannotations: double.csv\n"
    (tmp_path / "double.yaml").write_text(text)  # two videos of each class
    split = split_dataset(get_dataset(str(tmp_path / "double.yaml")), tmp_path / "data", seed=3)
    parts = [get_dataset(str(path)).labeled_videos() for path in (split.train, split.val)]
    assert [sorted(labels.tolist()) for _, labels in parts] == [sorted(labels.tolist())] * 2
    assert parts[1][0][0].exists()
    assert split.missing == 0


@pytest.mark.parametrize("name", ["train", "clips_train"])
def test_a_single_video_is_not_split(mini_ava, tmp_path, name):
    spec = get_dataset(str(mini_ava / f"{name}.yaml"))
    first = spec.annotations.read_text().splitlines()[0]
    (tmp_path / "one.csv").write_text(f"{first}\n")
    text = (mini_ava / f"{name}.yaml").read_text()
    text = text.replace(f"annotations/{spec.annotations.name}", str(tmp_path / "one.csv"))
    for key in ("videos", "label_map", "person_boxes", "excluded"):
        text = text.replace(f"\n{key}: ", f"\n{key}: {mini_ava}/")
    (tmp_path / "one.yaml").write_text(text)
    assert split_dataset(get_dataset(str(tmp_path / "one.yaml")), tmp_path / "data", seed=0) is None
