"""`vmae-det visualize`: pictures of what a model sees, what it is fed and what it has learned."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import positive

if TYPE_CHECKING:
    from vmae_det.config import CfgNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to look at."""
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    for name, (summary, add, _) in _TOPICS.items():
        topic = topics.add_parser(name, help=summary, description=summary)
        add(topic)


def run(args: argparse.Namespace) -> int:
    """Draw, and print the paths of what was written; gives the exit status."""
    _, _, draw = _TOPICS[args.topic]
    for path in draw(args):
        print(path)
    return 0


# ---------------------------------------------------------------- shared arguments


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the pictures go")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a trained model, such as model_final.pt"
    )
    _add_output(parser)
    _add_config(parser, "for weights that hold no config: a YAML file, or a name of the model zoo")


def _add_config(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument("--config-file", metavar="FILE", default="", help=summary)
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to override, after all other arguments",
    )


def _model_config(args: argparse.Namespace) -> CfgNode:
    """The config of --weights: that of --config-file, else the one that travels with them."""
    from vmae_det.cli.common import load_config
    from vmae_det.config import check_config
    from vmae_det.inference.predictor import read_config

    if args.config_file:
        return load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    cfg = read_config(args.weights)
    cfg.merge_from_list(args.opts)
    check_config(cfg)
    return cfg


# ---------------------------------------------------------------- reconstruction


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="clips of this file, spread evenly over it"
    )
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="else of its first videos (the config's test set)"
    )
    parser.add_argument("--clips", type=positive, default=3, metavar="N", help="how many (%(default)s)")
    parser.add_argument(
        "--ratio",
        type=float,
        action="append",
        metavar="R",
        help="a mask ratio; repeat it for several (0.75, 0.9, 0.95)",
    )
    _add_model(parser)


def _draw_reconstruction(args: argparse.Namespace) -> list[Path]:
    from vmae_det.visualization.frame_rows import write_animation
    from vmae_det.visualization.mask_ratios import RATIOS, draw_mask_ratios
    from vmae_det.visualization.reconstruction import write_png

    picture, frames, fps = draw_mask_ratios(
        _model_config(args),
        ratios=tuple(args.ratio or RATIOS),
        video=args.video,
        dataset=args.dataset,
        count=args.clips,
    )
    still = args.output / "reconstruction.png"
    write_png(still, picture)
    return [still, write_animation(args.output / "reconstruction.mp4", frames, fps)]


# ---------------------------------------------------------------- attention


def _add_attention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--at", type=float, required=True, metavar="S", help="second of the keyframe in the file"
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        action="append",
        required=True,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="a person, in [0, 1] of the frame; repeat it for several",
    )
    parser.add_argument(
        "--method",
        choices=["rollout", "last"],
        default="rollout",
        help="through all blocks, or of the last one alone (%(default)s)",
    )
    _add_model(parser)


def _draw_attention(args: argparse.Namespace) -> list[Path]:
    from vmae_det.inference.predictor import read_label_map
    from vmae_det.utils.errors import WeightsError
    from vmae_det.visualization.attention import animate_attention, attend_boxes, draw_attention
    from vmae_det.visualization.frame_rows import write_animation
    from vmae_det.visualization.reconstruction import write_png

    cfg = _model_config(args)
    try:
        names = read_label_map(args.weights).names
    except WeightsError:  # names are an extra
        names = ()
    found = attend_boxes(cfg, args.video, args.at, args.box, args.method, names)
    stem = args.output / f"attention_{args.video.stem}"
    write_png(stem.with_name(stem.name + ".png"), draw_attention(found))
    span = float(found.seconds[-1] - found.seconds[0])
    fps = (len(found.seconds) - 1) / span if span > 0 else 1.0
    animation = stem.with_name(stem.name + ".mp4")
    return [stem.with_name(stem.name + ".png"), write_animation(animation, animate_attention(found), fps)]


# name: what it shows, its arguments, and what draws it and gives the paths
_TOPICS = {
    "reconstruction": (
        "clips masked by 75, 90 and 95 %, and what a pre-trained model makes of them",
        _add_reconstruction,
        _draw_reconstruction,
    ),
    "attention": (
        "where the tokens of a person's box look, over the frames of a clip",
        _add_attention,
        _draw_attention,
    ),
}
