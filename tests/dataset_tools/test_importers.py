"""Import of annotations: MiniAVA exported to each format and back, and the rules of each format."""

import contextlib
import copy
import csv
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from export_annotations import EXPORTERS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vmae_det.data.catalog import get_dataset
from vmae_det.data.negative_persons import add_negative_persons
from vmae_det.dataset_tools.importers import ImportOptions, import_annotations
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError, UserError

RATE, START = 12, 900


def rows_of(path):
    with path.open() as file:
        return list(csv.reader(file))


def rounded_rows(path):
    """Return sorted rows with coordinates rounded to MiniAVA's three decimals."""
    return sorted((r[0], float(r[1]), *(round(float(v), 3) for v in r[2:6]), *r[6:]) for r in rows_of(path))


@pytest.fixture(scope="session")
def exported(mini_ava, tmp_path_factory):
    """Format name to the exported files of the tiny MiniAVA training set."""
    rows = rows_of(mini_ava / "annotations/mini_ava_train.csv")
    names = LabelMap.from_file(mini_ava / "annotations/mini_ava_actions.pbtxt")
    folder = tmp_path_factory.mktemp("exported")
    return {
        name: export(rows, dict(zip(names.ids, names.names)), RATE, START, folder)
        for name, export in EXPORTERS.items()
    }


def run(tmp_path, *documents, **options):
    """Import documents (JSON values or XML strings) into a folder; return the rows and the report."""
    sources = []
    for number, document in enumerate(documents):
        sources.append(tmp_path / f"source_{number}")
        sources[-1].write_text(document if isinstance(document, str) else json.dumps(document))
    report = import_annotations(sources, tmp_path / "out", ImportOptions(**options), overwrite=True)
    label_map = LabelMap.from_file(tmp_path / "out/actions.pbtxt")
    names = dict(zip(label_map.ids, label_map.names))
    read_action_csv(tmp_path / "out/annotations.csv", label_map)
    rows = [
        (r[0], float(r[1]), [float(v) for v in r[2:6]], names[int(r[6])], *r[7:])
        for r in rows_of(tmp_path / "out/annotations.csv")
        if len(r) > 2  # a keyframe without an action has no box
    ]
    return rows, report


def times(rows):
    return sorted({row[1] for row in rows})


# ------------------------------------------------------- MiniAVA


@pytest.mark.parametrize("name", EXPORTERS)
def test_mini_ava_is_restored_from_each_format(mini_ava, exported, tmp_path, name):
    options = ImportOptions(
        videos=mini_ava / "videos",
        label_map=mini_ava / "annotations/mini_ava_actions.pbtxt",
        video_start=START,
    )
    report = import_annotations(exported[name], tmp_path / "out", options)
    truth = mini_ava / "annotations/mini_ava_train.csv"
    assert rounded_rows(tmp_path / "out/annotations.csv") == rounded_rows(truth)
    assert report.rows == len(rows_of(truth))
    assert report.videos == 4
    assert not +report.skipped
    spec = get_dataset(str(tmp_path / "out/dataset.yaml"))
    assert spec.videos.resolve() == (mini_ava / "videos").resolve()
    read_action_csv(spec.annotations, LabelMap.from_file(spec.label_map))


def test_without_a_label_map_ids_are_in_the_order_of_names(mini_ava, exported, tmp_path):
    import_annotations(exported["coco"], tmp_path / "out", ImportOptions(videos=mini_ava / "videos"))
    label_map = LabelMap.from_file(tmp_path / "out/actions.pbtxt")
    assert list(label_map.names) == sorted(label_map.names)
    assert label_map.ids == tuple(range(1, len(label_map) + 1))


def test_existing_files_are_not_overwritten_by_default(mini_ava, exported, tmp_path):
    options = ImportOptions(videos=mini_ava / "videos")
    import_annotations(exported["coco"], tmp_path, options)
    with pytest.raises(UserError, match="already exists"):
        import_annotations(exported["coco"], tmp_path, options)


# ------------------------------------------------------- CVAT


def cvat(*tracks, meta="<stop_frame>99</stop_frame>"):
    return (
        "<annotations><meta><task><mode>interpolation</mode><original_size><width>200</width><height>100"
        f"</height></original_size><source>a/clip.mp4</source>{meta}</task></meta>{''.join(tracks)}</annotations>"
    )


