"""Dataset checker: MiniAVA is damaged in one way at a time, and exactly this damage must be found."""

import os
import shutil
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from dataset_sites import write_video

from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools.check import KINDS, check_dataset, checker
from vmae_det.dataset_tools.isolated_map import WorkerFailure, isolated_map
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import open_video

TRUTH, BOXES = "annotations/mini_ava_train.csv", "person_boxes/mini_ava_train.csv"
WIDTH, HEIGHT, RATE, START = 192, 144, 12, 900
LABELS = "annotations/mini_ava_actions.pbtxt"


class Damaged:
    """A copy of MiniAVA to damage. `changed` contains the lines of the last edit, from 1."""

    def __init__(self, folder):
        self.folder = folder
        self.changed = []

    def lines(self, file):
        return (self.folder / file).read_text().splitlines()

    def write(self, file, lines):
        (self.folder / file).write_text("\n".join(lines) + "\n")

    def edit(self, file, change, only=lambda number, fields: True):
        """Apply `change` to the fields of each line that `only` selects."""
        lines = self.lines(file)
        self.changed = [n for n, line in enumerate(lines, 1) if only(n, line.split(","))]
        for number in self.changed:
            lines[number - 1] = ",".join(map(str, change(lines[number - 1].split(","))))
        self.write(file, lines)

    def append(self, file, *lines):
        before = self.lines(file)
        self.changed = list(range(len(before) + 1, len(before) + len(lines) + 1))
        self.write(file, [*before, *lines])

    def video(self, name):
        return self.folder / "videos" / f"{name}.mp4"

    def check(self, name="train", **how):
        return check_dataset(get_dataset(str(self.folder / f"{name}.yaml")), **how)


@pytest.fixture
def damaged(mini_ava, tmp_path):
    return Damaged(Path(shutil.copytree(mini_ava, tmp_path / "mini_ava")))


@pytest.fixture
def in_process(monkeypatch):
    """Read videos without worker processes, which take half a second to start."""

    def probe(paths, decode, workers):
        return {path: probe_video(str(path), decode) for path in set(paths)}

    monkeypatch.setattr("vmae_det.dataset_tools.check.context.probe_videos", probe)


def box_of(fields):
    return np.array(fields[2:6], dtype=float)


def with_box(fields, box, digits=4):
    return [*fields[:2], *(f"{value:.{digits}f}" for value in box), *fields[6:]]


def in_pixels(fields):
    return with_box(fields, box_of(fields) * [WIDTH, HEIGHT, WIDTH, HEIGHT], 1)


def as_xywh(fields):
    x1, y1, x2, y2 = box_of(fields)
    return with_box(fields, [x1, y1, x2 - x1, y2 - y1])


def at(second):
    return lambda fields: [fields[0], second, *fields[2:]]


def in_frames(fields):
    return at((int(fields[1]) - START) * RATE)(fields)


def line(*numbers):
    return lambda number, fields: number in numbers


def of_video(name):
    return lambda number, fields: fields[0] == name


def person_boxes_moved(change, video="Bwf51kPTB9k"):
    """Apply `change` to all person boxes of one video."""
    return lambda d: d.edit(BOXES, change, of_video(video))


def no_class(d, action="6"):
    d.write(TRUTH, [text for text in d.lines(TRUTH) if text.split(",")[6] != action])
    d.changed = [None]


def leak(d):
    d.append(TRUTH, d.lines("annotations/mini_ava_val.csv")[0])


def header(d):
    d.write(TRUTH, ["video_id,timestamp,x1,y1,x2,y2,action_id,person_id", *d.lines(TRUTH)])
    d.changed = [1]


def missing_video(d):
    names = [text.split(",")[0] for text in d.lines(TRUTH)]
    d.changed = [names.index("cm5B3Bt4jSR") + 1]
    d.video("cm5B3Bt4jSR").unlink()


def broken_video(content):
    """Replace the content of one video file."""

    def damage(d):
        path = d.video("cm5B3Bt4jSR")
        path.write_bytes(content(path.read_bytes()))
        d.changed = [None]

    return damage


def audio_only(d):
    path = d.video("cm5B3Bt4jSR")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    d.changed = [None]


