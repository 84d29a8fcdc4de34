"""`vmae-det inspect`: size, cost, memory and learning rates of a config, without data and without a GPU."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import output_folder
from vmae_det.cli.common import add_config_arguments, load_config
from vmae_det.config import CfgNode

if TYPE_CHECKING:
    from vmae_det.engine.inspection import Inspection

PROCESSES = (1, 8, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, and where to draw its schedule."""
    parser.epilog = (
        "GFLOPs: a multiply-add counts once; one clip, forward, products of attention included;\n"
        "pre-training: the encoder on visible tokens.\n"
        "Memory of training on each process: weights, gradients, the optimizer's numbers (AdamW: two for\n"
        "each trained parameter) at 4 bytes each, copies of weights for mixed precision, and for each clip\n"
        "the tensors that the backward pass needs. Kernels use more for a moment."
    )
    parser.add_argument(
        "--output", type=output_folder, metavar="DIR", help="draw the learning rate there, as schedule.png"
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print what the config describes; gives the exit status."""
    cfg = load_config(args.config_file, args.opts)
    from vmae_det.engine.inspection import inspect_config
    from vmae_det.visualization.reconstruction import write_png
    from vmae_det.visualization.schedule import draw_schedule

    name = args.config_file or "defaults"
    found = inspect_config(cfg)
    print("\n".join([name, *describe(cfg, found)]))
    if args.output:
        path = args.output / "schedule.png"
        write_png(path, draw_schedule(found.schedule, cfg.SOLVER.EPOCHS, f"learning rate of {name}"))
        print(f"\nschedule drawn in {path}")
    return 0


def describe(cfg: CfgNode, found: Inspection) -> list[str]:
    """Lines of text about an inspected config."""
    from vmae_det.visualization.schedule import schedule_as_text

    lines = [
        *_model_lines(cfg, found),
        "",
        *_memory_lines(cfg, found),
        "",
        *_rate_lines(cfg, found),
        *schedule_as_text(found.schedule, cfg.SOLVER.EPOCHS),
        "",
        *_group_lines(found),
    ]
    return lines


def _model_lines(cfg: CfgNode, found: Inspection) -> list[str]:
    tokens, side = found.tokens, cfg.INPUT.CROP_SIZE
    t, h, w = tokens.grid
    shape = f"{t} x {h} x {w} = {t * h * w}"
    if tokens.decoded:
        shape += f", {tokens.encoded} visible, {tokens.predicted} predicted"
    backbone = found.parameters.get("backbone", 0)
    total = found.total_parameters
    trained = "" if found.trainable == total else f", {_millions(found.trainable)} trained"
    return [
        f"model        {cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}",
        f"clip         {cfg.INPUT.NUM_FRAMES} frames of {side} x {side}",
        f"tokens       {shape}",
        f"parameters   {_millions(total)}: backbone {_millions(backbone)}, rest {_millions(total - backbone)}"
        + trained,
        f"GFLOPs       {found.flops / 1e9:.1f} a clip"
        if found.flops >= 1e9
        else f"GFLOPs       {found.flops / 1e9:.2g} a clip",
    ]


def _memory_lines(cfg: CfgNode, found: Inspection) -> list[str]:
    memory = found.memory
    parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        (f"states of {cfg.SOLVER.OPTIMIZER}", memory.optimizer),
        ("average of the weights", memory.average),
        (f"copies in {cfg.SOLVER.AMP}", memory.casts),
    ]
    # Accumulated passes do not live at the same time.
    clips = cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG / cfg.SOLVER.ACCUMULATE
    lines = [
        "memory       " + " + ".join(f"{name} {_size(size)}" for name, size in parts if size),
        f"             + {_size(memory.clip)} of activations a clip",
        f"             {_size(memory.total(1))} for one clip",
    ]
    for number in PROCESSES:
        if clips % number == 0:
            share = int(clips // number)
            where = "one process" if number == 1 else f"each of {number} processes"
            lines.append(f"             {_size(memory.total(share))} for a batch, {share} clips on {where}")
    return lines


def _rate_lines(cfg: CfgNode, found: Inspection) -> list[str]:
    solver = cfg.SOLVER
    scale = solver.BATCH_SIZE / 256
    if found.steps is None:
        steps = f"{solver.EPOCHS} epochs"
    else:
        steps = f"{solver.EPOCHS} epochs of {found.steps} steps = {solver.EPOCHS * found.steps} steps"
    start = solver.WARMUP_LR if solver.WARMUP_EPOCHS else solver.BASE_LR
    lines = [
        f"rate         {solver.BASE_LR:g} x {solver.BATCH_SIZE} videos / 256 = {solver.BASE_LR * scale:.4g}",
        f"schedule     {steps}; from {start * scale:.4g}, {solver.WARMUP_EPOCHS:g} epochs of warm-up, "
        f"then a half cosine to {solver.MIN_LR * scale:.4g}",
    ]
    return lines if found.steps else [*lines, f"             steps are not known: {found.no_steps}"]


def _group_lines(found: Inspection) -> list[str]:
    peak = max(found.schedule(step / 1000) for step in range(1000))
    lines = ["    factor      peak rate   decaying   not        parts"]
    for group in found.rates:
        lines.append(
            f"{group.lr_scale:10.4g} {group.lr_scale * peak:14.4g} {_millions(group.decaying):>10} "
            f"{_millions(group.not_decaying):>9}   {_join(group.parts)}"
        )
    return lines


def _join(parts: list[str]) -> str:
    """The names of parts, a run of blocks by its first and last one."""
    blocks = [part for part in parts if part.startswith("backbone.blocks.")]
    if len(blocks) < 2:
        return ", ".join(parts)
    run = f"{blocks[0]} to {blocks[-1].rpartition('.')[2]}"
    return ", ".join([run, *(part for part in parts if part not in blocks)])


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
