"""`vmae-det visualize`: visualize reconstructions, attention, batches, curves, embeddings and detections."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import (
    dataset_time,
    fraction,
    integer_in,
    number_in,
    output_file,
    output_folder,
    positive_int,
    refuse_overwriting,
    video_time,
)
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.cli.weights_arguments import load_weights_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per topic."""
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    for name, (summary, add, _) in _TOPICS.items():
        topic = topics.add_parser(name, help=summary, description=summary)
        add(topic)


def run(args: argparse.Namespace) -> int:
    """Draw the topic and print the paths of the written files; return the exit status."""
    _, _, draw = _TOPICS[args.topic]
    for path in draw(args):
        print(path)
    return 0


# ---------------------------------------------------------------- shared arguments


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=output_folder, required=True, metavar="FOLDER", help="write pictures to this folder"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="trained weights, such as model_final.pt"
    )
    _add_output(parser)
    add_config_arguments(
        parser, "config, for weights that do not contain one: YAML file or name in the model zoo"
    )


# ---------------------------------------------------------------- reconstruction


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", type=Path, metavar="FILE", help="draw clips spread evenly over this video")
    source.add_argument(
        "--dataset",
        default="",
        metavar="DATASET",
        help="draw the first videos of this dataset (default: DATASETS.TEST, else DATASETS.TRAIN)",
    )
    parser.add_argument(
        "--clips", type=positive_int, default=3, metavar="N", help="number of clips (default: %(default)s)"
    )
    parser.add_argument(
        "--ratio",
        type=number_in("(0, 1)"),
        action="append",
        metavar="R",
        help="mask ratio; repeatable (default: 0.75, 0.9 and 0.95)",
    )
    _add_model(parser)


def _draw_reconstruction(args: argparse.Namespace) -> list[Path]:
    from vmae_det.visualization.mask_ratios import RATIOS, draw_mask_ratios
    from vmae_det.visualization.pictures import write_animation, write_png

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
    parser.add_argument("--video", type=Path, required=True, metavar="FILE", help="video file")
    parser.add_argument(
        "--at", type=video_time, required=True, metavar="SECOND", help="time of the keyframe in the video"
    )
    parser.add_argument(
        "--box",
        type=fraction,
        nargs=4,
        action="append",
        required=True,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="box of a person, relative to the frame, in [0, 1]; repeatable",
    )
    parser.add_argument(
        "--method",
        choices=["rollout", "last"],
        default="rollout",
        help="rollout through all blocks, or attention of the last block (default: %(default)s)",
    )
    _add_model(parser)


def _draw_attention(args: argparse.Namespace) -> list[Path]:
    from vmae_det.inference.predictor import label_map_of
    from vmae_det.utils.errors import WeightsError
    from vmae_det.visualization.box_attention import animate_attention, attend_boxes, draw_attention
    from vmae_det.visualization.pictures import write_animation, write_png

    cfg = load_weights_config(args)
    try:
        names = label_map_of(args.weights).names
    except WeightsError:  # the captions then omit the detected actions
        names = ()
    attention = attend_boxes(cfg, args.video, args.at, args.box, args.method, names)
    name = f"attention_{args.video.stem}"
    still = args.output / f"{name}.png"
    write_png(still, draw_attention(attention))
    duration = float(attention.seconds[-1] - attention.seconds[0])
    fps = (len(attention.seconds) - 1) / duration if duration > 0 else 1.0
    return [still, write_animation(args.output / f"{name}.mp4", animate_attention(attention), fps)]


# ---------------------------------------------------------------- batch


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step",
        type=integer_in("[0, 1000000000]"),
        default=0,
        metavar="N",
        help="training step, counted from 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--clips", type=positive_int, default=8, metavar="N", help="number of clips (default: %(default)s)"
    )
    _add_output(parser)
    add_config_arguments(parser)


def _draw_batch(args: argparse.Namespace) -> list[Path]:
    from vmae_det.inference.predictor import find_config
    from vmae_det.visualization.batch import draw_batch
    from vmae_det.visualization.mask_ratios import PLAYBACK_RATE
    from vmae_det.visualization.pictures import write_animation, write_png

    cfg = load_config(args.config_file, args.opts, find_config)
    sheet, frames = draw_batch(cfg, args.step, args.clips)
    still = args.output / "batch.png"
    write_png(still, sheet)
    fps = PLAYBACK_RATE / cfg.INPUT.SAMPLING_RATE
    return [still, write_animation(args.output / "batch.mp4", frames, fps)]


# ---------------------------------------------------------------- curves


def _add_curves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="+", type=Path, metavar="RUN", help="output folder of a run, or its metrics.jsonl"
    )
    parser.add_argument(
        "--name",
        action="append",
        metavar="TEXT",
        help="name of a run in the legend; repeat it for each run, in the same order",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="metric to plot; repeatable (default: all except times)",
    )
    parser.add_argument(
        "--smooth",
        type=positive_int,
        default=1,
        metavar="N",
        help="plot means over N values, with the values themselves in light color (default: 1)",
    )
    parser.add_argument(
        "--output", type=output_file, required=True, metavar="FILE", help="file to write: .png, .svg or .pdf"
    )


