"""The config and label map stored with weights: validated, and compared to the config of the run."""

import logging
from itertools import pairwise

import pytest
import safetensors.torch
import torch
import yaml
from published_files import save, state_dict

from vmae_det.checkpoint.convert import convert_weights, write_huggingface_folder
from vmae_det.cli.main import main
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.inference.predictor import label_map_of, read_config
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, DataError, UserError, WeightsError


@pytest.fixture
def saved(tiny_cfg, tmp_path):
    """saved(TASK, KEY, VALUE, ...): a file of weights with the config of their model."""

    def make(task, *opts):
        cfg = tiny_cfg(task, *opts)
        path = tmp_path / f"{task}.pt"
        torch.save({"model": build_model(cfg).state_dict(), "config": cfg.dump()}, path)
        return path

    return make


@pytest.mark.parametrize(
    ("key", "value", "task"),
    [
        ("MODEL.BACKBONE.NUM_HEADS", 4, "detect"),
        ("MODEL.BACKBONE.POSITIONS", "flat", "detect"),
        ("MODEL.PIXEL_MEAN", (127.5, 127.5, 127.5), "detect"),
        ("MODEL.PIXEL_STD", (127.5, 127.5, 127.5), "finetune"),
        ("MODEL.ROI_HEAD.RESOLUTION", 3, "detect"),
        ("MODEL.ROI_HEAD.ALIGNED", True, "detect"),
        ("MODEL.ROI_HEAD.TEMPORAL_POOL", "max", "detect"),
        ("MODEL.DECODER.NUM_HEADS", 4, "pretrain"),
        ("MODEL.RECONSTRUCTION.NORMALIZE", False, "pretrain"),
    ],
)
def test_another_value_would_change_the_results(saved, tiny_cfg, key, value, task):
    path = saved(task)
    build_model_with_weights(tiny_cfg(task, "MODEL.WEIGHTS", str(path)), complete=True)
    with pytest.raises(ConfigError, match=rf"{key}: .*{path.name} was trained with"):
        build_model_with_weights(tiny_cfg(task, key, value, "MODEL.WEIGHTS", str(path)), complete=True)


@pytest.mark.parametrize("where", ["MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT"])
def test_training_from_weights(saved, tiny_cfg, where, caplog):
    path = str(saved("pretrain"))
    for key, value in (("MODEL.BACKBONE.NUM_HEADS", 4), ("MODEL.BACKBONE.POSITIONS", "flat")):
        with pytest.raises(ConfigError, match=rf"{key}: .* was trained with"):
            build_model_with_weights(tiny_cfg("detect", key, value, where, path))
    with caplog.at_level(logging.WARNING):
        build_model_with_weights(tiny_cfg("detect", "MODEL.DECODER.NUM_HEADS", 4, where, path))
        assert not caplog.records  # the detector has no decoder
        build_model_with_weights(tiny_cfg("detect", "MODEL.PIXEL_STD", (1.0, 1.0, 1.0), where, path))
    assert "MODEL.PIXEL_STD: (1.0, 1.0, 1.0), but" in caplog.text
    assert "training continues with the new value" in caplog.text


def test_clips_other_than_those_of_training_are_a_warning(saved, tiny_cfg, caplog):
    cfg = tiny_cfg("detect", "INPUT.SAMPLING_RATE", 1, "MODEL.WEIGHTS", str(saved("detect")))
    with caplog.at_level(logging.WARNING):
        build_model_with_weights(cfg, complete=True)
    assert "INPUT.SAMPLING_RATE: 1, but" in caplog.text


def test_published_files_have_flat_positions(tiny_cfg, tmp_path, caplog):
    save("videomae", "finetune", tmp_path / "theirs.pth")
    opts = ("MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.WEIGHTS", str(tmp_path / "theirs.pth"))
    with pytest.raises(
        ConfigError, match=r"MODEL\.BACKBONE\.POSITIONS: 'axes', but .* was trained with 'flat'"
    ):
        build_model_with_weights(tiny_cfg("finetune", *opts), complete=True)
    with caplog.at_level(logging.WARNING):
        cfg = tiny_cfg("finetune", "MODEL.BACKBONE.POSITIONS", "flat", *opts)
        build_model_with_weights(cfg, complete=True)
    assert "trained with" not in caplog.text
    # A file that contains the position table is not compared.
    save("mmaction2", "finetune", tmp_path / "theirs.pth")
    build_model_with_weights(tiny_cfg("finetune", *opts), complete=True)


