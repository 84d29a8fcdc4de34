"""Import of real and realistic exports: unnamed videos, misleading names, joined files, segments, images."""

import json

import numpy as np
import pytest
from conftest import SHARED
from dataset_sites import write_video
from PIL import Image
from test_importers import run, times

from vmae_det.cli.main import main
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.readers import open_video

CASES = SHARED / "cases"


@pytest.fixture
def cases():
    if not CASES.exists():
        pytest.skip("needs the real files in ../shared/cases, next to the repository")
    return CASES


def read(folder):
    lines = [line.split(",") for line in (folder / "annotations.csv").read_text().split()]
    return [(row[0], float(row[1]), *map(float, row[2:6]), int(row[6])) for row in lines]


# ---------------------------------------------------------------- real files


def test_real_cvat_job(cases, tmp_path, capsys):
    write_video(tmp_path / "v/women_1_239.mp4", frames=10, size=(64, 36))
    write_video(tmp_path / "v/another.mp4", frames=2, size=(64, 36))
    source = str(cases / "real/cvat/women_1_239.xml")
    arguments = ["--videos", str(tmp_path / "v"), "--every", "0.04", "--output", str(tmp_path / "out")]
    assert main(["import", source, *arguments]) == 0
    assert "1 videos, 10 keyframes, 2 persons, 18 boxes, 2 labels, 18 rows" in capsys.readouterr().out
    assert {row[0] for row in read(tmp_path / "out")} == {"women_1_239"}


def test_cvat_job_without_source(cases, tmp_path):
    source, out = str(cases / "import/cvat_job_no_source.xml"), tmp_path / "out"
    assert main(["import", source, "--rate", "30", "--output", str(out)]) == 2
    assert main(["import", source, "--rate", "30", "--video", "jet.mp4", "--output", str(out)]) == 0
    assert read(out)[0][:6] == ("jet", 0, 0.306089, 0.382292, 0.506323, 0.565625)
    write_video(tmp_path / "v/only.mp4", frames=90, size=(64, 36))
    more = ["--videos", str(tmp_path / "v"), "--rate", "30", "--output", str(out), "--overwrite"]
    assert main(["import", source, *more]) == 0
    assert read(out)[0][:6] == ("only", 0, 0.306089, 0.382292, 0.506323, 0.565625)


def test_real_via_project_with_actions_under_person(cases, tmp_path, capsys):
    source, out = str(cases / "real/via3/via_ground_truth_test.json"), tmp_path / "out"
    more = ["--rate", "30", "--video-start", "900", "--output", str(out), "--overwrite"]
    assert main(["import", source, *more]) == 2
    assert "--frame-size WIDTHxHEIGHT" in capsys.readouterr().err
    assert main(["import", source, *more, "--frame-size", "600x480"]) == 0
    printed = capsys.readouterr().out
    assert "1 videos, 4 keyframes, 0 persons, 6 boxes, 7 labels, 11 rows" in printed
    assert "attribute 'person' is interpreted as actions" in printed
    stated = read(out)
    assert sorted({row[1] for row in stated}) == [902, 903, 904, 905]

    (tmp_path / "images").mkdir()
    Image.new("RGB", (600, 480)).save(tmp_path / "images/1j20qq1JyX4_000060.jpg")
    assert main(["import", source, *more, "--videos", str(tmp_path / "images")]) == 0
    assert read(out) == stated


