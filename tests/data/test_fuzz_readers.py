"""No file, however broken, gives anything but its content or a DataError that names it and, where it has
lines, the line."""

import gzip
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vmae_det.data import annotations, person_boxes
from vmae_det.data.annotations import read_action_csv, read_excluded
from vmae_det.data.label_map import LabelMap
from vmae_det.data.person_boxes import read_person_boxes
from vmae_det.data.tubes import read_tubes
from vmae_det.utils.errors import DataError

quick = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Fields that a number or a name may become.
NASTY = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1.5",
        "5.0",
        "5e0",
        "+5",
        ".5",
        "5.",
        "0x10",
        "1_000",
        "1e400",
        "-1e400",
        "1e-400",
    ),
    *("nan", "NaN", "inf", "-Infinity", "null", "None", "true", "99999999999", "2147483648", "9" * 400),
    *(
        '"0.5"',
        '"',
        "'",
        "a b",
        "é",
        "٣",
        "１",
        "\ufeff",
        "\u2028",
        "\x00",
        "\r",
        "\t0.5",
        "0.5\x0b",
        "\x85",
        "0,5",
    ),
    *("-0", "00902", "1e9", "1e10", "1.0001", "-0.0001", "0.5;", "#"),
)
LINES = {
    "ground_truth": [
        "a,0902,0.1,0.2,0.5,0.9,12,0",
        "b c,903.5,0,0.0,1,1.0,3,17",
        "a,0904",
        "é,1,0,0,.5,1e0,80,2",
    ],
    "detections": [
        "a,0902,0.1,0.2,0.5,0.9,12,0.25",
        "b,903,-0.01,0,1.01,1,3,7.5",
        "a,0904,0.5,0.5,0.5,0.5,1,-1e-3",
    ],
    "persons": ["a,0902,0.1,0.2,0.5,0.9,,0.25", "b,903,-0.01,0,1.01,1,12,1", "a,0904,0,0,0.5,0.5,x,0"],
    "excluded": ["a,0902", "b,0903.5", "a,904"],
    "tubes": ["a,1,run,0.5,3,0,0,10.5,10", "a,1,run,0.5,4,0,0,10,10", "b,-2,sit down,1e-3,0,5,5,5,9"],
}


@st.composite
def mutated(draw, lines):
    """The bytes of a file made of valid lines, broken in a few places."""
    rows = [line.split(",") for line in draw(st.lists(st.sampled_from(lines), min_size=1, max_size=5))]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        i = draw(st.integers(0, max(len(row) - 1, 0)))
        operation = draw(
            st.sampled_from(["drop", "repeat", "swap", "replace", "replace", "blank", "clear", "text"])
        )
        if operation == "drop":
            del row[i:][:1], row[i : i + 1]
        elif operation == "repeat":
            row.insert(i, row[i] if row else "")
        elif operation == "swap" and row:
            j = draw(st.integers(0, len(row) - 1))
            row[i], row[j] = row[j], row[i]
        elif operation == "replace" and row:
            row[i] = draw(st.sampled_from(NASTY))
        elif operation == "text" and row:
            row[i] = draw(st.text(max_size=5))
        elif operation == "clear":
            row[i:] = [""] * len(row[i:])
        elif operation == "blank":
            rows.insert(rows.index(row), [""])
    ends = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    text = ends.join(",".join(row) for row in rows) + draw(st.sampled_from(["", ends]))
    content = draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\n"])) + text.encode("utf-8", "replace")
    return draw(packed_or_torn(content))


def packed_or_torn(content):
    """The bytes themselves, mostly; or packed, cut short, or with a byte that does not belong there."""
    cut = st.integers(0, max(len(content), 1))
    torn = st.builds(
        lambda at, byte: content[:at] + bytes([byte]) + content[at + 1 :], cut, st.integers(0, 255)
    )
    packed = gzip.compress(content, mtime=0)
    return st.one_of(
        st.just(content),
        st.just(content),
        cut.map(lambda at: content[:at]),
        torn,
        st.just(packed),
        st.just(packed + gzip.compress(content, mtime=0)),
        st.integers(1, len(packed)).map(lambda at: packed[:-at]),
        st.builds(
            lambda at, byte: packed[:at] + bytes([byte]) + packed[at + 1 :],
            st.integers(0, len(packed) - 1),
            st.integers(0, 255),
        ),
    )


