"""Models that a published format cannot express are refused; others are converted without a change."""

import pytest
import torch

from vmae_det.checkpoint import load_weights, save_weights
from vmae_det.checkpoint.convert import convert_weights, write_huggingface_folder
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

FLAT = ("MODEL.BACKBONE.POSITIONS", "flat")
WIDE = (*FLAT, "MODEL.BACKBONE.EMBED_DIM", 384, "MODEL.BACKBONE.DEPTH", 1)
AXES = ("MODEL.BACKBONE.POSITIONS", "axes")


@pytest.fixture
def saved(tiny_cfg, tmp_path):
    """saved(TASK, KEY, VALUE, ...): the config of a model and the file of its weights."""

    def save(task, *opts):
        cfg = tiny_cfg(task, *opts)
        return cfg, save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "ours.pt")

    return save


@pytest.mark.parametrize(
    ("family", "task", "opts", "expected"),
    [
        ("videomae", "finetune", AXES, "POSITIONS is axes, but its models compute flat positions"),
        ("videomae", "pretrain", AXES, "POSITIONS is axes"),
        ("videomae", "detect", AXES, "POSITIONS is axes"),
        ("huggingface", "finetune", AXES, "POSITIONS is axes"),
        ("huggingface", "pretrain", AXES, "POSITIONS is axes"),
        (
            "videomae",
            "finetune",
            (*WIDE, "MODEL.BACKBONE.NUM_HEADS", 12),
            r"BACKBONE\.NUM_HEADS is 12, .* 6$",
        ),
        (
            "videomae",
            "pretrain",
            (*FLAT, "MODEL.DECODER.EMBED_DIM", 192, "MODEL.DECODER.NUM_HEADS", 6),
            r"DECODER\.NUM_HEADS is 6, .* 3$",
        ),
        ("mmaction2", "detect", (*FLAT, "MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7), "KEEP_RATE is 0.7"),
        ("huggingface", "finetune", (*FLAT, "MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7), "KEEP_RATE is 0.7"),
        ("videomae", "detect", (*FLAT, "MODEL.ROI_HEAD.ALIGNED", True), r"ROI_HEAD\.ALIGNED is True"),
        ("videomae", "detect", (*FLAT, "MODEL.ROI_HEAD.RESOLUTION", 8), r"ROI_HEAD\.RESOLUTION is 8"),
        ("videomae", "detect", (*FLAT, "MODEL.ROI_HEAD.CONTEXT", True), r"ROI_HEAD\.CONTEXT is True"),
        ("mmaction2", "detect", (*FLAT, "MODEL.ROI_HEAD.NUM_LAYERS", 2), r"ROI_HEAD\.NUM_LAYERS is 2"),
        (
            "huggingface",
            "pretrain",
            (*FLAT, "MODEL.DECODER.MASK", "running_cell"),
            r"DECODER\.MASK is running_cell",
        ),
        ("huggingface", "pretrain", (*FLAT, "MODEL.RECONSTRUCTION.NUM_FRAMES", 1), "own frames"),
        ("videomae", "pretrain", (*FLAT, "MODEL.RECONSTRUCTION.SAMPLING_RATE", 3), "own frames"),
        (
            "huggingface",
            "pretrain",
            (*FLAT, "MODEL.RECONSTRUCTION.NORMALIZE", False, "MODEL.PIXEL_STD", (50.0, 50.0, 50.0)),
            "not ImageNet's",
        ),
    ],
)
def test_models_that_a_format_cannot_express_are_refused(saved, tmp_path, family, task, opts, expected):
    cfg, path = saved(task, *opts)
    output = tmp_path / "theirs.safetensors"
    with pytest.raises(WeightsError, match=expected):
        convert_weights(path, output, family)
    assert not output.exists()
    if family == "huggingface":
        with pytest.raises(WeightsError, match=expected):
            write_huggingface_folder(build_model(cfg).state_dict(), cfg, None, tmp_path / "theirs")
        assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("task", ["pretrain", "finetune", "detect"])
@pytest.mark.parametrize("family", ["videomae", "huggingface", "mmaction2"])
def test_models_like_the_published_ones_are_written(saved, tmp_path, task, family):
    _, path = saved(task, *FLAT)
    convert_weights(path, tmp_path / "theirs.pth", family)


def test_the_position_table_is_written_for_mmaction2(saved, tiny_cfg, tmp_path):
    """mmaction2 stores the table with the weights; a model with flat positions loads it."""
    cfg, path = saved("finetune", *AXES)
    ours = build_model(cfg).eval()
    load_weights(ours, path)
    convert_weights(path, tmp_path / "theirs.pth", "mmaction2")
    table = torch.load(tmp_path / "theirs.pth", weights_only=True)["state_dict"]["backbone.pos_embed"]
    assert torch.equal(table[0], ours.backbone.positions)
    flat = build_model(tiny_cfg("finetune", *FLAT)).eval()
    load_weights(flat, tmp_path / "theirs.pth")
    video = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(flat.logits(video), ours.logits(video))


def test_learned_positions(saved, tmp_path):
    """Transformers computes its positions: an equal table is dropped, a learned one is refused."""
    cfg, path = saved("finetune", *FLAT)
    content = torch.load(path, weights_only=True)
    content["model"]["backbone.positions"] = build_model(cfg).backbone.positions.clone()
    torch.save(content, path)
    convert_weights(path, tmp_path / "theirs.pth", "huggingface")
    names = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert not any("position" in name for name in names)
    content["model"]["backbone.positions"][3] += 1
    torch.save(content, path)
    with pytest.raises(WeightsError, match="was learned, but Transformers computes"):
        convert_weights(path, tmp_path / "other.pth", "huggingface")


def test_settings_that_the_file_does_not_contain_are_reported(saved, tmp_path):
    _, path = saved("finetune", *FLAT)
    report = str(convert_weights(path, tmp_path / "theirs.pth", "videomae"))
    assert "image size 64, patch size 16, frames 4, tubelet size 2, heads 2" in report
    assert "pixel mean 123.675 116.28 103.53" in report
