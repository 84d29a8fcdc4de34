"""Writes a dataset in AVA format in the export format of each annotation tool."""

import json
from itertools import groupby
from xml.sax.saxutils import quoteattr

WIDTH, HEIGHT = 192, 144  # MiniAVA's


def persons(rows):
    """Yield (video, second, person, box in [0, 1], actions) of CSV rows; merge the rows of one person."""

    def key_of(row):
        return row[0], float(row[1]), int(row[7]), tuple(map(float, row[2:6]))

    for key, group in groupby(sorted(rows, key=key_of), key=key_of):
        yield *key, [int(row[6]) for row in group]


def pixels(box):
    return tuple(v * s for v, s in zip(box, (WIDTH, HEIGHT, WIDTH, HEIGHT)))


def by_video(rows):
    return groupby(persons(rows), key=lambda person: person[0])


def to_cvat(rows, names, rate, start, folder):
    """Write a file for each video: tracks of class "person" of single frames, with action checkboxes."""
    files = []
    for video, found in by_video(rows):
        tracks = {}
        for _, second, person, box, actions in found:
            tracks.setdefault(person, []).append((round((second - start) * rate), pixels(box), actions))
        lines = [
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
            f"<id>5</id><size>{10 * rate}</size><mode>interpolation</mode><start_frame>0</start_frame>"
            f"<stop_frame>{10 * rate - 1}</stop_frame><frame_filter></frame_filter><original_size>"
            f"<width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
            f"<source>{video}.mp4</source></task></meta>"
        ]
        for person, boxes in tracks.items():
            lines.append(f'<track id="{person}" label="person" source="manual">')
            for frame, box, actions in boxes:
                sides = " ".join(f'{k}="{v:.2f}"' for k, v in zip(("xtl", "ytl", "xbr", "ybr"), box))
                attributes = "".join(
                    f"<attribute name={quoteattr(name)}>{str(i in actions).lower()}</attribute>"
                    for i, name in names.items()
                )
                for outside in (0, 1):
                    lines.append(
                        f'<box frame="{frame + outside}" keyframe="1" outside="{outside}" {sides} '
                        f'occluded="0" z_order="0">{attributes}</box>'
                    )
            lines.append("</track>")
        files.append(folder / f"{video}.xml")
        files[-1].write_text("\n".join(lines) + "</annotations>\n")
    return files


def to_via3(rows, names, rate, start, folder):
    """Write one project: a checkbox attribute whose options are the action ids, and a text for the person."""
    attribute = {
        "1": {"aname": "action", "anchor_id": "FILE1_Z1_XY1", "type": 2, "desc": "", "default_option_id": ""}
        | {"options": {str(i): name for i, name in names.items()}},
        "2": {"aname": "person_id", "anchor_id": "FILE1_Z1_XY1", "type": 1, "options": {}},
    }
    file, view, metadata = {}, {}, {}
    for number, (video, found) in enumerate(by_video(rows), start=1):
        fid = str(number)
        file[fid] = {"fid": fid, "fname": f"{video}.mp4", "type": 4, "loc": 1, "src": ""}
        view[fid] = {"fid_list": [fid]}
        for _, second, person, box, actions in found:
            x1, y1, x2, y2 = pixels(box)
            metadata[f"{fid}_{len(metadata)}"] = {
                "vid": fid,
                "flg": 0,
                "z": [second - start],
                "xy": [2, *(round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1))],
                "av": {"1": ",".join(map(str, actions)), "2": str(person)},
            }
    document = {"project": {}, "config": {}, "attribute": attribute, "file": file, "view": view}
    return [_json(folder / "via3.json", document | {"metadata": metadata})]


def to_coco(rows, names, rate, start, folder):
    """Write one file: images VIDEO_000123.jpg, and an annotation for each action."""
    images, annotations = {}, []
    for video, second, person, box, actions in persons(rows):
        name = f"{video}_{round((second - start) * rate):06d}.jpg"
        image = images.setdefault(
            name, {"id": len(images) + 1, "file_name": name, "width": WIDTH, "height": HEIGHT}
        )
        x1, y1, x2, y2 = pixels(box)
        bbox = [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]
        annotations += [
            {"id": len(annotations) + k, "image_id": image["id"], "category_id": action, "bbox": bbox}
            | {"track_id": person}
            for k, action in enumerate(actions)
        ]
    categories = [{"id": i, "name": name} for i, name in names.items()]
    document = {"images": list(images.values()), "annotations": annotations, "categories": categories}
    return [_json(folder / "coco.json", document)]


def to_labelstudio(rows, names, rate, start, folder):
    """Write one file: a region of one frame for each box, its actions as choices, the person as a number."""
    tasks = []
    for video, found in by_video(rows):
        result = []
        for number, (_, second, person, (x1, y1, x2, y2), actions) in enumerate(found):
            frame = round((second - start) * rate) + 1
            entry = {"frame": frame, "enabled": False, "rotation": 0, "time": (frame - 1) / rate}
            entry |= {"x": 100 * x1, "y": 100 * y1, "width": 100 * (x2 - x1), "height": 100 * (y2 - y1)}
            value = {"framesCount": 10 * rate, "duration": 10.0, "sequence": [entry], "labels": ["Person"]}
            common = {"id": f"r{number}", "to_name": "video"}
            result += [
                common | {"type": "videorectangle", "from_name": "box", "value": value},
                common
                | {
                    "type": "choices",
                    "from_name": "action",
                    "value": {"choices": [names[i] for i in actions]},
                },
                common | {"type": "number", "from_name": "person_id", "value": {"number": person}},
            ]
        tasks.append(
            {
                "id": len(tasks),
                "data": {"video": f"/data/upload/1/0123abcd-{video}.mp4"},
                "annotations": [{"id": 1, "was_cancelled": False, "result": result}],
            }
        )
    return [_json(folder / "labelstudio.json", tasks)]


def _json(path, document):
    path.write_text(json.dumps(document))
    return path


EXPORTERS = {"cvat": to_cvat, "via3": to_via3, "coco": to_coco, "labelstudio": to_labelstudio}
