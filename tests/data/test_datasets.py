import re

import numpy as np
import pytest
import torch

from vmae_det.data.catalog import DatasetSpec, dataset_names, get_dataset
from vmae_det.data.loader import (
    TrainSampler,
    build_dataset,
    build_test_loader,
    build_train_dataset,
    build_train_loader,
    collate_by_size,
    steps_per_epoch,
)
from vmae_det.formats.keyframes import group_by_keyframe, rows_by_value
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.discovery import find_videos
from vmae_det.video.sampling import evenly_spaced_clip, keyframe_clip, random_clip

# ---------------------------------------------------------------- which frames


def test_clips_are_within_the_video():
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(200):
        indices = random_clip(40, 8, 4, rng)
        assert (np.diff(indices) == 4).all()
        starts.add(int(indices[0]))
    assert starts == set(range(40 - 28))
    assert random_clip(3, 4, 2, rng).tolist() == [0, 2, 2, 2]
    assert [evenly_spaced_clip(40, 8, 4, n, 3)[0] for n in range(3)] == [0, 6, 11]
    assert evenly_spaced_clip(40, 8, 4, 0, 1)[0] == 6


def test_keyframe_is_in_the_center_and_frames_repeat_beyond_the_ends():
    assert keyframe_clip(50, 100, 8, 4).tolist() == [34, 38, 42, 46, 50, 54, 58, 62]
    assert keyframe_clip(2, 100, 4, 2).tolist() == [0, 0, 2, 4]
    assert keyframe_clip(98, 100, 4, 2).tolist() == [94, 96, 98, 99]


# ---------------------------------------------------------------- catalog and lists


def test_video_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("a.mp4 0\nsub/b c.mp4 12\n\nd.mp4,3\ne.mp4\t4\nf, g/h.mp4 5\n")
    spec = DatasetSpec(name="", type="classification", videos=tmp_path, annotations=path)
    files, labels = spec.labeled_videos()
    names = [str(file.relative_to(tmp_path)) for file in files]
    assert names == ["a.mp4", "sub/b c.mp4", "d.mp4", "e.mp4", "f, g/h.mp4"]
    assert labels.tolist() == [0, 12, 3, 4, 5]
    path.write_text("a.mp4 0\nb.mp4\n")
    with pytest.raises(DataError, match=r"list\.csv:2: expected 'FILE LABEL'.*got 'b\.mp4'"):
        spec.labeled_videos()
    path.write_text("\n")
    with pytest.raises(DataError, match="contains no videos"):
        spec.labeled_videos()


def test_folder_of_videos(tmp_path):
    with pytest.raises(DataError, match="no video files"):
        find_videos(tmp_path)
    (tmp_path / "dataset.yaml").touch()
    with pytest.raises(DataError, match=r"pass its dataset file instead, .*dataset\.yaml"):
        find_videos(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "sub/a.mkv", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_videos(tmp_path)] == ["b.MP4", "a.mkv"]


def test_catalog(mini_ava, tmp_path):
    assert {"mini_ava_train", "ava_v2.2_val", "kinetics400_train"} <= set(dataset_names())
    spec = get_dataset(str(mini_ava / "train.yaml"))
    assert (spec.type, spec.video_start) == ("detection", 900.0)
    assert spec.videos.is_dir()
    assert get_dataset(str(mini_ava / "unlabelled")).type == "videos"
    with pytest.raises(ConfigError, match="did you mean 'mini_ava_train'"):
        get_dataset("mini_ava_trian")
    with pytest.raises(DataError, match=r"kinetics400.*does not exist"):
        get_dataset("kinetics400_train", root=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("type: detections\nvideos: .\n", "type: expected one of videos, classification, detection"),
        ("type: [videos]\nvideos: .\n", "type: expected one of videos, classification, detection"),
        ("type: videos\nvideo: .\n", "unknown key 'video'; did you mean 'videos'"),
        ("type: detection\nvideos: .\n", "annotations: missing"),
        ("type: videos\nvideos: gone\n", "gone does not exist"),
        (
            "type: videos\nvideos: .\nvideo_start: soon\n",
            r"video_start: expected seconds or a table (.csv), got 'soon'",
        ),
        ("type: [\n", "custom.yaml:2: not valid YAML"),
        ("just text\n", "expected a mapping"),
    ],
)
def test_invalid_dataset_file(tmp_path, content, expected):
    path = tmp_path / "custom.yaml"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        get_dataset(str(path))
    assert expected in str(error.value)
    assert "custom.yaml" in str(error.value)


