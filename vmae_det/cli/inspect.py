"""`vmae-det inspect`: show size, GFLOPs, memory and learning rates of a config, without data or a GPU.

`--list` lists the published weights of the model zoo.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import output_folder
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.config import CfgNode

if TYPE_CHECKING:
    from vmae_det.engine.inspection import Inspection

PROCESS_COUNTS = (1, 8, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, and a folder for the plot of its schedule."""
    parser.epilog = (
        "GFLOPs: forward pass of one clip; a multiply-add counts as one operation; includes the matrix\n"
        "multiplications of attention. In pre-training the encoder only processes visible tokens.\n"
        "MoCo v3: both views of a video, by the encoder and by the momentum encoder.\n"
        "Memory of training, per process: weights, gradients and optimizer state (AdamW: two values per\n"
        "trained parameter) at 4 bytes per value, copies of the weights for mixed precision, and the\n"
        "tensors that each clip keeps for the backward pass. Kernels briefly use more memory."
    )
    parser.add_argument(
        "--list", action="store_true", help="list the published weights of the model zoo, with size and cost"
    )
    parser.add_argument(
        "--output", type=output_folder, metavar="FOLDER", help="plot the learning rate to FOLDER/schedule.png"
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the inspection of the config; return the exit status."""
    if args.list:
        print("\n".join(_weights_lines()))
        return 0
    from vmae_det.inference.predictor import find_config

    cfg = load_config(args.config_file, args.opts, find_config)
    from vmae_det.engine.inspection import inspect_config
    from vmae_det.visualization.pictures import write_png
    from vmae_det.visualization.schedule import draw_schedule

    name = args.config_file or "defaults"
    inspection = inspect_config(cfg)
    print("\n".join([name, *describe(cfg, inspection)]))
    if args.output:
        path = args.output / "schedule.png"
        write_png(path, draw_schedule(inspection.schedule, cfg.SOLVER.EPOCHS, f"learning rate of {name}"))
        print(f"\nschedule drawn in {path}")
    return 0


def _weights_lines() -> list[str]:
    """Return the table of published weights as lines of text."""
    from vmae_det.model_zoo.listing import HEADER, weights_table

    rows = [HEADER, *weights_table()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def describe(cfg: CfgNode, inspection: Inspection) -> list[str]:
    """Return the lines of text that describe an inspected config."""
    from vmae_det.visualization.schedule import schedule_as_text

    return [
        *_model_lines(cfg, inspection),
        "",
        *_memory_lines(cfg, inspection),
        "",
        *_rate_lines(cfg, inspection),
        *_loss_lines(inspection),
        *schedule_as_text(inspection.schedule, cfg.SOLVER.EPOCHS),
        "",
        *_group_lines(inspection),
    ]


def _model_lines(cfg: CfgNode, inspection: Inspection) -> list[str]:
    from vmae_det.data.test_time_augmentation import describe_views

    tokens, side = inspection.tokens, cfg.INPUT.CROP_SIZE
    t, h, w = tokens.grid
    shape = f"{t} x {h} x {w} = {t * h * w}"
    if tokens.decoded:
        shape += f", {tokens.encoded} visible, {tokens.predicted} predicted"
    if tokens.kept:
        shape += f", {tokens.kept} left after token dropout"
    backbone = inspection.parameters.get("backbone", 0)
    total = inspection.total_parameters
    trained = "" if inspection.trainable == total else f", {_millions(inspection.trainable)} trained"
    lines = [
        f"model        {cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}",
        *_people_lines(cfg, inspection),
        f"clip         {cfg.INPUT.NUM_FRAMES} frames of {side} x {side}",
        f"tokens       {shape}",
        f"parameters   {_millions(total)}: backbone {_millions(backbone)}, rest {_millions(total - backbone)}"
        + trained,
        f"GFLOPs       {_billions(inspection.flops)} per clip",
    ]
    if inspection.test_flops is not None:
        views = describe_views(cfg)
        lines.append(f"testing      {_billions(inspection.test_flops)} GFLOPs per keyframe (16:9), {views}")
    return lines


def _people_lines(cfg: CfgNode, inspection: Inspection) -> list[str]:
    from vmae_det.model_zoo.listing import people_of

    if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
        return []
    head = inspection.parameters.get("person_head")
    size = f" ({cfg.MODEL.PERSON_HEAD.NAME}, {_millions(head)} parameters)" if head else ""
    return [f"people       {people_of(cfg)}{size}"]


def _memory_lines(cfg: CfgNode, inspection: Inspection) -> list[str]:
    memory = inspection.memory
    parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        (f"{cfg.SOLVER.OPTIMIZER} state", memory.optimizer),
        ("EMA weights", memory.ema),
        (f"{cfg.SOLVER.AMP} copies", memory.casts),
    ]
    # Accumulated passes run one after the other.
    clips = cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG / cfg.SOLVER.ACCUMULATE
    lines = [
        "memory       " + " + ".join(f"{name} {_size(size)}" for name, size in parts if size),
        f"             + {_size(memory.clip)} activations per clip",
        f"             {_size(memory.total(1))} for one clip",
    ]
    for processes in PROCESS_COUNTS:
        if clips % processes == 0:
            share = int(clips // processes)
            where = "one process" if processes == 1 else f"each of {processes} processes"
            lines.append(f"             {_size(memory.total(share))} for a batch, {share} clips on {where}")
    return lines


def _rate_lines(cfg: CfgNode, inspection: Inspection) -> list[str]:
    solver = cfg.SOLVER
    scale = solver.BATCH_SIZE / 256
    if inspection.steps is None:
        steps = f"{solver.EPOCHS} epochs"
    else:
        steps = (
            f"{solver.EPOCHS} epochs of {inspection.steps} steps = {solver.EPOCHS * inspection.steps} steps"
        )
    start = solver.WARMUP_LR if solver.WARMUP_EPOCHS else solver.BASE_LR
    lines = [
        f"rate         {solver.BASE_LR:g} x {solver.BATCH_SIZE} videos / 256 = {solver.BASE_LR * scale:.4g}",
        f"schedule     {steps}; {solver.WARMUP_EPOCHS:g} epochs of warm-up from {start * scale:.4g}, "
        f"then half a cosine to {solver.MIN_LR * scale:.4g}",
    ]
    if not inspection.steps:
        lines.append(f"             number of steps unknown: {inspection.no_steps}")
    for number, line in enumerate(inspection.mix):
        lines.append(f"{'' if number else 'mix':12} {line}")
    return lines


def _loss_lines(inspection: Inspection) -> list[str]:
    loss = inspection.loss
    if loss is None:
        return []
    per = f" per {loss.per}" if loss.per else ""
    best = f", {loss.smallest:.3g} at best" if loss.smallest > 1e-3 else ""
    return [f"loss         {loss.constant:.3g}{per} if nothing is learned{best}"]


def _group_lines(inspection: Inspection) -> list[str]:
    peak = max(inspection.schedule(step / 1000) for step in range(1000))
    lines = ["    factor      peak rate   decay      no decay   parts"]
    for group in inspection.rates:
        lines.append(
            f"{group.lr_scale:10.4g} {group.lr_scale * peak:14.4g} {_millions(group.decaying):>10} "
            f"{_millions(group.not_decaying):>9}   {_join(group.parts)}"
        )
    return lines


def _join(parts: list[str]) -> str:
    """Return the names of parts; consecutive blocks are shortened to the first and last one."""
    blocks = [part for part in parts if part.startswith("backbone.blocks.")]
    if len(blocks) < 2:
        return ", ".join(parts)
    run = f"{blocks[0]} to {blocks[-1].rpartition('.')[2]}"
    return ", ".join([run, *(part for part in parts if part not in blocks)])


def _billions(number: float) -> str:
    return f"{number / 1e9:.1f}" if number >= 1e9 else f"{number / 1e9:.2g}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
