"""Activation checkpointing, compared with blocks whose activations are kept."""

import pytest
import torch

from vmae_det.config import get_cfg
from vmae_det.modeling import build_model

SIZES = (
    *("INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 4, "MODEL.BACKBONE.NUM_HEADS", 2),
    *("MODEL.BACKBONE.DROP_PATH", 0.5, "MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.CLASSIFIER.DROPOUT", 0.5),
    *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.NUM_HEADS", 2, "MODEL.MASK.RATIO", 0.5),
)


def build(architecture, recompute):
    cfg = get_cfg()
    cfg.merge_from_list([*SIZES, "MODEL.META_ARCHITECTURE", architecture])
    cfg.MODEL.ACTIVATION_CHECKPOINTING = recompute
    return build_model(cfg).train()


def batch(clips=4):
    generator = torch.Generator().manual_seed(0)
    return {
        "video": torch.randint(0, 256, (clips, 3, 4, 32, 32), generator=generator, dtype=torch.uint8),
        "label": torch.arange(clips) % 5,
        "seed": torch.arange(clips),
    }


def step(model, seed=3):
    """Return the loss, the gradients, and random numbers drawn after the step."""
    torch.manual_seed(seed)
    loss = model(batch())["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, torch.rand(1)


@pytest.mark.parametrize("architecture", ["MaskedAutoencoder", "VideoClassifier"])
def test_losses_and_gradients_are_bitwise_equal(architecture):
    kept, recomputed = (step(build(architecture, recompute)) for recompute in (False, True))
    assert torch.equal(kept[0], recomputed[0])
    assert kept[1].keys() == recomputed[1].keys()
    assert all(torch.equal(value, recomputed[1][name]) for name, value in kept[1].items())
    assert torch.equal(kept[2], recomputed[2])
    other = step(build(architecture, True), seed=4)
    assert not torch.equal(other[0], kept[0])  # stochastic depth was active


def test_fewer_activations_are_kept():
    """Return the bytes that autograd keeps between the passes, measured by live storages."""
    held = {}
    for recompute in (False, True):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = build("VideoClassifier", recompute)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch())
        held[recompute] = sum(size for pointer, size in storages.items() if pointer not in own)
    assert held[True] < held[False] / 4


def test_evaluation_recomputes_nothing(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("vmae_det.modeling.backbones.vit.checkpoint", refuse)
    model = build("VideoClassifier", True)
    with pytest.raises(AssertionError):
        model(batch())
    with torch.no_grad():
        assert model.eval()(batch())["scores"].shape == (4, 5)
