"""The configs match the tables of the paper. The expected rates are computed by hand from these tables."""

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.cli.config_arguments import load_config
from vmae_det.cli.main import main
from vmae_det.config.cfg_node import value_of
from vmae_det.engine.inspection import empty_model
from vmae_det.solver import build_optimizer, build_schedule, parameter_groups

NAMES = model_zoo.config_names()
OTHERS = (
    "MiniAVA/",
    "MiniMotion/",
    "MiniScenes/",
    "_as_published",
    "_mmaction2",
    "umt_",
    "videomaev2_",
    "mae_st_",
    "image_",
    "vjepa2",
    "hiera_",
)  # not of the paper
PAPER = [name for name in NAMES if not any(other in name for other in OTHERS)]

# Rows of the tables: base lr, batch, epochs, layer decay, drop path, head dropout.
FINETUNING = {
    "Kinetics/vit_small_16x4_finetune.yaml": (1e-3, 512, 150, 0.7, 0.1, 0.0),
    "Kinetics/vit_base_16x4_finetune.yaml": (1e-3, 512, 75, 0.75, 0.1, 0.0),
    "Kinetics/vit_large_16x4_finetune.yaml": (1e-3, 512, 50, 0.75, 0.2, 0.5),
    "Kinetics/vit_huge_16x4_finetune.yaml": (1e-3, 512, 50, 0.75, 0.2, 0.5),
    "SSv2/vit_small_16x2_finetune.yaml": (1e-3, 512, 40, 0.7, 0.1, 0.0),
    "SSv2/vit_base_16x2_finetune.yaml": (5e-4, 512, 40, 0.75, 0.1, 0.0),
    "SSv2/vit_large_16x2_finetune.yaml": (5e-4, 512, 30, 0.75, 0.2, 0.5),
    "UCF101/vit_base_16x4_finetune.yaml": (5e-4, 128, 100, 0.7, 0.2, 0.0),
    "HMDB51/vit_base_16x2_finetune.yaml": (1e-3, 128, 50, 0.7, 0.2, 0.0),
    "AVA/vit_small_16x4.yaml": (1e-3, 128, 30, 0.6, 0.2, 0.0),
    "AVA/vit_base_16x4.yaml": (2.5e-4, 128, 30, 0.75, 0.2, 0.0),
    "AVA/vit_large_16x4.yaml": (2.5e-4, 128, 30, 0.75, 0.2, 0.0),
    "AVA/vit_huge_16x4.yaml": (5e-4, 128, 20, 0.8, 0.2, 0.0),
    "AVA/vit_small_16x4_from_kinetics.yaml": (5e-4, 128, 30, 0.6, 0.2, 0.0),
    "AVA/vit_base_16x4_from_kinetics.yaml": (5e-4, 128, 30, 0.75, 0.2, 0.0),
    "AVA/vit_large_16x4_from_kinetics.yaml": (5e-4, 128, 20, 0.8, 0.2, 0.0),
    "AVA/vit_huge_16x4_from_kinetics.yaml": (5e-4, 128, 20, 0.8, 0.2, 0.0),
}

