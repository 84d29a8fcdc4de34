"""`vmae-det visualize`: pictures of what a model sees, what it is fed and what it has learned."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli import visualize_page
from vmae_det.cli.arguments import decimal, fraction, moment, output_file, output_folder, positive, whole
from vmae_det.cli.common import load_config, load_weights_config


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
    parser.add_argument(
        "--output", type=output_folder, required=True, metavar="DIR", help="where the pictures go"
    )


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


# ---------------------------------------------------------------- reconstruction


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--video", type=Path, metavar="FILE", help="clips of this file, spread evenly over it"
    )
    source.add_argument(
        "--dataset", default="", metavar="DATASET", help="else of its first videos (the config's test set)"
    )
    parser.add_argument("--clips", type=positive, default=3, metavar="N", help="how many (%(default)s)")
    parser.add_argument(
        "--ratio",
        type=decimal("(0, 1)"),
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
        load_weights_config(args),
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
        "--at", type=moment, required=True, metavar="S", help="second of the keyframe in the file"
    )
    parser.add_argument(
        "--box",
        type=fraction,
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
    from vmae_det.inference.predictor import label_map_of
    from vmae_det.utils.errors import WeightsError
    from vmae_det.visualization.box_attention import animate_attention, attend_boxes, draw_attention
    from vmae_det.visualization.frame_rows import write_animation
    from vmae_det.visualization.reconstruction import write_png

    cfg = load_weights_config(args)
    try:
        names = label_map_of(args.weights).names
    except WeightsError:  # names are an extra
        names = ()
    found = attend_boxes(cfg, args.video, args.at, args.box, args.method, names)
    stem = args.output / f"attention_{args.video.stem}"
    write_png(stem.with_name(stem.name + ".png"), draw_attention(found))
    span = float(found.seconds[-1] - found.seconds[0])
    fps = (len(found.seconds) - 1) / span if span > 0 else 1.0
    animation = stem.with_name(stem.name + ".mp4")
    return [stem.with_name(stem.name + ".png"), write_animation(animation, animate_attention(found), fps)]


# ---------------------------------------------------------------- batch


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step", type=whole("[0, 1000000000]"), default=0, metavar="N", help="of training, from 0"
    )
    parser.add_argument("--clips", type=positive, default=8, metavar="N", help="how many (%(default)s)")
    _add_output(parser)
    _add_config(parser, "a YAML file, or a name of the model zoo")


def _draw_batch(args: argparse.Namespace) -> list[Path]:
    from vmae_det.visualization.batch import draw_batch
    from vmae_det.visualization.frame_rows import write_animation
    from vmae_det.visualization.mask_ratios import PLAY_RATE
    from vmae_det.visualization.reconstruction import write_png

    cfg = load_config(args.config_file, args.opts)
    sheet, frames = draw_batch(cfg, args.step, args.clips)
    still = args.output / "batch.png"
    write_png(still, sheet)
    fps = PLAY_RATE / cfg.INPUT.SAMPLING_RATE
    return [still, write_animation(args.output / "batch.mp4", frames, fps)]


# ---------------------------------------------------------------- curves


def _add_curves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="+", type=Path, metavar="RUN", help="folder of a run, or its metrics.jsonl"
    )
    parser.add_argument(
        "--name", action="append", metavar="TEXT", help="of a run, in their order; for each one"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="repeat it for several (all but times)"
    )
    parser.add_argument(
        "--smooth", type=positive, default=1, metavar="N", help="draw means over N values, the values faintly"
    )
    parser.add_argument(
        "--output", type=output_file, required=True, metavar="FILE", help="a .png, .svg or .pdf"
    )


def _draw_curves(args: argparse.Namespace) -> list[Path]:
    from vmae_det.utils.errors import UserError
    from vmae_det.visualization.curves import draw_curves, read_logs
    from vmae_det.visualization.figures import save_figure

    if args.name and len(args.name) != len(args.run):
        raise UserError(f"--name: {len(args.name)} given for {len(args.run)} runs; give each one or none")
    logs = read_logs(args.run)
    for log, name in zip(logs, args.name or ()):
        log.name = name
    for run, log in zip(args.run, logs):
        if log.skipped:
            print(f"{run}: lines that are no numbers of a step, left out: {log.skipped}")
    return [save_figure(draw_curves(logs, args.metric, args.smooth), args.output)]


# ---------------------------------------------------------------- embedding


def _add_embedding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="of type classification (the config's test set)"
    )
    parser.add_argument("--classes", type=positive, default=20, metavar="N", help="the largest (%(default)s)")
    parser.add_argument("--limit", type=positive, default=1000, metavar="N", help="of clips (%(default)s)")
    parser.add_argument("--method", choices=["tsne", "pca"], default="tsne", help="of the map (%(default)s)")
    _add_model(parser)


def _draw_embedding(args: argparse.Namespace) -> list[Path]:
    from vmae_det.visualization import embedding
    from vmae_det.visualization.figures import new_figure, save_figure

    new_figure(1, 1)  # says what is not installed before the work is done
    cfg = load_weights_config(args)
    found = embedding.clip_features(cfg, args.dataset, args.classes, args.limit)
    accuracy = embedding.neighbour_accuracy(found.features, found.labels)
    places = embedding.place(found.features, args.method, cfg.SEED)
    way = {"tsne": "t-SNE", "pca": "principal components"}[args.method]
    classes = len(set(found.labels.tolist()))
    title = (
        f"{len(found.videos)} clips of {classes} classes, {way} of their features\n"
        f"{embedding.NEIGHBOURS} nearest neighbours agree with the label for {accuracy:.0%}"
    )
    figure = embedding.draw_embedding(found, places, title)
    table = embedding.write_places(args.output / "embedding.csv", found, places)
    return [save_figure(figure, args.output / "embedding.png"), table]


# name: what it shows, its arguments, and what draws it and gives the paths
_TOPICS = {
    "reconstruction": (
        "what a pre-trained model makes of clips that are masked more and more",
        _add_reconstruction,
        _draw_reconstruction,
    ),
    "attention": (
        "where the tokens of a person's box look, over the frames of a clip",
        _add_attention,
        _draw_attention,
    ),
    "batch": (
        "clips of a training batch after augmentation, with masks, targets or boxes",
        _add_batch,
        _draw_batch,
    ),
    "curves": ("logs of several runs as one chart", _add_curves, _draw_curves),
    "embedding": ("labelled clips as a map, by the features of a model", _add_embedding, _draw_embedding),
    "page": (visualize_page.SUMMARY, visualize_page.add_arguments, visualize_page.draw),
}