def cvat_box(frame, x, outside=0, inner="", more=""):
    sides = f'xtl="{x}" ytl="10" xbr="{x + 20}" ybr="60"'
    return f'<box frame="{frame}" outside="{outside}" {sides} keyframe="1" {more}>{inner}</box>'


def track(*boxes, label="wave", number=3):
    return f'<track id="{number}" label="{label}">{"".join(boxes)}</track>'


def test_cvat_interpolates_between_key_frames_and_holds_before_the_end(tmp_path):
    text = cvat(track(cvat_box(0, 0), cvat_box(20, 100), cvat_box(35, 0, outside=1)))
    rows, _ = run(tmp_path, text, rate=10)
    assert [row[1] for row in rows] == [0, 1, 2, 3]  # second 3.5 is outside
    assert [row[2][0] for row in rows] == [0, 0.25, 0.5, 0.5]
    assert {row[3:] for row in rows} == {("wave", "3")}


def test_cvat_boxes_of_every_frame_equal_interpolated_ones(tmp_path):
    keys = cvat(track(cvat_box(0, 0), cvat_box(20, 100), cvat_box(21, 100, outside=1)))
    every = cvat(track(*(cvat_box(f, 5 * f) for f in range(21)), cvat_box(21, 100, outside=1)))
    assert run(tmp_path, keys, rate=10)[0] == run(tmp_path, every, rate=10)[0]


def test_a_cvat_track_continues_to_the_end_of_the_task(tmp_path):
    rows, _ = run(tmp_path, cvat(track(cvat_box(0, 0))), rate=10)
    assert times(rows) == list(range(11))  # frame 99 is within half a step of second 10


def test_only_the_frames_of_a_filtered_cvat_task_are_used(tmp_path):
    meta = "<start_frame>0</start_frame><stop_frame>40</stop_frame><frame_filter>step=20</frame_filter>"
    text = cvat(track(cvat_box(0, 0), cvat_box(20, 40), cvat_box(40, 80)), meta=meta)
    rows, _ = run(tmp_path, text, rate=10)
    assert [(row[1], row[2][0]) for row in rows] == [(0, 0), (2, 0.2), (4, 0.4)]


def test_cvat_attributes_are_actions_if_the_class_is_an_object(tmp_path):
    attributes = (
        '<attribute name="waving">true</attribute><attribute name="clapping">false</attribute>'
        '<attribute name="pose">sit</attribute><attribute name="age">7</attribute>'
        '<attribute name="Occluded">true</attribute><attribute name="mood">none</attribute>'
    )
    text = cvat(track(cvat_box(10, 0, inner=attributes), cvat_box(11, 0, 1), cvat_box(20, 0), label="person"))
    rows, report = run(tmp_path, text, rate=10)
    assert {row[3] for row in rows} == {"waving", "sit"}
    assert times(rows) == [1]
    assert not report.skipped["boxes without an action"]
    rows, _ = run(tmp_path, text, rate=10, ignored=frozenset(["pose"]))
    assert {row[3] for row in rows} == {"waving"}


def test_persons_without_an_action_are_kept_as_person_boxes(tmp_path):
    wave = '<attribute name="wave">true</attribute>'
    text = cvat(
        track(cvat_box(0, 0, inner=wave), cvat_box(1, 0, 1), label="person"),
        track(
            cvat_box(0, 80), cvat_box(1, 0, 1), cvat_box(20, 60), cvat_box(21, 0, 1), label="Person", number=4
        ),
    )
    rows, report = run(tmp_path, text, rate=10, ignored=frozenset(["Person"]))
    assert [(row[1], row[3]) for row in rows] == [(0, "wave")]
    assert (report.boxes, report.keyframes) == (1, 1)
    assert [note for note in report.notes if note.startswith("2 boxes without an action are negatives")]
    everyone = read_action_csv(tmp_path / "out/annotations.csv")
    assert list(zip(everyone.timestamp, everyone.action)) == [(0, 1), (2, -1)]
    assert "person_boxes: annotated_persons.csv" in (tmp_path / "out/dataset.yaml").read_text()
    persons = read_person_boxes(tmp_path / "out/annotated_persons.csv")
    found = zip(persons.timestamp, persons.boxes[:, 0], persons.score)
    assert list(found) == [(0, 0, 1), (0, 0.4, 1), (2, 0.3, 1)]
    negatives = add_negative_persons(everyone, persons, "annotated_keyframes", 0.8)
    assert negatives.boxes[2:, 0].tolist() == [0.4, 0.3]
    for name in ("annotations.csv", "actions.pbtxt", "dataset.yaml"):
        (tmp_path / "out" / name).unlink()
    with pytest.raises(UserError, match=r"annotated_persons\.csv already exists"):
        import_annotations([tmp_path / "source_0"], tmp_path / "out", ImportOptions())