# Learning rate at the first step, at the end of the warm-up, in the middle and at the end of the cosine
# schedule; number of warm-up epochs; number of epochs.
SCHEDULES = {
    # 1.5e-4 x 1024/256, 1e-5 x 4
    "Kinetics/vit_small_16x4_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "Kinetics/vit_base_16x4_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "Kinetics/vit_large_16x4_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "Kinetics/vit_huge_16x4_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "SSv2/vit_small_16x2_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "SSv2/vit_base_16x2_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    "SSv2/vit_large_16x2_pretrain.yaml": (0.0, 6e-4, 3.2e-4, 4e-5, 40, 800),
    # 3e-4 x 192/256, 1e-5 x 0.75
    "UCF101/vit_base_16x4_pretrain.yaml": (0.0, 2.25e-4, 1.1625e-4, 7.5e-6, 40, 3200),
    "HMDB51/vit_base_16x2_pretrain.yaml": (0.0, 2.25e-4, 1.1625e-4, 7.5e-6, 40, 4800),
    # MoCo v3: 1.5e-4 x 1024/256
    "Kinetics/vit_small_16x4_mocov3.yaml": (0.0, 6e-4, 3e-4, 0.0, 40, 300),
    "Kinetics/vit_base_16x4_mocov3.yaml": (0.0, 6e-4, 3e-4, 0.0, 40, 300),
    "SSv2/vit_base_16x2_mocov3.yaml": (0.0, 6e-4, 3e-4, 0.0, 40, 300),
    # 1e-3 x 512/256, 1e-6 x 2
    "Kinetics/vit_small_16x4_finetune.yaml": (2e-6, 2e-3, 1.001e-3, 2e-6, 5, 150),
    "Kinetics/vit_base_16x4_finetune.yaml": (2e-6, 2e-3, 1.001e-3, 2e-6, 5, 75),
    "Kinetics/vit_large_16x4_finetune.yaml": (2e-6, 2e-3, 1.001e-3, 2e-6, 5, 50),
    "Kinetics/vit_huge_16x4_finetune.yaml": (2e-6, 2e-3, 1.001e-3, 2e-6, 5, 50),
    "SSv2/vit_small_16x2_finetune.yaml": (2e-6, 2e-3, 1.001e-3, 2e-6, 5, 40),
    # 5e-4 x 2
    "SSv2/vit_base_16x2_finetune.yaml": (2e-6, 1e-3, 5.01e-4, 2e-6, 5, 40),
    "SSv2/vit_large_16x2_finetune.yaml": (2e-6, 1e-3, 5.01e-4, 2e-6, 5, 30),
    # 5e-4 x 128/256 and 1e-3 x 0.5, 1e-6 x 0.5
    "UCF101/vit_base_16x4_finetune.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 100),
    "HMDB51/vit_base_16x2_finetune.yaml": (5e-7, 5e-4, 2.5025e-4, 5e-7, 5, 50),
    # 0.1 x 1024/256
    "Kinetics/vit_small_16x4_linear_probe.yaml": (0.0, 0.4, 0.2, 0.0, 10, 100),
    "Kinetics/vit_base_16x4_linear_probe.yaml": (0.0, 0.4, 0.2, 0.0, 10, 100),
    "Kinetics/vit_large_16x4_linear_probe.yaml": (0.0, 0.4, 0.2, 0.0, 10, 100),
    "Kinetics/vit_huge_16x4_linear_probe.yaml": (0.0, 0.4, 0.2, 0.0, 10, 100),
    # 1e-3, 2.5e-4 and 5e-4 x 128/256
    "AVA/vit_small_16x4.yaml": (5e-7, 5e-4, 2.5025e-4, 5e-7, 5, 30),
    "AVA/vit_base_16x4.yaml": (5e-7, 1.25e-4, 6.275e-5, 5e-7, 5, 30),
    "AVA/vit_large_16x4.yaml": (5e-7, 1.25e-4, 6.275e-5, 5e-7, 5, 30),
    "AVA/vit_huge_16x4.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 20),
    "AVA/vit_small_16x4_from_kinetics.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 30),
    "AVA/vit_base_16x4_from_kinetics.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 30),
    "AVA/vit_large_16x4_from_kinetics.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 20),
    "AVA/vit_huge_16x4_from_kinetics.yaml": (5e-7, 2.5e-4, 1.2525e-4, 5e-7, 5, 20),
}

# Depth, and the lr factors of the patch embedding, the first block and the last block: the layer decay to the
# power of depth + 1, depth and 1.
LAYER_RATES = {
    "Kinetics/vit_small_16x4_finetune.yaml": (12, 9.688901e-3, 1.3841287e-2, 0.7),  # 0.7^13, 0.7^12
    "Kinetics/vit_base_16x4_finetune.yaml": (12, 2.3757264e-2, 3.1676352e-2, 0.75),  # 0.75^13, 0.75^12
    "Kinetics/vit_large_16x4_finetune.yaml": (24, 7.5254346e-4, 1.0033913e-3, 0.75),  # 0.75^25, 0.75^24
    "Kinetics/vit_huge_16x4_finetune.yaml": (32, 7.5339319e-5, 1.0045243e-4, 0.75),  # 0.75^33, 0.75^32
    "SSv2/vit_small_16x2_finetune.yaml": (12, 9.688901e-3, 1.3841287e-2, 0.7),
    "SSv2/vit_base_16x2_finetune.yaml": (12, 2.3757264e-2, 3.1676352e-2, 0.75),
    "SSv2/vit_large_16x2_finetune.yaml": (24, 7.5254346e-4, 1.0033913e-3, 0.75),
    "UCF101/vit_base_16x4_finetune.yaml": (12, 9.688901e-3, 1.3841287e-2, 0.7),
    "HMDB51/vit_base_16x2_finetune.yaml": (12, 9.688901e-3, 1.3841287e-2, 0.7),
    "AVA/vit_small_16x4.yaml": (12, 1.3060694e-3, 2.1767823e-3, 0.6),  # 0.6^13, 0.6^12
    "AVA/vit_base_16x4.yaml": (12, 2.3757264e-2, 3.1676352e-2, 0.75),
    "AVA/vit_large_16x4.yaml": (24, 7.5254346e-4, 1.0033913e-3, 0.75),
    "AVA/vit_huge_16x4.yaml": (32, 6.338253e-4, 7.9228163e-4, 0.8),  # 0.8^33, 0.8^32
    "AVA/vit_small_16x4_from_kinetics.yaml": (12, 1.3060694e-3, 2.1767823e-3, 0.6),
    "AVA/vit_base_16x4_from_kinetics.yaml": (12, 2.3757264e-2, 3.1676352e-2, 0.75),
    "AVA/vit_large_16x4_from_kinetics.yaml": (24, 3.7778932e-3, 4.7223665e-3, 0.8),  # 0.8^25, 0.8^24
    "AVA/vit_huge_16x4_from_kinetics.yaml": (32, 6.338253e-4, 7.9228163e-4, 0.8),
}