def test_the_home_folder_in_a_dataset_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "starts.csv").write_text("v,900\n")
    path = tmp_path / "data" / "own.yaml"
    path.write_text("type: videos\nvideos: ~/data\nvideo_start: ~/starts.csv\n")
    spec = get_dataset(str(path))
    assert (spec.videos, spec.start_of("v")) == (tmp_path / "data", 900)
    path.write_text("type: videos\nvideos: ~/v.tar\n")
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}/v.tar"):
        get_dataset(str(path))


# ---------------------------------------------------------------- keyframes


class Rows:
    videos = np.array(["a", "b"], dtype=object)
    video = np.array([1, 0, 1, 1, 0])
    timestamp = np.array([902.0, 903.0, 902.0, 905.0, 902.0])
    boxes = np.arange(20.0).reshape(5, 4)


def test_rows_by_value():
    values, rows = rows_by_value(np.array([3.5, 1.0, 3.5, 2.0, 1.0]))
    assert values.tolist() == [1, 2, 3.5]
    assert [group.tolist() for group in rows] == [[1, 4], [3], [0, 2]]
    assert rows_by_value(np.zeros(0))[1] == []


def test_rows_are_grouped_by_keyframe():
    keyframes = group_by_keyframe(Rows, np.arange(5))
    listed = [
        (keyframes.videos[v], t, values.tolist()) for v, t, _, values in map(keyframes.__getitem__, range(4))
    ]
    assert listed == [("a", 902, [4]), ("a", 903, [1]), ("b", 902, [0, 2]), ("b", 905, [3])]
    assert keyframes[2][2].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_excluded_keyframes_are_skipped():
    keyframes = group_by_keyframe(Rows, np.arange(5), {("a", 902.0), ("a", 903.0), ("b", 902.0)})
    assert keyframes.videos.tolist() == ["b"]
    assert len(keyframes) == 1
    assert keyframes[0][1] == 905


# ---------------------------------------------------------------- samples


def test_detection_sample(tiny_cfg):
    dataset = build_train_dataset(tiny_cfg("detect"), "detection").datasets[0]
    (sample,) = dataset[0, 3]
    assert sample["video"].shape == (3, 4, 64, 64)
    assert sample["video"].dtype == torch.uint8
    assert sample["boxes"].shape == (len(sample["labels"]), 4)
    assert sample["labels"].shape[1] == 11
    assert (sample["labels"].sum(dim=1) >= 1).all()
    (again,) = dataset[0, 3]
    (other,) = dataset[1, 3]
    assert torch.equal(sample["video"], again["video"])
    assert sample["seed"] == again["seed"]
    assert sample["seed"] != other["seed"]
    assert not torch.equal(sample["video"], other["video"])


def test_cached_clip_equals_the_decoded_one(tiny_cfg):
    plain = build_train_dataset(tiny_cfg("detect", "DATALOADER.CACHE_MB", 0), "detection")
    cached = build_train_dataset(tiny_cfg("detect", "DATALOADER.CACHE_MB", 1), "detection")
    for _ in range(2):
        for index in range(8):  # more than the cache holds
            assert torch.equal(plain[0, index][0]["video"], cached[0, index][0]["video"])
    assert 0 < len(cached.datasets[0].cache._clips) < 8