def test_the_heads_of_the_published_small_models(tiny_cfg, tmp_path, caplog):
    """Their config.json has 16, but the authors' code has 6."""
    shape = ("MODEL.BACKBONE.EMBED_DIM", 384, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.POSITIONS", "flat")
    made = build_model(tiny_cfg("finetune", *shape, "MODEL.BACKBONE.NUM_HEADS", 6))
    cfg = tiny_cfg("finetune", *shape, "MODEL.BACKBONE.NUM_HEADS", 16)
    write_huggingface_folder(made.state_dict(), cfg, None, tmp_path / "small")
    cfg = read_config(str(tmp_path / "small"))
    assert cfg.MODEL.BACKBONE.NUM_HEADS == 16
    assert "'num_attention_heads' is 16" in caplog.text
    assert "set MODEL.BACKBONE.NUM_HEADS 6 for one of the authors' models" in caplog.text
    cfg.merge_from_list(["MODEL.WEIGHTS", str(tmp_path / "small"), "MODEL.DEVICE", "cpu"])
    for heads in (16, 6):
        cfg.MODEL.BACKBONE.NUM_HEADS = heads
        build_model_with_weights(cfg, complete=True)
    cfg.MODEL.BACKBONE.NUM_HEADS = 12
    with pytest.raises(ConfigError, match=r"NUM_HEADS: 12, but .*small was trained with 16"):
        build_model_with_weights(cfg, complete=True)


def test_the_ema_weights_of_a_checkpoint_are_tested(tiny_cfg, tmp_path, caplog):
    cfg = tiny_cfg("finetune", "MODEL.WEIGHTS", str(tmp_path / "checkpoint_0000001.pt"))
    trained, averaged = build_model(cfg), build_model(tiny_cfg("finetune", "SEED", 5))
    content = {"averaged_model": averaged.state_dict(), "model": trained.state_dict(), "config": cfg.dump()}
    torch.save(content, cfg.MODEL.WEIGHTS)
    with caplog.at_level(logging.INFO):
        model = build_model_with_weights(cfg, complete=True)
    assert torch.equal(model.head.weight, averaged.head.weight)
    assert "the EMA weights under 'averaged_model', not those under 'model'" in caplog.text


NESTED = {}
NESTED["ids"] = NESTED
LABEL_MAPS = [
    NESTED,
    [1, 2],
    "item { name: 'a' id: 1 }",
    {"ids": [1], "names": ["a"]},
    {"ids": [1, 2], "names": ["a"], "kinds": [""]},
    {"ids": [1, 1], "names": ["a", "b"], "kinds": ["", ""]},
    {"ids": [1, 2], "names": ["a", "a"], "kinds": ["", ""]},
    {"ids": [0], "names": ["a"], "kinds": [""]},
    {"ids": [10**30], "names": ["a"], "kinds": [""]},
    {"ids": [1.5], "names": ["a"], "kinds": [""]},
    {"ids": [[[]]], "names": ["a"], "kinds": [""]},
    {"ids": [1], "names": [None], "kinds": [""]},
    {"ids": [], "names": [], "kinds": []},
]


@pytest.mark.parametrize("label_map", LABEL_MAPS, ids=range(len(LABEL_MAPS)))
def test_a_label_map_in_weights_is_validated_like_one_in_a_file(tmp_path, label_map):
    torch.save({"model": {}, "label_map": label_map}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x\.pt: "):
        label_map_of(tmp_path / "x.pt")


LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONFIGS = {
    "a list": "[1, 2]",
    "no YAML": "a: [",
    "nested": "MODEL: " + "[" * 5000,
    "deep": "{MODEL: " * 500 + "1" + "}" * 500,
    "itself": "MODEL: &a\n  BACKBONE: *a\n",
    "laughs": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(LETTERS)),
    "huge width": "MODEL: {BACKBONE: {EMBED_DIM: 100000000000}}",
    "a wrong type": "MODEL: {BACKBONE: {DEPTH: many}}",
    "out of range": "MODEL: {BACKBONE: {DEPTH: -1}}",
    "no group": "MODEL: 3",
    "an unknown key": "MODEL: {BACKBONE: {DEPHT: 3}}",
    "an object": "!!python/object/apply:os.system ['touch hacked']",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_in_weights_is_validated_like_one_in_a_file(tmp_path, name):
    torch.save({"model": {}, "config": CONFIGS[name]}, tmp_path / "x.pt")
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "x.pt")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("config", [3, {"MODEL": {}}, ["a"], NESTED, None])
def test_a_config_that_is_not_a_string(tmp_path, config):
    torch.save({"model": {}, "config": config}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="contains no config"):
        read_config(tmp_path / "x.pt")


METADATA = ["[1]", '"x"', "3", '{"config": 1}', '{"config": {"a": "b"}}', '{"a": 1}']


@pytest.mark.parametrize("metadata", METADATA)
def test_safetensors_metadata_that_is_not_a_dict_of_strings(tmp_path, metadata):
    path = tmp_path / "x.safetensors"
    header = f'{{"__metadata__":{metadata},"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightsError, match=r"x\.safetensors: damaged"):
        convert_weights(path, tmp_path / "y.pt", "vmae_det")


@pytest.mark.parametrize("text", ["no JSON", "[" * 3000, "3", '{"ids": 3}', '"SEED: many"'])
def test_safetensors_metadata_of_other_types(tmp_path, text):
    for key, read in (("config", read_config), ("label_map", label_map_of)):
        path = tmp_path / f"{key}.safetensors"
        safetensors.torch.save_file(state_dict("videomae", "detect"), path, metadata={key: text})
        with pytest.raises(UserError, match=rf"{key}\.safetensors"):
            read(path)


def test_a_dataset_whose_video_folder_is_a_file(saved, tiny_cfg, mini_ava, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    labels = yaml.safe_load((mini_ava / "train.yaml").read_text())
    lists = {key: str(mini_ava / labels[key]) for key in ("annotations", "label_map")}
    for task, kind in (("detect", "detection"), ("finetune", "classification"), ("pretrain", "videos")):
        content = {"type": kind, "videos": "file"} | (lists if task != "pretrain" else {})
        (tmp_path / "d.yaml").write_text(yaml.safe_dump(content))
        cfg = tiny_cfg(task, "MODEL.WEIGHTS", str(saved(task)))
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (str(tmp_path / "d.yaml"),)
        (tmp_path / "c.yaml").write_text(cfg.dump())
        for command in ("train", "test"):
            assert main([command, "--config-file", str(tmp_path / "c.yaml")]) == 2
            assert "file is a file; expected a folder" in capsys.readouterr().err
