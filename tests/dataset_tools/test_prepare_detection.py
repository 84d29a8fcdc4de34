"""Preparation of detection datasets, on small synthetic versions of the official files."""

import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import dataset_sites
import numpy as np
import pytest
import torch
from conftest import SHARED
from dataset_sites import Site, write_video

from vmae_det.cli.train import train_or_evaluate
from vmae_det.config import get_cfg
from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.prepare.ava import read_frame_lists
from vmae_det.dataset_tools.prepare.ava_kinetics import choose_clips
from vmae_det.dataset_tools.prepare.ucf101_24 import read_corrected
from vmae_det.evaluation.evaluators import FrameMAPEvaluator
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import read_tubes
from vmae_det.formats.tube_pickles import read_tube_annotations
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils.errors import DataError
from vmae_det.utils.safe_pickle import safe_load_pickle
from vmae_det.video.readers import open_video

in_process, interrupted = dataset_sites.in_process, dataset_sites.interrupted


# ---------------------------------------------------------------- synthetic versions of AVA

LABELS = 'label {\n  name: "sit"\n  label_id: 1\n  label_type: PERSON_MOVEMENT\n}\n'
LABELS += 'label {\n  name: "dig"\n  label_id: 2\n  label_type: OBJECT_MANIPULATION\n}\n'
LABELS += 'label {\n  name: "talk"\n  label_id: 79\n  label_type: PERSON_INTERACTION\n}\n'
SCORED = 'item {\n  name: "sit"\n  id: 1\n}\nitem {\n  name: "talk"\n  id: 79\n}\n'
MOVIES = {"-5KQ66BBWC4": ".mkv", "1j20qq1JyX4": ".mp4", "_val.video0": ".webm"}
BOX = "0.077,0.151,0.283,0.811"


def write_movie(path, times, gop=6):
    """Write a movie with a frame at each of `times`, in seconds, and a key frame every `gop` frames.

    Matroska files have open GOPs: some frames depend on the key frame after them and on the frames before it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    options = {"g": str(gop), "keyint_min": str(gop), "bf": "2"}
    if path.suffix == ".mkv":
        options["x264-params"] = "open-gop=1:b-adapt=0:scenecut=0"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options=options if codec == "libx264" else {"g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = unit = Fraction(1, 1000)
        for number, second in enumerate(times):
            pixels = np.full((48, 64, 3), 20 + 37 * number % 200, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def ava_annotations(site):
    first, second, val = MOVIES
    rows = [f"{first},0902,{BOX},1,0", f"{first},0902,{BOX},79,0", f"{first},0905,{BOX},2,1"]
    site.write("ava_train_v2.2.csv", *rows, f"{second},0903,{BOX},79,3")
    site.write("ava_val_v2.2.csv", f"{val},0902,{BOX},1,0", f"{val},0904,{BOX},2,0")
    site.write("ava_train_excluded_timestamps_v2.2.csv", f"{second},0906")
    site.write("ava_val_excluded_timestamps_v2.2.csv")
    (site.annotations / "ava_action_list_v2.2.pbtxt").write_text(LABELS)
    (site.annotations / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(SCORED)
    site.write("ava_detection_val_boxes_and_labels.csv", f"{val},0902,{BOX},,0.97", f"gone,0902,{BOX},,0.9")
    return ["--person-boxes", site.annotations / "ava_detection_val_boxes_and_labels.csv"]


def movies(site):
    more = ava_annotations(site)
    times = [*np.arange(0, 890, 20), *np.arange(893, 910, 0.4)]
    for video, suffix in MOVIES.items():
        write_movie(site.videos / "trainval" / f"{video}{suffix}", times)
    return "ava_v2.2", more


def movies_to_cut(site):
    return "ava_v2.2_cuts", [*movies(site)[1], "--cut"]


def cuts(site):
    more = ava_annotations(site)
    for video, suffix in MOVIES.items():
        write_movie(site.videos / f"{video}{suffix}", np.arange(0, 8, 0.25))
    return "ava_v2.2_cuts", [*more, "--layout", "cuts"]


def frames(site):
    more = ava_annotations(site)
    lines = {"train.csv": [], "val.csv": []}
    for index, video in enumerate(MOVIES):
        (site.videos / video).mkdir()
        for number in range(180):
            name = f"{video}/{video}_{number + 1:06d}.jpg"
            cv2.imwrite(str(site.videos / name), np.full((48, 64, 3), number, np.uint8))
            part_lines = lines["val.csv" if video == "_val.video0" else "train.csv"]
            part_lines.append(f'{video} {index} {number} {name} ""')
    lists = site.annotations / "frame_lists"
    lists.mkdir()
    for name, text in lines.items():
        head = "original_vido_id video_id frame_id path labels"
        (lists / name).write_text("\n".join([head, *text]) + "\n")
    return "ava_v2.2_frames", [*more, "--layout", "frames", "--frame-lists", lists]


def ava_kinetics(site):
    ava_annotations(site)
    kept = ["--5VHAc_Pmw", "0000000000A"]
    site.write(
        "kinetics_train_v1.0.csv",
        f"{kept[0]},47.0,{BOX},1",
        f"{kept[0]},47,{BOX},79",
        f"{kept[1]},14.5,{BOX},2",
        f"{kept[1]},99,{BOX},2",
        f"gone0000000,3,{BOX},1",
        "empty000000,7",
    )
    site.write("kinetics_val_v1.0.csv", f"val00000000,5,{BOX},1")
    for name in (f"{kept[0]}_000042_000052", f"{kept[1]}_000010_000020", f"{kept[1]}_000200_000210"):
        write_movie(site.videos / "train" / "a class" / f"{name}.mp4", np.arange(0, 10, 0.5))
    write_movie(site.videos / "val" / "val00000000_000000_000010.mp4", np.arange(0, 10, 0.5))
    site.write("persons.csv", f"val00000000,5,{BOX},,0.9", f"val00000000,90,{BOX},,0.9")
    return "ava_kinetics", ["--person-boxes", site.annotations / "persons.csv"]


# ---------------------------------------------------------------- synthetic versions of datasets with tubes


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def tube(first, count, *box, dtype=np.float32):
    """Return (count, 5) rows in ACT's format, with frames from `first`."""
    rows = [[first + i, *box] for i in range(count)]
    return np.array(rows, dtype=dtype)


