"""Weights load into a model completely or not at all, whatever names a wrapper assigns to the parameters."""

import pytest
import torch
from published_files import state_dict

from vmae_det.checkpoint import load_weights, read_checkpoint, save_weights
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.cli.main import main
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

CLASSES = ("MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.BACKBONE.POSITIONS", "flat")


@pytest.fixture
def model(tiny_cfg):
    """model(TASK, KEY, VALUE, ...): a model for the files of published_files.py."""
    return lambda task, *opts: build_model(tiny_cfg(task, *CLASSES, *opts))


@pytest.fixture
def pretrained(tiny_cfg):
    return build_model(tiny_cfg("pretrain"))


def test_a_saved_file_loads_exactly(pretrained, tiny_cfg, tmp_path):
    path = save_weights(pretrained.state_dict(), "SEED: 1\n", tmp_path / "model.pt")
    other = build_model(tiny_cfg("pretrain", "SEED", 9))
    report = load_weights(other, path)
    assert not report.missing
    assert not report.unused
    for name, value in pretrained.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_pretrained_weights_load_into_classifier_and_detector(pretrained, tiny_cfg):
    for task in ("finetune", "detect"):
        target = build_model(tiny_cfg(task, "SEED", 9))
        report = load_weights(target, pretrained.state_dict())
        assert torch.equal(
            target.backbone.blocks[1].mlp.fc1.weight, pretrained.backbone.blocks[1].mlp.fc1.weight
        )
        assert all("head" in name or "norm" in name for name in report.missing)
        assert all("decoder" in name or "mask_token" in name or "norm" in name for name in report.unused)


def test_a_classifier_backbone_loads_into_a_detector(tiny_cfg):
    classifier = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5))
    detector = build_model(tiny_cfg("detect"))
    report = load_weights(detector, classifier.state_dict(), backbone_only=True)
    assert "backbone.norm.weight" in report.missing
    assert not report.unused


def test_another_architecture_is_refused_and_the_model_is_unchanged(pretrained, tiny_cfg):
    wider = build_model(tiny_cfg("pretrain", "MODEL.BACKBONE.EMBED_DIM", 32))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(WeightsError, match=r"is \(24, .*\) in the file, \(32, .*\) in the model"):
        load_weights(wider, pretrained.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())


def test_a_file_with_more_or_fewer_blocks_is_refused(pretrained, tiny_cfg):
    for depth, expected in ((1, "blocks.1.* is not in the model"), (3, "blocks.2.* is not in the file")):
        other = build_model(tiny_cfg("pretrain", "MODEL.BACKBONE.DEPTH", depth))
        with pytest.raises(WeightsError, match=expected):
            load_weights(other, pretrained.state_dict())


def test_a_head_for_other_classes_is_refused_with_a_remedy(tiny_cfg):
    classifier = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5))
    with pytest.raises(WeightsError, match=r"MODEL\.BACKBONE\.CHECKPOINT"):
        load_weights(build_model(tiny_cfg("finetune")), classifier.state_dict())


def test_missing_files_and_unknown_names(pretrained, tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        load_weights(pretrained, tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match=r"no known format.*conv1\.weight"):
        load_weights(pretrained, {"conv1.weight": torch.zeros(3)})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="expected a dict"):
        load_weights(pretrained, tmp_path / "list.pt")


@pytest.mark.parametrize("family", ["videomae", "huggingface", None])
@pytest.mark.parametrize(("in_file", "in_config"), [(3, 1), (1, 3), (12, 4)])
def test_a_decoder_of_another_depth_is_refused(model, tmp_path, family, in_file, in_config):
    ours = model("pretrain", "MODEL.DECODER.DEPTH", in_file)
    torch.save({"model": ours.state_dict()}, tmp_path / "x.pt")
    path = tmp_path / "x.pt"
    if family:
        path = convert_weights(path, tmp_path / "theirs.pth", family).output
    other = model("pretrain", "MODEL.DECODER.DEPTH", in_config)
    expected = rf"theirs|x.*MODEL\.DECODER\.DEPTH is {in_file} in the file, {in_config} in the config"
    with pytest.raises(WeightsError, match=expected):
        load_weights(other, path)
    load_weights(other, path, backbone_only=True)


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_backbone_of_another_depth_is_refused(model, tiny_cfg, tmp_path, capsys, key, depth):
    torch.save({"model": model("pretrain").state_dict()}, tmp_path / "x.pt")
    cfg = tiny_cfg("pretrain", *CLASSES, "MODEL.BACKBONE.DEPTH", depth, key, str(tmp_path / "x.pt"))
    (tmp_path / "c.yaml").write_text(cfg.dump())
    assert main(["train", "--config-file", str(tmp_path / "c.yaml")]) == 2
    assert f"MODEL.BACKBONE.DEPTH is 2 in the file, {depth} in the config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("finetune", "blocks.0.gamma_1"),
        ("finetune", "blocks.0.attn.relative_position_bias_table"),
        ("finetune", "patch_embed.norm.weight"),
        ("finetune", "blocks.0.attn.qkv.bias"),
        ("finetune", "head.scale"),
        ("pretrain", "encoder.blocks.1.gamma_2"),
        ("pretrain", "decoder.blocks.0.gamma_1"),
    ],
)
def test_an_unknown_parameter_is_refused(model, tmp_path, task, name):
    theirs = state_dict("videomae", task) | {name: torch.ones(24)}
    with pytest.raises(WeightsError, match=rf"{name} has no counterpart in the model"):
        load_weights(model(task), theirs)
    torch.save({"model": theirs}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=rf"no model of vmae_det has {name}"):
        convert_weights(tmp_path / "x.pt", tmp_path / "y.pt", "vmae_det")


