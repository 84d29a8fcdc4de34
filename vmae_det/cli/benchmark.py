"""`vmae-det benchmark`: how fast the toolkit is on this machine, on data that it makes itself."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from vmae_det.benchmarks.ava_files import DETECTION_ROWS
from vmae_det.benchmarks.cluster import SIZES, Cluster
from vmae_det.cli.arguments import integer_in, number_in, output_file, positive_int, refuse_unused
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import write_json

_DETECT = "where the time of detect goes, with given boxes and random weights, and its peaks of memory"
_SCALING = "steps of pre-training with several processes here, beside what a model of them predicts"
_GPU_SCALING = "what that model says of 8 to 512 GPUs of assumed rates; nothing is run"
_TRAIN = "seconds and memory of a step of pre-training, by part, on made-up clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure."""
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    summary = "read and score files of the size of AVA's validation set"
    frame_map = topics.add_parser("frame-map", help=summary, description=summary)
    frame_map.add_argument(
        "--rows",
        type=integer_in("[320, 100000000]"),  # a quarter is then a person box with 80 scores
        default=DETECTION_ROWS,
        help="detections; keyframes and ground truth in proportion (%(default)s)",
    )
    summary = "clips a second of the loader by stage, beside what decoding alone allows"
    data = topics.add_parser("data", help=summary, description=summary)
    data.add_argument(
        "--clips", type=integer_in("[32, 1000000]"), default=64, help="decoded clips of a turn (%(default)s)"
    )
    data.add_argument("--videos", metavar="WxH", help="make videos of that size in place of DATASETS.TRAIN")
    summary = "frames between the key frames of these videos (%(default)s, x264's own; cameras: 30 to 60)"
    data.add_argument("--key-every", type=positive_int, default=250, help=summary)
    summary = "memory of annotations of AVA's size, with one loader process and with many"
    memory = topics.add_parser("loader-memory", help=summary, description=summary)
    memory.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2, 4, 8], help="processes")
    train = topics.add_parser("train", help=_TRAIN, description=_TRAIN)
    _add_train_arguments(train)
    detect = topics.add_parser("detect", help=_DETECT, description=_DETECT)
    _add_detect_arguments(detect)
    scaling = topics.add_parser("scaling", help=_SCALING, description=_SCALING)
    _add_scaling_arguments(scaling)
    gpu_scaling = topics.add_parser("gpu-scaling", help=_GPU_SCALING, description=_GPU_SCALING)
    _add_gpu_scaling_arguments(gpu_scaling)
    for topic in (frame_map, data, memory, train, detect, scaling):
        topic.add_argument(
            "--repeats", type=positive_int, default=3, help="runs of each measurement (%(default)s)"
        )
    for topic in topics.choices.values():
        topic.add_argument("--json", type=output_file, metavar="FILE", help="write the figures there, too")
    for topic in (data, train, detect, scaling):
        add_config_arguments(topic)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", choices=["huggingface"], default="", help="time that model, too, in turn"
    )
    parser.add_argument("--batch", type=positive_int, default=4, help="clips of a step (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--steps", type=positive_int, default=2, help="steps of a run (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the models")
    parser.add_argument(
        "--alike", action="store_true", help="the other model with our settings of the CPU, too"
    )
    parser.add_argument("--amp", choices=["none", "bf16", "fp16"], default="none", help="mixed precision")


def _add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=Path, metavar="FILE", help="in place of ten seconds that are made")
    parser.add_argument(
        "--minutes",
        type=_numbers,
        default="1,10",
        metavar="LIST",
        help="lengths of made videos whose peaks of memory are measured (%(default)s); '': none",
    )


def _add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive_int, default=2, help="clips of each process (%(default)s)")
    parser.add_argument(
        "--processes",
        type=positive_int,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="the model is fitted to the first two and predicts the others (1 2 4)",
    )


def _add_gpu_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", choices=SIZES, nargs="+", default=list(SIZES), help="(%(default)s)")
    parser.add_argument(
        "--total-gpus",
        type=positive_int,
        nargs="+",
        default=[8, 16, 32, 64, 128, 256, 512],
        metavar="N",
        help="numbers of GPUs, a row each (8 to 512)",
    )
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp", help="(%(default)s)")
    assumed = parser.add_argument_group("assumed")
    for part in fields(Cluster):
        name = f"--{part.name.replace('_', '-')}"
        text = f"{part.metadata['help']} (%(default)g)"
        assumed.add_argument(
            name, type=number_in("[1e-9, 1e18]"), default=part.default, metavar="X", help=text
        )


def run(args: argparse.Namespace) -> int:
    """Print a table; gives the exit status."""
    topics = {
        "frame-map": _frame_map,
        "data": _data,
        "loader-memory": _loader_memory,
        "train": _train,
        "detect": _detect,
        "scaling": _scaling,
        "gpu-scaling": _gpu_scaling,
    }
    text, figures = topics[args.topic](args)
    print(text)
    if args.topic != "gpu-scaling":  # which measures nothing
        print(f"{os.cpu_count()} CPU cores, load average {os.getloadavg()[0]:.1f} at the end")
    if args.json:
        write_json(args.json, figures)
    return 0


def _frame_map(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.frame_map import measure_frame_map, table

    results = measure_frame_map(args.rows, args.repeats)
    return table(results, args.repeats), results


def _data(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.data import benchmark_data
    from vmae_det.benchmarks.videos import make_dataset

    if not args.videos:
        refuse_unused(args, "is of the videos that --videos makes", key_every=250)
    cfg = load_config(args.config_file, args.opts)
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        if args.videos:
            width, _, height = args.videos.partition("x")
            if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
                raise UserError(f"--videos takes a size such as 340x256, from 64 on, got {args.videos}")
            cfg.defrost()
            made = make_dataset(Path(folder), int(width), int(height), args.key_every, cfg)
            cfg.DATASETS.TRAIN = (str(made),)
        result = benchmark_data(cfg, args.clips, args.repeats)
    return result.report(), result.to_json()


def _loader_memory(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.loader_memory import as_json, benchmark_loader_memory, report

    results = benchmark_loader_memory(args.workers, args.repeats)
    return report(results), as_json(results)


def _train(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.train import Settings, benchmark_train

    if not args.against:
        refuse_unused(args, "is about the model of --against", alike=False)
    cfg = load_config(args.config_file, args.opts)
    names = [field.name for field in fields(Settings)]
    result = benchmark_train(cfg, Settings(**{name: getattr(args, name) for name in names}))
    return result.report(), result.to_json()


def _detect(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.detect import benchmark_detect

    cfg = load_config(args.config_file, args.opts)
    result = benchmark_detect(cfg, args.video, args.repeats, args.minutes)
    return result.report(), result.to_json()


def _scaling(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.scaling import benchmark_scaling

    cfg = load_config(args.config_file, args.opts)
    result = benchmark_scaling(cfg, args.batch, args.processes, args.repeats)
    return result.report(), result.to_json()


def _gpu_scaling(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.gpu_scaling import as_json, predict, report

    cluster = Cluster(**{part.name: getattr(args, part.name) for part in fields(Cluster)})
    rows = predict(args.models, args.total_gpus, cluster, args.parallel)
    return report(rows, cluster, args.parallel), as_json(rows, cluster)


def _numbers(text: str) -> list[float]:
    return [number_in("(0, 10000]")(part) for part in text.split(",") if part]
