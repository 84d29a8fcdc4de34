"""Compiled models on the device: the losses of the uncompiled model, and nothing is compiled twice.

On the CPU, graphs are traced but not compiled to machine code, which would take minutes.
"""

import pytest
import torch
from torch._dynamo.utils import counters

from gpu.steps import WELL_CONDITIONED, full_width_config, losses_of_steps, make_batch, make_trainer
from vmae_det.engine.trainer import to_device

SCOPES = {
    "block": ("MODEL.COMPILE_SCOPE", "block"),
    "stack": ("MODEL.COMPILE_SCOPE", "stack"),
    "cuda_graphs": ("MODEL.COMPILE_SCOPE", "stack", "MODEL.CUDA_GRAPHS", True),
}
SMALL = ("MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.DROP_PATH", 0.0)


@pytest.fixture
def graphs(device, monkeypatch):
    """graphs(): the number of graphs compiled since the last call, none of which fell back to eager mode."""
    if device.type == "cpu":
        real = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda function, mode=None, **more: real(function, backend="aot_eager", **more)
        )
    torch._dynamo.reset()
    counters.clear()

    def take():
        assert counters["frames"]["ok"] == counters["frames"]["total"], dict(counters)
        number = counters["stats"]["unique_graphs"]
        counters.clear()
        return number

    yield take
    torch._dynamo.reset()


def compiled(scope):
    return ("MODEL.COMPILE", True, *SCOPES[scope])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("task", "amp"),
    [*((task, "none") for task in ("pretrain", "mocov3")), *((task, "bf16") for task in WELL_CONDITIONED)],
)
def test_losses_of_the_uncompiled_model(device, graphs, report, task, amp, scope):
    """Several steps, so that a gradient or output that CUDA graphs overwrite too early is found."""
    options = (*SMALL, "SOLVER.AMP", amp, "SOLVER.BASE_LR", 1e-4)
    cfg = full_width_config(task, "small", device, *options)
    batches = [make_batch(cfg) for _ in range(6)]
    expected = losses_of_steps(cfg, device, batches)
    cfg.merge_from_list(list(compiled(scope)))
    got = losses_of_steps(cfg, device, batches)
    assert graphs() > 0
    assert abs(expected[-1] - expected[0]) > 1e-3 * expected[0]  # the weights change
    difference = max(abs(a - b) / abs(b) for a, b in zip(got, expected))
    report("largest relative difference of 6 losses", f"{difference:.1e}")
    assert difference < (1e-3 if amp == "none" else 2e-2)


@pytest.mark.parametrize("scope", SCOPES)
def test_numbers_of_boxes_compile_nothing(device, graphs, scope):
    cfg = full_width_config("detect", "small", device, *SMALL, *compiled(scope))
    batches = [make_batch(cfg, persons=persons) for persons in ((1, 2), (1, 2), (3, 1), (7, 9), (1, 1))]
    trainer = make_trainer(cfg, device, batches)
    for _ in range(2):
        trainer.run_step()
    assert graphs() > 0
    for _ in range(3):
        trainer.run_step()
        assert graphs() == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_frame_sizes_are_compiled_at_most_twice(device, graphs, report, scope):
    """Test clips have the height and width of their video."""
    cfg = full_width_config("detect", "small", device, *SMALL, *compiled(scope))
    model = make_trainer(cfg, device, []).model.eval()
    numbers = []
    with torch.no_grad():
        for size in ((64, 96), (64, 80), (96, 64), (64, 112), (128, 64)):
            model(to_device(make_batch(cfg, clips=2, size=size), device))
            numbers.append(graphs())
    report("graphs compiled for 5 frame sizes", ", ".join(map(str, numbers)))
    assert numbers[0] > 0
    assert sum(numbers[1:]) <= 2, numbers


def test_rates_of_drop_path_are_compiled_together(device, graphs, report):
    """ViT-B has 12 rates. torch.compile keeps 8 versions of a function, then falls back to eager mode."""
    options = ("MODEL.BACKBONE.DROP_PATH", 0.2, *compiled("block"))
    cfg = full_width_config("finetune", "base", device, *options)
    losses_of_steps(cfg, device, [make_batch(cfg)])
    number = graphs()
    report("graphs of 12 blocks", number)
    assert 1 <= number <= 2
