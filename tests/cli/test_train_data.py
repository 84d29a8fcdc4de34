"""`vmae-det train --data`: the choices, their reasons, and the runs that they make."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vmae_det import model_zoo
from vmae_det.checkpoint import save_weights
from vmae_det.cli.config_arguments import load_config
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.config.cfg_node import value_of
from vmae_det.data.loader import ConcatClipDataset, build_train_dataset
from vmae_det.engine import auto_data, auto_network, auto_schedule
from vmae_det.engine.auto_config import choose_config
from vmae_det.modeling import build_model
from vmae_det.utils import cpu
from vmae_det.utils.errors import DataError, UserError, WeightsError

FEW = (
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "1"),
    *("SOLVER.EPOCHS", "1", "DATALOADER.NUM_WORKERS", "0"),
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Published weights are not available."""

    def fail(name):
        raise WeightsError(f"{name}: no network")

    monkeypatch.setattr(auto_network, "locate", fail)
    monkeypatch.setattr(auto_network, "check_reachable", fail)


@pytest.fixture
def choose(mini_ava, tmp_path):
    """choose(NAME, KEY, VALUE, ..., **arguments): the result, and its values and reasons by key."""

    def make(name, *keys, **arguments):
        keys = ("MODEL.DEVICE", "cpu", *keys)
        result = choose_config(
            str(mini_ava / f"{name}.yaml"),
            base=lambda cfg: cfg.merge_from_list(list(keys)),
            given_keys=frozenset(keys[0::2]),
            folder=tmp_path / "data",
            **{"model": "tiny", **arguments},
        )
        return result, {choice.key: choice for choice in result.choices}

    return make


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(ARGUMENT, ...): run `vmae-det train` in a new folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield lambda *arguments: main(["train", *map(str, arguments)])
    for handler in list(logging.getLogger("vmae_det").handlers):
        logging.getLogger("vmae_det").removeHandler(handler)
        handler.close()


# ---------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("train", "ActionDetector"), ("clips_train", "VideoClassifier"), ("unlabelled", "MaskedAutoencoder")],
)
def test_the_type_of_the_data_selects_the_model(choose, monkeypatch, name, architecture):
    monkeypatch.setattr(cpu, "_flags", lambda: {"avx512_bf16"})
    result, choices = choose(name)
    cfg = result.cfg
    assert architecture == cfg.MODEL.META_ARCHITECTURE
    assert cfg.is_frozen()
    assert cfg.SOLVER.AMP == "bf16"
    assert cfg.INPUT.CROP_SIZE == 48  # not larger than the videos
    assert (cfg.DATASETS.TEST == ()) == (name == "unlabelled")
    assert all(choice.reason for choice in choices.values())
    if name != "unlabelled":
        key = "MODEL.ROI_HEAD.NUM_CLASSES" if name == "train" else "MODEL.CLASSIFIER.NUM_CLASSES"
        assert choices[key].value == 11
        assert cfg.TEST.PATIENCE > 0


def test_the_tiny_detector_finds_people_if_all_are_annotated(choose, mini_ava, tmp_path):
    """Validation uses given boxes, because the head of a small data set would hide what the actions do."""
    result, choices = choose("train")
    assert result.cfg.MODEL.PERSON_HEAD.NAME == "FcosPersonHead"
    assert choices["TEST.PERSON_BOXES"].value == "dataset"
    content = yaml.safe_load((mini_ava / "train.yaml").read_text(encoding="utf-8"))
    paths = {key: str(mini_ava / value) for key, value in content.items() if (mini_ava / str(value)).exists()}
    text = yaml.safe_dump(content | paths | {"complete_persons": False})
    (tmp_path / "incomplete.yaml").write_text(text, encoding="utf-8")
    result, choices = choose(tmp_path / "incomplete")
    assert result.cfg.MODEL.PERSON_HEAD == get_cfg().MODEL.PERSON_HEAD
    assert "not annotated" in choices["MODEL.PERSON_HEAD.NAME"].reason