@pytest.mark.parametrize(
    ("name", "more", "problem"),
    [
        ("coco_rot90.json", [], "no box with an action; skipped: 10 rotated boxes"),
        ("coco_dup.json", [], "$.images[10].id: duplicate image id 1, first used at $.images[0]"),
        ("ls_timeline_only.json", [], "2 segments without a box"),
        ("cvat_coco.json", [], "its images have names such as frame_000000.PNG); pass --video NAME"),
        ("coco_rot90.json", ["--video", "clip"], "--video: the annotations already name their videos"),
        (
            "coco_rot90.json",
            ["--frame-size", "9x9"],
            "--frame-size: the annotations already contain the frame size",
        ),
    ],
)
def test_invalid_real_files_are_refused(cases, tmp_path, capsys, name, more, problem):
    videos = ["--videos", str(cases / "import/videos")]
    assert (
        main(["import", str(cases / "import" / name), *videos, *more, "--output", str(tmp_path / "o")]) == 2
    )
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_valid_real_files_are_imported(cases, tmp_path):
    videos = ["--videos", str(cases / "import/videos"), "--output", str(tmp_path / "out"), "--overwrite"]
    assert main(["import", str(cases / "import/ls_timeline.json"), *videos]) == 0
    assert (tmp_path / "out/actions.pbtxt").read_text().count("label {") == 2
    assert all(row[6] == 1 + (row[1] >= 5) for row in read(tmp_path / "out"))
    assert main(["import", str(cases / "import/cvat_coco.json"), *videos, "--video", "clip.mp4"]) == 0
    assert [row[1] for row in read(tmp_path / "out")] == list(range(10))


# ---------------------------------------------------------------- the same with small synthetic inputs


def coco(names, annotations, size=(100, 100), **tables):
    images = [
        {"id": i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)
    ]
    boxes = [{"bbox": [10, 20, 30, 40], "category_id": 1} | one for one in annotations]
    return {"images": images, "categories": [{"id": 1, "name": "wave"}], "annotations": boxes} | tables


def test_rotated_coco_boxes_are_skipped_and_counted(tmp_path):
    turned = [{"image_id": 0, "attributes": {"rotation": angle}} for angle in (90.0, "45", -0.5)]
    good = [
        {"image_id": 0, "bbox": [0, 0, 10 + i, 10], "attributes": {"rotation": angle}}
        for i, angle in enumerate((0, "0.0", 360, ""))
    ]
    rows, report = run(tmp_path, coco(["v_000000.jpg"], turned + good), rate=1)
    assert len(rows) == 4
    assert report.skipped["rotated boxes"] == 3


@pytest.mark.parametrize("table", ["images", "categories", "videos"])
def test_duplicate_ids_are_refused(tmp_path, table):
    document = coco(["v_000000.jpg"], [{"image_id": 0}], videos=[{"id": 3, "name": "v"}])
    document[table].append(dict(document[table][0]))
    assert len(run(tmp_path, document, rate=1)[0]) == 1  # an identical entry is allowed
    key = "file_name" if table == "images" else "name"
    document[table].append(document[table][0] | {key: "w_000000.jpg", "id": str(document[table][0]["id"])})
    with pytest.raises(DataError, match=rf"\$\.{table}\[2\]\.id: duplicate \w+ id \d"):
        run(tmp_path, document, rate=1)


def test_duplicate_keys_of_an_object_are_refused(tmp_path):
    text = '{"images": [], "annotations": [], "annotations": []}'
    with pytest.raises(DataError, match="duplicate key 'annotations' in an object"):
        run(tmp_path, text)


def test_images_without_a_video_get_the_video_of_the_option(tmp_path):
    document = coco(["frame_000000.PNG", "frame_000002.PNG"], [{"image_id": 0}, {"image_id": 1}])
    rows, report = run(tmp_path, document, rate=2, video="clip")
    assert [row[:2] for row in rows] == [("clip", 0), ("clip", 1)]
    assert any("using 'clip' (from --video)" in note for note in report.notes)
    with pytest.raises(DataError, match="pass --video NAME"):
        run(tmp_path, document, rate=2)
    with pytest.raises(ConfigError, match="--video: the annotations already name their videos"):
        run(tmp_path, coco(["v_000000.PNG"], [{"image_id": 0}]), rate=2, video="clip")