def tube_pickle(labels, videos, splits=1):
    """Return ACT's format; the action of a video is its class."""
    classes = sorted({name.split("/")[0] for name in videos})
    gttubes = {
        name: {classes.index(name.split("/")[0]): [tube(2, 4, 16, 12, 64, 60), tube(3, 2, 64, 48, 140, 96)]}
        for name in videos
    }
    return {
        "labels": labels,
        "gttubes": gttubes,
        "nframes": dict.fromkeys(videos, 8),
        "train_videos": [videos[:-1]] * splits,
        "test_videos": [videos[-1:]] * splits,
        "resolution": dict.fromkeys(videos, (96, 128)),
    }


def persons_of(site, video):
    """Write person boxes in the third and the last frame of the video, and one after it, by frame number."""
    box = "0.13,0.13,0.5,0.62"
    site.write("persons.csv", *(f"{video},{frame},{box},,0.95" for frame in (3, 8, 9)))
    return ["--person-boxes", site.annotations / "persons.csv"]


def jhmdb(site):
    videos = ["brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair/knots!_1", "wave/21_wave_5"]
    write_pickle(site.annotations / "JHMDB-GT.pkl", tube_pickle(["brush_hair", "wave"], videos, splits=3))
    for name in videos:
        write_video(site.videos / f"{name}.avi")
    return "jhmdb_split2", persons_of(site, "21_wave_5")


def multisports(site):
    videos = ["aerobic_gymnastics/v_a_c001", "aerobic_gymnastics/v_b_c001", "basketball/v_a_c002"]
    labels = ["aerobic kick jump", "aerobic push up"]
    write_pickle(site.annotations / "multisports_GT.pkl", tube_pickle(labels, videos), protocol=4)
    for name in videos:
        write_video(site.videos / f"{name}.mp4")
    return "multisports", persons_of(site, "v_a_c002")