def no_person_boxes(d):
    d.write(BOXES, [text for text in d.lines(BOXES) if not text.startswith("Bwf51kPTB9k")])
    d.changed = [None]


def label_map_without(d, block=0):
    """Remove the first class from the label map, but not its rows."""
    entries = d.folder.joinpath(LABELS).read_text().split("}")
    d.folder.joinpath(LABELS).write_text("}".join(entries[:block] + entries[block + 1 :]))
    d.changed = [n for n, text in enumerate(d.lines(TRUTH), 1) if text.split(",")[6] == "1"]


# The damage, the damaged file, the kind of finding, and its count (None: the number of changed lines).
DAMAGES = {
    "missing video": (missing_video, TRUTH, "missing_video", 1),
    "empty video": (broken_video(lambda data: b""), "videos/cm5B3Bt4jSR.mp4", "unreadable_video", 1),
    "truncated video": (
        broken_video(lambda data: data[: len(data) // 2]),
        "videos/cm5B3Bt4jSR.mp4",
        "unreadable_video",
        1,
    ),
    "text as video": (
        broken_video(lambda data: b"<html>" * 99),
        "videos/cm5B3Bt4jSR.mp4",
        "unreadable_video",
        1,
    ),
    "audio only": (audio_only, "videos/cm5B3Bt4jSR.mp4", "unreadable_video", 1),
    "keyframe after the end": (
        lambda d: d.edit(TRUTH, at("0915"), line(3, 4)),
        TRUTH,
        "keyframe_outside_video",
        None,
    ),
    "keyframe before the start": (
        lambda d: d.edit(TRUTH, at("0890"), line(7)),
        TRUTH,
        "keyframe_outside_video",
        None,
    ),
    "all keyframes of a video after its end": (
        lambda d: d.edit(TRUTH, at("0915"), of_video("cm5B3Bt4jSR")),
        TRUTH,
        "keyframe_outside_video",
        None,
    ),
    "frame numbers in one video": (
        lambda d: d.edit(TRUTH, in_frames, of_video("Bwf51kPTB9k")),
        TRUTH,
        "frame_number_as_timestamp",
        None,
    ),
    "frame numbers everywhere": (
        lambda d: d.edit(TRUTH, in_frames),
        TRUTH,
        "frame_number_as_timestamp",
        None,
    ),
    "pixels in one box": (lambda d: d.edit(TRUTH, in_pixels, line(5)), TRUTH, "box_in_pixels", None),
    "a small box in pixels": (
        lambda d: d.edit(TRUTH, lambda f: with_box(f, [1, 1, 9, 12], 0), line(5)),
        TRUTH,
        "box_in_pixels",
        None,
    ),
    "pixels in all boxes": (lambda d: d.edit(TRUTH, in_pixels), TRUTH, "box_in_pixels", None),
    "pixels in person boxes": (lambda d: d.edit(BOXES, in_pixels), BOXES, "box_in_pixels", None),
    "x,y,w,h in one box": (lambda d: d.edit(TRUTH, as_xywh, line(1)), TRUTH, "box_as_xywh", None),
    "corners swapped": (
        lambda d: d.edit(TRUTH, lambda f: [*f[:2], *f[4:6], *f[2:4], *f[6:]], line(2, 12)),
        TRUTH,
        "box_reversed",
        None,
    ),
    "corners of a small box swapped": (
        lambda d: d.edit(TRUTH, lambda f: with_box(f, [0.3, 0.4, 0.1, 0.12]), line(2)),
        TRUTH,
        "box_reversed",
        None,
    ),
    "empty box": (
        lambda d: d.edit(TRUTH, lambda f: [*f[:4], f[2], *f[5:]], line(20)),
        TRUTH,
        "box_empty",
        None,
    ),
    "box outside the frame": (
        lambda d: d.edit(TRUTH, lambda f: [*f[:4], "1.204", *f[5:]], line(9)),
        TRUTH,
        "box_outside_frame",
        None,
    ),
    "action unknown": (
        lambda d: d.edit(TRUTH, lambda f: [*f[:6], "77", *f[7:]], line(11)),
        TRUTH,
        "unknown_action",
        None,
    ),
    "class missing from the label map": (label_map_without, TRUTH, "unknown_action", None),
    "duplicate": (lambda d: d.append(TRUTH, d.lines(TRUTH)[16]), TRUTH, "duplicate_row", None),
    "validation video in training": (leak, TRUTH, "video_in_both_sets", None),
    "person boxes of an unknown video": (
        person_boxes_moved(lambda f: [f"{f[0]}.mp4", *f[1:]]),
        BOXES,
        "person_boxes_wrong_video",
        None,
    ),
    "video without person boxes": (no_person_boxes, BOXES, "person_boxes_missing", 1),
    "person boxes at later timestamps": (
        person_boxes_moved(lambda f: at(int(f[1]) + 1.5)(f), "cm5B3Bt4jSR"),
        BOXES,
        "person_boxes_wrong_time",
        None,
    ),
    "person boxes on another clock": (
        lambda d: d.edit(BOXES, lambda f: at(int(f[1]) - START)(f)),
        BOXES,
        "person_boxes_wrong_time",
        None,
    ),
    "person boxes of another scale": (
        person_boxes_moved(lambda f: with_box(f, box_of(f) * [0.4, 0.5, 0.4, 0.5])),
        BOXES,
        "person_boxes_misplaced",
        None,
    ),
    "scores in percent": (
        lambda d: d.edit(BOXES, lambda f: [*f[:7], float(f[7]) * 100]),
        BOXES,
        "score_outside_range",
        None,
    ),
    "class without training rows": (no_class, TRUTH, "class_without_training_rows", 1),
    "too few columns": (lambda d: d.edit(TRUTH, lambda f: f[:5], line(4)), TRUTH, "malformed_line", None),
    "text instead of a number": (
        lambda d: d.edit(BOXES, lambda f: [*f[:3], "left", *f[4:]], line(2)),
        BOXES,
        "malformed_line",
        None,
    ),
    "header": (header, TRUTH, "malformed_line", None),
}


@pytest.mark.parametrize("name", ["train", "val", "clips_train", "clips_val", "unlabelled"])
@pytest.mark.parametrize("decode", ["none", "all"])
def test_mini_ava_has_no_errors(mini_ava, in_process, name, decode):
    report = check_dataset(get_dataset(str(mini_ava / f"{name}.yaml")), decode=decode)
    assert not report.errors
    # The tiny validation set is too small for two of the actions.
    assert [finding.kind for finding in report.warnings] == ["class_without_rows"] * (name == "val")


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_nothing_else(damaged, in_process, damage):
    apply, file, kind, count = DAMAGES[damage]
    apply(damaged)
    (found,) = damaged.check().findings
    assert found.kind == kind
    assert found.count == (count or len(damaged.changed))
    locations = [(Path(example.path), example.line) for example in found.examples]
    assert locations == [(damaged.folder / file, number) for number in damaged.changed[:5]]
    assert found.advice


def test_the_advice_contains_the_cause(damaged, in_process):
    def advice(apply, name="train"):
        copy = Damaged(
            Path(shutil.copytree(damaged.folder, damaged.folder.with_name(f"copy_{time.time_ns()}")))
        )
        apply(copy)
        (found,) = copy.check(name).findings
        return found.advice

    assert "divide x by 192 and y by 144" in advice(lambda d: d.edit(TRUTH, in_pixels))
    assert "perhaps 640 x 360" in advice(
        lambda d: d.edit(TRUTH, lambda f: with_box(f, box_of(f) * [640, 360, 640, 360], 0))
    )
    assert "also x, y, width, height" in advice(lambda d: d.edit(TRUTH, lambda f: in_pixels(as_xywh(f))))
    assert "+ 900 (video_start); Bwf51kPTB9k has 12 frames" in advice(DAMAGES["frame numbers everywhere"][0])
    assert "header" in advice(header)
    assert "1.5 s later" in advice(DAMAGES["person boxes at later timestamps"][0])
    assert "'Bwf51kPTB9k.mp4' may be 'Bwf51kPTB9k'" in advice(DAMAGES["person boxes of an unknown video"][0])
    assert "multiplied by 2.46 and y by 2.04" in advice(DAMAGES["person boxes of another scale"][0])
    rotate = {"Bwf51kPTB9k": "cm5B3Bt4jSR", "cm5B3Bt4jSR": "Bwf51kPTB9k"}
    assert "video ids exchanged" in advice(
        lambda d: d.edit(BOXES, lambda f: [rotate.get(f[0], f[0]), *f[1:]], lambda n, f: f[0] in rotate)
    )
    swapped = person_boxes_moved(lambda f: [*f[:2], f[3], f[2], f[5], f[4], *f[6:]])
    assert "interpreted as y1, x1, y2, x2" in advice(swapped)


def test_a_file_with_only_x_y_width_height(damaged, in_process):
    reversed_rows = sum(
        bool((np.diff(box_of(as_xywh(text.split(","))).reshape(2, 2), axis=0) < 0).any())
        for text in damaged.lines(TRUTH)
    )
    damaged.edit(TRUTH, as_xywh)
    found = {finding.kind: finding for finding in damaged.check().errors}
    assert "box_reversed" not in found
    assert found["box_as_xywh"].count == reversed_rows > 10
    assert "may also be x, y, width, height" in found["box_as_xywh"].advice


def test_a_wrong_video_start_is_distinguished_from_wrong_rows(damaged, in_process):
    file = damaged.folder / "train.yaml"
    file.write_text(file.read_text().replace("video_start: 900", "video_start: 0"))
    found = damaged.check().findings
    assert [finding.kind for finding in found] == ["wrong_video_start"] * 2  # annotations and person boxes
    assert found[0].count == len(damaged.lines(TRUTH))
    assert "900 is likely" in found[0].advice


def test_all_problems_of_a_file_are_counted(damaged, in_process):
    damaged.edit(TRUTH, in_pixels, line(5, 6))
    damaged.edit(TRUTH, lambda f: [*f[:6], "99", f[7]], line(30))
    damaged.edit(TRUTH, lambda f: f[:3], line(40))
    counts = {finding.kind: finding.count for finding in damaged.check().errors}
    assert counts == {"box_in_pixels": 2, "unknown_action": 1, "malformed_line": 1}


def test_suffix_in_the_video_id(damaged, in_process):
    for file in (TRUTH, BOXES):
        damaged.edit(file, lambda f: [f"{f[0]}.mp4", *f[1:]])
    (found,) = damaged.check().findings
    assert (found.kind, found.count) == ("missing_video", 4)
    assert "write Bwf51kPTB9k instead of Bwf51kPTB9k.mp4" in found.advice


def test_a_misspelled_video_id(damaged, in_process):
    damaged.edit(TRUTH, lambda f: ["Bwf51kPTB9x", *f[1:]], line(3))
    (found,) = damaged.check().findings
    assert (found.kind, found.count, found.examples[0].line) == ("missing_video", 1, 3)
    assert found.advice == "did you mean 'Bwf51kPTB9k' instead of 'Bwf51kPTB9x'?"


@pytest.mark.parametrize("content", [b"", b"a,b,c\n", b"\x1f\x8bno gzip", b"Bwf51kPTB9k,0903\n", b"\xff\n\0"])
@pytest.mark.parametrize("file", [TRUTH, BOXES, LABELS, "annotations/clips_train.csv"])
def test_invalid_content_is_an_error_not_a_crash(damaged, in_process, file, content):
    (damaged.folder / file).write_bytes(content)
    report = damaged.check("clips_train" if "clips" in file else "train")
    assert report.errors
    assert report.as_text()


def test_recall_equals_a_simple_count(damaged, in_process):
    rows = {tuple(text.split(",")[:6]) for text in damaged.lines(TRUTH)}
    boxes = [text.split(",") for text in damaged.lines(BOXES)]
    found = 0
    for video, second, *box in rows:
        here = np.array(
            [b[2:6] for b in boxes if b[:2] == [video, second] and float(b[7]) >= 0.8], dtype=float
        )
        x1, y1, x2, y2 = np.array(box, dtype=float)
        for u1, v1, u2, v2 in here.reshape(-1, 4):
            intersection = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
            if intersection / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection) >= 0.5:
                found += 1
                break
    (row,) = (row for row in damaged.check().recall if row.threshold == 0.8)
    assert 0 < row.recall < 1
    assert row.recall == pytest.approx(found / len(rows))


def test_scores_below_the_usual_threshold_give_a_warning(damaged, in_process):
    damaged.edit(BOXES, lambda f: [*f[:7], f"{float(f[7]) / 2:.4f}"])
    report = damaged.check()
    assert not report.errors
    assert [finding.kind for finding in report.warnings] == ["person_boxes_low_scores"]


def test_a_repeated_person_box(damaged, in_process):
    before = damaged.check()
    damaged.append(BOXES, damaged.lines(BOXES)[3])
    after = damaged.check()
    assert [f.kind for f in after.findings] == ["person_boxes_repeated", *(f.kind for f in before.findings)]
    assert not after.errors
    assert after.counts == before.counts
    assert after.recall == before.recall


def test_a_classification_dataset(damaged, in_process):
    file = "annotations/clips_train.csv"
    lines = damaged.lines(file)
    (damaged.folder / lines[0].split()[0]).unlink()
    (damaged.folder / lines[1].split()[0]).write_bytes(b"no video")
    lines[2] = lines[2].split()[0] + " eleven"
    lines[3] = lines[3].split()[0] + " 11"
    other = damaged.lines("annotations/clips_val.csv")[0]
    damaged.write(file, [*lines, lines[5], other])
    found = {f.kind: (f.count, f.examples[0].line) for f in damaged.check("clips_train").errors}
    assert found == {
        "missing_video": (1, 1),
        "unreadable_video": (1, None),
        "malformed_line": (1, 3),
        "unknown_action": (1, 4),
        "duplicate_row": (1, len(lines) + 1),
        "video_in_both_sets": (1, len(lines) + 2),
        "class_without_training_rows": (2, None),
    }


def test_unlabeled_videos(damaged, in_process):
    path = next((damaged.folder / "unlabelled").iterdir())
    path.write_bytes(b"")
    (found,) = damaged.check("unlabelled").findings
    assert (found.kind, found.count, Path(found.examples[0].path)) == ("unreadable_video", 1, path)


def test_the_other_set_is_found_by_name_or_by_option(damaged, in_process):
    assert damaged.check("val").against == str(damaged.folder / "train.yaml")
    itself = get_dataset(str(damaged.folder / "train.yaml"))
    (found,) = damaged.check("train", against=itself).errors
    assert (found.kind, found.count) == ("video_in_both_sets", 4)
    with pytest.raises(ConfigError, match=r"got .* of type 'classification'"):
        damaged.check("train", against=get_dataset(str(damaged.folder / "clips_val.yaml")))


def test_train_as_a_part_of_a_word_is_ignored():
    names = ["mini_ava_train", "my_data.yaml", "restraint_val.yaml", "a/validation/x.yaml", "ava_val_v2"]
    training = [checker.is_training(checker.DatasetSpec(name, "videos", Path())) for name in names]
    assert training == [True, True, False, True, False]


def test_an_imported_dataset_is_named_by_its_folder(damaged, in_process):
    for name in ("train", "val"):
        (damaged.folder / f"own/{name}").mkdir(parents=True)
        content = yaml.safe_load((damaged.folder / f"{name}.yaml").read_text())
        paths = {key: f"../../{v}" for key, v in content.items() if (damaged.folder / str(v)).exists()}
        path = damaged.folder / f"own/{name}/dataset.yaml"
        path.write_text(yaml.safe_dump(content | paths))
    report = checker.check_dataset(get_dataset(str(path)), workers=1)
    assert (report.training, Path(report.against)) == (False, damaged.folder / "own/train/dataset.yaml")


@pytest.mark.parametrize("keep", [0.5, 0.97])
def test_a_video_truncated_after_its_index(tmp_path, keep):
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height = 64, 48
        noise = np.random.default_rng(0).integers(0, 256, (48, 48, 64, 3), dtype=np.uint8)
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    complete = path.read_bytes()
    facts = probe_video(str(path), "all")
    assert (facts.problem, facts.frames, facts.width, facts.height) == ("", 48, 64, 48)
    assert facts.seconds == pytest.approx(4, abs=0.1)
    path.write_bytes(complete[: int(len(complete) * keep)])
    assert "truncated" in probe_video(str(path), "none").problem


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi", ".ts"])
def test_length_of_other_containers(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"
    codec = "libvpx" if suffix == ".webm" else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(30):
            frame = np.full((48, 64, 3), 8 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    for decode in ("none", "ends", "all"):
        facts = probe_video(str(path), decode)
        assert (facts.problem, facts.frames) == ("", 30)
        assert facts.seconds == pytest.approx(3, abs=0.11)


def misbehave(item):
    """Simulate a decoder that crashes or hangs."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(60)
    return item.upper()


# Frame times in milliseconds: 8 frames per second, and with a long last frame.
STEADY = [125 * n for n in range(24)]
UNEVEN = [*STEADY, 4000, 4100, 7000]


@pytest.mark.parametrize("times", [STEADY, UNEVEN])
@pytest.mark.parametrize("name", ["v.mp4", "v.webm"])
def test_check_data_and_training_agree_on_what_is_inside_a_video(tmp_path, in_process, name, times):
    path = tmp_path / "videos" / name
    write_video(path, frames=len(times), size=(64, 48), times=times)
    reader = open_video(path)
    facts = probe_video(str(path))
    assert (facts.last, facts.rate) == pytest.approx((reader.times[-1], float(reader.rate)), abs=1e-6)
    seconds = [*np.arange(0, 8.5, 0.04), *(times[-1] / 1000 + step for step in (0.1, 0.124, 0.126, 0.2))]
    rows = [f"v,{second + 1:.3f},0.1,0.1,0.5,0.5,1,0" for second in seconds]
    (tmp_path / "train.csv").write_text("\n".join(["v,1,0.1,0.1,0.5,0.5,1,0", *rows]) + "\n")
    (tmp_path / "map.txt").write_text("1: sit\n")
    content = "type: detection\nvideos: videos\nannotations: train.csv\nlabel_map: map.txt\nvideo_start: 1\n"
    (tmp_path / "train.yaml").write_text(content)
    report = check_dataset(get_dataset(str(tmp_path / "train.yaml")))
    outside = 0
    for row in rows:
        try:
            reader.index_at(float(row.split(",")[1]) - 1)
        except DataError:
            outside += 1
    found = {finding.kind: finding.count for finding in report.findings if "duplicate" not in finding.kind}
    assert 0 < outside < len(rows)
    assert found == {"keyframe_outside_video": outside}


def test_a_crash_or_a_hang_is_limited_to_one_file():
    results = dict(isolated_map(misbehave, ["a", "crash", "b", "hang", "c"], 2, timeout=3, description=""))
    assert {key: results[key] for key in "abc"} == {"a": "A", "b": "B", "c": "C"}
    assert isinstance(results["crash"], WorkerFailure)
    assert "crashed" in str(results["crash"])
    assert "timed out after 3 s" in str(results["hang"])


def test_worker_processes_read_the_videos(damaged):
    damaged.video("cm5B3Bt4jSR").write_bytes(b"no video")
    (found,) = damaged.check(workers=2).findings
    assert (found.kind, found.count) == ("unreadable_video", 1)


def test_json_and_text_agree(damaged, in_process):
    damaged.edit(TRUTH, in_pixels)
    report = damaged.check()
    (found,) = report.to_json()["findings"]
    assert found["kind"] == "box_in_pixels"
    assert found["kind"] in KINDS
    assert found["severity"] == "error"
    assert found["examples"][0] == {
        "file": str(damaged.folder / TRUTH),
        "line": 1,
        "text": damaged.lines(TRUTH)[0],
    }
    text = report.as_text()
    assert f"{damaged.folder / TRUTH}:1: " in text
    assert "ERROR box_in_pixels: 80 of 80 boxes" in text
    assert "... and 75 more" in text


def test_more_person_boxes_in_a_keyframe_than_supported(damaged, in_process):
    fields = damaged.lines(BOXES)[3].split(",")
    for k in range(2001):
        fields[2] = f"{k / 100_000:.5f}"
        damaged.append(BOXES, ",".join(fields))
    assert "too_many_person_boxes" in [finding.kind for finding in damaged.check().errors]
