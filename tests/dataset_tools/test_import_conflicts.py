"""Import of annotations with conflicting names, boxes that do not fit, or actions outside boxes."""

import pytest
from dataset_sites import write_video
from test_import_cases import coco, label_studio, via
from test_importers import cvat, cvat_box, run, track

from vmae_det.dataset_tools.importers import ImportOptions, import_annotations
from vmae_det.utils.errors import DataError

# ---------------------------------------------------------------- conflicting names


@pytest.mark.parametrize("names", [("cam1/v/01.jpg", "cam2/v/01.jpg"), ("v/1.jpg", "v/1.png")])
def test_two_images_of_one_frame_are_refused(tmp_path, names):
    with pytest.raises(DataError, match=f"'{names[1]}' and '{names[0]}' are both frame 1 of the video 'v'"):
        run(tmp_path, coco(names, [{"image_id": 0}]), rate=1)
    images = "".join(
        f'<image id="{i}" name="{name}" width="100" height="100"/>' for i, name in enumerate(names)
    )
    with pytest.raises(DataError, match="are both frame 1 of the video 'v'"):
        run(tmp_path, f"<annotations>{images}</annotations>", rate=1)


def test_two_files_of_one_video_are_refused(tmp_path):
    project = via(4, {"0": "sit"}, ["0"], files=("cam1/v.mp4", "v.webm"))
    box = project["metadata"]["0"] | {"z": [0.5]}
    project["metadata"] = {"0": box, "1": box | {"vid": "1"}}
    for file in project["file"].values():
        file["type"] = 4
    with pytest.raises(DataError, match=r"'v\.webm' and 'cam1/v\.mp4' are both the video 'v'"):
        run(tmp_path, project, frame_size=(60, 40))

    videos = [{"id": i, "name": name} for i, name in enumerate(("a/v.mp4", "b/v.mp4"))]
    document = coco(["x.jpg", "y.jpg"], [{"image_id": 0}], videos=videos)
    for i, image in enumerate(document["images"]):
        image |= {"video_id": i, "frame_id": 0}
    with pytest.raises(DataError, match=r"'b/v\.mp4' and 'a/v\.mp4' are both the video 'v'"):
        run(tmp_path, document, rate=1)

    tasks = label_studio([], labels=["walk"]) + label_studio([], labels=["walk"])
    assert run(tmp_path, tasks, rate=30)[0]  # two tasks of one file
    tasks[1]["data"]["video"] = "s3://bucket/v.mp4"
    with pytest.raises(DataError, match="are both the video 'v'"):
        run(tmp_path, tasks, rate=30)
    for i, task in enumerate(tasks):
        task["data"]["video"] = f"/data/upload/1/0123abc{i}-v.mp4"
    assert run(tmp_path, tasks, rate=30)[0]


