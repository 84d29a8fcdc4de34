"""Losses and gradients of ViT-S and ViT-B on the device, compared with float32 on the CPU."""

import pytest
import torch

from gpu.steps import (
    WELL_CONDITIONED,
    build,
    full_width_config,
    gradient_errors,
    loss_and_gradients,
    make_batch,
)
from vmae_det.modeling.boxes import jitter_boxes
from vmae_det.modeling.masking import count_masked, draw_mask, running_cells, split_tokens
from vmae_det.modeling.seeded_random import uniform

# Largest relative errors of the loss, of all gradients together, and of the gradient of one tensor. The unit
# roundoff is 6e-8 in float32, 5e-4 in TF32 and float16, and 4e-3 in bfloat16. On the CPU, gradients differ by
# 2 (pre-training) to 12 (detection) times as much. The limits leave room for other orders of summation.
TOLERANCES = {
    "fp32": (1e-5, 1e-4, 1e-3),
    "tf32": (1e-3, 1e-2, 5e-2),
    "fp16": (1e-3, 1e-2, 5e-2),
    "bf16": (1e-2, 5e-2, 2e-1),
}
# Detection takes the maximum over the cells of a region. If rounding changes which of two close cells is the
# maximum, the gradient moves to another position: one of 1920 maxima contributes sqrt(2 / 1920) = 3e-2.
MAXIMUM_ERRORS = (5e-2, 2e-1)
NO_NOISE = ("MODEL.BACKBONE.DROP_PATH", 0.0)  # devices have different random generators


@pytest.fixture(scope="module")
def reference(device):
    """reference(TASK, SIZE): model on the device, batch, loss and gradients of the CPU in float32."""
    known = {}

    def compute(task, size):
        if (task, size) not in known:
            known.clear()
            cfg = full_width_config(task, size, device, *NO_NOISE)
            cpu, batch = torch.device("cpu"), make_batch(cfg)
            model = build(cfg, cpu)
            expected = loss_and_gradients(model, batch, cpu)
            known[task, size] = model.to(device), batch, *expected
        return known[task, size]

    yield compute
    known.clear()


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("size", ["small", "base"])
@pytest.mark.parametrize("task", WELL_CONDITIONED)
def test_loss_and_gradients(device, reference, report, task, size, precision):
    if precision == "tf32":
        if device.type == "cpu":
            pytest.skip("only GPUs have TF32")
        torch.set_float32_matmul_precision("high")
    model, batch, expected_loss, expected = reference(task, size)
    amp = precision if precision in ("bf16", "fp16") else "none"
    loss, gradients = loss_and_gradients(model, batch, device, amp)
    error = abs(loss - expected_loss) / abs(expected_loss)
    total, worst = gradient_errors(gradients, expected)
    report("relative errors: loss, gradients, worst tensor", f"{error:.1e}, {total:.1e}, {worst:.1e}")
    limits = TOLERANCES[precision]
    if task == "detect":
        limits = limits[0], *(max(pair) for pair in zip(limits[1:], MAXIMUM_ERRORS))
    assert all(got <= limit for got, limit in zip((error, total, worst), limits))


def test_activation_checkpointing(device, report):
    """The gradients are the same, also with random layers, and the peak memory is lower."""
    results, peaks = {}, {}
    for recompute in (False, True):
        options = ("MODEL.BACKBONE.DROP_PATH", 0.2, "MODEL.ACTIVATION_CHECKPOINTING", recompute)
        cfg = full_width_config("finetune", "small", device, *options)
        model, batch = build(cfg, device), make_batch(cfg, clips=4)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results[recompute] = loss_and_gradients(model, batch, device)
        if device.type == "cuda":
            peaks[recompute] = torch.cuda.max_memory_allocated() / 2**20
    assert results[True][0] == pytest.approx(results[False][0], rel=1e-6)
    assert gradient_errors(results[True][1], results[False][1])[0] < 1e-5
    if peaks:
        report("peak memory, without and with", f"{peaks[False]:.0f} MiB, {peaks[True]:.0f} MiB")
        assert peaks[True] < 0.6 * peaks[False]


def test_masks_and_jitter_are_those_of_the_cpu(device):
    """A sample has the same random numbers on every device."""
    seeds = torch.arange(2000) * 7919 - 10**6
    on_device = seeds.to(device)
    assert torch.equal(uniform(on_device, 300).cpu(), uniform(seeds, 300))
    grid = (8, 14, 14)
    for kind in ("tube", "random", "frame"):
        mask = draw_mask(seeds, grid, kind, 0.75)
        assert torch.equal(draw_mask(on_device, grid, kind, 0.75).cpu(), mask)
    _, masked = split_tokens(draw_mask(seeds, grid, "tube", 0.9), count_masked(grid, "tube", 0.9))
    kept = running_cells(on_device, masked.to(device), grid, 0.5)
    assert torch.equal(kept.cpu(), running_cells(seeds, masked, grid, 0.5))
    boxes = torch.tensor([[10.0, 20, 90, 200], [100, 50, 160, 210]] * 2)
    clips = torch.tensor([0, 0, 1, 1])
    jittered = jitter_boxes(boxes.to(device), clips.to(device), on_device[:2], 224, 224)
    torch.testing.assert_close(jittered.cpu(), jitter_boxes(boxes, clips, seeds[:2], 224, 224))
