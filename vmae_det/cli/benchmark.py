"""`vmae-det benchmark`: speed and memory of this toolkit on this machine, mostly on synthetic data."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from vmae_det.benchmarks.gpu_scaling import SIZES, Cluster
from vmae_det.benchmarks.synthetic_annotations import DETECTION_ROWS
from vmae_det.cli.arguments import fraction, integer_in, number_in, output_file, positive_int, refuse_unused
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.config import CfgNode
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import write_json


class Topic(NamedTuple):
    """A subcommand.

    Attributes:
        summary: help text.
        add_arguments: adds its options to a parser.
        run: returns the report and the JSON data.
        has_config: whether it takes a config file and overrides.
        repeats: default of --repeats; 0 if it has no such option.
        measures: whether it measures this machine.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], tuple[str, Any]]
    has_config: bool = False
    repeats: int = 3
    measures: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subparser for each topic."""
    parsers = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    for name, topic in TOPICS.items():
        added = parsers.add_parser(name, help=topic.summary, description=topic.summary)
        topic.add_arguments(added)
        if topic.repeats:
            added.add_argument(
                "--repeats",
                metavar="N",
                type=positive_int,
                default=topic.repeats,
                help="number of times that each measurement is repeated (default: %(default)s)",
            )
        added.add_argument(
            "--json", type=output_file, metavar="FILE", help="also write the results to this file"
        )
        if topic.has_config:
            add_config_arguments(added)


def run(args: argparse.Namespace) -> int:
    """Run a topic, print its report and return the exit status."""
    topic = TOPICS[args.topic]
    text, figures = topic.run(args)
    print(text)
    if topic.measures:
        from vmae_det.doctor.machine import describe_cpu
        from vmae_det.utils.cpu import load_average

        print(describe_cpu())
        print(f"{os.cpu_count()} CPU cores, load average {load_average():.1f} at the end")
    if args.json:
        write_json(args.json, figures)
    return 0


# ---------------------------------------------------------------- data and training


def _load_config(args: argparse.Namespace) -> CfgNode:
    from vmae_det.inference.predictor import find_config

    return load_config(args.config_file, args.opts, find_config)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clips",
        metavar="N",
        type=integer_in("[32, 1000000]"),
        default=64,
        help="decoded clips per turn (default: %(default)s)",
    )
    parser.add_argument(
        "--videos", metavar="WxH", help="use synthetic videos of this size instead of DATASETS.TRAIN"
    )
    parser.add_argument(
        "--key-every",
        metavar="N",
        type=positive_int,
        default=250,
        help="frames between the I-frames of the synthetic videos (default: %(default)s, as in x264; "
        "cameras: 30 to 60)",
    )


def _data(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.data import benchmark_data
    from vmae_det.benchmarks.synthetic_videos import write_dataset

    if not args.videos:
        refuse_unused(args, "applies only to the synthetic videos of --videos", key_every=250)
    cfg = _load_config(args)
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        if args.videos:
            width, _, height = args.videos.partition("x")
            if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
                raise UserError(
                    f"--videos: expected a size such as 340x256, at least 64x64, got {args.videos}"
                )
            cfg.defrost()
            dataset = write_dataset(Path(folder), int(width), int(height), args.key_every, cfg)
            cfg.DATASETS.TRAIN = (str(dataset),)
        result = benchmark_data(cfg, args.clips, args.repeats)
    return result.report(), result.to_json()


def _add_readers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "video",
        type=Path,
        nargs="?",
        metavar="VIDEO",
        help="video file (default: a synthetic video of 1920 x 1080)",
    )
    parser.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=positive_int,
        default=256,
        help="short side of the reduced frames, in pixels (default: %(default)s)",
    )


def _readers(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.readers import benchmark_readers, report, to_json

    results = benchmark_readers(args.video, args.short_side, args.repeats)
    return report(results), to_json(results)


def _add_feeding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="original videos (default: synthetic ones of 1920 x 1080 and 340 x 256)",
    )
    parser.add_argument(
        "--short-sides",
        type=integer_in("[64, 4320]"),
        nargs="+",
        default=[256, 224],
        metavar="PIXELS",
        help="short sides of the re-encoded videos (default: 256 224)",
    )
    parser.add_argument(
        "--rate",
        type=number_in("(0, 1000000]"),
        default=332.0,
        metavar="X",
        help="clips a second that one GPU trains on (default: %(default)g)",
    )


def _feeding(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.feeding import benchmark_feeding, report, to_json

    results = benchmark_feeding(_load_config(args), args.videos, args.short_sides, args.rate, args.repeats)
    return report(results), to_json(results)


def _add_loader_memory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_int,
        nargs="+",
        default=[1, 2, 4, 8],
        help="numbers of loader workers (default: 1 2 4 8)",
    )


def _loader_memory(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.loader_memory import benchmark_loader_memory, report, to_json

    results = benchmark_loader_memory(args.workers, args.repeats)
    return report(results), to_json(results)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", choices=["huggingface"], default="", help="also measure this implementation and compare"
    )
    parser.add_argument(
        "--batch", metavar="N", type=positive_int, default=4, help="clips per step (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=positive_int, default=2, help="CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", metavar="N", type=positive_int, default=2, help="steps per turn (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the models with torch.compile")
    parser.add_argument(
        "--alike",
        action="store_true",
        help="also apply the CPU settings of vmae_det to the implementation of --against",
    )
    parser.add_argument(
        "--amp",
        choices=["none", "bf16", "fp16"],
        default="none",
        help="mixed precision (default: %(default)s)",
    )


def _train(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.train import benchmark_train
    from vmae_det.benchmarks.train_worker import Settings

    if not args.against:
        refuse_unused(args, "applies only to the implementation of --against", alike=False)
    cfg = _load_config(args)
    names = [field.name for field in fields(Settings)]
    result = benchmark_train(cfg, Settings(**{name: getattr(args, name) for name in names}))
    return result.report(), result.to_json()


# ---------------------------------------------------------------- scaling


def _add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch", metavar="N", type=positive_int, default=2, help="clips per process (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=positive_int,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="numbers of processes; the model is fitted to the first two and predicts the others "
        "(default: 1 2 4)",
    )


def _scaling(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.scaling import benchmark_scaling

    cfg = _load_config(args)
    result = benchmark_scaling(cfg, args.batch, args.processes, args.repeats)
    return result.report(), result.to_json()


def _add_gpu_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", choices=SIZES, nargs="+", default=list(SIZES), help="model sizes (default: S B L H)"
    )
    parser.add_argument(
        "--total-gpus",
        type=positive_int,
        nargs="+",
        default=[8, 16, 32, 64, 128, 256, 512],
        metavar="N",
        help="numbers of GPUs, one row each (default: 8 16 32 64 128 256 512)",
    )
    parser.add_argument(
        "--parallel", choices=["ddp", "fsdp"], default="ddp", help="DDP or FSDP2 (default: %(default)s)"
    )
    assumed = parser.add_argument_group("assumed hardware")
    for part in fields(Cluster):
        name = f"--{part.name.replace('_', '-')}"
        text = f"{part.metadata['help']} (default: %(default)g)"
        assumed.add_argument(
            name, type=number_in("[1e-9, 1e18]"), default=part.default, metavar="X", help=text
        )


def _gpu_scaling(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.gpu_scaling import predict, report, to_json

    cluster = Cluster(**{part.name: getattr(args, part.name) for part in fields(Cluster)})
    rows = predict(args.models, args.total_gpus, cluster, args.parallel)
    return report(rows, cluster, args.parallel), to_json(rows, cluster)


# ---------------------------------------------------------------- inference and rendering


def _add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="video file (default: a synthetic video of ten seconds)"
    )
    parser.add_argument(
        "--minutes",
        type=_numbers,
        default="1,10",
        metavar="LIST",
        help="minutes of the synthetic videos for which peak memory is measured; '' for none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--keep-rates",
        type=number_in("(0, 1]"),
        nargs="+",
        metavar="RATE",
        help="instead, compare the model alone at these rates of token dropout, relative to the first",
    )
    parser.add_argument(
        "--no-steps",
        dest="steps",
        action="store_false",
        help="do not compare fp32, bf16, token dropout, ONNX Runtime and int8",
    )


def _detect(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.detect import benchmark_detect
    from vmae_det.inference.precision import set_precision

    cfg = _load_config(args)
    set_precision(cfg, amp_is_set="SOLVER.AMP" in args.opts[::2])  # as `detect` does
    if args.keep_rates:
        from vmae_det.benchmarks.keep_rates import benchmark_keep_rates

        refuse_unused(args, "does not apply to --keep-rates", video=None, minutes=_numbers("1,10"))
        comparison = benchmark_keep_rates(cfg, args.keep_rates, args.repeats)
        return comparison.report(), comparison.to_json()
    result = benchmark_detect(cfg, args.video, args.repeats, args.minutes, steps=args.steps)
    return result.report(), result.to_json()


def _add_tracking_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", metavar="DATASET", help="a detection dataset whose annotations have person ids"
    )
    parser.add_argument(
        "--score", type=fraction, default=0.5, help="lowest score of a person box (default: %(default)s)"
    )


def _tracking(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.tracking import benchmark_tracking, report, to_json
    from vmae_det.data.catalog import get_dataset

    results = benchmark_tracking(get_dataset(args.dataset), args.score)
    return report(results), to_json(results)


def _add_no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `overlay` has no specific options."""