def _draw_curves(args: argparse.Namespace) -> list[Path]:
    from vmae_det.utils.errors import UserError
    from vmae_det.visualization.curves import draw_curves, read_logs
    from vmae_det.visualization.matplotlib_figures import save_figure

    if args.name and len(args.name) != len(args.run):
        raise UserError(f"--name: expected one per run, got {len(args.name)} for {len(args.run)} runs")
    logs = read_logs(args.run)
    for log, name in zip(logs, args.name or ()):
        log.name = name
    for run, log in zip(args.run, logs):
        if log.skipped:
            print(f"{run}: skipped lines without a step and values: {log.skipped}")
    return [save_figure(draw_curves(logs, args.metric, args.smooth), args.output)]


# ---------------------------------------------------------------- embedding


def _add_embedding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default="",
        metavar="DATASET",
        help="dataset of type classification (default: DATASETS.TEST)",
    )
    parser.add_argument(
        "--classes",
        type=positive_int,
        default=20,
        metavar="N",
        help="use the N largest classes (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=1000,
        metavar="N",
        help="use at most N clips (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=["tsne", "pca"],
        default="tsne",
        help="dimensionality reduction (default: %(default)s)",
    )
    _add_model(parser)


def _draw_embedding(args: argparse.Namespace) -> list[Path]:
    from vmae_det.visualization import embedding
    from vmae_det.visualization.matplotlib_figures import new_figure, save_figure

    new_figure(1, 1)  # raises before the long computation if matplotlib is missing
    cfg = load_weights_config(args)
    clips = embedding.clip_features(cfg, args.dataset, args.classes, args.limit)
    accuracy = embedding.neighbor_accuracy(clips.features, clips.labels)
    points = embedding.project(clips.features, args.method, cfg.SEED)
    method = {"tsne": "t-SNE", "pca": "principal components"}[args.method]
    classes = len(set(clips.labels.tolist()))
    title = (
        f"{len(clips.videos)} clips of {classes} classes, {method} of their features\n"
        f"{embedding.NEIGHBORS} nearest neighbors predict the label of {accuracy:.0%}"
    )
    figure = embedding.draw_embedding(clips, points, title)
    table = embedding.write_points(args.output / "embedding.csv", clips, points)
    return [save_figure(figure, args.output / "embedding.png"), table]


# ---------------------------------------------------------------- page


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=Path, required=True, metavar="FILE", help="video file")
    parser.add_argument(
        "--detections",
        type=Path,
        required=True,
        metavar="FILE",
        help="AVA CSV, may be gzipped; only rows with the file name of --video (without suffix) are shown",
    )
    parser.add_argument(
        "--label-map",
        type=Path,
        required=True,
        metavar="FILE",
        help="label map (.pbtxt) of the actions, or name of a built-in one",
    )
    parser.add_argument(
        "--output", type=output_file, required=True, metavar="PAGE.html", help="HTML page to write"
    )
    parser.add_argument(
        "--video-start",
        type=dataset_time,
        default=0.0,
        metavar="SECOND",
        help="time on the clock of the CSV at which the video file starts; 900 for 15-minute cuts of AVA "
        "movies (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.3,
        metavar="SCORE",
        help="initial score threshold of the page's filter (default: %(default)s)",
    )


def _write_page(args: argparse.Namespace) -> list[Path]:
    from vmae_det.formats.ava_csv import read_action_csv
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.detections import ActionDetections
    from vmae_det.rendering.page import write_page

    refuse_overwriting(args.output, args.video, args.detections, args.label_map)
    label_map = LabelMap.from_file(args.label_map)
    rows = read_action_csv(args.detections, label_map, kind="detections")
    detections = ActionDetections.from_rows(rows, args.video, label_map, args.video_start)
    return [write_page(detections, args.output, threshold=args.threshold, progress=True)]


# Topic: (summary, function that adds its arguments, function that draws and returns the written paths)
_TOPICS = {
    "reconstruction": (
        "draw what a pre-trained model reconstructs at several mask ratios",
        _add_reconstruction,
        _draw_reconstruction,
    ),
    "attention": (
        "draw which tokens of a clip a person box attends to",
        _add_attention,
        _draw_attention,
    ),
    "batch": (
        "draw the clips of a training batch after augmentation, with masks, targets or boxes",
        _add_batch,
        _draw_batch,
    ),
    "curves": ("plot the metrics of several runs", _add_curves, _draw_curves),
    "embedding": ("plot the features of labeled clips in two dimensions", _add_embedding, _draw_embedding),
    "page": ("write an HTML page with a video and its detections", _add_page, _write_page),
}
