"""Training, loading and testing of detectors with a person head, on a tiny MiniAVA."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from vmae_det.checkpoint import load_weights, save_weights
from vmae_det.cli.inspect import describe
from vmae_det.cli.train import train_or_evaluate
from vmae_det.data.loader import build_dataset, build_train_dataset, collate
from vmae_det.data.test_time_augmentation import add_persons, views_of
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.inspection import inspect_config
from vmae_det.engine.train import check_complete_persons, run_training
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, DataError, WeightsError

HEAD = (
    *("MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8),
    *("MODEL.PERSON_HEAD.NUM_CONVS", 1),
)


def read_weights(path):
    return torch.load(path, weights_only=True)["model"]


def without_person_boxes(file, folder, **changes):
    """Write the dataset file again without person boxes."""
    content = yaml.safe_load(Path(file).read_text()) | changes
    content.pop("person_boxes")
    for key in ("videos", "annotations", "label_map", "excluded"):
        content[key] = str(Path(file).parent / content[key])
    path = folder / Path(file).name
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def detector(tiny_cfg, tmp_path):
    """Weights of a detector of two stages."""
    cfg = tiny_cfg("detect", "SEED", 3)
    path = tmp_path / "detector.pt"
    save_weights(build_model(cfg).state_dict(), cfg.dump(), path)
    return str(path)


def test_a_person_head_is_added_to_a_frozen_detector(tiny_cfg, mini_ava, tmp_path, detector):
    alone = ("MODEL.PERSON_HEAD.TRAIN_ALONE", True, "MODEL.WEIGHTS", detector, "SOLVER.EMA_DECAY", 0.5)
    others = ("SOLVER.WEIGHT_DECAY", 1.0, "MODEL.BACKBONE.DROP_PATH", 0.5, "MODEL.ROI_HEAD.DROPOUT", 0.5)
    cfg = tiny_cfg("detect", *HEAD, *alone, *others)
    cfg.DATASETS.TEST = (without_person_boxes(mini_ava / "val.yaml", tmp_path),)
    results = train_or_evaluate(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert "missing in the file, keep their initial values: person_head." in (folder / "log.txt").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0].keys() >= {"loss", "person_class_loss", "person_box_loss", "person_centerness_loss"}
    assert "action_loss" not in lines[0]

    # Nothing but the person head has changed, so action scores of given boxes are the same.
    before, after = read_weights(detector), read_weights(folder / "model_final.pt")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    added = {name for name in after if name not in before}
    initial = build_model(cfg).state_dict()
    assert {name.split(".")[0] for name in added} == {"person_head"}
    assert not any(torch.equal(after[name], initial[name]) for name in added if name.endswith("logits.bias"))
    one, two = build_model(cfg).eval(), build_model(tiny_cfg("detect")).eval()
    load_weights(one, folder / "model_final.pt")
    load_weights(two, detector)
    batch = {
        "video": torch.randint(0, 256, (2, 3, 4, 48, 64), dtype=torch.uint8),
        "boxes": [torch.tensor([[4.0, 5, 30, 40]]), torch.tensor([[0.0, 0, 64, 48], [20, 2, 30, 44]])],
        "person_scores": [torch.ones(1), torch.tensor([0.9, 0.4])],
    }
    for actual, expected in zip(one(batch)["scores"], two(batch)["scores"]):
        assert torch.equal(actual, expected)

    # Testing needs no person boxes, and no config file: the weights contain the config.
    assert results.keys() >= {"frame_mAP", "person_AP50", "person_AP", "person_recall50"}
    cfg.merge_from_list(["MODEL.WEIGHTS", str(folder / "model_final.pt"), "OUTPUT_DIR", str(tmp_path / "a")])
    assert train_or_evaluate(cfg, eval_only=True) == results


def test_testing_with_boxes_of_the_model_and_of_the_dataset(tiny_cfg, tmp_path):
    opts = (*HEAD, "MODEL.PERSON_HEAD.SCORE_THRESHOLD", 0.0, "MODEL.PERSON_HEAD.MAX_PERSONS", 3)
    cfg = tiny_cfg("detect", *opts, "MODEL.WEIGHTS", str(tmp_path / "one.pt"))
    save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "one.pt")
    results = {}
    for boxes in ("auto", "model", "dataset"):
        cfg.merge_from_list(["TEST.PERSON_BOXES", boxes, "OUTPUT_DIR", str(tmp_path / boxes)])
        results[boxes] = run_evaluation(cfg)
    assert results["auto"] == results["model"] != results["dataset"]
    assert results["dataset"]["person_AP50"] > 0.5  # those of the detector that MiniAVA simulates
    persons = read_person_boxes(tmp_path / "model" / "persons.csv")
    keyframes = build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False).keyframes
    assert 0 < len(persons) <= 3 * len(keyframes)
    assert json.loads((tmp_path / "model" / "person_ap.json").read_text())["num_detections"] == len(persons)
    detections = (tmp_path / "model" / "detections.csv").read_text().splitlines()
    assert len(detections) == 11 * len(persons)

    # In several views, the people of the first one are scored.
    cfg.merge_from_list(
        ["TEST.SHORT_SIDES", (48, 32), "TEST.FLIP", True, "TEST.PERSON_BOXES", "model"],
    )
    cfg.OUTPUT_DIR = str(tmp_path / "views")
    run_evaluation(cfg)
    assert len(read_person_boxes(tmp_path / "views" / "persons.csv"))


def test_found_people_are_scaled_to_the_views(tiny_cfg):
    cfg = tiny_cfg("detect", *HEAD, "TEST.SHORT_SIDES", (48, 96))
    dataset = build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False)
    batch = collate([dataset[0, 0]])
    assert "boxes" not in batch
    assert "boxes" not in batch["views"][0]
    persons = {"boxes": [torch.tensor([[4.0, 6.0, 20.0, 40.0]])], "person_scores": [torch.ones(1)]}
    views = list(views_of(add_persons(batch, persons), flip=True))
    assert [view["boxes"][0].tolist()[0] for view in views] == [
        *([4, 6, 20, 40], [64 - 20, 6, 64 - 4, 40]),
        *([8, 12, 40, 80], [128 - 40, 12, 128 - 8, 80]),
    ]


def test_keyframes_of_the_model_are_those_of_the_annotations(tiny_cfg, mini_ava, tmp_path):
    annotations = tmp_path / "truth.csv"
    lines = (mini_ava / "annotations/mini_ava_val.csv").read_text().splitlines()
    video, second = lines[0].split(",")[:2]
    annotations.write_text(f"{video},{int(second) + 100}\n" + "\n".join(lines) + "\n")
    file = without_person_boxes(mini_ava / "val.yaml", tmp_path, annotations=str(annotations))
    cfg = tiny_cfg("detect", *HEAD)
    dataset = build_dataset(cfg, "detection", file, training=False)
    excluded = {
        tuple(line.split(","))
        for line in (mini_ava / "annotations/mini_ava_val_excluded_timestamps.csv").read_text().split()
    }
    named = {tuple(line.split(",")[:2]) for line in annotations.read_text().splitlines()}
    found = {
        (str(dataset.keyframes.videos[v]), f"{int(t):04}")
        for v, t in zip(dataset.keyframes.video, dataset.keyframes.timestamp)
    }
    assert found == {(v, f"{int(s):04}") for v, s in named} - {(v, f"{int(s):04}") for v, s in excluded}
    assert (video, f"{int(second) + 100:04}") in found  # a keyframe with nobody
    with pytest.raises(DataError, match=r"person_boxes: missing.*MODEL.PERSON_HEAD"):
        build_dataset(tiny_cfg("detect"), "detection", file, training=False)


def test_incomplete_annotations(tiny_cfg, mini_ava, tmp_path, caplog):
    incomplete = without_person_boxes(mini_ava / "train.yaml", tmp_path, complete_persons=False)
    cfg = tiny_cfg("detect", *HEAD)
    cfg.DATASETS.TRAIN = (incomplete, *cfg.DATASETS.TRAIN)
    dataset = build_train_dataset(cfg, "detection")
    keys = [(0, 0), (0, len(dataset) - 1)]
    batch = collate([dataset[key] for key in keys])
    assert batch["complete_persons"].tolist() == [False, True]
    with caplog.at_level("INFO"):
        check_complete_persons(dataset)
    assert "train.yaml: does not train the person head" in caplog.text
    cfg.DATASETS.TRAIN = (incomplete,)
    with pytest.raises(ConfigError, match=r"MODEL.PERSON_HEAD: .*train.yaml has `complete_persons: false`"):
        run_training(cfg)


def test_weights_of_training_alone(tiny_cfg, tmp_path, detector):
    cfg = tiny_cfg("detect", *HEAD, "MODEL.PERSON_HEAD.TRAIN_ALONE", True)
    with pytest.raises(ConfigError, match=r"MODEL.WEIGHTS: empty, but MODEL.PERSON_HEAD.TRAIN_ALONE"):
        run_training(cfg)
    backbone = {name: value for name, value in read_weights(detector).items() if "roi_head" not in name}
    save_weights(backbone, cfg.dump(), tmp_path / "backbone.pt")
    cfg.merge_from_list(["MODEL.WEIGHTS", str(tmp_path / "backbone.pt"), "OUTPUT_DIR", str(tmp_path / "b")])
    with pytest.raises(WeightsError, match=r"backbone.pt: .* without roi_head.classifier"):
        run_training(cfg)
    cfg.merge_from_list(["MODEL.WEIGHTS", detector, "OUTPUT_DIR", str(tmp_path / "c")])
    with pytest.raises(WeightsError, match=r"detector.pt: .* without person_head.*train the person head"):
        run_evaluation(cfg)


def test_inspection_counts_the_head(tiny_cfg):
    plain, with_head = (inspect_config(tiny_cfg("detect", *opts)) for opts in ((), HEAD))
    parameters = with_head.parameters["person_head"]
    assert with_head.trainable == plain.trainable + parameters
    # The convolutions of the two towers and their outputs on cells of 4, 8, 16 and 32 pixels, of 64 x 64.
    cells = 16**2 + 8**2 + 4**2 + 2**2
    towers = cells * 9 * 8 * (8 + 2 * 8 + 1 + 4 + 1)
    assert towers < with_head.flops - plain.flops < 1.5 * towers
    alone = inspect_config(tiny_cfg("detect", *HEAD, "MODEL.PERSON_HEAD.TRAIN_ALONE", True))
    assert alone.trainable == parameters
    assert alone.memory.clip < with_head.memory.clip
    cfg = tiny_cfg("detect", *HEAD)
    size = f"{parameters / 1e6:.2f} M parameters"
    assert f"people       finds people itself (FcosPersonHead, {size})" in describe(cfg, with_head)
    assert "people       needs person boxes" in describe(tiny_cfg("detect"), plain)
