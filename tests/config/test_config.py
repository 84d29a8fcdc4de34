import re
import shlex
from pathlib import Path

import pytest

from vmae_det import model_zoo
from vmae_det.config import check_config, get_cfg
from vmae_det.modeling import BACKBONE_REGISTRY
from vmae_det.utils.errors import ConfigError


def merged(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


def test_a_file_inherits_from_its_base_and_overrides_it(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {EPOCHS: 7, BASE_LR: 1e-4}\nSEED: 3\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSOLVER: {EPOCHS: 9}\n")
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "own.yaml")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR, cfg.SEED) == (9, 1e-4, 3)


def test_the_saved_config_reproduces_the_config(tmp_path):
    cfg = merged("DATASETS.TRAIN", "('a', 'b')", "SOLVER.BASE_LR", "1", "MODEL.PIXEL_MEAN", "[1, 2, 3.5]")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(tmp_path / "config.yaml")
    assert again == cfg
    assert again.DATASETS.TRAIN == ("a", "b")
    assert again.SOLVER.BASE_LR == 1.0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MODEL.BACKBONE.DEPHT", "3", "did you mean 'MODEL.BACKBONE.DEPTH'"),
        ("SOLVR.EPOCHS", "3", "did you mean 'SOLVER.EPOCHS'"),
        ("SOLVER.EPOCHS", "1.5", "expected int such as 800, got 1.5"),
        ("SOLVER.EPOCHS", "many", "got 'many'"),
        ("DATASETS.TRAIN", "mini_ava_train", "expected tuple of str such as ('name',)"),
        ("DATASETS.TRAIN", "(1,)", "expected tuple of str"),
        ("SOLVER", "3", "is a group of keys"),
        ("SOLVER.EPOCHS.MORE", "3", "no such config key"),
        ("--resume", "SOLVER.EPOCHS", "--resume: not a config key; put options before the first KEY VALUE"),
    ],
)
def test_a_wrong_override_names_the_key(key, value, expected):
    with pytest.raises(ConfigError) as error:
        merged(key, value)
    assert str(error.value).startswith(f"{key}: ")
    assert expected in str(error.value)


def test_the_home_folder_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "own.yaml").write_text("OUTPUT_DIR: ~/run\nDATASETS: {TRAIN: ['~/a.yaml', 'b~']}\n")
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "own.yaml")
    assert (cfg.OUTPUT_DIR, cfg.DATASETS.TRAIN) == ("/home/me/run", ("/home/me/a.yaml", "b~"))


def test_a_custom_class_needs_from_config(monkeypatch):
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "Bare", type("Bare", (), {}))
    with pytest.raises(ConfigError, match=r"^MODEL.BACKBONE.NAME: Bare has no class method 'from_config' "):
        check_config(merged("MODEL.BACKBONE.NAME", "Bare"))