def ucf101_24(site):
    videos = ["Biking/v_Biking_g01_c01", "Biking/v_Biking_g01_c02", "Diving/v_Diving_g02_c01"]
    content = {}
    for name in videos:
        label = int(name.startswith("Diving"))
        boxes = np.array([[40, 30, 120, 120]] * 4, dtype=np.int16)
        one = {"label": np.int64(label), "sf": np.int32(1), "ef": 5, "boxes": boxes}
        wide = {"label": label, "sf": 2, "ef": 4, "boxes": np.array([[160, 120, 200, 120]] * 2)}
        content[name] = {"annotations": [one, wide], "label": label, "numf": 8}
    write_pickle(site.annotations / "pyannot.pkl", content)
    site.write("trainlist01.txt", *videos[:2], "Skiing/v_not_annotated")
    site.write("testlist01.txt", videos[2])
    for name in videos:
        write_video(site.videos / f"{name}.avi")
    return "ucf101_24", persons_of(site, "v_Diving_g02_c01")


SITES = [movies, movies_to_cut, cuts, frames, ava_kinetics, ucf101_24, jhmdb, multisports]


def make_site(folder, build):
    """Return the site, the name in the catalog, and the arguments of the preparation."""
    command = "ava" if build in (movies, movies_to_cut, cuts, frames) else build.__name__
    site = Site(folder, command)
    name, more = build(site)
    return site, name, more


@pytest.mark.parametrize("build", SITES, ids=lambda build: build.__name__)
def test_from_the_official_files_to_training(build, tmp_path, tiny_cfg, in_process, interrupted, capsys):
    """Prepare in two runs, the first of which is interrupted; then train and test a detector."""
    site, name, more = make_site(tmp_path, build)
    interrupted(2)
    assert site.prepare(*more) == 130
    assert not list(site.output.rglob("*.yaml"))
    assert site.prepare(*more) == 0
    again = [item for item in set(in_process) if in_process.count(item) > 1]
    assert len(again) == 1, "only the video at the interruption is processed twice"
    total = len(in_process)
    assert site.prepare(*more) == 0
    assert len(in_process) == total, "a run after a complete one processes nothing"
    printed = capsys.readouterr().out
    assert "check-data" in printed
    kinds = {line.split()[1].rstrip(":") for line in printed.splitlines() if line.startswith("  ERROR")}
    assert kinds <= {"class_without_training_rows"}, printed

    spec = get_dataset(f"{name}_train", str(site.root))
    classes = len(LabelMap.from_file(spec.label_map))
    cfg = tiny_cfg("detect", "DATASETS.ROOT", str(site.root), "MODEL.ROI_HEAD.NUM_CLASSES", classes)
    cfg.merge_from_list(["DATASETS.TRAIN", (f"{name}_train",), "DATASETS.TEST", (f"{name}_val",)])
    cfg.merge_from_list(["INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32, "INPUT.TEST_SHORT_SIDE", 32])
    cfg.merge_from_list(["SOLVER.BATCH_SIZE", 1, "INPUT.SAMPLING_RATE", 1, "TEST.PERSON_BOX_SCORE", 0.8])
    assert "frame_mAP" in train_or_evaluate(cfg)
    steps = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    assert sum('"loss"' in line for line in steps) >= 2


# ---------------------------------------------------------------- AVA


def frame_at(spec, video, second):
    reader = open_video(next(spec.videos.glob(f"{video}*")))
    return reader.frames(np.array([reader.index_at(second - spec.start_of(video))]))[0]


def test_a_cut_has_the_frames_of_the_movie_at_each_second(tmp_path, in_process):
    """Cuts begin at the key frame before second 900, whose time is in their starts."""
    site, _, more = make_site(tmp_path, movies_to_cut)
    assert site.prepare(*more) == 0
    assert site.prepare(*more[:-1]) == 0
    movie, cut = (get_dataset(name, str(site.root)) for name in ("ava_v2.2_train", "ava_v2.2_cuts_train"))
    for video in list(MOVIES)[:2]:
        assert movie.start_of(video) == 0
        assert 870 < cut.start_of(video) <= 900
        assert len(open_video(next(cut.videos.glob(f"{video}*")))) < 50
        for second in (901.3, 902, 905, 909):
            assert np.array_equal(frame_at(cut, video, second), frame_at(movie, video, second))


def test_ava_is_scored_on_a_subset_of_the_trained_classes(tmp_path, in_process):
    site, name, more = make_site(tmp_path, cuts)
    assert site.prepare(*more) == 0
    spec = get_dataset(f"{name}_val", str(site.root))
    assert LabelMap.from_file(spec.label_map).ids == (1, 2, 79)
    cfg = get_cfg()
    evaluator = FrameMAPEvaluator(cfg, spec)
    evaluator.reset()
    boxes = np.array([BOX.split(",")], dtype=np.float32)
    for second, scores in ((902, [0.9, 0.1, 0.2]), (904, [0.1, 0.0, 0.1])):
        batch = {"video_name": ["_val.video0"], "timestamp": [second], "boxes_relative": [boxes]}
        evaluator.process(batch, {"scores": [torch.tensor([scores])]})
    # Class 2, which is detected with the lowest score, is not scored.
    assert evaluator.evaluate()["frame_mAP"] == 1


def test_keyframes_use_the_same_frames_as_slowfast(tmp_path, in_process, capsys):
    """Second S is the image at index (S - 900) * 30 of the list, counted from 0."""
    site, name, more = make_site(tmp_path, frames)
    assert site.prepare(*more) == 0
    printed = capsys.readouterr().out
    where = "second 902 of -5KQ66BBWC4 is the frame nearest to 2.000 s of its file (video_start 900)"
    assert where in printed
    assert "SlowFast uses (902 - 900) x 30 = frame 60" in printed
    assert "here it is frame 60 (from 0)" in printed
    spec = get_dataset(f"{name}_train", str(site.root))
    assert frame_at(spec, "-5KQ66BBWC4", 902).mean() == pytest.approx(60, abs=1)


def test_frames_with_a_gap_or_another_count_than_listed_are_broken(tmp_path, in_process, capsys):
    site, _, more = make_site(tmp_path, frames)
    (site.videos / "1j20qq1JyX4" / "1j20qq1JyX4_000017.jpg").unlink()
    (site.videos / "-5KQ66BBWC4" / "-5KQ66BBWC4_000180.jpg").unlink()
    assert site.prepare(*more) == 1
    printed = capsys.readouterr().out
    assert "1j20qq1JyX4: its 179 images are numbered 1 to 180" in printed
    assert "-5KQ66BBWC4: 179 images; the frame list has 180" in printed
    assert not (site.output / "frames" / "train.yaml").exists()
    assert (site.output / "frames" / "val.yaml").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a 0 1 a/a_000002.jpg", "expected 5 columns"),
        ('a 0 2 a/a_000003.jpg ""', "expected the frame_id 1 of a, got '2'"),
        ('a 0 1 a/a_000003.jpg ""', "expected an image with the number 2, got 'a/a_000003.jpg'"),
    ],
)
def test_errors_name_the_line_of_a_frame_list(tmp_path, line, expected):
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text(f'original_vido_id x y z w\na 0 0 a/a_000001.jpg ""\n{line}\n')
    with pytest.raises(DataError, match=r"train\.csv:\d") as error:
        read_frame_lists(tmp_path)
    assert expected.split(",")[0] in str(error.value) or "frame_id" in str(error.value)