def test_cvat_rotated_boxes_and_other_shapes_are_skipped_and_counted(tmp_path):
    text = cvat(
        track(cvat_box(0, 0), cvat_box(1, 0, 1), '<polygon frame="4" points="1,2;3,4"/>'),
        track(cvat_box(0, 50, more='rotation="30.0"'), number=4),
    )
    rows, report = run(tmp_path, text, rate=10)
    assert len(rows) == 1
    assert report.skipped["rotated boxes"] == 1
    assert report.skipped["shapes other than boxes"] == 1


def test_cvat_images(tmp_path):
    box = '<box label="run" xtl="0" ytl="0" xbr="50" ybr="100"/>'
    text = (
        '<annotations><image id="0" name="a/clip_000020.jpg" width="100" height="100">'
        f"{box}{box.replace('run', 'wave')}</image>"
        '<image id="1" name="other/frame_000030.png" width="100" height="200">'
        f'{box[:-2]}><attribute name="track_id">7</attribute></box></image></annotations>'
    )
    rows, report = run(tmp_path, text, rate=10)
    assert rows == [
        ("clip", 2.0, [0, 0, 0.5, 1], "run"),
        ("clip", 2.0, [0, 0, 0.5, 1], "wave"),
        ("other", 3.0, [0, 0, 0.5, 0.5], "run", "7"),
    ]
    assert any("do not identify the person" in note for note in report.notes)
    assert run(tmp_path, text, rate=10, first_frame=1)[0][0][1] == 1.9


def test_a_cvat_project_with_several_videos(tmp_path):
    def task(number):
        size = "<original_size><width>200</width><height>100</height></original_size>"
        return f"<task><id>{number}</id><source>clip{number}.mp4</source>{size}</task>"

    tracks = "".join(
        f'<track id="{n}" label="run" task_id="{n}">{cvat_box(10 * n, 0)}</track>' for n in (1, 2)
    )
    meta = f"<meta><project><tasks>{task(1)}{task(2)}</tasks></project></meta>"
    rows, _ = run(tmp_path, f"<annotations>{meta}{tracks}</annotations>", rate=10)
    assert [row[:2] for row in rows] == [("clip1", 1), ("clip2", 2)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            cvat(track(cvat_box("x", 0))),
            ":1: <box>: frame: expected a (non-negative integer|number), got 'x'",
        ),
        (cvat("\n\n<track id='1'/>"), ":3: <track>: expected the attribute label="),
        ("<annotations><track id='1' label='a'/></annotations>", "does not name its video"),
        ("<a/>", "expected CVAT XML with the root element <annotations>"),
        ("<annotations><meta></annotations>", "not valid XML: mismatched tag"),
        (
            '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>',
            "a DOCTYPE is not allowed",
        ),
        ('<annotations><image name="a.jpg" width="5" height="5"/></annotations>', "VIDEO_000123.jpg"),
        (cvat(), "no box with an action"),
    ],
)
def test_invalid_cvat_files_are_refused(tmp_path, text, problem):
    with pytest.raises(DataError, match=problem):
        run(tmp_path, text, rate=10)


# ------------------------------------------------------- VIA 3


def via3(metadata, attribute=None, file=None):
    file = file or {"fname": "clip.mp4", "type": 4}
    return {
        "attribute": attribute
        or {
            "1": {"aname": "action", "type": 2, "options": {"0": "run", "1": "wave, left"}},
            "2": {"aname": "person_id", "type": 1, "options": {}},
        },
        "file": {"1": {"fid": 1} | file},
        "view": {"1": {"fid_list": [1]}},
        "metadata": {f"1_{k}": {"vid": "1", "flg": 0} | entry for k, entry in enumerate(metadata)},
    }