def test_given_keys_are_kept_and_others_follow_them(choose):
    result, choices = choose("train", "SOLVER.BATCH_SIZE", "4", "SOLVER.CLIP_GRAD", "0.5")
    assert choices["SOLVER.BATCH_SIZE"].given
    assert choices["SOLVER.CLIP_GRAD"].given
    assert result.cfg.SOLVER.BATCH_SIZE == 4
    assert result.cfg.SOLVER.CLIP_GRAD == 0.5
    # The rate of a step of 4 clips is half that of 16 clips.
    assert pytest.approx(2e-3 / 2) == result.cfg.SOLVER.BASE_LR * 4 / 256


def test_a_batch_that_does_not_fit_is_accumulated(choose, monkeypatch):
    ample, _ = choose("clips_train", "SOLVER.BATCH_SIZE", "8")
    assert ample.cfg.SOLVER.ACCUMULATE == 1
    memory = auto_schedule.estimate_memory(ample.cfg, auto_schedule.count_tokens(ample.cfg))
    size = int((memory.total(0) + 2.5 * memory.clip) / 0.7)
    monkeypatch.setattr(auto_schedule, "device_memory", lambda device: size)
    assert choose("clips_train", "SOLVER.BATCH_SIZE", "8")[0].cfg.SOLVER.ACCUMULATE == 4
    monkeypatch.setattr(auto_schedule, "device_memory", lambda device: 1000)
    assert choose("clips_train")[0].cfg.MODEL.ACTIVATION_CHECKPOINTING


@pytest.fixture
def one_class(mini_ava, tmp_path):
    """one_class(PERSONS): a set in which only `stand` has labels, with person boxes of a file."""
    lines = (mini_ava / "annotations/mini_ava_train.csv").read_text().splitlines()
    standing = [line for line in lines if line.split(",")[6] == "1"]
    (tmp_path / "one.csv").write_text("\n".join(standing))
    boxes = [line.split(",")[:6] for line in standing]
    (tmp_path / "standing.csv").write_text("\n".join(f"{','.join(box)},,1" for box in boxes))

    def make(persons):
        text = [
            *("type: detection", f"videos: {mini_ava}/videos", "annotations: one.csv", "video_start: 900"),
            f"label_map: {mini_ava}/annotations/mini_ava_actions.pbtxt",
            *([f"person_boxes: {persons}"] if persons else []),
        ]
        (tmp_path / "one.yaml").write_text("\n".join(text))
        return tmp_path / "one"

    return make


def test_persons_without_the_only_class_are_negatives(choose, one_class, mini_ava, tmp_path):
    result, choices = choose(one_class(mini_ava / "person_boxes/mini_ava_train.csv"))
    cfg = result.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (str(tmp_path / "data/train.yaml"),)
    number = build_train_dataset(cfg, "detection").datasets[0].num_negatives
    assert number > 5
    assert choices["DATASETS.NEGATIVE_PERSONS"].value == "annotated_keyframes"
    reason = choices["DATASETS.NEGATIVE_PERSONS"].reason
    more = re.match(rf"{number} of its person boxes .*; all_keyframes would add (\d+)", reason)[1]
    assert [text for text in result.warnings if f"{more} people in keyframes that" in text]
    assert choices["DATASETS.NEGATIVE_PERSON_SCORE"].value == 0.8


def test_a_single_class_without_negatives_is_an_error(choose, one_class, mini_ava, monkeypatch):
    with pytest.raises(UserError, match=r"only one class has labels.* detect-persons --dataset"):
        choose(one_class(None))
    with pytest.raises(UserError, match=r"only one class has labels.*NEGATIVE_PERSONS all_keyframes"):
        choose(one_class("standing.csv"))
    with pytest.raises(UserError, match=r"--val: .* has no person_boxes and labels of a single class"):
        choose("train", val=f"{one_class(None)}.yaml")
    counts = np.array([0, 5])
    monkeypatch.setattr(ConcatClipDataset, "class_counts", lambda self, number: counts)
    with pytest.raises(UserError, match="only one class has labels, so a model cannot learn"):
        choose("clips_train")