def _overlay(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.overlay import benchmark_overlay, report

    results = benchmark_overlay()
    return report(results), results


def _add_page_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hours", type=number_in("(0, 100]"), default=1.0, help="length of the video (default: %(default)s)"
    )
    parser.add_argument(
        "--people",
        metavar="N",
        type=positive_int,
        default=20,
        help="persons per keyframe (default: %(default)s)",
    )
    parser.add_argument(
        "--actions",
        metavar="N",
        type=positive_int,
        default=80,
        help="number of classes (default: %(default)s)",
    )


def _page(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.page import benchmark_page

    result = benchmark_page(args.hours, args.people, args.actions)
    return result.report(), result.to_json()


# ---------------------------------------------------------------- evaluation


def _add_frame_map_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows",
        metavar="N",
        type=integer_in("[320, 100000000]"),  # a quarter of 320 is one person box with 80 scores
        default=DETECTION_ROWS,
        help="number of detections; keyframes and ground truth are proportional to it (default: %(default)s)",
    )


def _frame_map(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.frame_map import benchmark_frame_map, report

    results = benchmark_frame_map(args.rows, args.repeats)
    return report(results, args.repeats), results


def _numbers(text: str) -> list[float]:
    return [number_in("(0, 10000]")(part) for part in text.split(",") if part]


TOPICS = {
    "frame-map": Topic(
        "time and memory of frame-mAP at the size of AVA's validation set",
        _add_frame_map_arguments,
        _frame_map,
    ),
    "data": Topic(
        "clips per second of the data loader by stage, compared with decoding alone",
        _add_data_arguments,
        _data,
        has_config=True,
    ),
    "readers": Topic(
        "time to open a video and to read a clip with each video reader",
        _add_readers_arguments,
        _readers,
        repeats=7,
    ),
    "feeding": Topic(
        "CPU cores that prepare clips as fast as GPUs train on them, by source and reader",
        _add_feeding_arguments,
        _feeding,
        has_config=True,
        repeats=15,
    ),
    "loader-memory": Topic(
        "memory of annotations of AVA's size, with one loader worker and with many",
        _add_loader_memory_arguments,
        _loader_memory,
    ),
    "train": Topic(
        "time and memory of a training step by part, on synthetic clips",
        _add_train_arguments,
        _train,
        has_config=True,
    ),
    "detect": Topic(
        "CPU time of detection by stage, with given boxes and random weights; what bf16, token dropout, ONNX "
        "Runtime and int8 give; and peak memory",
        _add_detect_arguments,
        _detect,
        has_config=True,
    ),
    "tracking": Topic(
        "IDF1 and identity switches of the tracker on a dataset with person ids",
        _add_tracking_arguments,
        _tracking,
        repeats=0,
        measures=False,
    ),
    "overlay": Topic(
        "CPU time of drawing boxes and labels, by frame size and number of persons",
        _add_no_arguments,
        _overlay,
        repeats=0,
    ),
    "page": Topic(
        "size of the HTML page of a long, crowded video, and its speed in Chromium",
        _add_page_arguments,
        _page,
        repeats=0,
    ),
    "scaling": Topic(
        "time of pre-training steps with several processes on this machine, compared with a model of a step",
        _add_scaling_arguments,
        _scaling,
        has_config=True,
    ),
    "gpu-scaling": Topic(
        "predicted time of pre-training steps on 8 to 512 GPUs of assumed hardware, without measuring",
        _add_gpu_scaling_arguments,
        _gpu_scaling,
        repeats=0,
        measures=False,
    ),
}
