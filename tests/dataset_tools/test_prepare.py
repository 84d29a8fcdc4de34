"""Preparation of classification datasets, on small synthetic versions of the official files."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numbered_videos import Recipe, numbers, write_numbered

from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate
from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.prepare import video_jobs
from vmae_det.dataset_tools.prepare.preparers import lock_folder
from vmae_det.dataset_tools.prepare.transcode import resize_video, resized_shape
from vmae_det.dataset_tools.prepare.video_jobs import Journal
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import UserError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import open_video
from vmae_det.video.readers.video_file import Orientation, orientation_of

_CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}
_OPTIONS = {".avi": {"bf": "2"}}  # as in UCF101


def write_video(path, frames=8, size=(128, 96), rate=25, times=None):
    """Write a video whose frames get brighter; `times` are in milliseconds, None: by the frame rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(_CODECS[path.suffix], rate=rate, options=_OPTIONS.get(path.suffix))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = unit = Fraction(1, 1000)
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), (40 + 20 * number) % 216, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


class Site:
    """Synthetic `annotations` and `videos` of a dataset, and the command that prepares it."""

    def __init__(self, folder, name):
        self.name = name
        self.annotations, self.videos = folder / "site" / "annotations", folder / "site" / "videos"
        self.root = folder / "datasets"
        self.annotations.mkdir(parents=True)
        self.videos.mkdir()

    @property
    def output(self):
        return self.root / self.name

    def write(self, name, *lines, end="\n"):
        (self.annotations / name).write_text("".join(line + end for line in lines))

    def prepare(self, *more):
        paths = ("--annotations", self.annotations, "--videos", self.videos, "--root", self.root)
        return main([str(word) for word in ("prepare", self.name, *paths, "--workers", "1", *more)])

    def rows(self, list_name):
        return (self.output / f"{list_name}.csv").read_text().splitlines()


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
    """Process videos in this process, because workers start slowly; return the list of processed items."""
    processed = []

    def run(function, items, workers, seconds, description):
        for item in items:
            processed.append(item)
            yield item, function(item)

    monkeypatch.setattr(video_jobs, "isolated_map", run)
    return processed


@pytest.fixture
def interrupted(in_process, monkeypatch):
    """A function that interrupts the next preparation before its N-th video."""

    def arm(number):
        run = video_jobs.isolated_map

        def stop(*args):
            for count, result in enumerate(run(*args), start=1):
                if count == number:
                    monkeypatch.setattr(video_jobs, "isolated_map", run)
                    raise KeyboardInterrupt
                yield result

        monkeypatch.setattr(video_jobs, "isolated_map", stop)

    return arm


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
    assert "25.0% of the videos are bad" in printed
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
    assert "33.3% of the videos are bad" in capsys.readouterr().out
    assert site.prepare("--max-bad", "0.4") == 0


def test_the_replacement_of_a_broken_clip_is_used(site, in_process):
    name = "0000000000A_000000_000010.mp4"
    write_video(site.videos / "replacement" / "replacement_for_corrupted_k400" / name)
    assert site.prepare() == 0
    assert f"replacement/replacement_for_corrupted_k400/{name} 1" in site.rows("train")


def test_the_checker_finds_no_problems(site, monkeypatch, in_process):
    assert site.prepare() == 0
    monkeypatch.setenv("VMAE_DET_DATASETS", str(site.root))
    monkeypatch.setattr(
        "vmae_det.dataset_tools.check.context.probe_videos",
        lambda paths, decode, workers: {path: probe_video(str(path), decode) for path in paths},
    )
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


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_resizing_keeps_the_times_and_the_frames(tmp_path, suffix):
    times = [120, 160, 200, 320, 360, 400, 520, 560]
    source = write_video(tmp_path / f"source{suffix}", size=(128, 96), times=times)
    target = tmp_path / "deep" / "target.mp4"
    assert resize_video(source, target, 64) == ""
    before, after = open_video(source, "pyav"), open_video(target, "pyav")
    assert after.times == pytest.approx((np.array(times) - times[0]) / 1000, abs=1e-3)
    with av.open(str(target)) as file:
        assert next(file.decode(video=0)).pts == 0
    old, new = before.frames(np.arange(8)), after.frames(np.arange(8))
    assert new.shape == (8, 64, 86, 3)
    assert old.mean(axis=(1, 2, 3)) == pytest.approx(new.mean(axis=(1, 2, 3)), abs=2)
    with av.open(str(target)) as file:
        assert [(stream.type, stream.codec_context.name) for stream in file.streams] == [("video", "h264")]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("colorspace", [Colorspace.ITU601, Colorspace.ITU709])
def test_resizing_keeps_the_colors(tmp_path, pixels, colorspace):
    """For videos in limited and full range, tagged with either color space."""
    colors = np.array([[220, 30, 40], [20, 200, 60], [30, 50, 230], [250, 250, 250]], dtype=np.uint8)
    image = colors.reshape(2, 2, 3).repeat(48, axis=0).repeat(64, axis=1)
    full = pixels == "yuvj420p"
    source, target = tmp_path / "source.mp4", tmp_path / "target.mp4"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(
            format=pixels, dst_colorspace=colorspace, dst_color_range=stream.codec_context.color_range
        )
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert resize_video(source, target, 48) == ""
    decoded = [open_video(path, "pyav").frames(np.array([0]))[0] for path in (source, target)]
    displayed = [
        frame[height // 4 :: height // 2, width // 4 :: width // 2].reshape(4, 3).astype(int)
        for frame in decoded
        for height, width in [frame.shape[:2]]
    ]
    assert np.abs(displayed[0] - colors).max() <= 4
    assert np.abs(displayed[1] - displayed[0]).max() <= 4


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV before 18.1")
@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (270, True)])
def test_a_rotated_video_becomes_an_upright_file(tmp_path, rotation, mirrored):
    recipe = Recipe(rotation=rotation, mirrored=mirrored, count=6, size=(160, 96))
    source = write_numbered(tmp_path / "source", recipe)
    target = tmp_path / "target.mp4"
    assert resize_video(source, target, 64) == ""
    with av.open(str(target)) as file:
        stored = next(file.decode(video=0))
        assert orientation_of(stored) == Orientation()
    frames = open_video(target).frames(np.arange(6))
    assert frames.shape[1:3] == (stored.height, stored.width) == ((106, 64) if rotation % 180 else (64, 106))
    assert numbers(frames) == list(range(6))


def test_resizing_never_enlarges_and_returns_even_sizes():
    assert resized_shape(320, 240, 320) == (320, 240)
    assert resized_shape(1281, 721, 320) == (568, 320)
    assert resized_shape(240, 427, 120) == (120, 214)


def test_resizing_a_video_with_damaged_frames(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=8)
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        ranges = [(packet.pos, packet.pos + packet.size) for packet in file.demux(video=0) if packet.size]
    for begin, end in ranges[2:6]:
        content[begin:end] = b"\xff" * (end - begin)
    source.write_bytes(content)
    problem = resize_video(source, tmp_path / "target.mp4", 48)
    assert "decoded" in problem
    assert os.listdir(tmp_path) == ["source.mp4"]


def test_resizing_a_video_that_ends_early(tmp_path, monkeypatch):
    source = write_video(tmp_path / "source.mp4")
    facts = replace(probe_video(str(source)), frames=100)
    monkeypatch.setattr("vmae_det.dataset_tools.prepare.transcode.probe_video", lambda path, decode: facts)
    assert resize_video(source, tmp_path / "target.mp4", 48) == "only 8 of its 100 frames can be decoded"
    assert os.listdir(tmp_path) == ["source.mp4"]


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