WIDTHS = {  # encoder width, depth and heads; decoder width and heads
    "s": (384, 12, 6, 192, 3),
    "b": (768, 12, 12, 384, 6),
    "l": (1024, 24, 16, 512, 8),
    "h": (1280, 32, 16, 640, 8),
}


def expect(cfg, **values):
    """Check the values of config keys, which are given with __ instead of dots."""
    for key, value in values.items():
        key = key.replace("__", ".")
        assert value_of(cfg, key) == value, key


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid(name):
    load_config(name, [])


def test_every_row_of_the_paper_has_a_config():
    assert {*FINETUNING, *SCHEDULES, *LAYER_RATES} <= set(PAPER)
    variants = {name for name in PAPER if "_32x" in name or "finetune_from_" in name}
    assert {*SCHEDULES} == {*PAPER} - variants
    outputs = [model_zoo.get_config(name).OUTPUT_DIR for name in NAMES]
    assert len(set(outputs)) == len(NAMES), "two configs write to one folder"


@pytest.mark.parametrize("name", PAPER)
def test_the_name_contains_the_backbone(name):
    cfg = model_zoo.get_config(name)
    width, depth, heads, decoder_width, decoder_heads = WIDTHS[name.split("/vit_")[1][0]]
    expect(
        cfg,
        MODEL__BACKBONE__EMBED_DIM=width,
        MODEL__BACKBONE__DEPTH=depth,
        MODEL__BACKBONE__NUM_HEADS=heads,
        MODEL__BACKBONE__PATCH_SIZE=16,
        MODEL__BACKBONE__TUBELET_SIZE=2,
        MODEL__DECODER__EMBED_DIM=decoder_width,
        MODEL__DECODER__NUM_HEADS=decoder_heads,
        MODEL__DECODER__DEPTH=4,
    )


@pytest.mark.parametrize("name", FINETUNING)
def test_fine_tuning(name):
    cfg = model_zoo.get_config(name)
    rate, batch, epochs, decay, drop_path, dropout = FINETUNING[name]
    expect(
        cfg,
        SOLVER__OPTIMIZER="adamw",
        SOLVER__BETAS=(0.9, 0.999),
        SOLVER__WEIGHT_DECAY=0.05,
        SOLVER__BASE_LR=rate,
        SOLVER__BATCH_SIZE=batch,
        SOLVER__EPOCHS=epochs,
        SOLVER__WARMUP_EPOCHS=5.0,
        SOLVER__LAYER_DECAY=decay,
        SOLVER__HEAD_LR_FACTOR=1.0,
        MODEL__BACKBONE__DROP_PATH=drop_path,
        MODEL__CLASSIFIER__DROPOUT=dropout,
        INPUT__NUM_FRAMES=16,
        INPUT__CROP_SIZE=224,
        INPUT__FLIP=0.0 if name.startswith("SSv2/") else 0.5,
    )


