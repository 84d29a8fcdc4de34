"""Datasets and models with different class ids: classes are matched by name, or refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from vmae_det.checkpoint import read_checkpoint, save_weights
from vmae_det.cli.main import main
from vmae_det.data.catalog import get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import build_train_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.train import run_training
from vmae_det.evaluation.evaluators import FrameMAPEvaluator
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, DataError


@pytest.fixture
def actions(mini_ava):
    return LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")


@pytest.fixture
def other_ids(mini_ava, actions, tmp_path):
    """other_ids("train" | "val" | "clips_val"): the dataset with reordered and renumbered classes."""
    order = np.random.default_rng(1).permutation(len(actions))
    shuffled = actions.select(order)
    other = LabelMap(tuple(range(101, 101 + len(order))), shuffled.names, shuffled.kinds)
    write_label_map(tmp_path / "other.pbtxt", other)

    def make(name):
        text = (mini_ava / f"{name}.yaml").read_text()
        spec = get_dataset(str(mini_ava / f"{name}.yaml"))
        rows = tmp_path / f"{name}.csv"
        if spec.type == "detection":
            with spec.annotations.open() as file:
                lines = list(csv.reader(file))
            by_id = dict(zip(actions.ids, actions.names))
            for line in lines:
                if len(line) > 6 and line[6]:
                    line[6] = str(other.ids[other.names.index(by_id[int(line[6])])])
            rows.write_text("\n".join(map(",".join, lines)) + "\n")
        else:
            lines = [line.split() for line in spec.annotations.read_text().splitlines()]
            lines = [f"{path} {other.names.index(actions.names[int(label)])}" for path, label in lines]
            rows.write_text("\n".join(lines) + "\n")
        text = text.replace("annotations/mini_ava_actions.pbtxt", str(tmp_path / "other.pbtxt"))
        for key in ("videos", "person_boxes", "excluded"):
            text = text.replace(f"\n{key}: ", f"\n{key}: {mini_ava}/")
        text = text.replace(f"annotations: annotations/{spec.annotations.name}", f"annotations: {rows}")
        (tmp_path / f"{name}_other.yaml").write_text(text)
        return str(tmp_path / f"{name}_other.yaml")

    return make


@pytest.fixture
def weights(tiny_cfg, actions, tmp_path):
    """weights(TASK, KEY, VALUE, ..., named=True): a config, and a weights file for it."""

    def make(task, *keys, named=True):
        cfg = tiny_cfg(task, *keys)
        stored = ModelClasses(actions, "").to_checkpoint() if named else None
        model = build_model(cfg)
        generator = torch.Generator().manual_seed(0)
        for name, value in model.named_parameters():
            if not name.startswith("backbone."):
                value.data.normal_(generator=generator)
        path = save_weights(model.state_dict(), cfg.dump(), tmp_path / f"{task}_{named}.pt", stored)
        cfg.MODEL.WEIGHTS = str(path)
        return cfg

    return make


CLASSES = ("MODEL.CLASSIFIER.NUM_CLASSES", 11, "TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1)


def metrics(cfg, *sets):
    cfg.DATASETS.TEST = sets
    return run_evaluation(cfg)


def test_a_detector_is_scored_by_class_names(weights, mini_ava, other_ids):
    cfg = weights("detect")
    log = Path(cfg.OUTPUT_DIR) / "log.txt"
    own = metrics(cfg, str(mini_ava / "val.yaml"))
    assert own["frame_mAP"] > 0
    assert "matched by name" not in log.read_text()
    assert metrics(cfg, other_ids("val")) == pytest.approx(own)
    assert "other.pbtxt: ids or order differ" in log.read_text()
    # Without names the columns cannot be matched, and the log warns.
    assert metrics(weights("detect", named=False), other_ids("val")) != pytest.approx(own)
    assert "contains no class names" in log.read_text()


def test_a_classifier_is_scored_by_class_names(weights, mini_ava, other_ids):
    def labels(cfg, name):
        metrics(cfg, name)
        return np.load(f"{cfg.OUTPUT_DIR}/scores.npz")["label"].tolist()

    cfg = weights("finetune", *CLASSES)
    own = labels(cfg, str(mini_ava / "clips_val.yaml"))
    assert labels(cfg, other_ids("clips_val")) == own
    assert labels(weights("finetune", *CLASSES, named=False), other_ids("clips_val")) != own


def test_a_test_set_with_fewer_classes(weights, mini_ava, actions, tmp_path, monkeypatch):
    few = LabelMap((7, 3), ("jump", "walk"), ("", ""))
    write_label_map(tmp_path / "few.pbtxt", few)
    text = (mini_ava / "val.yaml").read_text().replace("annotations/mini_ava_actions.pbtxt", "few.pbtxt")
    for key in ("videos", "person_boxes", "excluded", "annotations"):
        text = text.replace(f"\n{key}: ", f"\n{key}: {mini_ava}/")
    (tmp_path / "few.yaml").write_text(text)
    seen = []
    gather = FrameMAPEvaluator._gather

    def gather_seen(self, labels):
        seen.append(self._scores[0])
        return gather(self, labels)

    monkeypatch.setattr(FrameMAPEvaluator, "_gather", gather_seen)
    cfg = weights("detect")
    metrics(cfg, str(mini_ava / "val.yaml"), str(tmp_path / "few.yaml"))
    columns = [actions.names.index(name) for name in few.names]
    assert (seen[1] == seen[0][:, columns]).all()


def with_another_name(path, tmp_path):
    map_ = LabelMap.from_file(tmp_path / "other.pbtxt")
    write_label_map(tmp_path / "other.pbtxt", LabelMap(map_.ids, (*map_.names[:-1], "swim"), map_.kinds))
    return path


@pytest.mark.parametrize("task", ["detect", "finetune"])
def test_a_class_that_the_model_lacks_is_refused(weights, other_ids, tmp_path, capsys, task):
    cfg = weights(task, *(CLASSES if task == "finetune" else ()))
    path = with_another_name(other_ids("val" if task == "detect" else "clips_val"), tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = ["test", "--config-file", str(tmp_path / "config.yaml"), "DATASETS.TEST", str((path,))]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "other.pbtxt: 1 of 11 classes, 'swim', are not among the 11 classes of " in error
    assert cfg.MODEL.WEIGHTS in error


def labels_of(dataset):
    return torch.cat([dataset[0, index][0]["labels"] for index in range(4)])


def test_training_sets_share_one_class_order(tiny_cfg, mini_ava, other_ids, tmp_path):
    cfg = tiny_cfg("detect", "DATASETS.TRAIN", (str(mini_ava / "train.yaml"), other_ids("train")))
    joined = build_train_dataset(cfg, "detection")
    first, second = joined.datasets
    assert torch.equal(labels_of(first), labels_of(second))
    assert joined.classes.label_map.names == first.label_map.names != second.label_map.names
    with_another_name("", tmp_path)
    with pytest.raises(ConfigError, match=r"'swim', are not among the 11 classes of .*actions\.pbtxt"):
        build_train_dataset(cfg, "detection")


def test_weights_store_the_class_names_of_the_training_set(tiny_cfg, actions, other_ids, mini_ava):
    cfg = tiny_cfg("detect", "DATASETS.TEST", (other_ids("val"),))
    run_training(cfg)
    expected = {key: list(value) for key, value in vars(actions).items()}
    assert read_checkpoint(cfg.OUTPUT_DIR + "/model_final.pt")["label_map"] == expected
    # Further training keeps the order of the model's outputs, on any dataset.
    again = tiny_cfg("detect", "MODEL.WEIGHTS", cfg.OUTPUT_DIR + "/model_final.pt", "DATASETS.TEST", ())
    again.DATASETS.TRAIN = (other_ids("train"),)
    again.OUTPUT_DIR += "_again"
    run_training(again)
    assert read_checkpoint(again.OUTPUT_DIR + "/model_final.pt")["label_map"] == expected


def test_a_new_head_uses_the_classes_of_its_training_set(tiny_cfg, weights, other_ids, tmp_path):
    trained = weights("finetune", *CLASSES).MODEL.WEIGHTS
    cfg = tiny_cfg("detect", "MODEL.BACKBONE.CHECKPOINT", trained, "DATASETS.TEST", ())
    cfg.DATASETS.TRAIN = (with_another_name(other_ids("train"), tmp_path),)
    run_training(cfg)
    names = read_checkpoint(cfg.OUTPUT_DIR + "/model_final.pt")["label_map"]["names"]
    assert names == list(LabelMap.from_file(tmp_path / "other.pbtxt").names)


def detect(weights, video, output, *options):
    command = ["detect", str(video), "--whole-frame", "--weights", weights, "--output", str(output)]
    status = main([*command, "--format", "csv", *options])
    return status, (output / f"{video.stem}.csv").read_text() if status == 0 else ""


def test_detect_with_another_label_map(weights, mini_ava, actions, other_ids, tmp_path, capsys):
    video = next((mini_ava / "videos").glob("*.mp4"))
    path = weights("detect").MODEL.WEIGHTS
    other_ids("val")
    _, own = detect(path, video, tmp_path / "own")
    _, other = detect(path, video, tmp_path / "other", "--label-map", str(tmp_path / "other.pbtxt"))
    given = LabelMap.from_file(tmp_path / "other.pbtxt")
    names = [dict(zip(map_.ids, map_.names)) for map_ in (actions, given)]
    rows = [[line.split(",") for line in text.splitlines()] for text in (own, other)]
    scores = [{(row[1], name[int(row[6])]): row[-1] for row in part} for part, name in zip(rows, names)]
    assert len(scores[0]) > 11
    assert scores[0] == scores[1]
    with_another_name("", tmp_path)
    capsys.readouterr()
    status, _ = detect(path, video, tmp_path / "refused", "--label-map", str(tmp_path / "other.pbtxt"))
    assert status == 2
    assert "--label-map: 1 of 11 classes, 'swim'" in capsys.readouterr().err


def test_renumbered_uses_the_other_ids_and_the_same_order(actions):
    classes = ModelClasses(LabelMap((1, 2, 5), ("a", "b", "c"), ("", "", "")), "model.pt")
    given = LabelMap((9, 8, 7), ("c", "a", "b"), ("x", "y", "z"))
    assert classes.renumbered(given, "map") == LabelMap((8, 7, 9), ("a", "b", "c"), ("y", "z", "x"))
    with pytest.raises(ConfigError, match=r"2 classes, but model\.pt has 3"):
        classes.renumbered(given.select([0, 1]), "map")


@pytest.mark.parametrize(
    "stored",
    [
        {},
        [],
        "names",
        {"ids": [1], "names": ["a", "b"], "kinds": ["", ""]},
        {"ids": [1, 2], "names": ["a", "a"], "kinds": ["", ""]},
        {"ids": ["1"], "names": ["a"], "kinds": [""]},
        {"ids": [1], "names": [None], "kinds": [""]},
        {"ids": [1], "names": [["a"]], "kinds": [""]},
        {"ids": [], "names": [], "kinds": []},
        {"ids": 1, "names": "a", "kinds": ""},
    ],
)
def test_a_damaged_label_map_in_weights(stored):
    with pytest.raises(DataError, match=r"model\.pt: label map: "):
        ModelClasses.from_checkpoint(stored, "model.pt")


@pytest.mark.parametrize("name", ["val", "clips_val"])
def test_check_data_compares_label_maps(mini_ava, other_ids, tmp_path, name):
    train, val = get_dataset(str(mini_ava / name.replace("val", "train")) + ".yaml"), other_ids(name)

    def kinds():
        found = check_dataset(get_dataset(val), train, "none", 1)
        backwards = check_dataset(train, get_dataset(val), "none", 1)
        errors = [finding.kind for report in (found, backwards) for finding in report.errors]
        return errors, [finding.kind for finding in (*found.warnings, *backwards.warnings)]

    errors, warnings = kinds()
    assert not errors
    assert warnings.count("class_ids_differ") == 2
    with_another_name(val, tmp_path)
    errors, _ = kinds()
    assert errors.count("class_not_trained") == 2
