"""MiniScenes: valid dataset files, varied places and crowds, and the same bytes for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter

import av
import numpy as np
import pytest

from vmae_det import model_zoo
from vmae_det.data.catalog import dataset_names, is_generated_later, read_dataset_file
from vmae_det.formats.label_map import LabelMap
from vmae_det.synthetic_data.mini_scenes import TINY, MiniScenesSize, make_mini_scenes
from vmae_det.synthetic_data.mini_scenes.plan import CLASSES, plan_video, plan_videos
from vmae_det.synthetic_data.mini_scenes.render import Scene


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets") / "mini_scenes"
    return make_mini_scenes(folder, workers=1, progress=False, size=TINY)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_dataset_files_load(tiny):
    for split in ("train", "val"):
        spec = read_dataset_file(tiny / f"{split}.yaml")
        videos, labels = spec.labeled_videos()
        assert list(labels) == list(range(len(CLASSES)))
        assert LabelMap.from_file(spec.label_map).names == CLASSES
        for number, label in enumerate(labels):
            assert videos[number].name.startswith(CLASSES[label].replace(" ", "_"))
            with av.open(str(videos[number])) as container:
                stream = container.streams.video[0]
                assert (stream.width, stream.height, stream.average_rate) == (128, 96, 12)
                assert sum(1 for _ in container.decode(stream)) == 24
    assert {"mini_scenes_train", "mini_scenes_val"} < set(dataset_names())
    assert not is_generated_later("mini_scenes_train", str(tiny.parent))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tiny, tmp_path):
    expected = {path.name: digest(path) for path in (tiny / "videos/train").iterdir()}
    for seed in (0, 1):
        size = MiniScenesSize(train_per_class=1, val_per_class=0)
        folder = make_mini_scenes(tmp_path / f"{seed}", seed, workers=1, progress=False, size=size)
        found = {path.name: digest(path) for path in (folder / "videos/train").iterdir()}
        assert (found == expected) == (seed == 0)
        assert seed == 0 or not set(found.values()) & set(expected.values())


def test_places_and_crowds_vary():
    train, val = (plan_videos(12, seed=0, split=split) for split in (0, 1))
    keys = [plan.random_key for plan, _ in (*train, *val)]
    assert len(set(keys)) == len(keys) == 2 * 12 * len(CLASSES)
    crowds = Counter(len(plan.people) for plan, _ in train)
    assert set(crowds) == set(range(7))
    for label in range(len(CLASSES)):
        behaviors = {
            person.segments[0].actions for plan, topic in train for person in plan.people if topic == label
        }
        assert len(behaviors) >= 3


@pytest.mark.parametrize("topic", range(len(CLASSES)), ids=lambda topic: CLASSES[topic].replace(" ", "_"))
def test_something_moves_in_front_of_a_textured_background(topic):
    empty = next(
        plan for plan in (plan_video(topic, n, (0, 9, topic, n)) for n in range(999)) if not plan.people
    )
    scene = Scene(empty)
    scene._camera = type(scene._camera)(
        *[wave._replace(amplitude=0.0) for wave in vars(scene._camera).values()]
    )
    first, last = (frame.astype(int) for frame in list(scene.frames())[::23])
    changed = np.abs(last - first).max(axis=2) > 20
    assert 0.002 < changed.mean() < 0.6  # the elements, but not the camera
    assert first.reshape(-1, 3).std(axis=0).min() > 5


def test_the_configs_have_the_classes_and_the_backbone_of_mini_ava():
    expected = model_zoo.get_config("MiniAVA/pretrain.yaml").MODEL.BACKBONE
    for name in ("pretrain", "finetune"):
        cfg = model_zoo.get_config(f"MiniScenes/{name}.yaml")
        assert expected == cfg.MODEL.BACKBONE
    assert len(CLASSES) == cfg.MODEL.CLASSIFIER.NUM_CLASSES
