"""MiniMotion: balanced scenes, the motion of each class, valid dataset files, and configs without a flip."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import asdict
from math import hypot

import av
import numpy as np
import pytest

from vmae_det import model_zoo
from vmae_det.data.catalog import get_dataset, is_generated_later, read_dataset_file
from vmae_det.formats.label_map import LabelMap
from vmae_det.synthetic_data.building import SyntheticDataset
from vmae_det.synthetic_data.mini_motion import FULL, TINY, MiniMotionSize, make_mini_motion, render
from vmae_det.synthetic_data.mini_motion.motion import moment_at, roles
from vmae_det.synthetic_data.mini_motion.plan import (
    CLASSES,
    HEIGHT,
    WIDTH,
    plan_scene,
    plan_unlabelled_videos,
    plan_videos,
)

SCENES = [plan_scene((0, 9, number)) for number in range(60)]
TIMES = np.arange(24) / 12


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets") / "mini_motion"
    return make_mini_motion(folder, workers=1, progress=False, size=TINY)


def moments(scene, action):
    return [moment_at(scene, action, time) for time in TIMES]


def seconds_of_fall(scene, action):
    """Return the time from the release of an object to its first contact with the table."""
    times = np.arange(0, 2, 0.01)
    y = np.array([moment_at(scene, action, time).moved.y for time in times])
    return times[y > y[-1] - 1][0] - times[y < y[0] + 0.5][-1]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_dataset_files_load(tiny):
    for split in ("train", "val"):
        spec = read_dataset_file(tiny / f"{split}.yaml")
        videos, labels = spec.labeled_videos()
        assert sorted(labels) == list(range(len(CLASSES)))
        assert LabelMap.from_file(spec.label_map).names == CLASSES
        for number, label in enumerate(labels):
            assert videos[number].name.startswith(CLASSES[label].replace(" ", "_"))
            assert videos[number].is_file()
    assert len(list(read_dataset_file(tiny / "unlabelled.yaml").videos.glob("*.mp4"))) == TINY.unlabelled


def test_videos_have_the_documented_length_rate_and_codec(tiny):
    for path in tiny.glob("videos/*/*_0*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, 12)
            assert sum(1 for _ in container.decode(stream)) == 24


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tiny, tmp_path):
    size = MiniMotionSize(train_per_class=1, val_per_class=0, unlabelled=0)
    render._scene.cache_clear()
    expected = {path.name: digest(path) for path in (tiny / "videos/train").iterdir()}
    for seed in (0, 1):
        folder = make_mini_motion(tmp_path / f"{seed}", seed, workers=1, progress=False, size=size)
        found = {path.name: digest(path) for path in (folder / "videos/train").iterdir()}
        assert (found == expected) == (seed == 0)
        assert seed == 0 or not set(found.values()) & set(expected.values())


def test_the_names_of_the_catalog_are_generated_on_first_use(tiny, tmp_path, monkeypatch):
    def generate(dataset, folder, manifest, fill):
        assert (dataset.name, manifest["size"]) == ("MiniMotion", asdict(FULL))
        shutil.copytree(tiny, folder)

    monkeypatch.setattr(SyntheticDataset, "_replace", generate)
    assert is_generated_later("mini_motion_val", str(tmp_path))
    assert get_dataset("mini_motion_val", str(tmp_path)).annotations.is_file()
    assert not is_generated_later("mini_motion_val", str(tmp_path))


def test_each_scene_occurs_in_each_class_and_in_one_split():
    splits = [plan_videos(3, seed=0, split=split) for split in (0, 1)]
    scenes = []
    for videos in splits:
        by_scene = Counter((plan.scene.key, plan.action) for plan, _ in videos)
        assert len(by_scene) == len(videos) == 3 * len(CLASSES)
        assert all(plan.action == CLASSES[label] for plan, label in videos)
        scenes.append({key for key, _ in by_scene})
    assert not scenes[0] & scenes[1]
    unlabelled = plan_unlabelled_videos(FULL.unlabelled, seed=0, split=2)
    assert len({plan.scene.key for plan in unlabelled}) == FULL.unlabelled
    counts = Counter(plan.action for plan in unlabelled)
    assert set(counts) == set(CLASSES)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("action", "reverse"),
    [
        ("moving something from left to right", "moving something from right to left"),
        ("moving something up", "moving something down"),
        ("covering something with something", "uncovering something"),
    ],
)
def test_a_class_is_its_pair_in_reverse(action, reverse):
    for scene in SCENES:
        end = scene.start + scene.duration
        for part in (0.0, 0.3, 0.6, 1.0):
            first = moment_at(scene, action, scene.start + part * scene.duration)
            second = moment_at(scene, reverse, end - part * scene.duration)
            assert np.allclose([first.moved.x, first.moved.y], [second.moved.x, second.moved.y], atol=1e-6)
            assert np.allclose(first.palm, second.palm, atol=1e-6)


@pytest.mark.parametrize("scene", SCENES[:20], ids=lambda scene: str(scene.key[2]))
def test_objects_move_as_the_class_says(scene):
    paths = {action: moments(scene, action) for action in CLASSES}
    moved = {
        action: np.array([(each.moved.x, each.moved.y) for each in path]) for action, path in paths.items()
    }
    way = {action: path[-1] - path[0] for action, path in moved.items()}

    assert way["moving something from left to right"][0] >= 35
    assert way["moving something up"][1] <= -25

    item, _ = roles(scene, "picking something up")
    falls, nudged = (
        moved[f"pushing something so that it {end}"] for end in ("falls off the table", "slightly moves")
    )
    assert falls[-1, 1] > HEIGHT + item.height  # below the frame
    assert 6 < scene.side * (nudged[-1, 0] - nudged[0, 0]) < 12
    assert np.ptp(nudged[:, 1]) == 0

    drop, feather = (
        moved[action][:, 1] for action in ("dropping something", "something falling like a feather")
    )
    assert drop[-1] == pytest.approx(item.y, abs=0.5)
    assert feather[-1] == pytest.approx(item.y, abs=0.5)
    assert seconds_of_fall(scene, "something falling like a feather") > 2 * seconds_of_fall(
        scene, "dropping something"
    )

    assert way["picking something up"][1] <= -25
    assert np.ptp(moved["pretending to pick something up"], axis=0).max() == 0
    hands = [
        np.array([each.palm for each in paths[action]])
        for action in ("picking something up", "pretending to pick something up")
    ]
    assert np.allclose(*hands)

    put, pretended = (
        paths[f"{action} something next to something"] for action in ("putting", "pretending to put")
    )
    other = roles(scene, "putting something next to something")[1]
    gap = abs(put[-1].moved.x - other.x) - (item.width + other.width) / 2
    assert 0 < gap < 4
    assert put[-1].moved.y == item.y
    assert pretended[-1].moved.x == put[0].moved.x
    nearest = min(hypot(each.moved.x - put[-1].moved.x, each.moved.y - item.y) for each in pretended)
    assert nearest < 4

    covered = paths["covering something with something"][-1]
    cover, hidden = roles(scene, "covering something with something")
    assert covered.moved.x == covered.other.x
    assert cover.width > hidden.width
    assert cover.height > hidden.height


def test_the_configs_do_not_flip_and_have_the_backbone_of_mini_ava():
    expected = model_zoo.get_config("MiniAVA/pretrain.yaml").MODEL.BACKBONE
    for name in ("pretrain", "finetune"):
        cfg = model_zoo.get_config(f"MiniMotion/{name}.yaml")
        assert cfg.INPUT.FLIP == 0
        assert expected == cfg.MODEL.BACKBONE
    assert len(CLASSES) == cfg.MODEL.CLASSIFIER.NUM_CLASSES