def cvat_job(attributes, declared=""):
    box = '<box frame="{}" outside="0" xtl="8" ytl="9" xbr="32" ybr="36">{}</box>'
    boxes = "".join(box.format(frame, text) for frame, text in enumerate(attributes))
    labels = f"<labels><label><name>p</name><attributes>{declared}</attributes></label></labels>"
    return (
        f"<annotations><meta><job><id>1</id><mode>interpolation</mode>{labels}</job>"
        "<original_size><width>64</width><height>36</height></original_size></meta>"
        f'<track id="4" label="p">{boxes}</track></annotations>'
    )


def test_a_cvat_job_uses_its_frame_size_and_the_only_video(tmp_path):
    write_video(
        tmp_path / "v/only.mp4", frames=5, size=(128, 96)
    )  # the frame size of the job is used, not the file's
    rows, report = run(tmp_path, cvat_job([""] * 5), videos=tmp_path / "v", every=0.04)
    assert rows[0] == ("only", 0, [0.125, 0.25, 0.5, 1.0], "p", "4")
    assert len(rows) == 5
    assert any("the only video in" in note for note in report.notes)
    write_video(tmp_path / "v/source_0.mp4", frames=5, size=(64, 36))  # the name of the XML file
    assert run(tmp_path, cvat_job([""] * 5), videos=tmp_path / "v")[0][0][0] == "source_0"


ATTRIBUTE = '<attribute name="{}">{}</attribute>'
IDENTITY = "the person's identity"


@pytest.mark.parametrize(
    ("name", "values", "is_identity"),
    [
        ("person_id", ["1", "2"], True),
        ("person_id", ["Alice", "Bob"], True),
        ("person", ["p1", "person 2"], True),
        ("id", ["A", "B"], True),
        ("person", ["sit", "stand"], False),
        ("Person", ["sit", "p1"], False),
        ("id", ["true", "false"], False),
    ],
)
def test_values_decide_whether_an_attribute_is_an_identity(tmp_path, name, values, is_identity):
    document = cvat_job([ATTRIBUTE.format(name, value) for value in values])
    rows, report = run(tmp_path, document, rate=1, video="v")
    assert sorted({row[3] for row in rows} - {"p"}) == (
        [] if is_identity else [name] if values[0] == "true" else sorted(values)
    )
    if values[0] != "true":
        assert any(
            f"'{name.lower()}' is interpreted as {IDENTITY if is_identity else 'actions'}" in n
            for n in report.notes
        )


def test_declared_cvat_options_count_even_if_only_one_is_used(tmp_path):
    declared = "<name>person</name><input_type>select</input_type><values>1\nwalking\nsitting</values>"
    declared = f"<attribute>{declared}</attribute>"
    rows, _ = run(tmp_path, cvat_job([ATTRIBUTE.format("person", "walking")], declared), rate=1, video="v")
    assert [row[3] for row in rows] == ["walking"]


def via(kind, options, values, files=("v_000000.jpg",)):
    return {
        "attribute": {"1": {"aname": "person", "type": kind, "options": options}},
        "file": {str(i): {"fname": name, "type": 2} for i, name in enumerate(files)},
        "view": {str(i): {"fid_list": [str(i)]} for i in range(len(files))},
        "metadata": {
            f"{i}": {"vid": "0", "xy": [2, i, 0, 30, 20], "z": [], "av": {"1": value}}
            for i, value in enumerate(values)
        },
    }


@pytest.mark.parametrize(
    ("kind", "options", "values", "names"),
    [
        (2, {"0": "sit", "1": "talk 2"}, ["0,1", "1"], ["sit", "talk 2"]),
        (2, {"0": "p1", "1": "p2"}, ["0"], ["p1"]),  # a checkbox is never an identity
        (4, {"0": "sit", "1": "stand"}, ["1"], ["stand"]),
        (3, {"0": "p1", "1": "p2"}, ["0", "1"], None),
        (1, {}, ["7", "8"], None),
        (1, {}, ["walk"], ["walk"]),
    ],
)
def test_type_and_options_decide_whether_a_via_attribute_is_an_identity(
    tmp_path, kind, options, values, names
):
    document = via(kind, options, values)
    if names is None:
        with pytest.raises(DataError, match="boxes without an action"):
            run(tmp_path, document, rate=1, frame_size=(60, 40))
        return
    rows, _ = run(tmp_path, document, rate=1, frame_size=(60, 40))
    assert sorted({row[3] for row in rows}) == names
    assert rows[0][2] == [0, 0, 0.5, 0.5]


