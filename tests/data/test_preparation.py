"""Preparation of the classification datasets, on small stand-ins of the official files."""

import csv
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate
from vmae_det.data.catalog import get_dataset
from vmae_det.data.check import check_dataset
from vmae_det.data.check.probe import probe_video
from vmae_det.data.label_map import LabelMap
from vmae_det.data.preparation import work
from vmae_det.data.preparation.common import only_run
from vmae_det.data.preparation.resize import resize_video, resized
from vmae_det.data.preparation.work import Journal
from vmae_det.data.readers import open_video
from vmae_det.data.video_lists import read_video_list
from vmae_det.utils.errors import UserError

_CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}


def write_video(path, frames=8, size=(128, 96), rate=25, times=None):
    """A video whose frames grow brighter; `times` in thousandths of a second, else by the rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(_CODECS[path.suffix], rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = work_unit = av.video.frame.Fraction(1, 1000)
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 40 + 20 * number, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], work_unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


class Site:
    """What a dataset's site gives: `annotations`, `videos`; and the command that prepares it."""

    def __init__(self, folder, name):
        self.name = name
        self.annotations, self.videos = folder / "site" / "annotations", folder / "site" / "videos"
        self.root = folder / "datasets"
        self.annotations.mkdir(parents=True)
        self.videos.mkdir()

    @property
    def made(self):
        return self.root / self.name

    def write(self, name, *lines, end="\n"):
        (self.annotations / name).write_text("".join(line + end for line in lines))

    def prepare(self, *more):
        places = ("--annotations", self.annotations, "--videos", self.videos, "--root", self.root)
        return main([str(word) for word in ("prepare", self.name, *places, "--workers", "1", *more)])

    def rows(self, list_name):
        return (self.made / f"{list_name}.csv").read_text().splitlines()


def kinetics(site):
    head = "label,youtube_id,time_start,time_end,split,is_cc"
    quoted = '"massaging person\'s head"'
    clips = [("yoga", "-abc_DEF012", 3), (quoted, "0000000000A", 0), ("air drumming", "0000000000a", 113)]
    train = [f"{label},{name},{start},{start + 10},train,0" for label, name, start in clips]
    site.write("train.csv", head, *train, "yoga,gone0000000,5,15,train,0")
    site.write("validate.csv", head, "yoga,val00000000,1,11,validate,0")
    for _, name, start in clips:
        write_video(site.videos / "train" / f"{name}_{start:06d}_{start + 10:06d}.mp4")
    write_video(site.videos / "val" / "yoga, at home" / "val00000000_000001_000011.mp4")
    return (
        "train",
        [
            "train/-abc_DEF012_000003_000013.mp4 2",
            "train/0000000000A_000000_000010.mp4 1",
            "train/0000000000a_000113_000123.mp4 0",
        ],
        ["val/yoga, at home/val00000000_000001_000011.mp4 2"],
    )


def something_something(site):
    names = {"Pushing something with something": "1", "Holding something": "0"}
    site.write("labels.json", json.dumps(names))
    entry = {"label": "pushing cup with pen", "placeholders": ["cup", "pen"]}
    push = {**entry, "template": "Pushing [something] with [something]"}
    hold = {**entry, "template": "Holding [something]"}
    site.write("something-something-v2-train.json", json.dumps([{"id": "7", **push}, {"id": "12", **hold}]))
    site.write("validation.json", json.dumps([{"id": "9", **push}]))
    folder = "20bn-something-something-v2"
    for name in ("7", "12", "9", "10"):
        write_video(site.videos / folder / f"{name}.webm")
    return "train", [f"{folder}/7.webm 1", f"{folder}/12.webm 0"], [f"{folder}/9.webm 1"]


def ucf101(site):
    site.write("classInd.txt", "1 ApplyEyeMakeup", "2 HandstandPushups", end="\r\n")
    names = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", "HandstandPushups/v_HandStandPushups_g02_c01"]
    names.append("ApplyEyeMakeup/v_ApplyEyeMakeup_g03_c01")
    for split in (1, 2, 3):
        test = names[split - 1]
        train = [f"{name}.avi {1 + name.startswith('Hand')}" for name in names if name != test]
        site.write(f"trainlist0{split}.txt", *train, end="\r\n")
        site.write(f"testlist0{split}.txt", f"{test}.avi", end="\r\n")
    for name in names:
        write_video(site.videos / f"{name}.avi")
    return "split2_train", [f"{names[0]}.avi 0", f"{names[2]}.avi 0"], [f"{names[1]}.avi 1"]


