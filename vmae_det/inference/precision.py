"""The precision in which `detect` computes: `--precision`."""

from __future__ import annotations

import logging

from vmae_det.config import CfgNode
from vmae_det.engine.setup import get_device
from vmae_det.inference.export.exported_model import is_exported
from vmae_det.utils import cpu
from vmae_det.utils.errors import UserError

logger = logging.getLogger(__name__)

AUTO = "auto"
AMP_OF_PRECISION = {"fp32": "none", "bf16": "bf16", "fp16": "fp16"}  # values of SOLVER.AMP
PRECISIONS = (AUTO, *AMP_OF_PRECISION)


def set_precision(cfg: CfgNode, requested: str = AUTO, amp_is_set: bool = False) -> None:
    """Set SOLVER.AMP of a config to the precision of inference, and log the choice.

    Args:
        requested: one of PRECISIONS. With `auto`, a GPU uses SOLVER.AMP, the precision of training, and a CPU
            uses bf16 if it has instructions for it, else fp32.
        amp_is_set: the user set SOLVER.AMP for this command; it is kept.

    Raises:
        UserError: `requested` contradicts SOLVER.AMP of the user, or the weights are an exported model.
    """
    if is_exported(cfg.MODEL.WEIGHTS):
        if requested != AUTO:
            raise UserError(
                f"--precision: that of {cfg.MODEL.WEIGHTS} is fixed in the file; remove the option, or pass "
                "the weights that it was exported from"
            )
        return
    if amp_is_set and requested != AUTO:
        raise UserError(f"--precision {requested}: SOLVER.AMP is set too; pass only one of them")
    device = get_device(cfg)
    if requested != AUTO:
        precision, reason = requested, "--precision"
    elif amp_is_set or device.type != "cpu":
        precision, reason = _precision_of(cfg.SOLVER.AMP), "SOLVER.AMP"
    else:
        precision, reason = choose_for_cpu()
    cfg.defrost()
    cfg.SOLVER.AMP = AMP_OF_PRECISION[precision]
    logger.info("Precision: %s on %s (%s)", precision, device.type, reason)


def choose_for_cpu() -> tuple[str, str]:
    """Return the precision of this CPU, and why."""
    units = cpu.bfloat16_units()
    if units:
        return "bf16", f"the CPU has {units}; --precision fp32 is slower and exact"
    return "fp32", "the CPU has no instructions for bfloat16"


def _precision_of(amp: str) -> str:
    return next(precision for precision, value in AMP_OF_PRECISION.items() if value == amp)