def label_studio(ranges, frames=(1, 31, 61), labels=("person",)):
    sequence = [{"frame": f, "enabled": True, "x": 10, "y": 20, "width": 30, "height": 40} for f in frames]
    results = [
        {"type": "videorectangle", "id": "a", "value": {"sequence": sequence, "labels": list(labels)}},
        *(
            {
                "type": "timelinelabels",
                "from_name": "tl",
                "value": {"ranges": [{"start": start, "end": end}], "timelinelabels": [name]},
            }
            for start, end, name in ranges
        ),
    ]
    return [{"data": {"video": "/d/v.mp4"}, "annotations": [{"result": results}]}]


def test_segments_add_their_actions_to_the_boxes_in_their_time(tmp_path):
    ranges = [(1, 30, "walk"), (20, 40, "wave"), (55, 58, "jump")]
    rows, report = run(tmp_path, label_studio(ranges), rate=30)
    assert [(row[1], row[3]) for row in rows] == [(0, "walk"), (1, "wave")]
    assert report.notes[0].startswith("1 boxes without an action")  # "person" is a class, not an action
    assert report.skipped["segments without a box"] == 1


# ---------------------------------------------------------------- images


@pytest.fixture
def gap(tmp_path):
    """A folder of images img_00000 to img_00019 without five of them; their pixels encode the number."""
    (tmp_path / "v/walk1").mkdir(parents=True)
    for number in (*range(8), *range(13, 20)):
        image = np.full((24, 32, 3), 10 * number, np.uint8)
        Image.fromarray(image).save(tmp_path / f"v/walk1/img_{number:05d}.png")
    return tmp_path / "v"


def shown_numbers(folder, rows):
    """Return the numbers encoded in the images that a reader returns at the rows' times."""
    reader = open_video(folder / "walk1")
    return [round(reader.frames(np.array([reader.index_at(row[1])]))[0, 0, 0, 0] / 10) for row in rows]


def test_boxes_stay_on_their_images_if_others_are_missing(tmp_path, gap):
    names = [f"walk1/img_{number:05d}.png" for number in (0, 7, 13, 19, 10)]
    document = coco(names, [{"image_id": i} for i in range(5)], size=(32, 24))
    rows, report = run(tmp_path, document, videos=gap, every=0.01)
    assert shown_numbers(gap, rows) == [0, 7, 13, 19]
    assert report.skipped["boxes outside the video's time"] == 1  # image 10 is missing


def test_a_rate_that_contradicts_the_folder_gives_a_warning(tmp_path, gap):
    document = coco([f"walk1/img_{n:05d}.png" for n in (0, 19)], [{"image_id": 0}, {"image_id": 1}])
    _, report = run(tmp_path, document, videos=gap, rate=15)
    assert any(
        "images are not shown at the time that their number and --rate 15 give" in note
        for note in report.notes
    )


def test_real_annotations_of_images_with_a_gap(cases, tmp_path, capsys):
    folder = tmp_path / "v/walk1"
    folder.mkdir(parents=True)
    for number in (*range(40), *range(70, 150)):
        Image.fromarray(np.full((24, 32, 3), number, np.uint8)).save(folder / f"img_{number:05d}.png")
    document = json.loads((cases / "import/gap.json").read_text())
    rows, _ = run(tmp_path, document, videos=tmp_path / "v", every=0.01)
    reader = open_video(folder)
    shown = [int(reader.frames(np.array([reader.index_at(second)]))[0, 0, 0, 0]) for second in times(rows)]
    assert shown == [0, 30, 80, 100, 110, 140]