# ---------------------------------------------------------------- missing, broken, changed


def test_broken_and_missing_movies_are_skipped_until_they_are_restored(tmp_path, in_process, capsys):
    site, name, more = make_site(tmp_path, cuts)
    broken, missing = site.videos / "-5KQ66BBWC4.mkv", site.videos / "1j20qq1JyX4.mp4"
    broken_content, missing_content = broken.read_bytes(), missing.read_bytes()
    broken.write_bytes(b"<html>")
    assert site.prepare(*more) == 1
    missing.unlink()
    assert site.prepare(*more, "--max-bad", "0.7") == 0
    printed = capsys.readouterr().out
    assert "videos: 1 of 3 are usable" in printed
    assert "missing: 1, see missing_videos.csv" in printed
    assert "-5KQ66BBWC4.mkv: cannot be read as a video" in printed
    with pytest.raises(
        DataError, match=r"ava_v2.2_cuts_train': file does not exist; run `vmae-det prepare ava` to create it"
    ):
        get_dataset(f"{name}_train", str(site.root))
    broken.write_bytes(broken_content)
    missing.write_bytes(missing_content)
    assert site.prepare(*more) == 0
    assert len(read_action_csv(get_dataset(f"{name}_train", str(site.root)).annotations)) == 4
    missing.unlink()
    assert site.prepare(*more, "--max-bad", "0.7") == 0
    links = {path.name for path in (site.output / "cuts" / "videos").iterdir()}
    assert links == {"-5KQ66BBWC4.mkv", "_val.video0.webm"}


