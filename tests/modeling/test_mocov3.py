"""MoCo v3: its loss against loops, batch norm against nn.BatchNorm1d, and the momentum encoder."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from vmae_det.checkpoint import load_weights
from vmae_det.engine.launch import launch
from vmae_det.modeling import MoCoV3, VideoViT, build_model
from vmae_det.modeling.batch_norm import SyncBatchNorm
from vmae_det.modeling.mocov3 import contrastive_loss, mlp, momentum_at
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils import distributed

PROCESSES, ROWS, WIDTH = 2, 3, 5


def tiny_model(**options):
    torch.manual_seed(0)
    size = {"embed_dim": 16, "depth": 1, "num_heads": 2, "num_frames": 2, "crop_size": 16, "patch_size": 8}
    options = {"hidden_dim": 12, "out_dim": 6, **options}
    return MoCoV3(VideoViT(**size), PixelNormalization((120.0,) * 3, (60.0,) * 3), **options).train()


def random_batch(seed=0, clips=4):
    draw = torch.Generator().manual_seed(seed)
    shape = (clips, 3, 2, 16, 16)
    return {
        name: torch.randint(256, shape, generator=draw, dtype=torch.uint8) for name in ("video", "video2")
    }


def loss_by_loops(queries, keys, rank, temperature):
    """The loss of a process. `keys` are those of all processes; only Python numbers are used."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    total = 0.0
    for row, query in enumerate(queries):
        logits = [cosine(query, key) / temperature for key in keys]
        positive = logits[rank * len(queries) + row]
        total += math.log(sum(math.exp(logit) for logit in logits)) - positive
    return 2 * temperature * total / len(queries)


def features(seed=0):
    return torch.randn(2, PROCESSES * ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def own_rows(x):
    return x[distributed.get_rank() * ROWS :][:ROWS]


def check_loss_of_a_process():
    queries, keys = features()
    rank = distributed.get_rank()
    own_queries = own_rows(queries).clone().requires_grad_()
    own_keys = own_rows(keys).clone().requires_grad_()
    loss = contrastive_loss(own_queries, own_keys, 0.2)
    expected = loss_by_loops(own_rows(queries).tolist(), keys.tolist(), rank, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert own_queries.grad.abs().sum() > 0
    assert own_keys.grad is None


def test_loss_is_that_of_loops_over_the_keys_of_all_processes(preloaded_processes):
    queries, keys = features()
    loss = contrastive_loss(queries, keys, 0.3)
    assert loss.item() == pytest.approx(loss_by_loops(queries.tolist(), keys.tolist(), 0, 0.3), rel=1e-5)
    assert launch(check_loss_of_a_process, (), num_processes=PROCESSES) == 0


def run_batch_norm(layer, x, row_weights):
    """Two training steps' output, gradients and statistics, and the output of evaluation."""
    layer.train()
    layer(2 * x.detach() + 1)
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * row_weights).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return [y.detach(), x.grad, layer.eval()(x.detach())], gradients, [layer.running_mean, layer.running_var]


def prepared(layer):
    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, WIDTH))
            layer.bias.copy_(torch.linspace(-1, 1, WIDTH))
    return layer