@pytest.mark.parametrize(
    ("folder", "classes", "sampling", "stride", "clips"),
    [
        ("Kinetics", 400, "dense", 4, 5),
        ("SSv2", 174, "segments", 2, 2),
        ("UCF101", 101, "dense", 4, 5),
        ("HMDB51", 51, "dense", 2, 10),
    ],
)
def test_settings_shared_by_the_classifiers_of_a_dataset(folder, classes, sampling, stride, clips):
    for name in (each for each in FINETUNING if each.startswith(f"{folder}/")):
        expect(
            model_zoo.get_config(name),
            MODEL__META_ARCHITECTURE="VideoClassifier",
            MODEL__CLASSIFIER__NUM_CLASSES=classes,
            MODEL__CLASSIFIER__LABEL_SMOOTHING=0.1,
            INPUT__SAMPLING=sampling,
            INPUT__SAMPLING_RATE=stride,
            INPUT__RAND_AUGMENT="rand-m9-mstd0.5-inc1",
            INPUT__MIXUP=0.8,
            INPUT__CUTMIX=1.0,
            INPUT__RANDOM_ERASING=0.0,
            DATALOADER__REPEATED_AUG=2,
            TEST__NUM_CLIPS=clips,
            TEST__NUM_CROPS=3,
        )


@pytest.mark.parametrize(
    ("folder", "ratio", "stride", "flip"),
    [("Kinetics", 0.9, 4, 0.5), ("SSv2", 0.9, 2, 0.0), ("UCF101", 0.75, 4, 0.5), ("HMDB51", 0.75, 2, 0.5)],
)
def test_pre_training(folder, ratio, stride, flip):
    names = [name for name in PAPER if name.startswith(f"{folder}/") and name.endswith("_pretrain.yaml")]
    assert names
    for name in names:
        expect(
            model_zoo.get_config(name),
            MODEL__META_ARCHITECTURE="MaskedAutoencoder",
            MODEL__MASK__TYPE="tube",
            MODEL__MASK__RATIO=ratio,
            MODEL__RECONSTRUCTION__NORMALIZE=True,
            MODEL__RECONSTRUCTION__LOSS="mse",
            INPUT__TRAIN_CROP="multi_scale",
            INPUT__CROP_SCALES=(1.0, 0.875, 0.75, 0.66),
            INPUT__SAMPLING_RATE=stride,
            INPUT__FLIP=flip,
            SOLVER__OPTIMIZER="adamw",
            SOLVER__BETAS=(0.9, 0.95),
            SOLVER__WEIGHT_DECAY=0.05,
            SOLVER__LAYER_DECAY=1.0,
        )


@pytest.mark.parametrize("name", [name for name in PAPER if name.endswith("_mocov3.yaml")])
def test_contrastive_pre_training(name):
    expect(
        model_zoo.get_config(name),
        MODEL__META_ARCHITECTURE="MoCoV3",
        MODEL__MOCO__HIDDEN_DIM=4096,
        MODEL__MOCO__OUT_DIM=256,
        MODEL__MOCO__TEMPERATURE=0.2,
        MODEL__MOCO__MOMENTUM=0.99,
        MODEL__MOCO__FREEZE_PATCH_EMBEDDING=True,
        INPUT__TRAIN_CROP="resized",
        INPUT__CROP_AREA=(0.08, 1.0),
        INPUT__SAMPLING_RATE=4 if name.startswith("Kinetics/") else 2,
        INPUT__FLIP=0.5 if name.startswith("Kinetics/") else 0.0,
        SOLVER__OPTIMIZER="adamw",
        SOLVER__BETAS=(0.9, 0.999),
        SOLVER__WEIGHT_DECAY=0.1,
        SOLVER__BATCH_SIZE=1024,
    )


@pytest.mark.parametrize("size", ["small", "base", "large", "huge"])
def test_linear_probe(size):
    cfg = model_zoo.get_config(f"Kinetics/vit_{size}_16x4_linear_probe.yaml")
    expect(
        cfg,
        MODEL__CLASSIFIER__LINEAR_PROBE=True,
        MODEL__BACKBONE__DROP_PATH=0.0,
        INPUT__TRAIN_CROP="multi_scale",
        INPUT__RAND_AUGMENT="",
        INPUT__MIXUP=0.0,
        INPUT__CUTMIX=0.0,
        INPUT__FLIP=0.0,
        DATALOADER__REPEATED_AUG=1,
        SOLVER__OPTIMIZER="sgd",
        SOLVER__MOMENTUM=0.9,
        SOLVER__WEIGHT_DECAY=0.0,
    )
    model = empty_model(cfg)
    groups = parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.LAYER_DECAY)
    names = {name for group in groups for name in group["names"]}
    assert names == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("AVA/")])