def test_a_missing_cut_is_written_again(tmp_path, in_process):
    site, _, more = make_site(tmp_path, movies_to_cut)
    assert site.prepare(*more) == 0
    count = len(in_process)
    (site.output / "cuts" / "files" / "1j20qq1JyX4.mp4").unlink()
    (site.output / "cuts" / "starts" / "_val.video0.txt").unlink()
    assert site.prepare(*more) == 0
    assert sorted(in_process[count:]) == ["trainval/1j20qq1JyX4.mp4", "trainval/_val.video0.webm"]


def test_the_users_files_are_not_changed(tmp_path, in_process, capsys):
    site, _, more = make_site(tmp_path, cuts)
    own = site.output / "cuts" / "videos" / "own.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert site.prepare(*more) == 2
    assert "own.mp4: expected only links to videos" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"
    own.unlink()
    assert site.prepare(*more, "--root", site.videos) == 2
    assert "keep the videos in another folder" in capsys.readouterr().err
    assert not in_process, "the error is raised before any work"


# ---------------------------------------------------------------- AVA-Kinetics


def test_each_clip_of_ava_kinetics_has_its_own_start(tmp_path, in_process, capsys):
    site, name, more = make_site(tmp_path, ava_kinetics)
    assert site.prepare(*more) == 0
    printed = capsys.readouterr().out
    assert "videos: 3 of 4 are usable" in printed
    assert "NOTE: train: 1 rows outside their video's clip were dropped" in printed
    assert (site.output / "missing_videos.csv").read_text().split() == ["video", "gone0000000"]
    spec = get_dataset(f"{name}_train", str(site.root))
    assert [spec.start_of(video) for video in ("--5VHAc_Pmw", "0000000000A", "val00000000")] == [42, 10, 0]
    rows = read_action_csv(spec.annotations)
    assert [(rows.videos[v], t) for v, t in zip(rows.video, rows.timestamp)] == [
        *[("--5VHAc_Pmw", 47.0)] * 2,
        ("0000000000A", 14.5),
    ]
    persons = get_dataset(f"{name}_val", str(site.root)).person_boxes.read_text().splitlines()
    assert len(persons) == 1
    with pytest.raises(DataError, match=r"starts\.csv: no line for the video 'other'"):
        spec.start_of("other")


def test_the_clip_with_the_most_keyframes_is_chosen():
    paths = ["a/id_x_000000_000010.mp4", "b/id_x_000005_000015.mp4", "id_x.mp4", "other_000000_000010.mp4"]
    chosen = choose_clips({"id_x": [1.0, 12.0, 14.0], "none": [3.0]}, paths)
    assert chosen == {"id_x": ("b/id_x_000005_000015.mp4", 5.0, 15.0)}
    assert choose_clips({"id_x": [99.0]}, paths) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,1,2\n", ":1: expected 2 columns"),
        ("a,1\na,2\n", ":2: 'a' has two starts, 1 and 2"),
        ("\n", "expected lines video_id,seconds, got none"),
    ],
)
def test_errors_name_the_line_of_a_table_of_starts(tmp_path, text, expected):
    path = tmp_path / "starts.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        VideoStarts(path)
    assert f"{path}{expected}" in str(error.value) or expected in str(error.value)


def test_the_checker_uses_the_start_of_each_video(tmp_path, in_process):
    site, name, more = make_site(tmp_path, ava_kinetics)
    assert site.prepare(*more) == 0

    def kinds():
        report = check_dataset(get_dataset(f"{name}_train", str(site.root)), decode="none")
        return [(finding.kind, finding.count) for finding in report.findings]

    assert kinds() == []
    starts = site.output / "starts.csv"
    valid = starts.read_text()
    starts.write_text(valid.replace("--5VHAc_Pmw,42", "--5VHAc_Pmw,12"))
    assert kinds() == [("keyframe_outside_video", 2)]
    starts.write_text(valid.replace("--5VHAc_Pmw,42.000\n", ""))
    assert kinds() == [("broken_file", 1)]


# ---------------------------------------------------------------- datasets with tubes


