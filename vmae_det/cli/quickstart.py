"""`vmae-det quickstart`: run the whole pipeline on MiniAVA, from raw video to an overlay of detections.

Pre-trains, fine-tunes, then trains the same detector from random and from these weights, and compares them in
a table. The detector has one stage: it finds the people itself.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import simplejson

from vmae_det.cli.arguments import num_processes, output_folder, seed

if TYPE_CHECKING:
    from vmae_det.config import CfgNode
    from vmae_det.data.catalog import DatasetSpec
    from vmae_det.formats.ava_csv import ActionBoxes

NUM_OVERLAYS = 2
DETECTOR = "detector.pt"  # copy of the best detector
_DONE = "done.txt"  # written by a finished stage; contains its duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output folder, the seed, and overrides."""
    parser.add_argument(
        "--output",
        type=output_folder,
        default=Path("output/quickstart"),
        metavar="FOLDER",
        help="write all results to this folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="random seed of weights, shuffling, augmentation and masks (default: 0)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="also train the detector from the pre-trained backbone, without fine-tuning",
    )
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        metavar="N",
        help="number of processes (default: one per GPU, or two on the CPU)",
    )
    parser.add_argument(
        "--datasets",
        default="",
        metavar="FOLDER",
        help="create MiniAVA in this folder (default: $VMAE_DET_DATASETS, else ./datasets)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override config keys in all stages"
    )


def run(args: argparse.Namespace) -> int:
    """Run all stages; skip those already done with the same config."""
    from vmae_det.cli.config_arguments import load_config
    from vmae_det.engine.launch import check_processes, run_guarded

    check_processes(args.num_gpus or 1, load_config("MiniAVA/pretrain.yaml", args.opts).MODEL.DEVICE)
    return run_guarded(_run, args)


def _run(args: argparse.Namespace) -> None:
    from vmae_det.cli.config_arguments import load_config
    from vmae_det.data.catalog import get_dataset
    from vmae_det.engine.setup import choose_amp, get_device
    from vmae_det.utils.output_files import atomic_write

    began = time.perf_counter()
    out = args.output
    if "SOLVER.AMP" not in args.opts:
        amp, why = choose_amp(get_device(load_config("MiniAVA/pretrain.yaml", args.opts)))
        args.opts = ["SOLVER.AMP", amp, *args.opts]
        print(f"SOLVER.AMP: {amp}, because {why}")
    _print_title("MiniAVA, the built-in dataset")
    val = get_dataset("mini_ava_val", args.datasets)
    print(f"{val.videos.parent} (README.md describes the formats)")

    pretrained = _stage(args, "pretrain", "MiniAVA/pretrain.yaml", "Pre-training on unlabeled video")
    finetuned = _stage(
        args,
        "finetune",
        "MiniAVA/finetune.yaml",
        "Fine-tuning on single-action clips",
        _start_from(pretrained),
    )
    starts = {
        "random": (),
        **({"pre-trained": _start_from(pretrained)} if args.full else {}),
        "pre-trained, fine-tuned": _start_from(finetuned),
    }
    detectors = {
        name: _stage(
            args,
            "detect_" + name.replace(", ", "_").replace("-", ""),
            "MiniAVA/detect.yaml",
            f"Action detection, initialization: {name}",
            start,
        )
        for name, start in starts.items()
    }
    given_boxes = {
        name: _stage(
            args,
            f"{folder.name}_given_boxes",
            "MiniAVA/detect.yaml",
            f"The same detector with given person boxes, initialization: {name}",
            ("MODEL.WEIGHTS", folder / "model_final.pt", "TEST.PERSON_BOXES", "dataset"),
            eval_only=True,
        )
        for name, folder in detectors.items()
    }
    best = max(detectors.values(), key=lambda folder: _results(folder)["frame_mAP"])
    with atomic_write(out / DETECTOR) as temporary:
        shutil.copyfile(best / "model_final.pt", temporary)
    _print_title("Overlays")
    overlays = _draw_overlays(out / DETECTOR, val, out / "overlays")
    _print_results(detectors, given_boxes, pretrained, finetuned, _chance(val))
    print(f"in total {time.perf_counter() - began:.0f} s\n")
    print("overlays:          ", *overlays, sep="\n  ")
    print("reconstructions:   ", pretrained / "reconstruction.png", sep="\n  ")
    print("logs:              ", out / "*" / "log.txt", f"tensorboard --logdir {out}", sep="\n  ")
    print("your own video:    ", f"vmae-det detect VIDEO --weights {out / DETECTOR}", sep="\n  ")


