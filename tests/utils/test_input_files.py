"""Input files: all readers open them in the same way."""

import gzip
import os
import re

import pytest

from vmae_det.data.catalog import read_dataset_file
from vmae_det.dataset_tools.check.tables import read_table
from vmae_det.dataset_tools.importers import ImportOptions, import_annotations
from vmae_det.dataset_tools.prepare.files import read_lines
from vmae_det.dataset_tools.prepare.kinetics import read_kinetics_csv
from vmae_det.formats.ava_csv import read_action_csv, read_excluded_keyframes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.formats.tube_csv import read_tubes
from vmae_det.formats.video_list import read_video_list
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils import input_files
from vmae_det.utils.errors import DataError
from vmae_det.video.shards import find_shards

COCO = '{"images": [{"id": 1, "movie": "v", "timestamp": 1, "width": 10, "height": 10}], "annotations": %s}'
BOX = "v,1,0.1,0.1,0.5,0.5"

# File name: (reader, content, expected result).
READERS = {
    "truth.csv": (
        lambda path: read_action_csv(path).videos.tolist(),
        f"{BOX},1,1\nw{BOX[1:]},1,1",
        ["v", "w"],
    ),
    "excluded.csv": (
        lambda path: sorted(read_excluded_keyframes(path)),
        "v,1\nw,2",
        [("v", 1.0), ("w", 2.0)],
    ),
    "persons.csv": (
        lambda path: read_person_boxes(path).videos.tolist(),
        f"{BOX},,1\nw,1,0,0,1,1,,1",
        ["v", "w"],
    ),
    "tubes.csv": (lambda path: read_tubes(path).video.tolist(), "v,1,run,,0,0,0,1,1", ["v"]),
    "starts.csv": (lambda path: VideoStarts(path).get("v"), "v,900\nw,0", 900.0),
    "persons.json": (
        lambda path: read_person_boxes(path).videos.tolist(),
        COCO % '[{"image_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]',
        ["v"],
    ),
    "map.pbtxt": (lambda path: LabelMap.from_file(path).names, 'item { name: "a" id: 1 }', ("a",)),
    "map.txt": (lambda path: LabelMap.from_file(path).names, "1: a\n2: b", ("a", "b")),
    "list.txt": (
        lambda path: read_video_list(path).names.tolist(),
        "a.mp4 0\nb.mp4 1",
        ["a.mp4", "b.mp4"],
    ),
    "lines.txt": (read_lines, "CLASS/a\nCLASS/b", [(1, "CLASS/a"), (2, "CLASS/b")]),
    "kinetics.csv": (
        lambda path: [clip[0] for clip in read_kinetics_csv(path)],
        "label,youtube_id,time_start,time_end\nrun,abc,1,2",
        ["run"],
    ),
    "set.yaml": (lambda path: read_dataset_file(path).type, "type: videos\nvideos: .", "videos"),
    "checked.csv": (
        lambda path: read_table(path, "annotations").rows["video"].to_list(),
        f"{BOX},1,1",
        ["v"],
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_byte_order_mark_and_windows_line_endings_are_ignored(tmp_path, name):
    read, content, expected = READERS[name]
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode() + b"\r\n")
    assert read(path) == expected


@pytest.mark.parametrize("name", [*READERS, "persons.pkl", "export.xml"])
def test_pipe_is_rejected_without_waiting(tmp_path, name):
    others = {
        "persons.pkl": read_person_boxes,
        "export.xml": lambda path: import_annotations([path], path.parent / "out", ImportOptions()),
    }
    read = others[name] if name in others else READERS[name][0]
    os.mkfifo(tmp_path / name)
    with pytest.raises(
        DataError, match=f"{name}: cannot be read: expected a file, got a pipe; save its content"
    ):
        read(tmp_path / name)


def test_folder_and_device_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"expected a file, got a folder$"):
        read_action_csv(tmp_path)
    with pytest.raises(DataError, match="expected a file, got a device"):
        read_action_csv("/dev/zero")


def test_utf_16_is_reported(tmp_path):
    path = tmp_path / "map.pbtxt"
    path.write_text('item { name: "a" id: 1 }', encoding="utf-16")
    with pytest.raises(DataError, match=r":1: expected a label map \(pbtxt\) in UTF-8, got UTF-16"):
        LabelMap.from_file(path)


def test_invalid_utf_8_is_reported_with_its_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.mp4 0\nb\xe9.mp4 1\n")
    with pytest.raises(DataError, match=r"list\.txt:2: expected a list of videos in UTF-8"):
        read_video_list(path)


@pytest.mark.parametrize("unit", [b" ", b"\n", f"{BOX},1,1\n".encode()])
@pytest.mark.parametrize(
    "read", [read_action_csv, read_person_boxes, lambda path: read_table(path, "annotations")]
)
def test_gzip_bomb_is_rejected(tmp_path, monkeypatch, unit, read):
    monkeypatch.setattr(input_files, "FREE_EXPANSION", 1 << 20)
    path = tmp_path / "bomb.csv"
    path.write_bytes(gzip.compress(unit * ((8 << 20) // len(unit))))
    size = path.stat().st_size
    with pytest.raises(
        DataError, match=f"{size} bytes of gzip decompress to more than [0-9]+ bytes"
    ) as error:
        read(path)
    assert int(re.search(r"more than (\d+)", str(error.value))[1]) <= max(1 << 20, 200 * size)


def test_usual_gzip_ratio_is_read_beyond_the_free_expansion(tmp_path, monkeypatch):
    monkeypatch.setattr(input_files, "FREE_EXPANSION", 1 << 10)
    path = tmp_path / "good.csv.gz"
    path.write_bytes(gzip.compress("".join(f"v,{i},0.1,0.1,0.5,0.5,1,1\n" for i in range(5000)).encode()))
    assert len(read_action_csv(path)) == 5000


def test_too_many_shards_in_a_pattern_are_rejected(tmp_path):
    with pytest.raises(DataError, match="matches more than 100000 shards"):
        find_shards(f"{tmp_path}/{{0..999999999}}.tar")