@pytest.mark.parametrize(
    ("header", "rows", "problem"),
    [
        ("type: classification", "a.mp4 2\nb.mp4 11", "label 11, but the 11 classes .* add its class to the"),
        ("type: detection", "a,902,0,0,1,1,99,0", "own.csv:1: expected an action id of the label map"),
    ],
)
def test_labels_are_checked_before_weights_are_downloaded(
    choose, renamed_class, monkeypatch, header, rows, problem
):
    monkeypatch.setattr(auto_network, "locate", lambda name: pytest.fail("downloaded"))
    file = renamed_class("clips_train", "wave")
    (file.parent / "own.csv").write_text(rows)
    text = re.sub("annotations: .*", "annotations: own.csv", file.read_text())
    file.write_text(text.replace("type: classification", header))
    with pytest.raises(DataError, match=problem):
        choose(file.with_suffix(""), model="small")


def test_rare_classes_are_weighted(choose, monkeypatch):
    assert choose("clips_train")[0].cfg.SOLVER.CLASS_BALANCE == "none"
    monkeypatch.setattr(auto_data, "_RARE", 1.01)
    result, choices = choose("train")
    assert result.cfg.SOLVER.CLASS_BALANCE == "inverse_sqrt"
    assert "times the labels" in choices["SOLVER.CLASS_BALANCE"].reason


@pytest.fixture
def renamed_class(mini_ava, tmp_path):
    """renamed_class(PART, NAME): clips with another name of the class wave; returns the dataset file."""

    def make(part, name):
        old = (mini_ava / "annotations/mini_ava_actions.pbtxt").read_text()
        (tmp_path / "other.pbtxt").write_text(old.replace('"wave"', f'"{name}"'))
        lines = [
            *("type: classification", f"videos: {mini_ava}", "label_map: other.pbtxt"),
            f"annotations: {mini_ava}/annotations/{part}.csv",
        ]
        (tmp_path / "other.yaml").write_text("\n".join(lines))
        return tmp_path / "other.yaml"

    return make


def test_classes_with_a_side_are_not_flipped(choose, renamed_class):
    assert choose("clips_train")[0].cfg.INPUT.FLIP == 0.5
    assert choose(renamed_class("clips_train", "wave_left").with_suffix(""))[0].cfg.INPUT.FLIP == 0


def test_published_weights_select_their_network(choose, monkeypatch):
    monkeypatch.setattr(auto_network, "locate", lambda name: name)
    cfg = model_zoo.get_config("Kinetics/vit_base_16x4_finetune.yaml")
    monkeypatch.setattr(
        auto_network,
        "network_of",
        lambda name: {key: value_of(cfg, key) for key in auto_network.NETWORK_KEYS},
    )
    result, choices = choose("train", model="base")
    assert result.cfg.MODEL.BACKBONE.EMBED_DIM == 768
    assert result.cfg.MODEL.BACKBONE.CHECKPOINT == "videomae-base-finetuned-kinetics"
    assert result.cfg.SOLVER.LAYER_DECAY == 0.75
    assert result.cfg.INPUT.CROP_SIZE == 144  # the short side of the videos
    assert round(256 * 144 / 224) == result.cfg.INPUT.TEST_SHORT_SIDE
    assert choices["(recipe)"].value == "AVA/vit_base_16x4_from_kinetics.yaml"


def test_number_of_frames_and_pixel_statistics_of_published_weights(choose, tiny_cfg, monkeypatch):
    monkeypatch.setattr(auto_network, "locate", lambda name: name)
    state = build_model(tiny_cfg("finetune", "MODEL.BACKBONE.EMBED_DIM", 48)).state_dict()
    monkeypatch.setattr(auto_network, "read_checkpoint", lambda name: {"model": dict(state)})
    node = choose("train", model="umt-base-k710")[0].cfg.INPUT
    assert (node.NUM_FRAMES, node.SAMPLING_RATE) == (8, 3)  # 2 seconds of 12 fps, as in the recipe
    cfg = choose("train", model="", weights="mae-st-large-k400")[0].cfg
    assert cfg.MODEL.PIXEL_MEAN == (114.75, 114.75, 114.75)
    cfg = choose("train", model="AVA/umt_base_8x37.yaml")[0].cfg  # a config has its own
    assert cfg.MODEL.PIXEL_MEAN == model_zoo.get_config("AVA/umt_base_8x37.yaml").MODEL.PIXEL_MEAN


