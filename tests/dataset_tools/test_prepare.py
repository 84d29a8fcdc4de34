"""Preparation of classification datasets, on small synthetic versions of the official files."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dataset_sites
import pytest
from dataset_sites import Site, write_video

from vmae_det.cli import prepare as prepare_command
from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate
from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.prepare.preparers import Outcome, lock_folder
from vmae_det.dataset_tools.prepare.video_jobs import Journal
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import UserError
from vmae_det.video.probe import probe_video

in_process, interrupted = dataset_sites.in_process, dataset_sites.interrupted


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


@pytest.mark.parametrize(
    ("name", "resize"),
    [
        *((name, False) for name in SITES),
        ("kinetics400", True),
        ("something_something_v2", True),
        ("ucf101", True),
    ],
)
def test_from_the_official_files_to_training(
    name, resize, tmp_path, tiny_cfg, in_process, interrupted, capsys
):
    """Prepare in two runs, the first of which is interrupted; then fine-tune for two steps."""
    site = Site(tmp_path, name)
    train_name, train, val = SITES[name](site)
    val_name = train_name.replace("train", "val")
    arguments = ("--resize", "48") if resize else ()
    interrupted(2)
    assert site.prepare(*arguments) == 130
    assert not (site.output / f"{train_name}.csv").exists()
    assert site.prepare(*arguments) == 0
    again = [item for item in set(in_process) if in_process.count(item) > 1]
    assert len(again) == 1, "only the video at the interruption is processed twice"
    total = len(in_process)
    assert site.prepare(*arguments) == 0
    assert len(in_process) == total, "a run after a complete one processes nothing"

    if resize:
        train, val = ([f"{row[: row.rindex('.')]}.mp4 {row[-1]}" for row in rows] for rows in (train, val))
    assert [site.rows(train_name), site.rows(val_name)] == [train, val]
    assert "classes; the complete dataset has" in capsys.readouterr().out

    spec = get_dataset(f"{name}_{train_name}", str(site.root))
    files, labels = spec.labeled_videos()
    assert all(file.is_file() for file in files)
    assert len(LabelMap.from_file(spec.label_map)) > labels.max()
    cfg = tiny_cfg("finetune", "DATASETS.ROOT", str(site.root), "SOLVER.EPOCHS", 1)
    cfg.merge_from_list(
        ["DATASETS.TRAIN", (f"{name}_{train_name}",), "DATASETS.TEST", (f"{name}_{val_name}",)]
    )
    cfg.merge_from_list(["INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32, "INPUT.TEST_SHORT_SIDE", 32])
    cfg.merge_from_list(["SOLVER.BATCH_SIZE", 1, "INPUT.SAMPLING_RATE", 1])
    assert set(train_or_evaluate(cfg)) == {"top1", "top5"}
    steps = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in steps) >= 2


@pytest.fixture
def site(tmp_path):
    """A synthetic version of Kinetics-400."""
    site = Site(tmp_path, "kinetics400")
    kinetics(site)
    return site


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("arguments", [(), ("--resize", "48")])
def test_broken_and_missing_videos_are_listed_and_skipped(site, arguments, in_process, capsys):
    broken = "train/0000000000a_000113_000123.mp4"
    intact = (site.videos / broken).read_bytes()
    (site.videos / broken).write_bytes(intact[: len(intact) // 2])
    assert site.prepare(*arguments) == 1, "one of four is more than 1 %"
    printed = capsys.readouterr().out
    assert "videos: 3 of 5 are usable" in printed
    assert "missing: 1" in printed
    assert "25.0% of the videos are broken" in printed
    assert table(site.output / "missing_videos.csv") == [{"video": "gone0000000_000005_000015"}]
    bad = table(site.output / "bad_videos.csv")
    assert [row["video"] for row in bad] == [broken]
    assert "MP4 file without an index" in bad[0]["reason"]
    assert [row.rsplit("/")[-1][0] for row in site.rows("train")] == ["-", "0"]
    assert site.prepare(*arguments, "--max-bad", "0.5") == 0

    count = len(in_process)
    (site.videos / broken).write_bytes(intact)
    write_video(site.videos / "train" / "gone0000000_000005_000015.mp4")
    assert site.prepare(*arguments) == 0
    assert len(in_process) == count + 2, "only repaired and added videos are processed"
    assert len(site.rows("train")) == 4
    assert not (site.output / "missing_videos.csv").exists()
    assert not (site.output / "bad_videos.csv").exists()


def test_splits_by_name_with_the_first_as_the_default(tmp_path, in_process):
    site = Site(tmp_path, "hmdb51")
    hmdb51(site)
    assert site.prepare() == 0
    for part in ("train", "val"):
        lists = [
            get_dataset(f"hmdb51{split}_{part}", str(site.root)).annotations.name
            for split in ("", "_split1", "_split2", "_split3")
        ]
        assert lists == [f"split{number}_{part}.csv" for number in (1, 1, 2, 3)]
    assert site.rows("split1_train") == ["brush_hair/a_brush_hair_0.avi 0", "wave/(HQ)_a_[1]_wave_0.avi 1"]
    assert site.rows("split1_val") == ["wave/#20_wave_1.avi 1"], "the third video is not used in split 1"


def test_a_missing_output_is_written_again(site, in_process):
    assert site.prepare("--resize", "48") == 0
    removed = site.output / "videos" / "train" / "0000000000a_000113_000123.mp4"
    removed.unlink()
    assert site.prepare("--resize", "48") == 0
    assert removed.is_file()
    assert in_process.count("train/0000000000a_000113_000123.mp4") == 2
    assert len(in_process) == 5


def test_missing_videos_count_as_bad_by_default(tmp_path, in_process, capsys):
    site = Site(tmp_path, "ucf101")
    ucf101(site)
    (site.videos / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g03_c01.avi").unlink()
    assert site.prepare() == 1
    assert "33.3% of the videos are broken" in capsys.readouterr().out
    assert site.prepare("--max-bad", "0.4") == 0


def test_the_replacement_of_a_broken_clip_is_used(site, in_process):
    name = "0000000000A_000000_000010.mp4"
    write_video(site.videos / "replacement" / "replacement_for_corrupted_k400" / name)
    assert site.prepare() == 0
    assert f"replacement/replacement_for_corrupted_k400/{name} 1" in site.rows("train")


def test_the_checker_finds_no_problems(site, monkeypatch, in_process):
    assert site.prepare() == 0
    monkeypatch.setenv("VMAE_DET_DATASETS", str(site.root))
    report = check_dataset(get_dataset("kinetics400_train"), decode="all")
    assert report.findings == []
    assert report.against == "kinetics400_val"
    assert report.class_rows == {"air drumming": 1, "massaging person's head": 1, "yoga": 1}


def test_an_interrupted_run_with_worker_processes_can_be_resumed(tmp_path, in_process):
    site = Site(tmp_path, "kinetics400")
    names = [f"{number:011d}" for number in range(40)]
    for part in ("train", "val"):
        site.write(
            f"{part}.csv", "label,youtube_id,time_start,time_end", *(f"yoga,{name},0,1" for name in names)
        )
    first = write_video(site.videos / f"{names[0]}.mp4", frames=25)
    for name in names[1:]:
        shutil.copy(first, site.videos / f"{name}.mp4")
    command = [sys.executable, "-m", "vmae_det.cli.main", "prepare", "kinetics400", "--root", str(site.root)]
    command += ["--annotations", str(site.annotations), "--videos", str(site.videos), "--resize", "48"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*command, "--workers", "1"], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    journal = site.output / "journal_resize_48.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C
    error = process.communicate()[1].decode()
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "vmae-det: interrupted"
    assert "Traceback" not in error
    written = {path.name for path in (site.output / "videos_48").iterdir()}
    assert 2 <= len(written) < 40

    (site.output / "videos_48" / ".torn.123.tmp.mp4").touch()  # like after a power failure
    assert site.prepare("--resize", "48") == 0
    assert {Path(name).name for name in in_process} >= {f"{name}.mp4" for name in names} - written
    assert len(in_process) <= 40 - len(written) + 1
    assert sorted(os.listdir(site.output / "videos_48")) == [f"{name}.mp4" for name in names]
    for name in names:
        assert probe_video(str(site.output / "videos_48" / f"{name}.mp4"), "all").problem == ""


def test_a_full_disk_ends_the_run(site, in_process, capsys, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vmae_det.dataset_tools.prepare.transcode._encode", fail)
    assert site.prepare("--resize", "48") == 2
    assert "(No space left on device); is the disk full?" in capsys.readouterr().err
    monkeypatch.undo()
    assert not (site.output / "bad_videos.csv").exists()


def test_the_link_to_the_videos_is_replaced(site, in_process, capsys):
    assert site.prepare() == 0
    assert (site.output / "videos").resolve() == site.videos.resolve()
    assert site.prepare("--resize", "48") == 0
    assert (site.output / "videos").readlink() == Path("videos_48"), (
        "the link is relative, so the dataset's folder can be moved"
    )
    shutil.move(site.output, site.root / "moved")
    assert (site.root / "moved" / "videos" / "train").is_dir()

    (site.output / "videos").mkdir(parents=True)
    assert site.prepare() == 2
    assert "a folder with this name already exists" in capsys.readouterr().err
    (site.output / "videos").rmdir()
    shutil.move(site.videos, site.output / "videos")
    site.videos = site.output / "videos"
    assert site.prepare() == 0, "videos in the output folder need no link"
    assert not site.videos.is_symlink()
    count = len(in_process)
    assert site.prepare("--resize", "48") == 2
    assert len(in_process) == count, "the error is raised before the work"


def test_the_output_cannot_be_in_the_folder_of_videos(site, in_process, capsys):
    site.root = site.videos
    assert site.prepare() == 2
    assert "contains the dataset's output folder" in capsys.readouterr().err


def test_the_journal_tolerates_an_incomplete_line_and_drops_changed_files(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    path = tmp_path / "journal.jsonl"
    with Journal(path, tmp_path).open() as record:
        record("a.mp4", "")
        record("b.mp4", "broken")
    path.write_text(path.read_text()[:-9])
    journal = Journal(path, tmp_path)
    assert (journal.problem("a.mp4"), journal.problem("b.mp4")) == ("", None)
    with journal.open() as record:
        record("b.mp4", "still broken")
    journal = Journal(path, tmp_path)
    assert (journal.problem("a.mp4"), journal.problem("b.mp4")) == ("", "still broken")
    (tmp_path / "b.mp4").write_bytes(b"longer")
    assert Journal(path, tmp_path).problem("b.mp4") is None


def test_two_preparations_cannot_run_in_one_folder(site, in_process):
    with (
        lock_folder(site.output),
        pytest.raises(UserError, match="another preparation"),
        lock_folder(site.output),
    ):
        pass
    assert site.prepare() == 0


def change(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BAD_FILES = [
    ("kinetics400", "train.csv", "label,", "name,", "train.csv:1: expected the columns label,youtube_id"),
    ("kinetics400", "train.csv", ",3,13,", ",soon,13,", "train.csv:2: expected time_start and time_end"),
    (
        "kinetics400",
        "validate.csv",
        "yoga",
        "yodeling",
        "validate.csv:2: the class 'yodeling' is not in train.csv",
    ),
    ("kinetics400", "train.csv", "-abc_DEF012", "", "train.csv:2: expected a class and a YouTube id"),
    ("something_something_v2", "labels.json", '"1"', '"2"', "labels.json: expected the numbers 0 to 1"),
    ("something_something_v2", "labels.json", "{", "", "labels.json:1: not valid JSON"),
    ("something_something_v2", "validation.json", "Pushing", "Pulling", "validation.json: entry 1 (id 9)"),
    ("something_something_v2", "validation.json", '"id"', '"name"', "entry 1: expected an object with id"),
    ("ucf101", "classInd.txt", "2 Hand", "3 Hand", "classInd.txt:2: expected '2 CLASS'"),
    (
        "ucf101",
        "trainlist01.txt",
        "avi 2",
        "avi 1",
        "trainlist01.txt:1: expected the number 2 of the class 'HandstandPushups'",
    ),
    ("ucf101", "testlist02.txt", "HandstandPushups/", "", "testlist02.txt:1: expected 'CLASS/FILE'"),
    ("ucf101", "testlist02.txt", "HandstandPushups/", "Hand/", "testlist02.txt:1: the class 'Hand'"),
    ("hmdb51", "wave_test_split3.txt", "avi 2", "avi 4", "wave_test_split3.txt:2: expected 'FILE 0'"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "expected"), BAD_FILES)
def test_an_invalid_official_file_gives_a_one_line_error(name, file, old, new, expected, tmp_path, capsys):
    site = Site(tmp_path, name)
    SITES[name](site)
    change(site.annotations, file, old, new)
    assert site.prepare() == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert "\n" not in error


def test_errors_name_wrong_folders(site, capsys):
    site.videos = site.annotations
    assert site.prepare() == 2
    assert "expected a folder of videos, got none" in capsys.readouterr().err
    write_video(site.videos / "other.mp4")
    assert site.prepare() == 2
    assert (
        "contains none of the 5 videos of the annotations, such as -abc_DEF012_000003"
        in capsys.readouterr().err
    )
    site.annotations = site.root
    assert site.prepare() == 2
    assert "expected the file train.csv in this folder" in capsys.readouterr().err


def test_a_preparation_without_a_dataset_is_an_error(tmp_path, monkeypatch, capsys):
    module = prepare_command.get_preparer("jhmdb")
    monkeypatch.setattr(module, "prepare", lambda *_: Outcome([], 2, problem="no video has a box"))
    arguments = ["--videos", tmp_path, "--annotations", tmp_path, "--root", tmp_path]
    assert main(["prepare", "jhmdb", *map(str, arguments)]) == 1
    assert capsys.readouterr().out.endswith("videos: 2 of 2 are usable\nno video has a box\n")