def test_unknown_parameters_of_parts_that_the_model_lacks_are_reported(model):
    theirs = state_dict("videomae", "pretrain") | {"decoder.blocks.0.gamma_1": torch.ones(24)}
    report = load_weights(model("finetune"), theirs)
    assert "decoder.blocks.0.gamma_1" in report.unused
    assert load_weights(model("pretrain"), theirs, backbone_only=True).unused == ()


@pytest.mark.parametrize("name", ["head.bias", "mask_token", "decoder.norm.bias", "roi_head.classifier.bias"])
def test_an_incomplete_part_is_refused(model, name):
    task = {"head": "finetune", "roi_head": "detect"}.get(name.partition(".")[0], "pretrain")
    ours = model(task).state_dict()
    ours.pop(name)
    with pytest.raises(WeightsError, match=rf"{name} is not in the file"):
        load_weights(model(task), ours)


def test_a_video_model_with_a_class_token_is_refused(model):
    theirs = state_dict("videomae", "finetune") | {"cls_token": torch.ones(1, 1, 24)}
    with pytest.raises(WeightsError, match="a video model with a class token"):
        load_weights(model("finetune"), theirs)


WRAPPERS = {
    "module._orig_mod.": lambda name: f"module._orig_mod.{name}",
    "_orig_mod. first": lambda name: f"_orig_mod.{name}",
    "_orig_mod. inside": lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace("mlp.", "mlp._checkpoint_wrapped_module."),
    "net.": lambda name: f"net.{name}",
    "model.backbone.": lambda name: f"model.backbone.{name}",
    "any": lambda name: f"student.encoder_q.{name}",
    "backbone. except for the head": lambda name: name if name.startswith("head.") else f"backbone.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", ["videomae", "huggingface", None])
def test_names_with_prefixes_of_wrappers(model, wrapper, family):
    if family == "huggingface" and "inside" in wrapper:
        return
    theirs = state_dict(family, "finetune") if family else model("finetune", "SEED", 3).state_dict()
    head = {"huggingface": "classifier.weight"}.get(family, "head.weight")
    ours = model("finetune")
    wrap = WRAPPERS[wrapper]
    report = load_weights(ours, {wrap(name): value for name, value in theirs.items()})
    assert not report.missing
    assert not report.unused
    assert torch.equal(ours.head.weight, theirs[head])


KEYS = (
    "model_ema",
    "state_dict_ema",
    "model_state_dict",
    "model_state",
    "net",
    "state_dict",
    "params",
    "weights",
    "encoder",
)


@pytest.mark.parametrize("keys", [*((key,) for key in KEYS), ("ema", "module"), ("state_dict", "model")])
def test_weights_under_the_keys_of_common_programs(model, tmp_path, keys):
    content = theirs = state_dict("videomae", "finetune")
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pt")
    ours = model("finetune")
    assert load_weights(ours, tmp_path / "x.pt").source.key == ".".join(keys)
    assert torch.equal(ours.head.weight, theirs["head.weight"])


def test_ema_weights_are_preferred(model, tmp_path):
    raw, averaged = state_dict("videomae", "finetune"), state_dict("videomae", "finetune", seed=1)
    wrapped = {"n_averaged": torch.tensor(4), **{f"module.{name}": value for name, value in averaged.items()}}
    torch.save({"model": raw, "model_ema": wrapped, "optimizer": {}}, tmp_path / "x.pt")
    ours = model("finetune")
    report = load_weights(ours, tmp_path / "x.pt")
    assert torch.equal(ours.head.weight, averaged["head.weight"])
    assert "the EMA weights under 'model_ema', not those under 'model'" in str(report)
    converted = convert_weights(tmp_path / "x.pt", tmp_path / "y.pt", "vmae_det")
    assert "the EMA weights under 'model_ema', not those under 'model'" in str(converted)
    assert torch.equal(read_checkpoint(converted.output)["model"]["head.weight"], averaged["head.weight"])


