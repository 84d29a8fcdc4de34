"""Each parameter of a file finds its place or is refused, under whatever names a wrapper gives it."""

import pytest
import torch
from published_files import state_dict

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.cli.main import main
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

CLASSES = ("MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.BACKBONE.POSITIONS", "flat")


@pytest.fixture
def model(tiny_cfg):
    return lambda task, *opts: build_model(tiny_cfg(task, *CLASSES, *opts))


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
def test_a_parameter_without_a_place_is_refused(model, tmp_path, task, name):
    theirs = state_dict("videomae", task) | {name: torch.ones(24)}
    with pytest.raises(WeightsError, match=rf"{name} has no counterpart in the model"):
        load_weights(model(task), theirs)
    torch.save({"model": theirs}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=rf"no model of this program has {name}"):
        convert_weights(tmp_path / "x.pt", tmp_path / "y.pt", "vmae_det")


def test_what_belongs_to_parts_that_the_model_has_not_is_reported(model):
    theirs = state_dict("videomae", "pretrain") | {"decoder.blocks.0.gamma_1": torch.ones(24)}
    report = load_weights(model("finetune"), theirs)
    assert "decoder.blocks.0.gamma_1" in report.unused
    assert load_weights(model("pretrain"), theirs, backbone_only=True).unused == ()


@pytest.mark.parametrize("name", ["head.bias", "mask_token", "decoder.norm.bias", "roi_head.classifier.bias"])
def test_half_a_part_is_refused(model, name):
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
    "_orig_mod. in front": lambda name: f"_orig_mod.{name}",
    "_orig_mod. within": lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace("mlp.", "mlp._checkpoint_wrapped_module."),
    "net.": lambda name: f"net.{name}",
    "model.backbone.": lambda name: f"model.backbone.{name}",
    "any": lambda name: f"student.encoder_q.{name}",
    "backbone. but for the head": lambda name: name if name.startswith("head.") else f"backbone.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", ["videomae", "huggingface", None])
def test_names_that_wrappers_give(model, wrapper, family):
    if family == "huggingface" and "within" in wrapper:
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
def test_keys_that_weights_lie_under(model, tmp_path, keys):
    content = theirs = state_dict("videomae", "finetune")
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pt")
    ours = model("finetune")
    assert load_weights(ours, tmp_path / "x.pt").source.key == ".".join(keys)
    assert torch.equal(ours.head.weight, theirs["head.weight"])


def test_running_averages_go_before_what_they_are_averages_of(model, tmp_path):
    raw, averaged = state_dict("videomae", "finetune"), state_dict("videomae", "finetune", seed=1)
    wrapped = {"n_averaged": torch.tensor(4), **{f"module.{name}": value for name, value in averaged.items()}}
    torch.save({"model": raw, "model_ema": wrapped, "optimizer": {}}, tmp_path / "x.pt")
    ours = model("finetune")
    report = load_weights(ours, tmp_path / "x.pt")
    assert torch.equal(ours.head.weight, averaged["head.weight"])
    assert "the averaged weights under 'model_ema', not those under 'model'" in str(report)
    converted = convert_weights(tmp_path / "x.pt", tmp_path / "y.pt", "vmae_det")
    assert "the averaged weights under 'model_ema', not those under 'model'" in str(converted)
    assert torch.equal(read_checkpoint(converted.output)["model"]["head.weight"], averaged["head.weight"])


def test_which_of_several_weights_are_taken(model, tmp_path):
    theirs, other = state_dict("videomae", "finetune"), state_dict("videomae", "finetune", seed=1)
    contents = {
        # mmengine's EMAHook swaps the two before it saves.
        "the weights under 'state_dict', not those under 'ema_state_dict'": {
            "state_dict": theirs,
            "ema_state_dict": {"steps": torch.tensor(5)} | {f"module.{name}": other[name] for name in other},
        },
        "the weights under 'model', not those under 'state_dict'": {"model": theirs, "state_dict": other},
        "the averaged weights under 'params_ema', not those under 'params'": {
            "params": other,
            "params_ema": theirs,
        },
        "": {"model": theirs, "ema": {"decay": 0.99, "updates": torch.tensor(5)}, "net": {"name": "vit"}},
    }
    for said, content in contents.items():
        torch.save(content, tmp_path / "x.pt")
        ours = model("finetune")
        report = str(load_weights(ours, tmp_path / "x.pt"))
        assert torch.equal(ours.head.weight, theirs["head.weight"])
        assert report.endswith(f"VideoMAE classification format{said and ': '}{said}")
    with pytest.raises(
        WeightsError, match=r"holds several models, under 'student', 'teacher'; save one alone"
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
    theirs["head.weight"] = theirs["head.weight"].double() * 1e300  # float32 holds less
    with pytest.raises(WeightsError, match=r"numbers that are not finite, in head\.weight"):
        load_weights(model("finetune"), theirs)
    theirs["head.weight"] = torch.full((5, 24), 0.5).to(torch.float8_e4m3fn)
    ours = model("finetune")
    load_weights(ours, theirs)
    assert (ours.head.weight == 0.5).all()


def test_a_videomae_model_of_transformers_without_its_prefix(model):
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


def test_a_part_of_a_model_is_not_converted(tmp_path):
    theirs = state_dict("videomae", "finetune")
    shards = {
        "the first": ("blocks.1.", "fc_norm."),
        "the last": ("blocks.0.",),
        "without a bias": ("blocks.1.mlp.fc1.bias",),
        "without an embedding": ("patch_embed.proj.bias",),
    }
    for name, absent in shards.items():
        torch.save({key: theirs[key] for key in theirs if not key.startswith(absent)}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"x\.pt: holds a model in part, without "):
            convert_weights(tmp_path / "x.pt", tmp_path / f"{name}.pt", "vmae_det")
    torch.save(theirs, tmp_path / "model-00001-of-00002.bin")
    with pytest.raises(WeightsError, match="one of 2 files"):
        convert_weights(tmp_path / "model-00001-of-00002.bin", tmp_path / "y.pt", "vmae_det")


def test_unknown_names_are_shown(tmp_path):
    with pytest.raises(WeightsError, match=r"the first under 'model' are layer1\.0\.conv1\.weight, fc\.bias"):
        load_weights(
            torch.nn.Module(), {"model": {"layer1.0.conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}}
        )
    torch.save({"optimizer_state_dict": {}, "epoch": 1}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds no parameters, but optimizer_state_dict, epoch"):
        load_weights(torch.nn.Module(), tmp_path / "x.pt")