def _stage(
    args: argparse.Namespace,
    name: str,
    config: str,
    title: str,
    keys: tuple[object, ...] = (),
    eval_only: bool = False,
) -> Path:
    """Run or resume one training or test in its own folder; return the folder.

    Args:
        keys: config keys of this stage, each followed by its value.
    """
    from vmae_det.cli.config_arguments import load_config
    from vmae_det.cli.train import train_or_evaluate
    from vmae_det.engine.launch import launch
    from vmae_det.utils.output_files import write_text

    folder = args.output / name
    opts = ["OUTPUT_DIR", str(folder), "SEED", str(args.seed), "DATASETS.ROOT", args.datasets]
    cfg = load_config(config, [*opts, *map(str, keys), *args.opts])
    _print_title(title)
    saved = folder / "config.yaml"
    if saved.exists() and saved.read_text(encoding="utf-8") != cfg.dump():
        print(f"{folder} was run with another config; running it again")
        shutil.rmtree(folder)
    if (folder / _DONE).exists():
        print(f"already done: {folder}")
        return folder
    began = time.perf_counter()
    processes = args.num_gpus or _default_processes(cfg)
    status = launch(train_or_evaluate, (cfg, not eval_only, eval_only), num_processes=processes)
    if status:
        raise SystemExit(status)  # the stage has printed the error
    write_text(folder / _DONE, f"{time.perf_counter() - began:.0f} s\n")
    return folder


def _start_from(folder: Path) -> tuple[object, ...]:
    """Return the config keys that initialize a backbone with that of another stage."""
    return "MODEL.BACKBONE.CHECKPOINT", folder / "model_final.pt"


def _default_processes(cfg: CfgNode) -> int:
    import torch

    from vmae_det.utils.cpu import count_cores

    if cfg.MODEL.DEVICE == "mps":
        return 1
    gpus = 0 if cfg.MODEL.DEVICE == "cpu" else torch.cuda.device_count()
    return gpus or min(count_cores(), 2)


def _seconds(folder: Path) -> float:
    return float((folder / _DONE).read_text(encoding="utf-8").split()[0])


def _results(folder: Path) -> dict[str, float]:
    return simplejson.loads((folder / "results.json").read_text(encoding="utf-8"))


def _ground_truth(val: DatasetSpec) -> ActionBoxes:
    from vmae_det.formats.ava_csv import read_action_csv
    from vmae_det.formats.label_map import LabelMap

    return read_action_csv(val.annotations, LabelMap.from_file(val.label_map))


def _chance(val: DatasetSpec) -> float:
    from vmae_det.config import get_cfg
    from vmae_det.evaluation.frame_map import chance_level
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.formats.person_boxes import read_person_boxes

    persons = read_person_boxes(val.person_boxes)
    persons = persons.select(persons.score >= get_cfg().TEST.PERSON_BOX_SCORE)
    return chance_level(_ground_truth(val), persons, LabelMap.from_file(val.label_map))


def _draw_overlays(weights: Path, val: DatasetSpec, folder: Path) -> list[Path]:
    from vmae_det.inference.predictor import ActionPredictor, read_config
    from vmae_det.rendering.detect_video import DetectionSettings, detect_video
    from vmae_det.rendering.result_writers import WRITERS

    predictor = ActionPredictor(read_config(weights))
    settings = DetectionSettings(tuple(WRITERS), video_start=val.video_start)
    names = sorted(set(map(str, _ground_truth(val).videos)))[:NUM_OVERLAYS]
    return [
        detect_video(predictor, val.videos / f"{name}.mp4", None, folder / name, settings, "")[-1]
        for name in names
    ]


def _print_results(
    detectors: dict[str, Path],
    given_boxes: dict[str, Path],
    pretrained: Path,
    finetuned: Path,
    chance: float,
) -> None:
    _print_title(
        "Frame-mAP at IoU 0.5 on mini_ava_val, of the people that the detector finds or of given boxes"
    )
    width = max(map(len, detectors))
    print(f"{'initialization':<{width}}  people found  given boxes  AP of the people found   time")
    for name, folder in detectors.items():
        found, given = _results(folder), _results(given_boxes[name])
        print(
            f"{name:<{width}}  {found['frame_mAP']:12.3f}  {given['frame_mAP']:11.3f}  "
            f"{found['person_AP50']:22.3f}  {_seconds(folder):3.0f} s"
        )
    print(f"{'(chance)':<{width}}  {'':12}  {chance:11.3f}")
    top1 = _results(finetuned)["top1"]
    print(f"\npre-training took {_seconds(pretrained):.0f} s,", end=" ")
    print(f"fine-tuning {_seconds(finetuned):.0f} s (top-1 {top1:.1f} %);", end=" ")


def _print_title(title: str) -> None:
    print(f"\n== {title}", flush=True)
    sys.stdout.flush()
