"""Valid input files of the fuzzed commands: a tiny MiniAVA, models of its tasks, annotations, results."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from tests.fuzz.commands import TINY
from vmae_det import model_zoo
from vmae_det.checkpoint.checkpointer import save_weights
from vmae_det.checkpoint.files import write_checkpoint
from vmae_det.config import CfgNode
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import build_model
from vmae_det.synthetic_data.mini_ava import TINY as TINY_AVA
from vmae_det.synthetic_data.mini_ava import make_mini_ava

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "dataset_tools"), str(TESTS / "inference")]

from export_annotations import to_coco, to_cvat, to_labelstudio, to_via3  # noqa: E402
from onnx_detectors import write_bright_detector  # noqa: E402


def make_site(folder: Path, mini_ava: Path | None = None) -> Path:
    """Create all files that the templates name, and return the folder.

    Args:
        mini_ava: an existing tiny MiniAVA to link; None generates one.
    """
    ava = folder / "mini_ava"
    if mini_ava is None:
        make_mini_ava(ava, size=TINY_AVA, progress=False)
    else:
        folder.mkdir(parents=True)
        ava.symlink_to(mini_ava)
    (folder / "empty").mkdir()
    annotations = ava / "annotations"
    shutil.copy(annotations / "mini_ava_actions.pbtxt", folder / "labels.pbtxt")
    shutil.copy(annotations / "mini_ava_val.csv", folder / "gt.csv")
    shutil.copy(annotations / "mini_ava_val_excluded_timestamps.csv", folder / "excluded.csv")
    shutil.copy(next((ava / "videos").glob("*.mp4")), folder / "v.mp4")
    rows = list(csv.reader((folder / "gt.csv").open()))
    _write_lines(folder / "det.csv", (",".join([*row[:7], "0.5"]) for row in rows))
    boxes = {tuple(row[1:6]) for row in rows}
    names = LabelMap.from_file(folder / "labels.pbtxt").names
    scores = (f"v,{rank},{rank},{name},0.1" for rank, name in enumerate(names, start=1))
    _write_lines(folder / "v_classes.csv", ("video,rank,id,class,score", *scores))
    _write_lines(folder / "clips.csv", ["clips/v.mp4 1"])
    _write_lines(folder / "boxes.csv", (f"v,{','.join(box)},0.9" for box in sorted(boxes)))
    tube = "v,1,walk,0.9,{},10,10,50,50"
    _write_lines(folder / "tubes.csv", (tube.format(frame) for frame in range(1, 9)))
    _write_lines(folder / "metrics.jsonl", (json.dumps({"step": n, "loss": 1 / n}) for n in range(1, 5)))
    (folder / "pipe_text").symlink_to("/dev/stdin")
    tubes = [{"label": 0, "sf": 0, "ef": 2, "boxes": [[1, 1, 5, 5]] * 2}]
    content = {"v_Walk_g01_c01": {"annotations": tubes, "label": 0, "numf": 2}}
    (folder / "annotations.pkl").write_bytes(pickle.dumps(content))
    write_bright_detector(folder / "people.onnx", "yolov8")
    _export_annotations(folder, rows)
    _make_models(folder, ava)
    return folder


def _write_lines(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _export_annotations(folder: Path, rows: list[list[str]]) -> None:
    label_map = LabelMap.from_file(folder / "labels.pbtxt")
    names = dict(zip(label_map.ids, label_map.names))
    for export, name in (
        (to_cvat, "cvat.xml"),
        (to_via3, "via3.json"),
        (to_coco, "coco.json"),
        (to_labelstudio, "labelstudio.json"),
    ):
        output = folder / name.partition(".")[0]
        output.mkdir()
        files = export(rows, names, 5, 900, output)
        shutil.copy(files[0] if isinstance(files, list) else files, folder / name)


def _make_models(folder: Path, ava: Path) -> None:
    label_map = {
        key: list(value) for key, value in asdict(LabelMap.from_file(folder / "labels.pbtxt")).items()
    }
    sets = {
        "pretrain": ("unlabelled.yaml", None),
        "finetune": ("clips_train.yaml", "clips_val.yaml"),
        "detect": ("train.yaml", "val.yaml"),
    }
    for task, (train, val) in sets.items():
        cfg = model_zoo.get_config(f"MiniAVA/{task}.yaml")
        cfg.merge_from_list(TINY.split())
        cfg.DATASETS.TRAIN = (str(ava / train),)
        cfg.DATASETS.TEST = (str(ava / val),) if val else ()
        (folder / f"{task}.yaml").write_text(cfg.dump())
        _save(folder / f"{task}.pt", cfg, None if task == "pretrain" else label_map)


def _save(path: Path, cfg: CfgNode, label_map: dict | None) -> None:
    torch.manual_seed(0)
    state = build_model(cfg).state_dict()
    save_weights(state, cfg.dump(), path, label_map)
    extras = {"config": cfg.dump(), "label_map": label_map}
    write_checkpoint(state, path.with_suffix(".safetensors"), "model", extras)
