"""The `*_as_published` configs match the authors' scripts, which give values per process."""

import pytest

from vmae_det import model_zoo
from vmae_det.solver import build_schedule

# Videos per process, number of processes, base lr, epochs, number of decoder blocks.
PRETRAINING = {
    "Kinetics/vit_small_16x4": (32, 32, 1.5e-4, 1601, 4),
    "Kinetics/vit_base_16x4": (32, 64, 1.5e-4, 1601, 4),
    "Kinetics/vit_large_16x4": (8, 64, 1.5e-4, 1601, 12),
    "Kinetics/vit_huge_16x4": (16, 64, 1.5e-4, 1601, 12),
    "SSv2/vit_small_16x2": (32, 32, 1.5e-4, 2401, 4),
    "SSv2/vit_base_16x2": (32, 64, 1.5e-4, 2401, 4),
    "UCF101/vit_base_16x4": (24, 8, 3e-4, 3201, 4),
}
# Videos per process, number of processes, base lr, final lr, epochs, layer decay, drop path, head dropout.
FINETUNING = {
    "Kinetics/vit_small_16x4": (12, 32, 5e-4, 1e-6, 150, 0.75, 0.1, 0.0),
    "Kinetics/vit_base_16x4": (6, 64, 5e-4, 1e-6, 75, 0.75, 0.1, 0.0),
    "Kinetics/vit_large_16x4": (2, 64, 2e-3, 1e-6, 35, 0.75, 0.1, 0.0),
    "Kinetics/vit_huge_16x4": (8, 64, 1e-3, 1e-5, 50, 0.75, 0.2, 0.5),
    "SSv2/vit_small_16x2": (12, 32, 1e-3, 1e-6, 40, 0.7, 0.1, 0.0),
    "SSv2/vit_base_16x2": (6, 64, 5e-4, 1e-6, 30, 0.75, 0.1, 0.0),
    "UCF101/vit_base_16x4": (16, 8, 5e-4, 1e-5, 100, 0.7, 0.2, 0.5),
}
DETECTION = {
    "AVA/vit_small_16x4": (8, 16, 1e-3, 1e-6, 30, 0.6, 0.2, 0.0),
    "AVA/vit_base_16x4": (4, 32, 2.5e-4, 1e-6, 30, 0.75, 0.2, 0.0),
    "AVA/vit_large_16x4": (4, 32, 2.5e-4, 1e-6, 30, 0.75, 0.2, 0.0),
    "AVA/vit_huge_16x4": (2, 64, 5e-4, 1e-6, 20, 0.8, 0.2, 0.0),
    "AVA/vit_small_16x4_from_kinetics": (8, 16, 5e-4, 1e-6, 30, 0.6, 0.2, 0.0),
    "AVA/vit_base_16x4_from_kinetics": (4, 32, 5e-4, 1e-6, 30, 0.75, 0.2, 0.0),
    "AVA/vit_large_16x4_from_kinetics": (4, 32, 5e-4, 1e-6, 20, 0.8, 0.2, 0.0),
    "AVA/vit_huge_16x4_from_kinetics": (2, 64, 5e-4, 1e-6, 20, 0.8, 0.2, 0.0),
}
NAMES = {
    **{f"{name}_pretrain_as_published.yaml": PRETRAINING[name] for name in PRETRAINING},
    **{f"{name}_finetune_as_published.yaml": FINETUNING[name] for name in FINETUNING},
    **{f"{name}_as_published.yaml": DETECTION[name] for name in DETECTION},
}


def test_every_script_has_a_config():
    assert {*NAMES} == {name for name in model_zoo.config_names() if "_as_published" in name}


@pytest.mark.parametrize("name", NAMES)
def test_rates_and_sizes(name):
    cfg, (videos, processes, base_lr, *_) = model_zoo.get_config(name), NAMES[name]
    solver = cfg.SOLVER
    assert (videos * processes, base_lr) == (solver.BATCH_SIZE, solver.BASE_LR)
    rate = build_schedule(cfg)
    assert rate(0.0) == 0
    peak = base_lr * videos * processes / 256
    assert rate(solver.WARMUP_EPOCHS / solver.EPOCHS) == pytest.approx(peak)
    assert cfg.INPUT.CONVENTION == "published"
    start = cfg.MODEL.BACKBONE.CHECKPOINT
    assert not start or "_as_published/" in start
    assert (0.0 if "pretrain_" in name or name.startswith("SSv2/") else 0.5) == cfg.INPUT.FLIP


@pytest.mark.parametrize("name", PRETRAINING)
def test_pre_training(name):
    cfg = model_zoo.get_config(f"{name}_pretrain_as_published.yaml")
    *_, epochs, decoder = PRETRAINING[name]
    assert (epochs, 1e-5, 40.0) == (cfg.SOLVER.EPOCHS, cfg.SOLVER.MIN_LR, cfg.SOLVER.WARMUP_EPOCHS)
    assert (decoder, "published") == (cfg.MODEL.DECODER.DEPTH, cfg.MODEL.INIT)


@pytest.mark.parametrize("name", [*FINETUNING, *DETECTION])
def test_fine_tuning_and_detection(name):
    detects = name in DETECTION
    cfg = model_zoo.get_config(f"{name}{'' if detects else '_finetune'}_as_published.yaml")
    expected = (DETECTION if detects else FINETUNING)[name][3:]
    solver, model, node = cfg.SOLVER, cfg.MODEL, cfg.INPUT
    drops = model.BACKBONE.DROP_PATH, model.CLASSIFIER.DROPOUT
    assert (solver.MIN_LR, solver.EPOCHS, solver.LAYER_DECAY, *drops) == expected
    if detects:
        jitter = node.COLOR_JITTER, node.HUE_JITTER, node.SATURATION_VALUE_JITTER
        assert (model.INIT, *jitter) == ("published", 0.0, 20.0, 0.1)
    else:
        assert (node.RAND_AUGMENT, node.RANDOM_ERASING) == ("rand-m7-n4-mstd0.5-inc1", 0.25)
        assert node.RAND_AUGMENT_WHOLE_FRAME
        assert cfg.DATALOADER.REPEATED_AUG == 2