def test_a_key_without_a_value():
    with pytest.raises(ConfigError, match="pairs"):
        merged("SOLVER.EPOCHS")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("SOLVER: [", "not valid YAML"),
        ("- a\n- b\n", "expected a YAML mapping"),
        ("", "expected a YAML mapping"),
        ("_BASE_: gone.yaml\n", "gone.yaml: no such config file (the _BASE_ of"),
        ("_BASE_: own.yaml\n", "in a cycle"),
        ("SOLVER: {EPOCH: 3}\n", "did you mean 'SOLVER.EPOCHS'"),
        ("SOLVER: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, expected):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_file(path)
    assert expected in str(error.value)
    assert "own.yaml" in str(error.value)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        get_cfg().merge_from_file("nowhere.yaml")


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (("INPUT.CROP_SIZE", "100"), "INPUT.CROP_SIZE"),
        (("INPUT.NUM_FRAMES", "15"), "INPUT.NUM_FRAMES"),
        (("MODEL.BACKBONE.NUM_HEADS", "7"), "MODEL.BACKBONE.EMBED_DIM"),
        (("MODEL.DECODER.NUM_HEADS", "7"), "MODEL.DECODER.EMBED_DIM"),
        (("MODEL.MASK.TYPE", "tubes"), "MODEL.MASK.TYPE"),
        (("MODEL.MASK.RATIO", "1.0"), "MODEL.MASK.RATIO"),
        (("MODEL.MASK.RATIO", "0.001"), "MODEL.MASK.RATIO"),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", "12"), "MODEL.RECONSTRUCTION.NUM_FRAMES"),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", "4"), "MODEL.RECONSTRUCTION.NUM_FRAMES"),
        (
            ("MODEL.RECONSTRUCTION.NUM_FRAMES", "1", "MODEL.MASK.TYPE", "random"),
            "MODEL.RECONSTRUCTION.NUM_FRAMES",
        ),
        (("MODEL.RECONSTRUCTION.SAMPLING_RATE", "-1"), "MODEL.RECONSTRUCTION.SAMPLING_RATE"),
        (("MODEL.DECODER.MASK", "cell"), "MODEL.DECODER.MASK"),
        (("MODEL.DECODER.MASK_RATIO", "1.0"), "MODEL.DECODER.MASK_RATIO"),
        (("SOLVER.BATCH_SIZE", "0"), "SOLVER.BATCH_SIZE"),
        (("SOLVER.BATCH_SIZE", "9", "SOLVER.ACCUMULATE", "2"), "SOLVER.BATCH_SIZE"),
        (("SOLVER.EPOCHS", "3"), "SOLVER.WARMUP_EPOCHS"),
        (("SOLVER.LAYER_DECAY", "1.5"), "SOLVER.LAYER_DECAY"),
        (("SOLVER.HEAD_LR_FACTOR", "0.0"), "SOLVER.HEAD_LR_FACTOR"),
        (("MODEL.CLASSIFIER.DROPOUT", "1.0"), "MODEL.CLASSIFIER.DROPOUT"),
        (("MODEL.PIXEL_MEAN", "(1.0, 2.0)"), "MODEL.PIXEL_MEAN"),
        (("INPUT.FLIP", "2"), "INPUT.FLIP"),
        (("INPUT.TRAIN_CROP", "short_side", "INPUT.TRAIN_SHORT_SIDE", "200"), "INPUT.TRAIN_SHORT_SIDE"),
        (
            ("MODEL.META_ARCHITECTURE", "VideoClassifier", "INPUT.TEST_SHORT_SIDE", "200"),
            "INPUT.TEST_SHORT_SIDE",
        ),
    ],
)
def test_impossible_combinations_name_the_key(opts, key):
    with pytest.raises(ConfigError) as error:
        check_config(merged(*opts))
    assert str(error.value).startswith(f"{key}: ")


@pytest.mark.parametrize("frames", [0, 1, 8, 16, 32])
def test_targets_that_the_time_slices_of_16_frames_can_share(frames):
    check_config(merged("MODEL.RECONSTRUCTION.NUM_FRAMES", str(frames)))


@pytest.mark.parametrize("name", model_zoo.config_names())
def test_every_shipped_config_is_valid(name):
    check_config(model_zoo.get_config(name))


def test_an_unknown_config_of_the_model_zoo():
    with pytest.raises(ConfigError, match=r"did you mean 'MiniAVA/pretrain.yaml'"):
        model_zoo.get_config("MiniAVA/pretrian.yaml")


def test_every_key_has_a_comment():
    from vmae_det.config import defaults

    lines = Path(defaults.__file__).read_text(encoding="utf-8").splitlines()
    groups = [i for i, line in enumerate(lines) if line.startswith("_C.") and not line.endswith("Group()")]
    assert len(groups) > 60
    for number in groups:
        above = number
        while lines[above].startswith("_C.") and not lines[above].endswith("Group()"):
            above -= 1
        # A comment is above the key, or above the run of keys that it describes.
        assert lines[above].startswith("#") or above == number - 1, lines[number]


def documented_ablations():
    """The config and the keys of each row of docs/guides/ablations.md."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "ablations.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        config = re.search(r"`(\S+\.yaml)`", row)
        for keys in re.findall(r"`([A-Z_]+\..*?)`", row):
            yield pytest.param(config[1] if config else "SSv2/vit_base_16x2_pretrain.yaml", keys, id=keys)


@pytest.mark.parametrize(("config", "keys"), list(documented_ablations()))
def test_documented_ablations_are_valid(config, keys):
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list(shlex.split(keys))
    check_config(cfg)