def test_labels_belong_to_their_boxes(tiny_cfg):
    cfg = tiny_cfg("detect", "INPUT.FLIP", 0.0)
    dataset = build_train_dataset(cfg, "detection").datasets[0]
    rows = 0
    for index in range(len(dataset)):
        _, _, boxes, columns = dataset.keyframes[index]
        clip, extra = dataset.load(index, np.random.default_rng(0))
        for box, column in zip(boxes, columns):
            pixels = box * [192, 144, 192, 144]
            person = np.abs(clip.boxes.numpy() - pixels).sum(axis=1).argmin()
            assert extra["labels"][person, column] == 1
            rows += 1
        assert extra["labels"].sum() == len(columns)
    assert rows > 20


def test_test_sample_has_detected_persons(tiny_cfg):
    dataset = build_dataset(
        tiny_cfg("detect"), "detection", tiny_cfg("detect").DATASETS.TEST[0], training=False
    )
    (sample,) = dataset[0, 0]
    assert sample["video"].shape[2:] == (64, 96)  # 64 x 85, padded to full patches
    assert sample["size"].tolist() == [85, 64]
    assert (sample["person_scores"] >= 0.8).all()
    expected = sample["boxes_relative"] * np.array([85, 64, 85, 64])
    np.testing.assert_allclose(sample["boxes"].numpy(), expected, atol=0.5)
    assert sample["timestamp"] >= 902


def test_repeated_augmentation_crops_one_decoded_clip_several_times(tiny_cfg):
    dataset = build_train_dataset(tiny_cfg("pretrain", "DATALOADER.REPEATED_AUG", 3), "pretraining").datasets[
        0
    ]
    samples = dataset[0, 1]
    assert len({sample["seed"] for sample in samples}) == 3
    assert not torch.equal(samples[0]["video"], samples[1]["video"])


def test_views_of_a_video(tiny_cfg):
    cfg = tiny_cfg("finetune", "TEST.NUM_CLIPS", 2, "TEST.NUM_CROPS", 3)
    dataset = build_dataset(cfg, "classification", cfg.DATASETS.TEST[0], training=False)
    assert len(dataset) == 11 * 6
    samples = [dataset[0, index][0] for index in range(6, 12)]
    assert {sample["video_index"] for sample in samples} == {1}
    videos = {sample["video"].numpy().tobytes() for sample in samples}
    assert len(videos) == 6


@pytest.mark.parametrize(
    ("task", "overrides", "expected"),
    [
        ("detect", ("MODEL.ROI_HEAD.NUM_CLASSES", 80), r"ROI_HEAD\.NUM_CLASSES: 80, but .* has 11 classes"),
        ("finetune", ("MODEL.CLASSIFIER.NUM_CLASSES", 5), r"CLASSIFIER\.NUM_CLASSES: 5, but .* label 10"),
        ("pretrain", ("SOLVER.BATCH_SIZE", 1000), r"SOLVER\.BATCH_SIZE: 1000, but .* has only \d+ clips"),
        ("pretrain", ("DATASETS.TRAIN", ()), r"DATASETS\.TRAIN: is empty"),
    ],
)
def test_config_that_does_not_fit_the_dataset(tiny_cfg, task, overrides, expected):
    cfg = tiny_cfg(task, *overrides)
    names = {"pretrain": "pretraining", "finetune": "classification", "detect": "detection"}
    with pytest.raises(ConfigError, match=expected):
        steps_per_epoch(cfg, build_train_dataset(cfg, names[task]))


def test_dataset_of_another_type(tiny_cfg):
    cfg = tiny_cfg("finetune")
    cfg.DATASETS.TRAIN = tiny_cfg("pretrain").DATASETS.TRAIN
    with pytest.raises(ConfigError, match="of type 'videos', but this model requires type 'classification'"):
        build_train_dataset(cfg, "classification")


def test_no_person_box_reaches_the_threshold(tiny_cfg):
    cfg = tiny_cfg("detect", "TEST.PERSON_BOX_SCORE", 1.5)
    with pytest.raises(ConfigError, match=r"TEST\.PERSON_BOX_SCORE"):
        build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False)