@pytest.fixture
def clip(tmp_path):
    """A folder with clip.mp4: 64 x 48, 4 s, with a variable frame rate."""
    folder = tmp_path / "videos"
    folder.mkdir()
    milliseconds = np.cumsum([0, *([50] * 20), *([100] * 20), *([25] * 40)])  # 4 s
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=40)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


def test_via3_checkboxes_and_segments(tmp_path, clip):
    document = via3(
        [
            {"z": [1.0], "xy": [2, 16, 12, 16, 24], "av": {"1": "0,1", "2": "5"}},
            {"z": [1.0], "xy": [2, 0, 0, 16, 24], "av": {"2": "6"}},
            {"z": [3.0], "xy": [2, 0, 0, 16, 24], "av": {"1": "1", "2": "6"}},
            {"z": [1.0], "xy": [2, 32, 0, 16, 24], "av": {"1": "1", "2": "7"}},
            {"z": [0.5, 1.5], "xy": [], "av": {"1": "0", "2": "6"}},
            {"z": [2.5, 3.5], "xy": [], "av": {"1": "0"}},
            {"z": [1.0], "xy": [1, 5, 5], "av": {}},
        ]
    )
    rows, report = run(tmp_path, document, videos=clip)
    assert rows == [
        ("clip", 1.0, [0.25, 0.25, 0.5, 0.75], "run", "5"),
        ("clip", 1.0, [0.25, 0.25, 0.5, 0.75], "wave, left", "5"),
        ("clip", 1.0, [0, 0, 0.25, 0.5], "run", "6"),
        ("clip", 1.0, [0.5, 0, 0.75, 0.5], "wave, left", "7"),
        ("clip", 3.0, [0, 0, 0.25, 0.5], "run", "6"),
        ("clip", 3.0, [0, 0, 0.25, 0.5], "wave, left", "6"),
    ]
    assert report.skipped["shapes other than boxes"] == 1


def test_via3_boxes_over_time(tmp_path, clip):
    box = {"z": [0.6, 3.2], "xy": [2, 0, 0, 16, 24], "av": {"1": "0"}}
    rows, _ = run(tmp_path, via3([box]), videos=clip)
    assert times(rows) == [1, 2, 3]


def test_via3_images_are_frames(tmp_path, clip):
    box = {"xy": [2, 0, 0, 16, 24], "av": {"1": "0"}, "z": []}
    document = via3([box], file={"fname": "clip_000030.jpg", "type": 2})
    assert times(run(tmp_path, document, videos=clip)[0]) == [2.0]  # 20 x 50 ms + 10 x 100 ms


# ------------------------------------------------------- COCO


