import math

import pytest
import torch

from vmae_det.modeling import build_model
from vmae_det.solver import build_optimizer, build_schedule, parameter_groups


def test_layer_wise_decay_and_weight_decay(tiny_cfg):
    model = build_model(tiny_cfg("detect"))  # two blocks
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
    of = {name: group for group in groups for name in group["names"]}
    assert of["roi_head.classifier.weight"]["lr_scale"] == 1
    assert of["backbone.norm.weight"]["lr_scale"] == 1
    assert of["backbone.blocks.1.attn.qkv.weight"]["lr_scale"] == 0.5
    assert of["backbone.blocks.0.attn.qkv.weight"]["lr_scale"] == 0.25
    assert of["backbone.patch_embed.proj.weight"]["lr_scale"] == 0.125
    assert of["backbone.patch_embed.proj.weight"]["weight_decay"] == 0.05
    for name in ("backbone.patch_embed.proj.bias", "backbone.norm.weight", "roi_head.classifier.bias"):
        assert of[name]["weight_decay"] == 0
    assert len(of) == len(list(model.parameters()))


def test_the_mask_token_does_not_decay(tiny_cfg):
    groups = parameter_groups(build_model(tiny_cfg("pretrain")), 0.05, 1.0)
    assert [g["weight_decay"] for g in groups if "mask_token" in g["names"]] == [0]


def test_frozen_parameters_are_skipped(tiny_cfg):
    model = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.LINEAR_PROBE", True))
    names = [name for group in parameter_groups(model, 0.05, 1.0) for name in group["names"]]
    assert names
    assert not any(name.startswith("backbone") for name in names)


def test_the_head_factor_does_not_apply_to_the_person_head(tiny_cfg):
    cfg = tiny_cfg("detect", "MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8)
    groups = parameter_groups(build_model(cfg), 0.05, 0.5, head_factor=20.0)
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scales["roi_head.classifier.weight"] == 20
    assert {scale for name, scale in scales.items() if name.startswith("person_head.")} == {1.0}


def test_warm_up_then_cosine_scaled_by_the_batch(tiny_cfg):
    schedule = build_schedule(
        tiny_cfg(
            "pretrain",
            *("SOLVER.BASE_LR", 1.0, "SOLVER.MIN_LR", 0.1, "SOLVER.WARMUP_LR", 0.2, "SOLVER.BATCH_SIZE", 512),
            *("SOLVER.EPOCHS", 10, "SOLVER.WARMUP_EPOCHS", 2.0),
        )
    )
    assert schedule(0.0) == pytest.approx(0.4)
    assert schedule(0.1) == pytest.approx(1.2)
    assert schedule(0.2) == pytest.approx(2.0)
    assert schedule(0.6) == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert schedule(1 - 1e-9) == pytest.approx(0.2)


def test_without_warm_up_the_first_step_is_at_the_peak(tiny_cfg):
    schedule = build_schedule(tiny_cfg("pretrain", "SOLVER.BASE_LR", 1.0, "SOLVER.BATCH_SIZE", 256))
    assert schedule(0.0) == pytest.approx(1.0)


def test_optimizers(tiny_cfg):
    model = build_model(tiny_cfg("detect"))
    assert isinstance(build_optimizer(tiny_cfg("detect"), model), torch.optim.AdamW)
    sgd = build_optimizer(tiny_cfg("detect", "SOLVER.OPTIMIZER", "sgd", "SOLVER.MOMENTUM", 0.7), model)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.7


def test_the_head_may_learn_faster(tiny_cfg):
    model = build_model(tiny_cfg("detect"))
    groups = parameter_groups(model, 0.05, layer_decay=0.5, head_factor=8.0)
    of = {name: group for group in groups for name in group["names"]}
    assert of["roi_head.classifier.weight"]["lr_scale"] == 8
    assert of["roi_head.classifier.bias"]["lr_scale"] == 8
    assert of["backbone.norm.weight"]["lr_scale"] == 1
    assert of["backbone.patch_embed.proj.weight"]["lr_scale"] == 0.125