def outcome(read, path, *, has_lines):
    """What a reader gives; or None where it refuses the file, as it should."""
    try:
        return read(path)
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message) < len(str(path)) + 400
        whole = ("holds no", "cannot be read", "no such file")
        assert (
            not has_lines
            or re.match(r":\d+: ", message[len(str(path)) :])
            or any(w in message for w in whole)
        )
        return None


def assert_same(one, other, fields):
    for name in fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def plain_rows(content):
    """The fields of each line that is not blank, taken apart without the readers."""
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    rows = [[field.strip() for field in line.split(",")] for line in text.split("\n")]
    return [row for row in rows if any(row)]


ACTION_FIELDS = ("videos", "video", "timestamp", "boxes", "action", "score", "person")


@pytest.mark.parametrize("kind", ["ground_truth", "detections"])
@quick
@given(data=st.data())
def test_action_csv(tmp_path, kind, data):
    content = data.draw(mutated(LINES[kind]))
    path = tmp_path / "actions.csv"
    path.write_bytes(content)
    rule = annotations._BOX_RULES[kind]
    rows = outcome(lambda file: read_action_csv(file, kind=kind), path, has_lines=True)
    careful = outcome(
        lambda file: annotations._read_line_by_line(file, kind, rule, None), path, has_lines=True
    )
    assert (rows is None) == (careful is None), "the two readers disagree on what is sound"
    if rows is None:
        return
    assert_same(rows, careful, ACTION_FIELDS)
    expected = plain_rows(content)
    assert rows.videos[rows.video].tolist() == [row[0] for row in expected]
    assert rows.timestamp.tolist() == [float(row[1]) for row in expected]
    for i, row in enumerate(expected):
        if any(row[2:]):
            assert rows.boxes[i].tolist() == [float(value) for value in row[2:6]]
            assert rows.action[i] == int(row[6])
            given_value = float(row[7]) if len(row) == 8 else None
            last = rows.score if kind == "detections" else rows.person
            assert given_value is None or last[i] == given_value
        else:
            assert np.isnan(rows.boxes[i]).all()
            assert rows.action[i] == -1


@quick
@given(data=st.data())
def test_person_csv(tmp_path, data):
    content = data.draw(mutated(LINES["persons"]))
    path = tmp_path / "persons.csv"
    path.write_bytes(content)
    rows = outcome(read_person_boxes, path, has_lines=True)
    careful = outcome(person_boxes._read_line_by_line, path, has_lines=True)
    assert (rows is None) == (careful is None), "the two readers disagree on what is sound"
    if rows is not None:
        assert_same(rows, careful, ("videos", "video", "timestamp", "boxes", "score"))
        expected = plain_rows(content)
        assert rows.videos[rows.video].tolist() == [row[0] for row in expected]
        assert rows.boxes.tolist() == [[float(value) for value in row[2:6]] for row in expected]
        assert rows.score.tolist() == [float(row[-1]) for row in expected]


@quick
@given(content=mutated(LINES["excluded"]))
def test_excluded_keyframes(tmp_path, content):
    path = tmp_path / "excluded.csv"
    path.write_bytes(content)
    found = outcome(read_excluded, path, has_lines=True)
    if found is not None:
        assert found == {(row[0], float(row[1])) for row in plain_rows(content)}


@quick
@given(content=mutated(LINES["tubes"]))
def test_tubes(tmp_path, content):
    path = tmp_path / "tubes.csv"
    path.write_bytes(content)
    tubes = outcome(lambda file: read_tubes(file, "detections"), path, has_lines=True)
    if tubes is not None:
        expected = plain_rows(content)
        assert tubes.video[tubes.tube].tolist() == [row[0] for row in expected]
        assert tubes.label[tubes.tube].tolist() == [row[2] for row in expected]
        assert tubes.score[tubes.tube].tolist() == [float(row[3]) for row in expected]
        assert tubes.frame.tolist() == [int(row[4]) for row in expected]
        assert tubes.boxes.tolist() == [[float(value) for value in row[5:]] for row in expected]