def test_detection(name):
    expect(
        model_zoo.get_config(name),
        MODEL__META_ARCHITECTURE="ActionDetector",
        MODEL__PIXEL_MEAN=(122.7717, 115.9465, 102.9801),
        MODEL__PIXEL_STD=(57.375, 57.375, 57.375),
        MODEL__ROI_HEAD__NUM_CLASSES=80,
        MODEL__ROI_HEAD__LOSS="sum",
        INPUT__SAMPLING_RATE=4,
        INPUT__TRAIN_CROP="short_side",
        INPUT__TRAIN_SHORT_SIDE=256,
        INPUT__TEST_SHORT_SIDE=256,
        TEST__PERSON_BOX_SCORE=0.8,
    )


@pytest.mark.parametrize(
    ("name", "frames", "side", "clips"),
    [
        ("Kinetics/vit_large_32x4_320px_finetune.yaml", 32, 320, 4),
        ("Kinetics/vit_huge_32x4_320px_finetune.yaml", 32, 320, 4),
        ("SSv2/vit_large_32x2_finetune.yaml", 32, 224, 1),
    ],
)
def test_longer_and_larger_clips(name, frames, side, clips):
    cfg = model_zoo.get_config(name)
    views = (cfg.TEST.NUM_CLIPS, cfg.TEST.NUM_CROPS)
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, *views) == (frames, side, clips, 3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_schedule(name):
    cfg = model_zoo.get_config(name)
    first, peak, middle, last, warmup, epochs = SCHEDULES[name]
    rate = build_schedule(cfg)
    end_of_warmup = warmup / epochs
    expect(cfg, SOLVER__WARMUP_EPOCHS=warmup, SOLVER__EPOCHS=epochs)
    assert rate(0.0) == pytest.approx(first, rel=1e-9, abs=1e-15)
    assert rate(end_of_warmup / 2) == pytest.approx((first + peak) / 2)
    assert rate(end_of_warmup) == pytest.approx(peak)
    assert rate((end_of_warmup + 1) / 2) == pytest.approx(middle)
    assert rate(1 - 1e-9) == pytest.approx(last, abs=1e-12)


@pytest.mark.parametrize("name", LAYER_RATES)
def test_layer_wise_rates_and_weight_decay(name):
    cfg = model_zoo.get_config(name)
    depth, embedding, first_block, last_block = LAYER_RATES[name]
    model = empty_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    of = {each: group for group in groups for each in group["names"]}
    head = "roi_head.classifier" if name.startswith("AVA/") else "head"
    for parameter, scale in (
        ("backbone.patch_embed.proj.weight", embedding),
        ("backbone.patch_embed.proj.bias", embedding),
        ("backbone.blocks.0.attn.qkv.weight", first_block),
        ("backbone.blocks.0.norm1.bias", first_block),
        (f"backbone.blocks.{depth - 1}.mlp.fc2.weight", last_block),
        (f"{head}.weight", 1.0),
        (f"{head}.bias", 1.0),
    ):
        assert of[parameter]["lr_scale"] == pytest.approx(scale, rel=1e-6), parameter
    assert len({group["lr_scale"] for group in groups}) == depth + 2
    assert set(of) == {each for each, _ in model.named_parameters()}
    for parameter, group in of.items():
        is_matrix = parameter.endswith(".weight") and "norm" not in parameter
        assert group["weight_decay"] == (0.05 if is_matrix else 0.0), parameter


def test_pre_training_has_one_rate_and_no_weight_decay_for_the_mask_token():
    cfg = model_zoo.get_config("Kinetics/vit_base_16x4_pretrain.yaml")
    groups = build_optimizer(cfg, empty_model(cfg)).param_groups
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert {group["weight_decay"] for group in groups if "mask_token" in group["names"]} == {0.0}
    assert all(group["betas"] == (0.9, 0.95) for group in groups)
    assert all(isinstance(parameter, torch.nn.Parameter) for group in groups for parameter in group["params"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Kinetics/vit_base_16x4_finetune.yaml", "kinetics400_train"),
        ("SSv2/vit_small_16x2_pretrain.yaml", "something_something_v2_train"),
        ("UCF101/vit_base_16x4_pretrain.yaml", "ucf101_train"),
        ("HMDB51/vit_base_16x2_finetune.yaml", "hmdb51_train"),
        ("AVA/vit_base_16x4_from_kinetics.yaml", "ava_v2.2_train"),
    ],
)
def test_without_the_dataset_the_error_names_it(name, expected, tmp_path, capsys):
    opts = ["DATASETS.ROOT", str(tmp_path), "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu"]
    assert main(["train", "--config-file", name, *opts]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vmae-det: error")]
    assert len(error) == 1
    assert expected in error[0]
    assert str(tmp_path) in error[0]
    assert "does not exist" in error[0]
