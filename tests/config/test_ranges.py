import copy
import pickle

import numpy as np
import pytest
import torch

from vmae_det import model_zoo
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.checks import unused_keys
from vmae_det.config.defaults import KEYS
from vmae_det.config.ranges import Group, Key, integer
from vmae_det.config.size_bounds import clips_per_pass, min_training_bytes
from vmae_det.engine import inspection, launch, train
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError


def checked(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    check_config(cfg)
    return cfg


def test_every_default_is_in_the_range_of_its_key():
    assert len(KEYS) > 90
    for name, key in KEYS.items():
        key.range.check(key.convert(key.default), name)


def test_names_that_are_not_utf8_are_refused():
    with pytest.raises(ConfigError, match=r"^OUTPUT_DIR: must be valid UTF-8, got 'caf\\udce9'"):
        checked("OUTPUT_DIR", "caf\udce9")


def test_inf_and_nan_on_the_command_line():
    assert float("inf") == checked("SOLVER.MAX_LOSS", "inf").SOLVER.MAX_LOSS
    for value in ("nan", "-inf"):
        with pytest.raises(ConfigError, match=rf"^SOLVER\.MAX_LOSS: must be in \(0, inf\], got {value}"):
            checked("SOLVER.MAX_LOSS", value)


def test_keys_that_a_run_does_not_use_are_named():
    cfg = checked("INPUT.MIXUP", 0.8, "INPUT.SAMPLING", "segments", "DATALOADER.CLIPS_PER_VIDEO", 2)
    (sampling, mixup) = unused_keys(cfg)
    assert sampling.startswith("INPUT.SAMPLING: segments has no effect: only VideoClassifier uses it")
    assert mixup == "INPUT.MIXUP: 0.8 has no effect: only VideoClassifier uses it, not MaskedAutoencoder"
    cfg.MODEL.META_ARCHITECTURE = "VideoClassifier"
    assert [line.partition(":")[0] for line in unused_keys(cfg)] == ["DATALOADER.CLIPS_PER_VIDEO"]
    for name in model_zoo.config_names():
        assert not list(unused_keys(model_zoo.get_config(name))), name


def test_a_key_without_a_range_is_refused():
    with pytest.raises(TypeError, match=r"EPOCHS = 3: a key needs a range, Key\(3, RANGE\)"):
        Group().EPOCHS = 3


def set_attribute(cfg):
    cfg.SOLVER.EPOCSH = 3


def set_item(cfg):
    cfg["SOLVER"]["EPOCSH"] = 3


def set_in_place(cfg):
    cfg |= {"SOLVER": {"EPOCSH": 3}}


@pytest.mark.parametrize(
    "change",
    [
        set_attribute,
        set_item,
        set_in_place,
        lambda cfg: cfg.SOLVER.setdefault("EPOCSH", 3),
        lambda cfg: cfg.SOLVER.update(EPOCSH=3),
        lambda cfg: cfg.update({"SOLVER": {"EPOCSH": 3}}),
        lambda cfg: cfg.merge_from_other_cfg({"SOLVER": {"EPOCSH": 3}}),
        lambda cfg: cfg.merge_from_list(["SOLVER.EPOCSH", 3]),
        lambda cfg: cfg.merge_from_text("SOLVER: {EPOCSH: 3}", "text"),
        lambda cfg: CfgNode({"SOLVER": {"EPOCSH": 3}}),
        lambda cfg: CfgNode.load_cfg("SOLVER: {EPOCSH: 3}"),
    ],
)
def test_only_known_keys_are_accepted(change):
    cfg = get_cfg()
    for each in (cfg, cfg.clone(), copy.copy(cfg), pickle.loads(pickle.dumps(cfg))):
        with pytest.raises(ConfigError, match=r"SOLVER.EPOCSH: no such config key.* 'SOLVER.EPOCHS'"):
            change(each)
        assert each == get_cfg()


@pytest.mark.parametrize("value", ["5", 5.5, True, None, (5,), {"A": 1}, 5j])
def test_a_value_set_in_python_has_the_type_of_its_key(value):
    cfg = get_cfg()
    with pytest.raises(ConfigError, match=r"SOLVER.EPOCHS: expected int such as 800, got"):
        cfg.SOLVER.EPOCHS = value
    with pytest.raises(ConfigError, match=r"SOLVER: is a group of keys"):
        cfg.SOLVER = 5


def test_keys_cannot_be_removed():
    cfg = get_cfg()
    for remove in (lambda: cfg.SOLVER.pop("EPOCHS"), cfg.clear, cfg.popitem, lambda: cfg.__delitem__("SEED")):
        with pytest.raises(ConfigError, match="not removed"):
            remove()
    assert cfg == get_cfg()


def test_a_frozen_config_keeps_its_values():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(ConfigError, match=r"SOLVER.EPOCHS: the config is frozen"):
        cfg.SOLVER["EPOCHS"] = 3
    copied = pickle.loads(pickle.dumps(cfg)).clone()
    assert copied == cfg
    assert copied.SOLVER.is_frozen()
    copied.defrost()
    copied.SOLVER.EPOCHS = 3
    assert (copied.SOLVER.EPOCHS, cfg.SOLVER.EPOCHS) == (3, 800)


def test_a_group_is_set_key_by_key():
    cfg, other = get_cfg(), get_cfg()
    other.SOLVER.EPOCHS = 3
    cfg.SOLVER = other.SOLVER
    cfg.INPUT = {"FLIP": 1}
    other.SOLVER.EPOCHS = 4
    assert (cfg.SOLVER.EPOCHS, cfg.INPUT.FLIP, cfg.INPUT.NUM_FRAMES) == (3, 1.0, 16)


def test_a_part_of_a_config_is_not_a_config():
    with pytest.raises(ConfigError, match=r"MODEL.META_ARCHITECTURE: missing"):
        check_config(CfgNode({"SEED": 3}))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (
            "SEED",
            ["1e20", "-1", "4294967296", "9223372036854775808", "0x" + "f" * 9000, "9" * 9000, "[" * 9000],
        ),
        ("SOLVER.BETAS", ["(0.9, 1.0)", "(-0.1, 0.9)", "(0.9,)", "(0.9, 0.9, 0.9)", "0.9", "(0.9, 1j)"]),
        ("SOLVER.MOMENTUM", ["10", "1", "-0.1", "1j"]),
        ("SOLVER.BASE_LR", ["1e400", "-1e-9", "nan", "1e9", "1" + "0" * 400]),
        ("SOLVER.MIN_LR", ["1e-3", "-1"]),
        ("SOLVER.WARMUP_LR", ["1e-3", "1e999"]),
        ("INPUT.CROP_SCALES", ["()", "(0.0,)", "(-1.0,)", "(1.1,)", "(1e-9,)", "(1e999,)"]),
        ("INPUT.CROP_AREA", ["(1.0, 0.08)", "(0.0, 1.0)", "(0.1, 2.0)"]),
        ("INPUT.CROP_ASPECT", ["(1.3, 0.7)", "(-1.0, 1.0)", "(0.0, 1.0)"]),
        ("MODEL.PIXEL_STD", ["(-1.0, 1.0, 1.0)", "(1e999, 1.0, 1.0)", "(0.229, 0.224, 0.225)"]),
        ("INPUT.SAMPLING_RATE", ["2147483648", "0"]),
        ("OUTPUT_DIR", ["", " ", "a\nb", "a\0b", "x" * 5000]),
        ("TEST.NUM_CLIPS", ["100000000000"]),
        ("MODEL.BACKBONE.EMBED_DIM", ["1000000000"]),
        ("SOLVER.BATCH_SIZE", ["1000000000000"]),
        ("DATALOADER.NUM_WORKERS", ["1000000"]),
        ("MODEL.META_ARCHITECTURE", ["Detector", ""]),
        ("MODEL.BACKBONE.NAME", ["ViT"]),
        ("MODEL.ROI_HEAD.NAME", ["MeanPool"]),
        ("DATALOADER.READER", ["opencv"]),
        ("PERSON_DETECTOR.NAME", ["yolo"]),
        ("DATASETS.TRAIN", ["('',)", "(1,)"]),
        ("INPUT.RAND_AUGMENT", ["rand-m" + "9" * 5000, "rand-n0", "auto"]),
    ],
)
def test_invalid_combinations_are_refused_with_the_key(key, values):
    for value in values:
        with pytest.raises(ConfigError) as error:
            checked(key, value)
        assert str(error.value).startswith(f"{key}: "), value[:50]
        assert len(str(error.value)) < 500
        assert "\n" not in str(error.value)