TOKENS = (
    *("item {", "label{", "item: {", "}", "{", "\n", " ", 'name: "sit"', 'name: "stand; lie"', "name: sit"),
    *(
        "id: 1",
        "id: 2",
        "label_id: 3",
        "id: -1",
        "id: 1.5",
        "id: 99999999999999999999",
        "id: ٣",
        "id:",
        "id: 0",
    ),
    *(
        "label_type: OBJECT",
        "# note",
        '"',
        "\x00",
        "\ufeff",
        "é",
        ",",
        "name:",
        'name: "a\nb"',
        "other { id: 1 }",
    ),
)


@quick
@given(pieces=st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=14), data=st.data())
def test_label_map(tmp_path, pieces, data):
    sound = 'item {\n  name: "walk"\n  id: 7\n}\n' if data.draw(st.booleans()) else ""
    content = data.draw(packed_or_torn((sound + " ".join(pieces)).encode("utf-8", "replace")))
    path = tmp_path / "map.pbtxt"
    path.write_bytes(content)
    labels = outcome(LabelMap.from_file, path, has_lines=False)
    if labels is not None:
        assert len(set(labels.ids)) == len(set(labels.names)) == len(labels.kinds) == len(labels) > 0
        assert labels.columns(np.array(labels.ids)).tolist() == list(range(len(labels)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def broken_json(draw):
    """A person-box file with some of its values replaced, as bytes."""
    content = {
        "images": [
            {"id": i, "movie": "ab"[i], "timestamp": 902, "width": 640, "height": 360} for i in range(2)
        ],
        "annotations": [{"image_id": 1, "bbox": [64, 36, 64, 36], "score": 0.5} for _ in range(2)],
    }
    for _ in range(draw(st.integers(0, 2))):
        holder = draw(st.sampled_from([content, *content.get("images", []), *content.get("annotations", [])]))
        if isinstance(holder, dict) and holder:
            key = draw(st.sampled_from(sorted(holder)))
            if key == "bbox" and draw(st.booleans()):
                holder[key] = [draw(json_values), *holder[key][1:]]
            elif holder is content:
                holder[key] = draw(st.lists(json_values, max_size=2))
            elif draw(st.booleans()):
                holder[key] = draw(json_values)
            else:
                del holder[key]
    return draw(packed_or_torn(json.dumps(content).encode()))


@quick
@given(content=broken_json())
@example(b"[" * 100_000)
@example(b"9" * 5_000)
def test_person_json(tmp_path, content):
    path = tmp_path / "persons.json"
    path.write_bytes(content)
    rows = outcome(read_person_boxes, path, has_lines=False)
    if rows is not None:
        assert_sound(rows)


@st.composite
def broken_pickle(draw):
    """A table of proposals with entries of wrong kinds, or broken bytes."""
    sound = np.array([[0.1, 0.2, 0.5, 0.9, 0.5]])
    values = st.one_of(
        st.just(sound),
        st.just(sound.astype(np.float32)),
        st.just(np.zeros((0, 5))),
        st.lists(st.floats(-1, 2), min_size=5, max_size=5).map(lambda row: np.array([row])),
        st.sampled_from([np.inf, np.nan, 1e300]).map(lambda value: sound * value),
        json_values,
        st.just(np.array(["a"])),
        st.just(sound[0]),
        st.just(sound[None]),
    )
    keys = st.sampled_from(["a,0902", "b,0903", "a", ",", "a,nan", "a,-1", "a,1e300", 7, "a,b,0902"])
    content = pickle.dumps(
        draw(st.dictionaries(keys, values, max_size=3)),
        protocol=draw(st.integers(0, pickle.HIGHEST_PROTOCOL)),
    )
    return draw(packed_or_torn(content))


@quick
@given(content=broken_pickle())
def test_person_pickle(tmp_path, content):
    path = tmp_path / "persons.pkl"
    path.write_bytes(content)
    rows = outcome(read_person_boxes, path, has_lines=False)
    if rows is not None:
        assert_sound(rows)


def assert_sound(rows):
    assert len(rows.boxes) == len(rows.score) == len(rows.timestamp) == len(rows.video)
    assert np.isfinite(rows.boxes).all()
    assert ((rows.score >= 0) & (rows.score <= 1)).all()
    assert (rows.boxes[:, :2] < rows.boxes[:, 2:]).all()
    assert ((rows.timestamp >= 0) & (rows.timestamp <= 1e9)).all()
    assert all(isinstance(name, str) and name for name in rows.videos)