@pytest.mark.parametrize(
    ("build", "video"), [(jhmdb, "wave/21_wave_5"), (multisports, "basketball/v_a_c002")]
)
def test_tubes_become_rows_at_the_times_of_their_frames(tmp_path, in_process, build, video):
    site, name, more = make_site(tmp_path, build)
    suffix = next(site.videos.rglob("*.*")).suffix
    write_video(site.videos / f"{video}{suffix}", rate=10)
    assert site.prepare(*more) == 0
    spec = get_dataset(f"{name}_val", str(site.root))
    rows = read_action_csv(spec.annotations)
    boxed = rows.select(rows.action > 0)
    # Frames 2 to 5 and 3 to 4, counted from 1.
    assert boxed.timestamp.tolist() == pytest.approx([0.1, 0.2, 0.2, 0.3, 0.3, 0.4])
    assert boxed.action.tolist() == [2] * 6
    assert boxed.boxes[0].tolist() == [0.125, 0.125, 0.5, 0.625]
    assert boxed.boxes[2].tolist() == [0.5, 0.5, 1, 1], "clipped to the frame"
    assert boxed.person.tolist() == [0, 0, 1, 0, 1, 0]
    empty = rows.timestamp[rows.action < 0]
    assert empty.tolist() == pytest.approx([0, 0.5, 0.6, 0.7]), (
        "frames of the test set without a person have rows, too"
    )
    persons = spec.person_boxes.read_text().splitlines()
    assert [line.split(",")[1] for line in persons] == ["0.2", "0.7"], (
        "the third and the eighth frame, which is the last"
    )

    tubes = read_tubes(spec.annotations.with_name("val_tubes.csv"))
    assert (set(tubes.video), len(tubes.frame)) == ({Path(video).name}, 6)
    assert tubes.frame.tolist() == [1, 2, 3, 4, 2, 3]
    assert tubes.boxes[-1].tolist() == pytest.approx([0.5, 0.5, 140 / 128, 1])


def test_the_boxes_of_ucf101_24_are_x_y_width_height(tmp_path, in_process):
    site, name, more = make_site(tmp_path, ucf101_24)
    assert site.prepare(*more) == 0
    spec = get_dataset(f"{name}_train", str(site.root))
    assert LabelMap.from_file(spec.label_map).names == ("Biking", "Diving")
    rows = read_action_csv(spec.annotations)
    assert rows.videos.tolist() == ["v_Biking_g01_c01", "v_Biking_g01_c02"]
    assert (rows.action == 1).all()
    first = rows.select(rows.video == 0)
    assert first.timestamp.tolist() == pytest.approx([0.04, 0.08, 0.08, 0.12, 0.12, 0.16])
    assert first.boxes[0].tolist() == [0.125, 0.125, 0.5, 0.625]
    assert first.boxes[2].tolist() == [0.5, 0.5, 1, 1]


def test_ucf101_24_with_numpy_scalars_and_some_of_the_classes(tmp_path, in_process):
    """As in the official file: all keys are NumPy strings, and labels are those of 24 classes."""
    site = Site(tmp_path, "ucf101_24")
    content = {}
    for name, label in (("Biking/v_Biking_g01_c01", 2), ("Fencing/v_Fencing_é_c02", 6)):
        boxes = np.array([[40, 30, 120, 120]] * 4, dtype=np.uint8)
        one = {"label": label, "sf": np.uint8(1), "ef": np.int64(5), "boxes": boxes}
        content[np.str_(name)] = {"annotations": [one], "label": label, "numf": np.uint8(8)}
        write_video(site.videos / f"{name}.avi")
    write_pickle(site.annotations / "pyannot.pkl", content)
    site.write("trainlist01.txt", *content, "Skiing/v_not_annotated")
    site.write("testlist01.txt", "Skiing/v_not_annotated_2")
    assert site.prepare() == 0
    spec = get_dataset("ucf101_24_train", str(site.root))
    assert LabelMap.from_file(spec.label_map).names == ("Biking", "Fencing")
    rows = read_action_csv(spec.annotations)
    assert rows.videos.tolist() == ["v_Biking_g01_c01", "v_Fencing_é_c02"]
    assert (rows.video + 1 == rows.action).all()
    assert len(rows) == 8
    assert not (spec.annotations.parent / "val.yaml").exists()