def coco(annotations, images=None, **tables):
    images = images or [{"id": 1, "file_name": "clip/000020.jpg", "width": 64, "height": 48}]
    categories = [{"id": 1, "name": "run"}, {"id": 2, "name": "wave"}, {"id": 3, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": categories} | tables


def test_coco_categories_of_one_box_are_one_person(tmp_path):
    one = {"image_id": 1, "category_id": 1, "bbox": [16, 12, 16, 24]}
    rows, report = run(tmp_path, coco([one, one | {"category_id": 2}]), rate=10)
    assert [(row[1], row[3]) for row in rows] == [(2, "run"), (2, "wave")]
    assert report.boxes == 1
    crowd = one | {"bbox": [0, 0, 64, 48], "iscrowd": 1}
    rows, report = run(tmp_path, coco([one | {"iscrowd": 0}, crowd]), rate=10)
    assert len(rows) == report.skipped["boxes of crowds (iscrowd)"] == 1
    attributes = {"action": ["run", "wave"], "happy": True, "occluded": True, "rotation": 0.0, "track_id": 4}
    rows, _ = run(tmp_path, coco([one | {"category_id": 3, "attributes": attributes}]), rate=10)
    assert [row[3:] for row in rows] == [("happy", "4"), ("run", "4"), ("wave", "4")]


def test_the_videos_table_of_coco_has_name_and_rate(tmp_path):
    images = [{"id": "a", "file_name": "x.jpg", "video_id": 9, "frame_id": 50, "width": 64, "height": 48}]
    one = {"image_id": "a", "category_id": 1, "bbox": [16, 12, 16, 24]}
    document = coco([one], images, videos=[{"id": 9, "name": "clip.mp4", "fps": 25}])
    assert run(tmp_path, document)[0][0][:2] == ("clip", 2)


def test_variable_frame_rates_are_read_from_the_video(tmp_path, clip):
    images = [
        {"id": n, "file_name": f"clip_{n:06d}.jpg", "width": 64, "height": 48} for n in (20, 30, 40, 80, 81)
    ]
    boxes = [{"image_id": i["id"], "category_id": 1, "bbox": [0, 0, 9, 9]} for i in images]
    rows, report = run(tmp_path, coco(boxes, images), videos=clip)
    assert times(rows) == [1, 2, 3, 4]
    assert report.skipped["boxes outside the video's time"] == 1  # there is no frame 81


def test_sparse_frames_are_keyframes_and_dense_ones_are_subsampled(tmp_path):
    def at(*frames):
        images = [
            {"id": n, "file_name": f"clip_{n:06d}.jpg", "width": 64, "height": 48, "fps": 10} for n in frames
        ]
        boxes = [{"image_id": n, "category_id": 1, "bbox": [0, 0, n, 9]} for n in frames]
        return coco(boxes, images)

    assert times(run(tmp_path, at(7, 23, 51))[0]) == [0.7, 2.3, 5.1]
    rows, _ = run(tmp_path, at(4, 7, 9, 12, 19, 26))
    assert [(row[1], round(row[2][2] * 64)) for row in rows] == [(0, 4), (1, 9), (2, 19), (3, 26)]
    assert times(run(tmp_path, at(4, 7, 9, 12, 19, 26), every=2.0)[0]) == [0, 2]


# ------------------------------------------------------- Label Studio


def label_studio(*regions, frames=50, **value):
    result = [
        {"id": f"r{n}", "type": "videorectangle", "value": {"labels": ["run"], "sequence": list(sequence)}}
        for n, sequence in enumerate(regions)
    ]
    for region in result:
        region["value"] |= {"framesCount": frames, "duration": frames / 10} | value
    return [{"id": 1, "data": {"video": "s3://x/clip.mp4"}, "annotations": [{"id": 1, "result": result}]}]


def entry(frame, x, enabled=True, **more):
    return {"frame": frame, "x": x, "y": 10, "width": 20, "height": 50, "enabled": enabled} | more


def test_label_studio_interpolates_boxes_while_enabled(tmp_path):
    rows, _ = run(tmp_path, label_studio([entry(1, 0), entry(21, 40, False), entry(41, 80)]))
    assert [(row[1], row[2][0]) for row in rows] == [(0, 0), (1, 0.2), (2, 0.4), (4, 0.8), (5, 0.8)]
    assert rows[0][2] == [0, 0.1, 0.2, 0.6]


def test_a_label_studio_export_of_every_frame_keeps_its_gaps(tmp_path):
    visible = [*range(1, 12), *range(31, 42)]
    rows, _ = run(tmp_path, label_studio([entry(f, 5, auto=True) for f in visible]))
    assert times(rows) == [0, 1, 3, 4]


def test_label_studio_with_another_number_of_frames_than_the_video(tmp_path, clip):
    rows, report = run(tmp_path, label_studio([entry(21, 0, False)], frames=40), videos=clip)
    assert times(rows) == [2]
    assert any("the file has 81" in note for note in report.notes)
    rows, report = run(tmp_path, label_studio([entry(21, 0, False)], frames=81), videos=clip)
    assert times(rows) == [1]
    assert not report.notes


def test_persons_of_several_sources_stay_distinct(tmp_path):
    rows, _ = run(tmp_path, label_studio([entry(11, 0, False)]), label_studio([entry(11, 50, False)]))
    assert len({row[4] for row in rows}) == 2
    rows, _ = run(tmp_path, *(cvat(track(cvat_box(10, x), cvat_box(11, x, 1))) for x in (0, 50)), rate=10)
    assert [row[4] for row in rows] == ["3", "4"]


# ------------------------------------------------------- invalid files


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (
            coco([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]),
            r"\$.annotations\[0\].bbox: expected \[x, y",
        ),
        (coco([{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]), r"annotations\[0\].image_id: "),
        (
            coco([{"image_id": 1, "category_id": 1, "bbox": [1, 2, "3", 4]}]),
            r"bbox\[2\]: expected a number, got '3'",
        ),
        (coco([{"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]}]), "category in"),
        (coco([], [{"id": 1, "file_name": "nothing.jpg"}]), r"images\[0\].file_name: "),
        (label_studio([{"frame": 1}]), r"result\[0\].value.sequence\[0\]: expected the key 'x'"),
        (via3([{"xy": [2, 1, 1, 5, 5], "z": [], "av": {"1": "0"}}]), r"metadata.1_0.z: expected the times"),
        ("{\n bad", ":2: not valid JSON"),
        ("[" * 100_000, "JSON cannot be parsed"),
        ("{}", "unknown annotation format; expected one of coco, cvat"),
        ("PK\3\4", "got a zip archive; unpack it"),
    ],
)
def test_invalid_files_are_refused_with_their_location(tmp_path, document, problem):
    with pytest.raises(DataError, match=problem) as caught:
        run(tmp_path, document, rate=10)
    assert str(tmp_path / "source_0") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_information_is_requested(tmp_path, mini_ava):
    one = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    with pytest.raises(
        DataError, match="frame rate of 'clip'; pass --videos FOLDER with its file, or --rate"
    ):
        run(tmp_path, coco([one]))
    with pytest.raises(DataError, match="frame size of 'clip'; pass --videos"):
        run(tmp_path, via3([{"xy": [2, 1, 1, 5, 5], "z": [1], "av": {"1": "0"}}]))
    label_map = mini_ava / "annotations/mini_ava_actions.pbtxt"
    with pytest.raises(DataError, match="missing from this label map: 'person'"):
        run(tmp_path, coco([one | {"category_id": 3}]), rate=10, label_map=label_map)
    with pytest.raises(DataError, match="more than 100000 keyframes"):
        run(tmp_path, cvat(track(cvat_box(0, 0)), meta="<stop_frame>999999999</stop_frame>"), rate=10)


DOCUMENTS = {
    "coco": coco(
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "attributes": {"a": ["b"], "c": True}}],
        [{"id": 1, "file_name": "a/b_01.jpg", "width": 9, "height": 9, "video_id": 1, "frame_id": 3}],
        videos=[{"id": 1, "name": "v.mp4", "fps": 10}],
    ),
    "labelstudio": label_studio([entry(1, 0, rotation=0), entry(21, 40, False)]),
    "via3": via3(
        [{"z": [1.0], "xy": [2, 1, 1, 5, 5], "av": {"1": "0,1", "2": "5"}}, {"z": [0, 2], "xy": []}]
    ),
}
ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1e300,
        float("nan"),
        float("inf"),
        10**400,
        10**9,
        "",
        "x",
        "\ud800",
        "1",
        [],
        [1],
        {},
        {"a": 1},
    ]
)


def paths(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from paths(inner, (*path, key))


def mutate(data, document):
    """Return the document with one to three values replaced or removed."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(document))))
        if not path:
            return data.draw(ODD)
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[path[-1]] = copy.deepcopy(data.draw(ODD))
        else:
            del holder[path[-1]]
    return document


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def import_or_refuse(tmp_path, text, name):
    """Import a document; only a DataError is allowed."""
    with contextlib.suppress(DataError):
        assert run(tmp_path, text, format=name)[0]


@pytest.mark.parametrize("name", DOCUMENTS)
@FUZZ
@given(data=st.data())
def test_mutated_json_is_imported_or_refused(tmp_path, name, data):
    import_or_refuse(tmp_path, json.dumps(mutate(data, DOCUMENTS[name])), name)


CVAT_TEXT = cvat(
    track(cvat_box(0, 0, inner='<attribute name="a">true</attribute>'), cvat_box(20, 9), cvat_box(30, 0, 1))
)


@FUZZ
@given(
    position=st.floats(0, 1),
    length=st.integers(0, 12),
    new=st.sampled_from(["", "x", "<", ">", '"', "-1", "9" * 12, "nan", "&amp;", "\x00", "é"]),
)
@example(position=0.0, length=0, new="\ufeff")
def test_mutated_xml_is_imported_or_refused(tmp_path, position, length, new):
    at = int(position * len(CVAT_TEXT))
    import_or_refuse(tmp_path, CVAT_TEXT[:at] + new + CVAT_TEXT[at + length :], "cvat")
