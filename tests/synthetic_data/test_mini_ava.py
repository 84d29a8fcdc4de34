"""MiniAVA: the same bytes for the same seed, valid annotations, and robust generation."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from vmae_det.synthetic_data import building
from vmae_det.synthetic_data.mini_ava import FULL, MANIFEST, TINY, MiniAvaSize, make_mini_ava
from vmae_det.synthetic_data.mini_ava.motion import pose_at
from vmae_det.synthetic_data.mini_ava.plan import ACTIONS, KEYFRAMES, plan_clips, plan_videos
from vmae_det.utils.errors import DataError, UserError

SMALLEST = MiniAvaSize(
    train_videos=1, val_videos=1, unlabelled_videos=0, clips_per_action_train=0, clips_per_action_val=0
)
EACH_KIND = MiniAvaSize(
    train_videos=1, val_videos=1, unlabelled_videos=1, clips_per_action_train=0, clips_per_action_val=1
)
ACTION_IDS = {action.id for action in ACTIONS}


@pytest.fixture
def tiny(mini_ava) -> Path:
    return mini_ava


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as lines:
        return list(csv.reader(lines))


def label_map(folder: Path) -> list[tuple[str, int, str]]:
    text = (folder / "annotations/mini_ava_actions.pbtxt").read_text()
    entry = r'label \{\n  name: "(.+)"\n  label_id: (\d+)\n  label_type: (\w+)\n\}\n'
    assert re.fullmatch(f"(?:{entry})+", text)
    return [(name, int(number), kind) for name, number, kind in re.findall(entry, text)]


def test_bytes_depend_on_the_seed_and_not_on_the_number_of_workers(tmp_path):
    found = [
        digests(make_mini_ava(tmp_path / f"{workers}", workers=workers, progress=False, size=EACH_KIND))
        for workers in (1, 2)
    ]
    assert found[0] == found[1]
    assert {Path(name).parts[0] for name in found[0]} >= {"annotations", "clips", "unlabelled", "videos"}


def test_another_seed_generates_other_videos(tiny, tmp_path):
    other = make_mini_ava(tmp_path / "other", seed=1, workers=1, progress=False, size=SMALLEST)
    assert not set(digests(other / "videos").values()) & set(digests(tiny / "videos").values())


def test_a_second_call_does_not_generate_again(tiny, monkeypatch):
    monkeypatch.setattr(building.SyntheticDataset, "_replace", lambda *args: pytest.fail("generated again"))
    assert make_mini_ava(tiny, size=TINY) == tiny


def test_a_folder_of_another_version_is_replaced(tmp_path):
    root = make_mini_ava(tmp_path / "mini_ava", workers=1, progress=False, size=SMALLEST)
    expected = digests(root)
    manifest = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**manifest, "version": -1}))
    (root / "stale.txt").touch()
    make_mini_ava(root, workers=1, progress=False, size=SMALLEST)
    assert digests(root) == expected


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_no_folder(tmp_path, monkeypatch, interruption):
    def interrupted(workers, render, jobs):
        render(jobs[0])
        raise interruption

    monkeypatch.setattr(building.Workers, "map", interrupted)
    with pytest.raises(interruption):
        make_mini_ava(tmp_path / "mini_ava", progress=False, size=SMALLEST)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_folder_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(
        DataError, match=r"expected MiniAVA, got .* without mini_ava\.json; choose another folder"
    ):
        make_mini_ava(tmp_path, progress=False, size=SMALLEST)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_unwritable_folder_raises_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        make_mini_ava(tmp_path / "file" / "mini_ava", progress=False, size=SMALLEST)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"workers": 0}])
def test_invalid_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="expected"):
        make_mini_ava(tmp_path / "mini_ava", size=SMALLEST, **wrong)


def test_a_daemonic_process_can_generate(tmp_path, preloaded_processes):
    root = tmp_path / "mini_ava"
    process = multiprocessing.get_context("spawn").Process(
        target=make_mini_ava, args=(root, 0, 2, False, SMALLEST), daemon=True
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (root / MANIFEST).is_file()


def test_videos_have_the_documented_length_rate_and_codec(tiny):
    for folder, frames in (("videos", 120), ("unlabelled", 36), ("clips/train", 24), ("clips/val", 24)):
        paths = list((tiny / folder).glob("*.mp4"))
        assert paths
        for path in paths:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264"
                assert (stream.width, stream.height, stream.average_rate) == (192, 144, 12)
                assert sum(1 for _ in container.decode(stream)) == frames


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_in_avas_format(tiny, split):
    videos = {path.stem for path in (tiny / "videos").iterdir()}
    kinds = {number: kind for _, number, kind in label_map(tiny)}
    poses = Counter()
    for video, second, *box, action, person in rows(tiny / f"annotations/mini_ava_{split}.csv"):
        assert video in videos
        assert re.fullmatch(r"090[2-8]", second)
        assert all(re.fullmatch(r"[01]\.\d{3}", coordinate) for coordinate in box)
        x1, y1, x2, y2 = map(float, box)
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        poses[video, second, person] += kinds[int(action)] == "PERSON_MOVEMENT"
    assert set(poses.values()) == {1}


@pytest.mark.parametrize("split", ["train", "val"])
def test_excluded_keyframes_have_no_annotations(tiny, split):
    excluded = rows(tiny / f"annotations/mini_ava_{split}_excluded_timestamps.csv")
    annotated = {tuple(row[:2]) for row in rows(tiny / f"annotations/mini_ava_{split}.csv")}
    assert all(len(row) == 2 for row in excluded)
    assert not annotated & {tuple(row) for row in excluded}
    assert len(annotated) + len(excluded) == len(KEYFRAMES) * (4 if split == "train" else 2)


def test_person_boxes_are_near_the_persons(tiny):
    truth = {}
    for video, second, *box, _, _ in rows(tiny / "annotations/mini_ava_train.csv"):
        truth.setdefault((video, second), set()).add(tuple(map(float, box)))
    near = total = 0
    for video, second, *box, label, score in rows(tiny / "person_boxes/mini_ava_train.csv"):
        assert label == ""
        assert 0 < float(score) < 1
        box = tuple(map(float, box))
        assert 0 <= box[0] < box[2] <= 1
        assert 0 <= box[1] < box[3] <= 1
        if float(score) >= 0.8 and (video, second) in truth:
            total += 1
            near += any(np.abs(np.subtract(box, other)).max() < 0.15 for other in truth[video, second])
    assert near >= 0.9 * total > 0


def test_clip_lists_contain_files_and_label_indices(tiny):
    assert [number for _, number, _ in label_map(tiny)] == sorted(ACTION_IDS)
    for split in ("train", "val"):
        lines = (tiny / f"annotations/clips_{split}.csv").read_text().splitlines()
        paths, columns = zip(*(line.split(" ") for line in lines))
        assert all((tiny / path).is_file() for path in paths)
        assert Counter(map(int, columns)) == dict.fromkeys(range(len(ACTIONS)), 1)


def test_dataset_files_name_existing_files(tiny):
    for name in ("train", "val", "clips_train", "clips_val", "unlabelled"):
        keys = yaml.safe_load((tiny / f"{name}.yaml").read_text())
        assert keys.pop("type") in {"detection", "classification", "videos"}
        assert keys.pop("video_start", 900) == 900
        assert all((tiny / path).exists() for path in keys.values())


def test_actions_are_frequent_enough_and_keyframes_unambiguous():
    for split, videos, least in ((0, FULL.train_videos, 30), (1, FULL.val_videos, 15)):
        boxes = Counter()
        for plan in plan_videos(videos, seed=0, split=split):
            for person in plan.people:
                assert all(a.end == b.start and a.end % 1 == 0.5 for a, b in pairwise(person.segments))
                for second in KEYFRAMES:
                    doing = next(s for s in person.segments if s.start < second < s.end)
                    boxes.update(doing.actions)
        assert set(boxes) == {action.name for action in ACTIONS}
        # Some more boxes than required, because keyframes will be excluded.
        assert min(boxes.values()) >= least * 1.2


def test_waving_differs_from_a_raised_hand_only_by_its_motion():
    """The raised hand of a standing person is as high as a waving hand, but does not move sideways."""
    traveled = {"stand": [], "wave": []}
    for plan, column in plan_clips(20, seed=0, split=3):
        segment = plan.people[0].segments[0]
        name = ACTIONS[column].name
        if name == "wave" or (name == "stand" and segment.arms == "raised"):
            poses = [pose_at((segment,), time, partner_distance=0.0) for time in np.arange(0.3, 1.6, 1 / 12)]
            hands = np.array(
                [pose[4:6] if pose.near_hand_y > pose.far_hand_y else pose[6:8] for pose in poses]
            )
            assert hands[:, 1].min() > 0.2
            traveled[name].append(np.ptp(hands[:, 0]))
    assert max(traveled["stand"]) < 0.02
    assert min(traveled["wave"]) > 0.25