def test_the_official_ucf101_24_is_read():
    """Nine of its original entries, and a file with a single one."""
    folder = SHARED / "cases"
    if not folder.exists():
        pytest.skip("needs the real files in ../shared/cases, next to the repository")
    official = read_corrected(folder / "real/ucf101_24/pyannot.pkl")
    counts = [
        (len(part), *np.sum([[1, len(t.frames)] for video in part for t in official.tubes[video]], axis=0))
        for part in official.splits[0]
    ]
    assert counts == [(4, 8, 763), (5, 7, 1133)]
    one = safe_load_pickle(folder / "import/pyannot_one_video.pkl", "annotations")
    assert list(one) == ["CliffDiving/v_CliffDiving_g03_c01"]


def test_one_video_of_the_official_ucf101_24_is_prepared(tmp_path, in_process):
    source = SHARED / "cases/import/pyannot_one_video.pkl"
    if not source.exists():
        pytest.skip("needs the real files in ../shared/cases, next to the repository")
    site = Site(tmp_path, "ucf101_24")
    shutil.copy(source, site.annotations / "pyannot.pkl")
    site.write("trainlist01.txt", "Skiing/v_not_annotated.avi 1")
    site.write("testlist01.txt", "CliffDiving/v_CliffDiving_g03_c01.avi")
    write_video(site.videos / "CliffDiving/v_CliffDiving_g03_c01.avi", frames=92)
    assert site.prepare() == 0
    tubes = read_tubes(get_dataset("ucf101_24_val", str(site.root)).annotations.with_name("val_tubes.csv"))
    assert len(tubes) == 1
    assert tubes.frame.tolist() == list(range(23, 78))


def test_ucf101_24_in_acts_format(tmp_path, in_process):
    site = Site(tmp_path, "ucf101_24")
    videos = ["Biking/v_Biking_g01_c01", "Biking/v_Biking_g01_c02", "Diving/v_Diving_g02_c01"]
    write_pickle(site.annotations / "UCF101v2-GT.pkl", tube_pickle(["Biking", "Diving"], videos))
    for video in videos:
        write_video(site.videos / f"{video}.avi")
    assert site.prepare() == 0
    rows = read_action_csv(get_dataset("ucf101_24_val", str(site.root)).annotations)
    assert rows.videos.tolist() == ["v_Diving_g02_c01"]


def test_jhmdb_from_folders_of_images(tmp_path, in_process):
    site, name, more = make_site(tmp_path, jhmdb)
    for video in sorted(site.videos.rglob("*.avi")):
        for number, frame in enumerate(open_video(video).frames(np.arange(8)), start=1):
            image = video.with_suffix("") / f"{number:05d}.png"
            image.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(image), frame)
        video.unlink()
    assert site.prepare(*more) == 0
    rows = read_action_csv(get_dataset(f"{name}_val", str(site.root)).annotations)
    boxed = rows.timestamp[rows.action > 0]
    assert boxed.min() == pytest.approx(1 / 30, abs=1e-3), "a folder of images is read at 30 fps"


def test_boxes_after_the_end_of_a_video_are_counted(tmp_path, in_process, capsys):
    site, _, more = make_site(tmp_path, multisports)
    write_video(site.videos / "basketball" / "v_a_c002.mp4", frames=3)
    assert site.prepare(*more) == 0
    printed = capsys.readouterr().out
    assert "NOTE: multisports val: 3 boxes are after the last frame of their video" in printed
    assert (
        "NOTE: multisports val: 2 boxes of detected persons have a frame number that does not exist"
        in printed
    )
    warning = "1 of 3 videos have another number of frames than was annotated, such as v_a_c002: 3, not 8"
    assert f"WARNING: {warning}" in printed


def test_multisports_does_not_score_rare_classes(tmp_path, in_process):
    site, name, more = make_site(tmp_path, multisports)
    assert site.prepare(*more) == 0
    spec = get_dataset(f"{name}_val", str(site.root))
    assert LabelMap.from_file(spec.label_map).names == ("aerobic kick jump", "aerobic push up")
    assert LabelMap.from_file(spec.scored_classes).names == ("aerobic push up",)