def check_batch_norm_of_a_process():
    x, row_weights = features()
    for affine in (True, False):
        single = run_batch_norm(prepared(nn.BatchNorm1d(WIDTH, affine=affine)), x + 100, row_weights)
        found = run_batch_norm(
            prepared(SyncBatchNorm(WIDTH, affine=affine)), own_rows(x) + 100, own_rows(row_weights)
        )
        for ours, theirs in zip(found[0], single[0]):
            torch.testing.assert_close(ours, own_rows(theirs), rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(found[1], single[1]):
            torch.testing.assert_close(distributed.all_reduce_sum(ours), theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(found[2], single[2]):
            torch.testing.assert_close(ours, theirs)


def test_batch_norm_of_two_processes_is_that_of_one_with_all_rows(preloaded_processes):
    assert launch(check_batch_norm_of_a_process, (), num_processes=PROCESSES) == 0


def test_batch_norm_of_one_process_is_that_of_torch():
    x, row_weights = features()
    ours = run_batch_norm(prepared(SyncBatchNorm(WIDTH)), x, row_weights)
    theirs = run_batch_norm(prepared(nn.BatchNorm1d(WIDTH)), x, row_weights)
    assert all(torch.equal(a, b) for part, other in zip(ours, theirs) for a, b in zip(part, other))


def test_projector_has_the_published_layers():
    kinds = [type(layer).__name__ for layer in mlp(3, 16, 12, 6)]
    assert kinds == ["Linear", "SyncBatchNorm", "ReLU"] * 2 + ["Linear", "SyncBatchNorm"]
    shapes = {name: tuple(value.shape) for name, value in mlp(3, 16, 12, 6).named_parameters()}
    assert shapes == {
        **{"0.weight": (12, 16), "1.weight": (12,), "1.bias": (12,)},
        **{"3.weight": (12, 12), "4.weight": (12,), "4.bias": (12,)},
        "6.weight": (6, 12),
    }


def test_loss_is_symmetric_and_each_view_has_its_own_statistics():
    model, batch = tiny_model(temperature=0.5), random_batch()

    def encode(backbone, head, video):
        with torch.no_grad():
            tokens = backbone((video.float() - 120) / 60)
        return head(tokens.mean(dim=1))

    def query(video):
        return model.predictor(encode(model.backbone, model.projector, video)).tolist()

    def key(video):
        encoder = model.momentum_encoder
        return encode(encoder["backbone"], encoder["projector"], video).tolist()

    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    first, second = batch["video"], batch["video2"]
    expected = loss_by_loops(query(first), key(second), 0, 0.5)
    expected += loss_by_loops(query(second), key(first), 0, 0.5)
    assert model(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_momentum_increases_to_one_by_half_a_cosine():
    found = [momentum_at(progress, 0.96) for progress in (0, 0.25, 0.5, 0.75, 1)]
    expected = [0.96, 1 - 0.02 * (1 + math.sqrt(0.5)), 0.98, 1 - 0.02 * (1 - math.sqrt(0.5)), 1]
    assert found == pytest.approx(expected)


def test_momentum_encoder_follows_the_base_encoder_before_the_keys_are_made():
    model = tiny_model(momentum=0.9)
    base = {**dict(model.backbone.named_parameters(prefix="backbone"))}
    base |= dict(model.projector.named_parameters(prefix="projector"))
    keys = dict(model.momentum_encoder.named_parameters())
    assert base.keys() == keys.keys()
    model.before_step(0.0)
    assert all(torch.equal(base[name], keys[name]) for name in base)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    expected = {name: value.detach().clone() for name, value in keys.items()}
    for step in (1, 2):
        optimizer.zero_grad()
        model(random_batch(step))["loss"].backward()
        optimizer.step()
        assert all(torch.equal(keys[name], expected[name]) for name in keys), "only before_step updates it"
        model.before_step(step / 4)
        momentum = momentum_at(step / 4, 0.9)
        for name in keys:
            expected[name] = momentum * expected[name] + (1 - momentum) * base[name].detach()
            torch.testing.assert_close(keys[name], expected[name])
            expected[name] = keys[name].detach().clone()
    assert all(parameter.grad is None for parameter in keys.values())
    moved = [not torch.equal(base[name], keys[name]) for name in base if "patch_embed" not in name]
    assert all(moved)


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_frozen_patch_embedding_keeps_its_random_weights(frozen):
    model = tiny_model(freeze_patch_embedding=frozen)
    before = model.backbone.patch_embed.proj.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        model.before_step(step / 2)
        model(random_batch(step))["loss"].backward()
        optimizer.step()
    for backbone in (model.backbone, model.momentum_encoder["backbone"]):
        changed = not torch.equal(backbone.patch_embed.proj.weight, before)
        assert changed == (not frozen)


def test_evaluation_returns_the_mean_token_of_the_base_encoder():
    model, batch = tiny_model().eval(), random_batch()
    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.zero_()
        expected = model.backbone((batch["video"].float() - 120) / 60).mean(dim=1)
        torch.testing.assert_close(model({"video": batch["video"]})["features"], expected)


def test_momentum_encoder_starts_as_a_copy_of_loaded_weights(tiny_cfg):
    cfg = tiny_cfg("mocov3", "MODEL.INIT", "published")
    source, target = build_model(cfg), build_model(tiny_cfg("mocov3", "SEED", 1))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1)
    weights = source.state_dict()
    load_weights(target, {name: value for name, value in weights.items() if name.startswith("backbone.")})
    target.before_step(0.0)
    loaded = target.state_dict()
    for name, value in weights.items():
        if name.startswith("backbone."):
            assert torch.equal(loaded[f"momentum_encoder.{name}"], value), name
    for name in ("momentum_encoder.backbone.norm.weight", "momentum_encoder.projector.0.weight"):
        weights[name] = weights[name] + 1
    load_weights(target, weights)
    target.before_step(0.0)  # the momentum 0.99 of loaded weights
    name = "momentum_encoder.projector.0.weight"
    expected = 0.99 * weights[name] + 0.01 * weights["projector.0.weight"]
    torch.testing.assert_close(target.state_dict()[name], expected)


def test_published_positions_are_those_of_both_encoders(tiny_cfg):
    cfg = tiny_cfg("mocov3")
    model, weights = build_model(cfg), build_model(cfg).state_dict()
    weights["backbone.positions"] = model.backbone.positions + np.float32(0.5)
    load_weights(model, weights)
    model.before_step(0.5)
    assert torch.equal(model.momentum_encoder["backbone"].positions, weights["backbone.positions"])
    assert "momentum_encoder.backbone.positions" not in model.state_dict()
    load_weights(build_model(cfg), model.state_dict())