def test_without_network_a_default_falls_back_and_a_size_is_an_error(choose):
    result, _ = choose("train", model="")
    assert result.cfg.MODEL.BACKBONE.EMBED_DIM == 64
    assert [text for text in result.warnings if "Pre-trained weights are much better" in text]
    with pytest.raises(WeightsError, match=r"no network; give a file with --weights, or --model tiny"):
        choose("train", model="base")


def test_only_named_weights_are_retried(monkeypatch):
    monkeypatch.setattr(auto_network, "locate", lambda name: pytest.fail("the default must not be retried"))
    recipe, weights, _ = auto_network.choose_recipe("detection", "", "", {}, warnings := [])
    assert (recipe, weights, len(warnings)) == ("MiniAVA/detect.yaml", "", 1)
    monkeypatch.setattr(auto_network, "check_reachable", lambda url: pytest.fail("named weights are retried"))
    monkeypatch.setattr(auto_network, "locate", lambda name: name)
    _, weights, _ = auto_network.choose_recipe("detection", "small", "", {}, [])
    assert weights == "videomae-small-finetuned-kinetics"


def test_recipes_of_weights_of_other_sizes(monkeypatch):
    monkeypatch.setattr(auto_network, "locate", lambda name: name)
    for model, recipe, weights in (
        ("videomaev2-giant-k710", "AVA/vit_huge_16x4_from_kinetics.yaml", "videomaev2-giant-k710"),
        ("AVA/umt_base_8x37.yaml", "AVA/umt_base_8x37.yaml", "umt-base-k710"),  # those that the config names
    ):
        assert auto_network.choose_recipe("detection", model, "", {}, [])[:2] == (recipe, weights)