def test_a_person_with_two_boxes_in_a_frame_keeps_one(tmp_path):
    boxes = [{"bbox": [10, 20, 30, 40]}, {"bbox": [11, 20, 30, 40]}, {"bbox": [60, 20, 30, 40]}]
    annotations = [
        {"image_id": 0, "track_id": 5, "category_id": i} | box for i, box in enumerate(boxes, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(("sit", "talk", "run"), start=1)]
    rows, report = run(tmp_path, coco(["v_000000.jpg"], annotations, categories=categories), rate=1)
    assert [row[2:] for row in rows] == [([0.1, 0.2, 0.4, 0.6], name, "5") for name in ("sit", "talk")]
    assert report.skipped["boxes of a person who has another box in the frame"] == 1


def test_roboflow_file_names(tmp_path):
    name = "my_clip_mp4-0012_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg"
    rows, _ = run(tmp_path, coco([name], [{"image_id": 0}]), rate=4)
    assert rows[0][:2] == ("my_clip", 3)
    copies = [name, name.replace("0a1b", "ffff")]  # augmented copies are rotated and cropped
    with pytest.raises(DataError, match="are both frame 12 of the video 'my_clip'"):
        run(tmp_path, coco(copies, [{"image_id": 0}]), rate=4)


# ---------------------------------------------------------------- boxes and frames


def test_relative_boxes_of_frames_in_pixels_are_refused(tmp_path):
    boxes = [{"image_id": 0, "bbox": [0.1, 0.2, 0.3, 0.4]}, {"image_id": 0, "bbox": [0, 0, 1, 1]}]
    with pytest.raises(
        DataError, match=r"100 x 100, got no coordinate above 1; they look like relative boxes in"
    ):
        run(tmp_path, coco(["v_000000.jpg"], boxes), rate=1)
    boxes.append({"image_id": 0, "bbox": [10, 20, 30, 40]})
    assert run(tmp_path, coco(["v_000000.jpg"], boxes), rate=1)[0]


def test_boxes_far_outside_the_frame_give_a_warning(tmp_path):
    boxes = [{"image_id": 0, "bbox": bbox} for bbox in ([50, 50, 90, 90], [-4, 0, 108, 100], [0, 0, 9, 9])]
    rows, report = run(tmp_path, coco(["v_000000.jpg"], boxes), rate=1)
    assert [0.5, 0.5, 1, 1] in [row[2] for row in rows]
    assert "WARNING: v: 1 of 3 boxes reach far outside the frame of 100 x 100" in "".join(report.notes)


def test_another_aspect_ratio_than_the_video_gives_a_warning(tmp_path):
    write_video(tmp_path / "v/clip.mp4", frames=10, size=(36, 64))
    document = cvat(track(cvat_box(0, 0)), meta="")
    _, report = run(tmp_path, document, videos=tmp_path / "v")
    assert "annotated frames are 200 x 100, but the file has 36 x 64" in "".join(report.notes)
    write_video(tmp_path / "w/clip.mp4", frames=10, size=(128, 64))
    assert not run(tmp_path, document, videos=tmp_path / "w")[1].notes


# ---------------------------------------------------------------- actions outside boxes


def test_tags_of_cvat_images_are_actions_of_everyone_in_them(tmp_path):
    box = '<box label="person" xtl="10" ytl="0" xbr="50" ybr="100"/>'
    images = [
        box + '<tag label="wave"/>',
        box + '<tag label="sit"/><tag label="talk"/>',
        '<tag label="run"/>',
    ]
    text = "".join(
        f'<image id="{i}" name="v_{i}.jpg" width="100" height="100">{inside}</image>'
        for i, inside in enumerate(images)
    )
    rows, report = run(tmp_path, f"<annotations>{text}</annotations>", rate=1)
    assert [(row[1], row[3]) for row in rows] == [(0, "wave"), (1, "sit"), (1, "talk")]
    assert report.skipped["tags of images without a box"] == 1


def test_label_studio_results_of_regions_and_videos(tmp_path):
    def result(kind, value, region="a"):
        return {"type": kind, "id": region, "from_name": kind, "value": {kind: value}}

    tasks = label_studio([], frames=(1,))
    tasks[0]["annotations"][0]["result"] += [
        result("taxonomy", [["move", "walk"], ["talk"]]),
        result("text", ["a remark"]),
        result("choices", ["good video"], region="b"),
    ]
    rows, report = run(tmp_path, tasks, rate=30)
    assert [row[3] for row in rows] == ["talk", "walk"]
    assert report.skipped["choices and texts of a whole video"] == 1
    assert report.skipped["texts of boxes"] == 1


def test_cvat_in_utf16(tmp_path):
    boxes = track(cvat_box(0, 0), cvat_box(1, 0, 1), label="gähnen")
    text = '<?xml version="1.0" encoding="utf-16"?>' + cvat(boxes)
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode("utf-16"))
    assert import_annotations([path], tmp_path / "out", ImportOptions(rate=1)).rows == 1
    assert "gähnen" in (tmp_path / "out/actions.pbtxt").read_text(encoding="utf-8")