def test_wrong_video_start(tiny_cfg, mini_ava, tmp_path):
    text = (mini_ava / "train.yaml").read_text().replace("video_start: 900", "video_start: 0")
    for key in ("videos", "annotations", "label_map", "person_boxes", "excluded"):
        text = text.replace(f"{key}: ", f"{key}: {mini_ava}/")
    (tmp_path / "custom.yaml").write_text(text)
    cfg = tiny_cfg("detect", "DATASETS.TRAIN", (str(tmp_path / "custom.yaml"),))
    dataset = build_train_dataset(cfg, "detection")
    with pytest.raises(DataError, match=r"keyframe 90\d \(video_start is 0\).*is outside the video"):
        dataset[0, 0]


def test_missing_videos_are_counted(tiny_cfg, mini_ava, tmp_path):
    (tmp_path / "videos").mkdir()
    text = (mini_ava / "train.yaml").read_text()
    for key in ("annotations", "label_map", "person_boxes", "excluded"):
        text = text.replace(f"{key}: ", f"{key}: {mini_ava}/")
    (tmp_path / "custom.yaml").write_text(text)
    cfg = tiny_cfg("detect", "DATASETS.TRAIN", (str(tmp_path / "custom.yaml"),))
    with pytest.raises(DataError, match=r"no video file for 4 of 4 video ids"):
        build_train_dataset(cfg, "detection")


# ---------------------------------------------------------------- order


def batches(monkeypatch, world, rank, count, start=0):
    monkeypatch.setattr(distributed, "get_world_size", lambda: world)
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    sampler = iter(TrainSampler(22, 4, 5, seed=0, start=start))
    return [next(sampler) for _ in range(count)]


def test_processes_split_the_same_batches(monkeypatch):
    single = batches(monkeypatch, 1, 0, 12)
    parts = [batches(monkeypatch, 2, rank, 12) for rank in range(2)]
    assert [first + second for first, second in zip(*parts)] == single
    epoch = [index for batch in single[:5] for _, index in batch]
    assert len(set(epoch)) == 20
    assert {e for batch in single[5:10] for e, _ in batch} == {1}
    assert epoch != [index for batch in single[5:10] for _, index in batch]


def test_resumed_order_equals_the_uninterrupted_one(monkeypatch):
    assert batches(monkeypatch, 1, 0, 5, start=7) == batches(monkeypatch, 1, 0, 12)[7:]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_or_start(tiny_cfg, workers):
    cfg = tiny_cfg("detect", "DATALOADER.NUM_WORKERS", workers)
    dataset = build_train_dataset(cfg, "detection")
    unbroken = iter(build_train_loader(tiny_cfg("detect"), dataset))
    expected = [next(unbroken) for _ in range(4)][3]
    actual = next(iter(build_train_loader(cfg, dataset, start_step=3)))
    assert torch.equal(actual["video"], expected["video"])
    assert torch.equal(actual["seed"], expected["seed"])
    assert all(torch.equal(a, b) for a, b in zip(actual["boxes"], expected["boxes"]))


def test_test_loader_reads_every_sample_once(tiny_cfg):
    cfg = tiny_cfg("detect")
    dataset = build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False)
    indices = [
        i for group in build_test_loader(cfg, dataset) for batch in group for i in batch["index"].tolist()
    ]
    assert indices == list(range(len(dataset)))


def test_clips_of_different_sizes_are_not_padded():
    samples = [[{"video": torch.zeros(3, 2, 16, width), "index": i}] for i, width in enumerate((16, 32, 16))]
    groups = collate_by_size(samples)
    assert [(tuple(group["video"].shape), group["index"].tolist()) for group in groups] == [
        ((2, 3, 2, 16, 16), [0, 2]),
        ((1, 3, 2, 16, 32), [1]),
    ]