def test_own_weights_determine_the_network(choose, tiny_cfg, tmp_path, monkeypatch):
    cfg = tiny_cfg("pretrain")
    weights = str(save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "own.pt"))
    result, _ = choose("train", model="", weights=weights)
    assert weights == result.cfg.MODEL.BACKBONE.CHECKPOINT
    assert result.cfg.MODEL.BACKBONE.EMBED_DIM == 24
    assert result.cfg.INPUT.CROP_SIZE == 64
    result, _ = choose("unlabelled", model="", weights=weights)  # with its decoder
    assert (weights, 16) == (result.cfg.MODEL.WEIGHTS, result.cfg.MODEL.DECODER.EMBED_DIM)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("name", "metric"), [("train", "frame_mAP"), ("clips_train", "top1"), ("unlabelled", "loss")]
)
def test_one_command_trains_and_its_config_reproduces_the_run(train, mini_ava, name, metric, capsys):
    assert train("--data", mini_ava / f"{name}.yaml", "--model", "tiny", *FEW) == 0
    printed = capsys.readouterr().out
    folder = Path("output") / ("mini_ava" if name == "train" else name)
    assert "SOLVER.EPOCHS" in printed
    assert "given" in printed
    saved = load_config(str(folder / "config.yaml"), [])
    rows = (folder / "choices.txt").read_text().splitlines()
    values = {line.split()[0]: line.split()[1] for line in rows}
    for key in ("SOLVER.BATCH_SIZE", "SOLVER.BASE_LR", "SOLVER.WARMUP_EPOCHS", "INPUT.CROP_SIZE"):
        assert str(value_of(saved, key)) == values[key]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[-1])
    if name != "unlabelled":
        metrics |= json.loads((folder / "results.json").read_text())
    assert metric in metrics
    assert train("--config-file", folder / "config.yaml", "OUTPUT_DIR", "again") == 0
    first, second = (
        torch.load(run / "model_final.pt", weights_only=True)["model"] for run in (folder, Path("again"))
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    if name == "train":
        assert train("--data", mini_ava / "train.yaml", "--model", "tiny", *FEW) == 2
        assert "contains checkpoints of a run" in capsys.readouterr().err
        assert train("--data", mini_ava / "train.yaml", "--resume", *FEW) == 0
        assert "resuming with the settings of" in capsys.readouterr().out


def test_a_dry_run_prints_the_choices_and_writes_nothing(train, mini_ava, capsys):
    assert train("--data", mini_ava / "train.yaml", "--dry-run", "SOLVER.LOG_PERIOD", 7) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "output/mini_ava/data/val.yaml" in rows["DATASETS.TEST"]
    assert rows["SOLVER.LOG_PERIOD"].split()[1:] == ["7", "given"]
    assert "Pre-trained weights are much better" in err
    assert not list(Path().iterdir())


def test_a_config_file_sets_its_keys_and_the_others_are_chosen(train, mini_ava, capsys):
    Path("base.yaml").write_text("SOLVER: {EPOCHS: 3}\n")
    Path("own.yaml").write_text("_BASE_: base.yaml\nOUTPUT_DIR: elsewhere\n")
    command = ("--data", mini_ava / "clips_train.yaml", "--val", mini_ava / "clips_val.yaml")
    assert train(*command, "--config-file", "own.yaml", "--dry-run", "MODEL.DEVICE", "cpu") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["SOLVER.EPOCHS"] == ["3", "given"]
    assert rows["OUTPUT_DIR"] == ["elsewhere", "given"]
    assert str(mini_ava / "clips_val.yaml") in rows["DATASETS.TEST"][0]
    assert rows["SOLVER.BATCH_SIZE"][-1] != "given"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--data", "missing.yaml"], "missing.yaml"),
        (["--data", "mini_ava_trian"], "--data: 'mini_ava_trian' is neither a registered dataset"),
        (["--val", "{}/val.yaml"], "--val: needs --data"),
        (["--dry-run"], "--dry-run: needs --data"),
        (["--data", "{}/train.yaml", "--val", "{}/clips_val.yaml"], "--val: .*is of type 'classification'"),
        (["--data", "{}/unlabelled.yaml", "--val", "{}/val.yaml"], "--val: .*is of type 'detection'"),
        (["--data", "{}/train.yaml", "--model", "gigantic"], "--model: no size, weights or config"),
        (["--data", "{}/train.yaml", "--model", "MiniAVA/finetune.yaml"], "is for classification"),
        (["--data", "{}/train.yaml", "--model", "large"], "give a file with --weights, or --model tiny"),
        (["--data", "{}/train.yaml", "--weights", "none.pt"], "none.pt: no such checkpoint"),
        (["--data", "{}/train.yaml", "--model", "tiny", "--config-file", "x.yaml"], "--model: cannot be"),
        (["--data", "{}/train.yaml", "--weights", "a.pt", "MODEL.WEIGHTS", "b.pt"], "give one of them"),
        (["--data", "{}/train.yaml", "--eval-only"], "--eval-only: cannot be combined with --data"),
        (["--data", "{}/train.yaml", "DATASETS.TEST", "()"], "DATASETS.TEST: cannot be combined"),
        (
            ["--data", "{}/train.yaml", "MODEL.META_ARCHITECTURE", "VideoClassifier"],
            "META_ARCHITECTURE: Video",
        ),
        (["--data", "{}/train.yaml", "--model", "tiny", "SOLVER.BATCH_SIZE", "0"], "SOLVER.BATCH_SIZE"),
    ],
)
def test_wrong_input_is_one_line(train, mini_ava, capsys, arguments, problem):
    arguments = [text.format(mini_ava) if text.startswith("{}") else text for text in arguments]
    assert train(*arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(problem, err), err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("prefix", ["", "clips_"])
def test_videos_in_both_sets_are_reported(train, mini_ava, capsys, prefix):
    found = {}
    for part in ("train", "val"):
        sets = ("--data", mini_ava / f"{prefix}train.yaml", "--val", mini_ava / f"{prefix}{part}.yaml")
        assert train(*sets, "--model", "tiny", "--dry-run", "MODEL.DEVICE", "cpu") == 0
        found[part] = re.findall(
            r"--val: (\d+) of the (\d+) videos of .* are also in", capsys.readouterr().err
        )
    assert found["val"] == []
    ((common, number),) = found["train"]
    assert common == number != "0"


def test_label_maps_must_agree(train, mini_ava, renamed_class, capsys):
    val = renamed_class("clips_val", "salute")
    assert train("--data", mini_ava / "clips_train.yaml", "--val", val) == 2
    assert "'salute', are not among the 11 classes" in capsys.readouterr().err
