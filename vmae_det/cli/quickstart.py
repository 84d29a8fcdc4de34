"""`vmae-det quickstart`: the whole way on MiniAVA, from raw video to actions drawn on it.

Pre-train, fine-tune, then train the same detector from three starts; a table says what each start is worth.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import simplejson

from vmae_det.cli.arguments import output_folder, processes, seed

NUM_OVERLAYS = 2
_DONE = "done.txt"  # of a finished stage: how long it took


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and the seed."""
    parser.add_argument("--output", type=output_folder, default=Path("output/quickstart"), metavar="DIR")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, order, augmentation and masks")
    parser.add_argument(
        "--num-gpus", type=processes, metavar="N", help="processes; default: one per GPU, or two on the CPU"
    )
    parser.add_argument(
        "--datasets", default="", metavar="DIR", help="where MiniAVA is made; default ./datasets"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to override in all stages"
    )


def run(args: argparse.Namespace) -> int:
    """Run all stages; those that are done with the same config are not run again."""
    from vmae_det.engine.launch import check_processes, run_guarded

    check_processes(args.num_gpus or 1)
    return run_guarded(_run, args)


def _run(args: argparse.Namespace) -> None:
    from vmae_det.data.catalog import get_dataset

    began = time.perf_counter()
    out = args.output
    _say("MiniAVA, the built-in dataset")
    val = get_dataset("mini_ava_val", args.datasets)
    print(f"in {val.videos.parent} (its README.md explains the formats)")

    pretrained = _stage(args, "pretrain", "MiniAVA/pretrain.yaml", "Pre-training on unlabelled video")
    finetuned = _stage(
        args, "finetune", "MiniAVA/finetune.yaml", "Fine-tuning on single-action clips", start=pretrained
    )
    starts = {
        "random": None,
        "pre-trained": pretrained,
        "pre-trained, fine-tuned": finetuned,
    }
    detectors = {
        name: _stage(
            args,
            "detect_" + name.replace(", ", "_").replace("-", ""),
            "MiniAVA/detect.yaml",
            f"Action detection, start: {name}",
            start=start,
        )
        for name, start in starts.items()
    }
    best = max(detectors, key=lambda name: _results(detectors[name])["frame_mAP"])
    _say(f"Actions drawn on video, by the detector that started {best}")
    overlays = _draw(detectors[best] / "model_final.pt", val, out / "overlays")
    _table(detectors, pretrained, finetuned, _chance(val), overlays, out, time.perf_counter() - began)


def _stage(args: argparse.Namespace, name: str, config: str, title: str, start: Path | None = None) -> Path:
    """Run one training in its own folder, or what is left of it; gives the folder."""
    from vmae_det.cli.common import load_config
    from vmae_det.cli.train import train_or_evaluate
    from vmae_det.engine.launch import launch
    from vmae_det.utils.output_files import write_text

    folder = args.output / name
    opts = ["OUTPUT_DIR", str(folder), "SEED", str(args.seed), "DATASETS.ROOT", args.datasets]
    if start is not None:
        opts += ["MODEL.BACKBONE.CHECKPOINT", str(start / "model_final.pt")]
    cfg = load_config(config, opts + args.opts)
    _say(title)
    saved = folder / "config.yaml"
    if saved.exists() and saved.read_text(encoding="utf-8") != cfg.dump():
        print(f"{folder} was made with another config and is made anew")
        shutil.rmtree(folder)
    if (folder / _DONE).exists():
        print(f"done already, in {folder}")
        return folder
    began = time.perf_counter()
    status = launch(train_or_evaluate, (cfg, True), num_processes=args.num_gpus or _processes())
    if status:
        raise SystemExit(status)  # the stage has said why
    write_text(folder / _DONE, f"{time.perf_counter() - began:.0f} s\n")
    return folder


def _processes() -> int:
    import torch

    return torch.cuda.device_count() or min(os.cpu_count() or 1, 2)


def _seconds(folder: Path) -> float:
    return float((folder / _DONE).read_text(encoding="utf-8").split()[0])


def _results(folder: Path) -> dict[str, float]:
    return simplejson.loads((folder / "results.json").read_text(encoding="utf-8"))


def _chance(val) -> float:  # noqa: ANN001
    from vmae_det.config import get_cfg
    from vmae_det.evaluation.frame_map import chance_level
    from vmae_det.formats.ava_csv import LabelMap, read_action_csv
    from vmae_det.formats.person_boxes import read_person_boxes

    label_map = LabelMap.from_file(val.label_map)
    persons = read_person_boxes(val.person_boxes)
    persons = persons.select(persons.score >= get_cfg().TEST.PERSON_BOX_SCORE)
    return chance_level(read_action_csv(val.annotations, label_map), persons, label_map)


def _draw(weights: Path, val, folder: Path) -> list[Path]:  # noqa: ANN001
    from vmae_det.formats.person_boxes import read_person_boxes
    from vmae_det.inference.predictor import ActionPredictor, read_config
    from vmae_det.rendering.detect_video import Settings, detect_video
    from vmae_det.rendering.result_writers import WRITERS

    predictor = ActionPredictor(read_config(weights))
    persons = read_person_boxes(val.person_boxes)
    overlays = []
    for video in sorted(val.videos.glob("*.mp4")):
        if video.stem in set(map(str, persons.videos)) and len(overlays) < NUM_OVERLAYS:
            settings = Settings(tuple(WRITERS), video_start=val.video_start)
            overlays.append(detect_video(predictor, video, persons, folder / video.stem, settings, "")[-1])
    return overlays


def _table(
    detectors: dict[str, Path],
    pretrained: Path,
    finetuned: Path,
    chance: float,
    overlays: list[Path],
    out: Path,
    seconds: float,
) -> None:
    _say("Frame-mAP at IoU 0.5 on mini_ava_val")
    width = max(map(len, detectors))
    print(f"{'start of the detector':<{max(width, 21)}}  frame-mAP   time")
    for name, folder in detectors.items():
        frame_map = _results(folder)["frame_mAP"]
        print(f"{name:<{max(width, 21)}}  {frame_map:9.3f}  {_seconds(folder):4.0f} s")
    print(f"{'(chance)':<{max(width, 21)}}  {chance:9.3f}")
    top1 = _results(finetuned)["top1"]
    print(f"\npre-training took {_seconds(pretrained):.0f} s,", end=" ")
    print(f"fine-tuning {_seconds(finetuned):.0f} s (top-1 {top1:.1f} %); all of it {seconds:.0f} s\n")
    print("actions on video:  ", *overlays, sep="\n  ")
    print("reconstructions:   ", pretrained / "reconstruction.png", sep="\n  ")
    print("logs:              ", out / "*" / "log.txt", f"tensorboard --logdir {out}", sep="\n  ")


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)
    sys.stdout.flush()