# ---------------------------------------------------------------- invalid official files


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def changed(**parts):
    return tube_pickle(["a", "b"], ["a/x", "b/y"]) | parts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "expected a dict with labels"),
        (changed(labels="ab"), "labels: expected a list, got a str"),
        (changed(labels=["a", "a"]), "labels: expected one or more distinct names"),
        (changed(labels=["a", 3]), "labels: expected names without commas"),
        (
            changed(train_videos=[]),
            "expected one list per split in train_videos and in test_videos, got 0 and",
        ),
        (changed(test_videos=[["gone/x"]]), "resolution['gone/x']: expected (height, width)"),
        (changed(resolution=dict.fromkeys(["a/x", "b/y"], (0, 1))), "resolution['a/x']"),
        (changed(gttubes={"b/y": {}}), "gttubes['a/x']: expected a dict of tubes by label"),
        (changed(gttubes={"a/x": {7: []}}), "gttubes['a/x']: expected labels from 0 to 1, got 7"),
        (changed(gttubes={"a/x": {0: 3}}), "gttubes['a/x'][0]: expected a list of tubes"),
        (
            changed(gttubes={"a/x": {0: [[1, 2]]}}),
            "['a/x'][0][0]: expected an array (N, 5) of numbers, got a list",
        ),
        (changed(gttubes={"a/x": {0: [np.zeros((2, 4))]}}), "got shape (2, 4)"),
        (changed(gttubes={"a/x": {0: [np.full((1, 5), np.nan)]}}), "not finite"),
        (changed(gttubes={"a/x": {0: [np.array([["x"] * 5])]}}), "an array that is not numeric"),
        (
            changed(gttubes={"a/x": {0: [tube(0, 2, 1, 2, 3, 4)]}}),
            "expected frame numbers in ascending order",
        ),
        (changed(labels=Bomb()), "expected plain data and numpy arrays, got a reference to"),
    ],
)
def test_an_invalid_tube_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "JHMDB-GT.pkl"
    write_pickle(path, content)
    with pytest.raises(DataError) as error:
        read_tube_annotations(path)
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("build", "name", "text", "expected"),
    [
        (
            cuts,
            "ava_train_v2.2.csv",
            f"a,902,{BOX},1,0\na,902,{BOX},3,0\n",
            "ava_train_v2.2.csv:2: expected an action id of the label map (1, 2, 79), got 3",
        ),
        (cuts, "ava_val_excluded_timestamps_v2.2.csv", "a\n", "timestamps_v2.2.csv:1: expected 2 columns"),
        (cuts, "ava_action_list_v2.2.pbtxt", "label {", "ava_action_list_v2.2.pbtxt:1:"),
        (
            ava_kinetics,
            "kinetics_val_v1.0.csv",
            f"a,soon,{BOX},1\n",
            "kinetics_val_v1.0.csv:1: the timestamp",
        ),
        (ucf101_24, "testlist01.txt", "\nv_a.avi\n", "testlist01.txt:2: expected CLASS/VIDEO"),
        (ucf101_24, "pyannot.pkl", "no pickle", "pyannot.pkl: not a pickle of"),
    ],
)
def test_errors_name_the_invalid_official_file(tmp_path, in_process, capsys, build, name, text, expected):
    site, _, more = make_site(tmp_path, build)
    (site.annotations / name).write_text(text)
    assert site.prepare(*more) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    (site.annotations / name).unlink()
    assert site.prepare(*more) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ({"label": 1}, "label 1 and class Diving do not match those of other videos"),
        ({"ef": 9}, "expected 8 boxes (ef - sf), got 4"),
        ({"sf": "1"}, "annotations[0]: sf: expected a int, got a str"),
        ({"boxes": np.zeros((4, 5))}, "annotations[0]: boxes: expected an array (N, 4)"),
    ],
)
def test_errors_name_the_invalid_entry_of_ucf101_24(tmp_path, in_process, capsys, one, expected):
    site, _, more = make_site(tmp_path, ucf101_24)
    content = {"label": 0, "sf": 1, "ef": 5, "boxes": np.ones((4, 4))} | one
    videos = {
        "Biking/v_Biking_g01_c01": {"annotations": [content]},
        "Diving/v_Diving_g02_c01": {
            "annotations": [{"label": 1, "sf": 1, "ef": 5, "boxes": np.ones((4, 4))}]
        },
    }
    write_pickle(site.annotations / "pyannot.pkl", videos)
    assert site.prepare(*more) == 2
    assert expected in capsys.readouterr().err
