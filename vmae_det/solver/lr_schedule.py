"""Learning rate schedule: linear warm-up, then half a cosine; scaled by the batch size."""

from __future__ import annotations

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)

from vmae_det.config import CfgNode


def build_schedule(cfg: CfgNode) -> ParamScheduler:
    """Return the learning rate as a function of progress in [0, 1).

    SOLVER's rates are per 256 videos of a batch. They are scaled by BATCH_SIZE / 256 (Goyal et al., 2017).
    """
    solver = cfg.SOLVER
    scale = solver.BATCH_SIZE / 256
    peak, end = solver.BASE_LR * scale, solver.MIN_LR * scale
    cosine = CosineParamScheduler(peak, end)
    warmup = solver.WARMUP_EPOCHS / solver.EPOCHS
    if warmup == 0:
        return cosine
    ramp = LinearParamScheduler(solver.WARMUP_LR * scale, peak)
    if warmup >= 1:
        return ramp
    return CompositeParamScheduler([ramp, cosine], [warmup, 1 - warmup], ["rescaled", "rescaled"])