def hmdb51(site):
    names = {"wave": ["(HQ)_a_[1]_wave_0", "#20_wave_1", "c_wave_2"], "brush_hair": ["a_brush_hair_0"]}
    for split in (1, 2, 3):
        uses = "120" if split != 2 else "211"
        for action, videos in names.items():
            lines = [f"{video}.avi {use} " for video, use in zip(videos, uses, strict=False)]
            site.write(f"{action}_test_split{split}.txt", *lines)
    for action, videos in names.items():
        for video in videos:
            write_video(site.videos / action / f"{video}.avi")
    train = ["wave/#20_wave_1.avi 1", "wave/c_wave_2.avi 1"]
    return "split2_train", train, ["brush_hair/a_brush_hair_0.avi 0", "wave/(HQ)_a_[1]_wave_0.avi 1"]


SITES = {
    "kinetics400": kinetics,
    "kinetics600": kinetics,
    "kinetics700": kinetics,
    "something_something_v2": something_something,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
}


@pytest.fixture
def in_process(monkeypatch):
    """Videos are read without worker processes, which take half a second to start; each is counted."""
    done = []

    def run(function, items, workers, seconds, description):
        for item in items:
            done.append(item)
            yield item, function(item)

    monkeypatch.setattr(work, "run_apart", run)
    return done


@pytest.fixture
def interrupted(in_process, monkeypatch):
    """interrupted(N): the preparation is interrupted before it gets to its N-th video, once."""

    def arm(number):
        run = work.run_apart

        def stop(*args):
            for count, answer in enumerate(run(*args), start=1):
                if count == number:
                    monkeypatch.setattr(work, "run_apart", run)
                    raise KeyboardInterrupt
                yield answer

        monkeypatch.setattr(work, "run_apart", stop)

    return arm


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("resize", [False, True])
def test_from_the_official_files_to_training(name, resize, tmp_path, tiny_cfg, in_process, interrupted, capsys):
    """Prepared in two runs, the first of them interrupted; then two steps of fine-tuning by name."""
    if resize and name in ("kinetics600", "kinetics700"):
        pytest.skip("as kinetics400")
    site = Site(tmp_path, name)
    train_name, train, val = SITES[name](site)
    val_name = train_name.replace("train", "val")
    arguments = ("--resize", "48") if resize else ()
    interrupted(2)
    assert site.prepare(*arguments) == 130
    assert not (site.made / f"{train_name}.csv").exists()
    assert site.prepare(*arguments) == 0
    again = [item for item in set(in_process) if in_process.count(item) > 1]
    assert len(again) == 1, "all but the video at the interruption are done once"
    total = len(in_process)
    assert site.prepare(*arguments) == 0
    assert len(in_process) == total, "a run after a whole one has nothing left to do"

    if resize:
        train, val = ([f"{row[:row.rindex('.')]}.mp4 {row[-1]}" for row in rows] for rows in (train, val))
    assert [site.rows(train_name), site.rows(val_name)] == [train, val]
    assert "classes, where the whole dataset has" in capsys.readouterr().out

    spec = get_dataset(f"{name}_{train_name}", str(site.root))
    files, labels = read_video_list(spec.annotations, spec.videos)
    assert all(file.is_file() for file in files)
    assert len(LabelMap.from_file(spec.label_map)) > labels.max()
    cfg = tiny_cfg("finetune", "DATASETS.ROOT", str(site.root), "SOLVER.EPOCHS", 1)
    cfg.merge_from_list(["DATASETS.TRAIN", (f"{name}_{train_name}",), "DATASETS.TEST", (f"{name}_{val_name}",)])
    cfg.merge_from_list(["INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32, "INPUT.TEST_SHORT_SIDE", 32])
    cfg.merge_from_list(["SOLVER.BATCH_SIZE", 1, "INPUT.SAMPLING_RATE", 1])
    assert set(train_or_evaluate(cfg)) == {"top1", "top5"}
    steps = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in steps) >= 2