def test_which_of_several_weights_are_loaded(model, tmp_path):
    theirs, other = state_dict("videomae", "finetune"), state_dict("videomae", "finetune", seed=1)
    contents = {
        # mmengine's EMAHook swaps the two before it saves.
        "the weights under 'state_dict', not those under 'ema_state_dict'": {
            "state_dict": theirs,
            "ema_state_dict": {"steps": torch.tensor(5)} | {f"module.{name}": other[name] for name in other},
        },
        "the weights under 'model', not those under 'state_dict'": {"model": theirs, "state_dict": other},
        "the EMA weights under 'params_ema', not those under 'params'": {
            "params": other,
            "params_ema": theirs,
        },
        "": {"model": theirs, "ema": {"decay": 0.99, "updates": torch.tensor(5)}, "net": {"name": "vit"}},
    }
    for description, content in contents.items():
        torch.save(content, tmp_path / "x.pt")
        ours = model("finetune")
        report = str(load_weights(ours, tmp_path / "x.pt"))
        assert torch.equal(ours.head.weight, theirs["head.weight"])
        assert report.endswith(f"(format: VideoMAE classification){description and ': '}{description}")
    with pytest.raises(
        WeightsError, match=r"contains several models, under 'student', 'teacher'; save only one of them"
    ):
        load_weights(model("finetune"), {"student": theirs, "teacher": other, "epoch": 3})


def test_weights_that_are_not_finite_are_refused(model):
    for name, value in (("blocks.1.norm1.weight", torch.nan), ("head.bias", torch.inf)):
        theirs = state_dict("videomae", "finetune")
        theirs[name][2] = value
        ours = model("finetune")
        before = ours.head.weight.clone()
        with pytest.raises(WeightsError, match=rf"numbers that are not finite, in (backbone\.)?{name}"):
            load_weights(ours, theirs)
        assert torch.equal(ours.head.weight, before)
    theirs = state_dict("videomae", "finetune")
    theirs["head.weight"] = theirs["head.weight"].double() * 1e300  # overflows in float32
    with pytest.raises(WeightsError, match=r"numbers that are not finite, in head\.weight"):
        load_weights(model("finetune"), theirs)
    theirs["head.weight"] = torch.full((5, 24), 0.5).to(torch.float8_e4m3fn)
    ours = model("finetune")
    load_weights(ours, theirs)
    assert (ours.head.weight == 0.5).all()


def test_a_transformers_model_without_the_prefix_videomae(model):
    theirs = {
        name.removeprefix("videomae."): value
        for name, value in state_dict("huggingface", "pretrain").items()
        if name.startswith("videomae.")
    }
    report = load_weights(model("detect"), theirs)
    assert report.format == "Hugging Face VideoMAEModel"
    assert all(name.startswith("roi_head.") for name in report.missing)


def test_several_models_in_one_file_are_refused(model):
    theirs = state_dict("videomae", "finetune")
    both = {f"{side}.{name}": value for side in ("student", "teacher") for name, value in theirs.items()}
    with pytest.raises(WeightsError, match=r"several models, whose names begin with 'student\.', 'teacher"):
        load_weights(model("finetune"), both)


def test_an_incomplete_model_is_not_converted(tmp_path):
    theirs = state_dict("videomae", "finetune")
    shards = {
        "the first": ("blocks.1.", "fc_norm."),
        "the last": ("blocks.0.",),
        "without a bias": ("blocks.1.mlp.fc1.bias",),
        "without an embedding": ("patch_embed.proj.bias",),
    }
    for name, absent in shards.items():
        torch.save({key: theirs[key] for key in theirs if not key.startswith(absent)}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"x\.pt: contains only part of a model, without "):
            convert_weights(tmp_path / "x.pt", tmp_path / f"{name}.pt", "vmae_det")
    torch.save(theirs, tmp_path / "model-00001-of-00002.bin")
    with pytest.raises(WeightsError, match="one of 2 files"):
        convert_weights(tmp_path / "model-00001-of-00002.bin", tmp_path / "y.pt", "vmae_det")


def test_errors_list_unknown_names(tmp_path):
    with pytest.raises(WeightsError, match=r"the first under 'model' are layer1\.0\.conv1\.weight, fc\.bias"):
        load_weights(
            torch.nn.Module(), {"model": {"layer1.0.conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}}
        )
    torch.save({"optimizer_state_dict": {}, "epoch": 1}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="contains no parameters; it contains optimizer_state_dict, epoch"):
        load_weights(torch.nn.Module(), tmp_path / "x.pt")