def test_numbers_of_other_numeric_types_are_accepted():
    assert Key(1, integer("[0, 9]")).convert(np.int64(3)) == 3
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.INPUT.CROP_SCALES = 1, [1, 0.5]
    assert (cfg.SOLVER.BASE_LR, cfg.INPUT.CROP_SCALES) == (1.0, (1.0, 0.5))
    assert cfg.dump() == get_cfg().dump().replace("BASE_LR: 0.00015", "BASE_LR: 1.0").replace(
        "- 1.0\n  - 0.875\n  - 0.75\n  - 0.66\n", "- 1.0\n  - 0.5\n"
    )


@pytest.mark.parametrize(
    "name", ["MiniAVA/pretrain.yaml", "AVA/vit_base_16x4.yaml", "Kinetics/vit_base_16x4_mocov3.yaml"]
)
def test_memory_lower_bound_is_close_to_the_estimate(name):
    cfg = model_zoo.get_config(name)
    clips = clips_per_pass(cfg, processes=8)
    model, passing = min_training_bytes(cfg, processes=8)
    found = inspection.estimate_memory(cfg, inspection.count_tokens(cfg))
    assert 0.8 * (found.total(0) - found.casts) < model <= found.total(0)
    assert 0.2 * clips * found.clip < passing <= 1.01 * clips * found.clip


