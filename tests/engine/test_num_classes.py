"""`NUM_CLASSES: auto` is the number of classes of the weights or of the training set."""

from pathlib import Path

import pytest
import torch

from vmae_det.checkpoint import save_weights
from vmae_det.cli.config_arguments import load_config
from vmae_det.data.loader import build_train_dataset
from vmae_det.engine.num_classes import resolve_num_classes
from vmae_det.engine.train import run_training
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError

KEYS = {"finetune": "MODEL.CLASSIFIER.NUM_CLASSES", "detect": "MODEL.ROI_HEAD.NUM_CLASSES"}


def number(cfg, task):
    return (cfg.MODEL.CLASSIFIER if task == "finetune" else cfg.MODEL.ROI_HEAD).NUM_CLASSES


@pytest.mark.parametrize("task", ["finetune", "detect"])
def test_auto_is_the_number_of_classes_of_the_training_set(tiny_cfg, task):
    cfg = tiny_cfg(task, KEYS[task], "auto")
    cfg.freeze()
    with pytest.raises(ConfigError, match="NUM_CLASSES: auto is not resolved"):
        build_model(cfg)
    with pytest.raises(ConfigError, match="NUM_CLASSES: auto is not resolved"):
        build_train_dataset(cfg, "detection" if task == "detect" else "classification")
    resolve_num_classes(cfg)
    assert number(cfg, task) == 11
    assert cfg.is_frozen()


def test_a_list_without_a_label_map_has_its_largest_label(tiny_cfg, mini_ava, tmp_path):
    labels = (mini_ava / "annotations/clips_train.csv").read_text().splitlines()
    few = [line for line in labels if int(line.split()[1]) < 4]
    (tmp_path / "few.csv").write_text("\n".join(few))
    text = f"type: classification\nvideos: {mini_ava}\nannotations: few.csv\n"
    (tmp_path / "few.yaml").write_text(text)
    cfg = tiny_cfg("finetune", KEYS["finetune"], "auto", "DATASETS.TRAIN", (str(tmp_path / "few.yaml"),))
    resolve_num_classes(cfg)
    assert cfg.MODEL.CLASSIFIER.NUM_CLASSES == 4


def test_a_run_saves_the_resolved_number(tiny_cfg):
    cfg = tiny_cfg("finetune", KEYS["finetune"], "auto", "TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1)
    run_training(cfg)
    saved = Path(cfg.OUTPUT_DIR) / "config.yaml"
    assert load_config(str(saved), []).MODEL.CLASSIFIER.NUM_CLASSES == 11
    final = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pt", weights_only=True)
    assert len(final["model"]["head.weight"]) == 11
    assert "NUM_CLASSES: auto" not in final["config"]


@pytest.mark.parametrize("stored", [True, False])
def test_weights_have_precedence_over_datasets(tiny_cfg, tmp_path, stored):
    cfg = tiny_cfg("detect", KEYS["detect"], 5)
    text = cfg.dump() if stored else ""
    weights = save_weights(build_model(cfg).state_dict(), text, tmp_path / "five.pt")
    (tmp_path / "auto.yaml").write_text(tiny_cfg("detect", KEYS["detect"], "auto").dump())
    loaded = load_config(str(tmp_path / "auto.yaml"), ["MODEL.WEIGHTS", str(weights)])
    assert loaded.MODEL.ROI_HEAD.NUM_CLASSES == 5


def test_weights_of_another_task_do_not_count(tiny_cfg, tmp_path):
    cfg = tiny_cfg("pretrain")
    weights = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "pretrain.pt")
    auto = tiny_cfg("detect", KEYS["detect"], "auto", "MODEL.WEIGHTS", str(weights))
    resolve_num_classes(auto)
    assert auto.MODEL.ROI_HEAD.NUM_CLASSES == 11


def test_auto_without_classes_is_an_error(tiny_cfg, mini_ava):
    for names in ((), (str(mini_ava / "unlabelled.yaml"),)):
        cfg = tiny_cfg("detect", KEYS["detect"], "auto", "DATASETS.TRAIN", names, "DATASETS.TEST", ())
        with pytest.raises(ConfigError, match=r"ROI_HEAD\.NUM_CLASSES: auto, but .* no label map"):
            resolve_num_classes(cfg)
    pretraining = tiny_cfg("pretrain", KEYS["detect"], "auto")
    resolve_num_classes(pretraining)  # the key is not used
    build_model(pretraining)


def test_only_auto_and_numbers_are_accepted(tiny_cfg):
    for value in ("automatic", 2.5, True, 0, ""):
        with pytest.raises(ConfigError, match=r"ROI_HEAD\.NUM_CLASSES"):
            run_training(tiny_cfg("detect", KEYS["detect"], value))