def test_memory_lower_bound_holds_with_token_dropout():
    cfg = model_zoo.get_config("AVA/vit_base_16x4.yaml")
    cfg.merge_from_list(["MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.3])
    found = inspection.estimate_memory(cfg, inspection.count_tokens(cfg))
    assert min_training_bytes(cfg, processes=8)[1] <= clips_per_pass(cfg, processes=8) * found.clip


def test_a_model_that_cannot_fit_is_refused_before_it_is_built():
    cfg = checked("MODEL.BACKBONE.EMBED_DIM", "16320", "MODEL.BACKBONE.DEPTH", "256")
    with pytest.raises(ConfigError, match=r"MODEL.BACKBONE: .* at least 3,2.* GB; this machine has"):
        build_model(cfg)
    assert inspection.count(inspection.empty_model(cfg)) > 8e11


def test_a_batch_that_cannot_fit_is_refused_before_training(tiny_cfg, monkeypatch):
    monkeypatch.setattr("vmae_det.engine.setup.device_memory", lambda device: 1_000_000)
    with pytest.raises(ConfigError, match=r"SOLVER.BATCH_SIZE: .* for the 4 clips of a forward pass"):
        train.run_training(tiny_cfg("finetune"))


def test_an_unknown_best_metric_is_refused_before_training(tiny_cfg, monkeypatch):
    monkeypatch.setattr(train, "Trainer", lambda *_, **__: pytest.fail("training has begun"))
    with pytest.raises(ConfigError, match=r"TEST\.BEST_METRIC: .* no metric 'foo'; expected one of: top1"):
        train.run_training(tiny_cfg("finetune", "TEST.BEST_METRIC", "foo"))


def run_out(kind):
    if kind == "torch":
        torch.empty(1 << 60, dtype=torch.uint8)
    elif kind == "numpy":
        np.zeros((1 << 29, 1 << 29))
    else:
        raise RuntimeError("a fault of the program")


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_running_out_of_memory_is_one_line(capsys, kind):
    assert launch.run_guarded(run_out, kind) == 2
    said = capsys.readouterr().err
    assert "out of memory (" in said
    assert said.count("\n") == 1
    with pytest.raises(RuntimeError, match="a fault"):
        launch.run_guarded(run_out, "program")
