"""Fuzz tests of the annotation readers: any file is either read correctly, or rejected with file and line."""

import gzip
import json
import os
import pickle
import re
import zlib
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_det.formats.ava_csv import LabelMap, read_action_csv, read_excluded_keyframes
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError

FUZZ = settings(
    derandomize=True,
    database=None,
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = [
    *("0", "1", "12", "0902", "902.5", "+1", "-1", "-0", "1.", ".5", "1e0", "1e-400", "1e400", "9" * 30),
    *("0" * 30 + "1", "9" * 5000, "0" * 5000 + "1", "2147483647", "2147483648", "-2147483648", "1_0"),
    *("nan", "NaN", "inf", "-Infinity", "0x1", "0x1p-1", "1d", "1,5", "true", "None", "٣", "½", "²", "１"),
]
TEXTS = [
    *("", " ", "\t", "\x00", "\x1f", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u00a0", "\ufeff", "\u200b"),
    *('"', '""', '"a,b"', "'", "#", "%s", "{}", "\\", "é", "e\u0301", "😀", "\u202e", "vid", "-", "a b"),
]
NASTY = st.sampled_from(NUMBERS + TEXTS) | st.text(max_size=3)
VALUES = {
    "ground_truth": ("vid", "0902", "0.1", "0.2", "0.3", "0.4", "12", "7"),
    "detections": ("vid", "0902", "0.1", "0.2", "0.3", "0.4", "12", "0.75"),
    "persons": ("vid", "0902", "0.1", "0.2", "0.3", "0.4", "", "0.75"),
    "persons, 7 columns": ("vid", "0902", "0.1", "0.2", "0.3", "0.4", "0.75"),
    "excluded": ("vid", "0902"),
}
# Errors without a line number.
WITHOUT_LINE = r"(expected at least one row|cannot be read: )"


@st.composite
def broken_lines(draw, kind):
    """Generate a valid line with a few fields replaced, dropped, duplicated or swapped."""
    fields = list(VALUES[kind])
    for _ in range(draw(st.integers(0, 3))):
        i = draw(st.integers(0, max(len(fields) - 1, 0)))
        change = draw(st.sampled_from(["replace", "around", "drop", "double", "swap", "blank", "cut"]))
        if not fields:
            break
        if change == "replace":
            fields[i] = draw(NASTY)
        elif change == "around":
            fields[i] = draw(NASTY) + fields[i] + draw(NASTY)
        elif change == "drop":
            del fields[i]
        elif change == "double":
            fields.insert(i, fields[i])
        elif change == "swap":
            fields[i], fields[0] = fields[0], fields[i]
        elif change == "blank":
            fields[i:] = [""] * (len(fields) - i)
        else:
            del fields[i:]
    return ",".join(fields)


@st.composite
def broken_files(draw, kind):
    """Generate the bytes of a file in which a line or the compression may be corrupt."""
    good = ",".join(VALUES[kind])
    lines = draw(st.lists(st.just(good) | broken_lines(kind), min_size=0, max_size=4))
    content = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"])).join(lines)
    content = draw(st.sampled_from(["", "\ufeff"])) + content + draw(st.sampled_from(["", "\n", "\r\n"]))
    data = content.encode("utf-8", "surrogatepass")
    damage = draw(st.sampled_from(["none", "none", "none", "byte", "gzip", "cut gzip", "corrupt gzip"]))
    if "gzip" in damage:
        data = gzip.compress(data, mtime=0)
    if damage == "cut gzip":
        data = data[: draw(st.integers(0, len(data)))]
    if damage in ("byte", "corrupt gzip") and data:
        i = draw(st.integers(0, len(data) - 1))
        data = data[:i] + bytes([draw(st.integers(0, 255))]) + data[i + 1 :]
    return data


def outcome(read, path, other_path=None):
    """Return the result of `read`, or the message of its DataError, which must start with a path."""
    try:
        return read(path)
    except DataError as error:
        message = str(error)
        assert message.startswith((f"{path}:", f"{other_path}:"))
        assert len(message) < len(str(path)) + 400
        return message


def columns_of(rows):
    return {name: values.tolist() for name, values in vars(rows).items()}


def line_parser(read):
    """Return the reader without its fast parser."""

    def slow(path):
        with (
            mock.patch("vmae_det.formats.ava_csv.try_read_columns", return_value=None),
            mock.patch("vmae_det.formats.person_boxes.try_read_columns", return_value=None),
        ):
            return read(path)

    return slow


READERS = {
    "ground_truth": lambda path: read_action_csv(path, kind="ground_truth"),
    "detections": lambda path: read_action_csv(path, kind="detections"),
    "persons": read_person_boxes,
    "persons, 7 columns": read_person_boxes,
}


@pytest.mark.parametrize("kind", READERS)
def test_fast_and_line_parsers_agree_on_any_csv(tmp_path, kind):
    path, read = tmp_path / "f.csv", READERS[kind]

    @FUZZ
    @given(broken_files(kind))
    def check(data):
        path.write_bytes(data)
        quick, slow = outcome(read, path), outcome(line_parser(read), path)
        if isinstance(slow, str):
            assert quick == slow
            assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", slow)
            assert re.match(r":\d+: ", slow.removeprefix(str(path))) or re.search(WITHOUT_LINE, slow)
        else:
            assert not isinstance(quick, str), quick
            # repr, because NaN does not equal itself.
            assert repr(columns_of(quick)) == repr(columns_of(slow))

    check()


@pytest.mark.parametrize("kind", ["ground_truth", "detections", "persons"])
def test_parsers_agree_on_unusual_values_in_every_column(tmp_path, kind):
    path, read, good = tmp_path / "f.csv", READERS[kind], VALUES[kind]
    accepted = 0
    for column in range(8):
        for value in NUMBERS + TEXTS:
            fields = [*good[:column], value, *good[column + 1 :]]
            path.write_text(f"{','.join(good)}\n{','.join(fields)}\n", newline="")
            quick, slow = outcome(read, path), outcome(line_parser(read), path)
            if isinstance(slow, str):
                assert quick == slow
            else:
                assert repr(columns_of(quick)) == repr(columns_of(slow))
                accepted += 1
    assert accepted > 50


@pytest.mark.parametrize("magic", [b"x\x01", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd"])
def test_compression_other_than_gzip_is_rejected(tmp_path, magic):
    path, data = tmp_path / "f.csv", ",".join(VALUES["detections"]).encode()
    if magic[:1] == b"x":
        level = {1: 1, 0x9C: 6, 0xDA: 9}[magic[1]]
        path.write_bytes(zlib.compress(data, level))
    else:
        pl.DataFrame([VALUES["detections"]], orient="row").write_csv(
            path, include_header=False, compression="zstd", check_extension=False
        )
    assert path.read_bytes().startswith(magic)
    with pytest.raises(DataError, match=r"f\.csv"):
        read_action_csv(path, kind="detections")


@pytest.mark.parametrize("kind", [*READERS, "excluded"])
def test_broken_line_is_reported_or_parsed_as_in_python(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("vmae_det.formats.person_boxes._merge_duplicates", lambda persons, path: persons)
    path, read = tmp_path / "f.csv", READERS.get(kind, read_excluded_keyframes)
    good = ",".join(VALUES[kind])

    @FUZZ
    @given(broken_lines(kind), st.integers(0, 3))
    def check(line, before):
        if "\n" in line:
            return
        path.write_bytes("\n".join([*[good] * before, line, good]).encode("utf-8", "surrogatepass"))
        result = outcome(read, path)
        if isinstance(result, str):
            assert result.startswith(f"{path}:{before + 1}: ")
            return
        fields = [field.strip() for field in (line if before else line.lstrip("\ufeff")).strip().split(",")]
        if kind == "excluded":
            expected = {("vid", 902.0)} | ({(fields[0], float(fields[1]))} if any(fields) else set())
            assert result == expected
            return
        assert len(result) == before + 1 + any(fields)
        if any(fields):
            assert result.videos[result.video[before]] == fields[0]
            assert result.timestamp[before] == float(fields[1])
            if any(fields[2:]):
                assert result.boxes[before].tolist() == [float(value) for value in fields[2:6]]
            if kind == "ground_truth" and any(fields[2:]):
                assert result.action[before] == int(fields[6])
                assert result.person[before] == (int(fields[7]) if len(fields) == 8 else -1)
            if kind == "detections" and len(fields) == 8 and any(fields[2:]):
                assert result.score[before] == float(fields[7])
            if kind.startswith("persons"):
                assert result.score[before] == float(fields[-1])

    check()


LABELS = 'item {\n  name: "sit"\n  id: 11\n}\nlabel {\n  name: "bend"\n  label_id: 1\n  label_type: POSE\n}\n'


def mutations(text):
    """Generate a text with a few parts removed, duplicated or replaced."""

    @st.composite
    def mutate(draw):
        result = text
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(result)))
            end = draw(st.integers(start, min(len(result), start + 12)))
            new = draw(
                st.just("") | NASTY | st.sampled_from(["{", "}", "[", "]", ":", ",", '"', "\n", "item {"])
            )
            piece = result[start:end]
            result = result[:start] + draw(st.sampled_from([new, piece * 2, piece + new])) + result[end:]
        return result

    return mutate()


def test_any_label_map_is_read_or_rejected_with_its_line(tmp_path):
    path = tmp_path / "map.pbtxt"

    @FUZZ
    @given(mutations(LABELS))
    def check(text):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        result = outcome(LabelMap.from_file, path)
        if isinstance(result, str):
            assert (
                re.match(r":\d+: ", result.removeprefix(str(path))) or "entries" in result or "UTF" in result
            )
            return
        assert len(result.ids) == len(set(result.ids)) == len(set(result.names)) > 0
        assert all(0 < i < 10**6 for i in result.ids)
        assert result.columns(np.array(result.ids)).tolist() == list(range(len(result)))

    check()


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 5000, "1" * 10, "٣"])
def test_huge_id_is_rejected(tmp_path, digits):
    path = tmp_path / "map.pbtxt"
    path.write_text(f'item {{ name: "a" id: {digits} }}')
    with pytest.raises(DataError, match=r":1: id must be an integer"):
        LabelMap.from_file(path)


IMAGES = [{"id": 7, "movie": "vid", "timestamp": 902, "width": 640, "height": 360}]
BOXES = [{"image_id": 7, "category_id": 1, "bbox": [64, 72, 128, 72], "score": 0.75}]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NASTY | st.sampled_from([10**400, -(10**30)]),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(NASTY, children, max_size=3),
    max_leaves=6,
)


@st.composite
def broken_json(draw):
    """Generate person boxes with some values of wrong types."""
    content = json.loads(json.dumps({"images": IMAGES, "annotations": BOXES}))
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from([content, content.get("images"), content.get("annotations")]))
        if isinstance(holder, list) and holder and draw(st.booleans()):
            holder = holder[0]
        if isinstance(holder, dict) and isinstance(holder.get("bbox"), list) and draw(st.booleans()):
            holder = holder["bbox"]
        value = draw(JSON_VALUES)
        if isinstance(holder, dict):
            holder[draw(st.sampled_from([*holder, "more"]))] = value
        elif isinstance(holder, list) and holder:
            holder[draw(st.integers(0, len(holder) - 1))] = value
    return content


def assert_valid(persons):
    assert all(isinstance(name, str) and name for name in persons.videos)
    assert np.isfinite(persons.boxes).all()
    assert ((persons.boxes[:, :2] < persons.boxes[:, 2:]).all(axis=1)).all()
    assert ((persons.score >= 0) & (persons.score <= 1) & (persons.timestamp >= 0)).all()


def test_json_of_any_types_is_read_or_rejected(tmp_path):
    path = tmp_path / "p.json"

    @FUZZ
    @given(broken_json())
    def check(content):
        path.write_text(json.dumps(content))
        result = outcome(read_person_boxes, path)
        if not isinstance(result, str):
            assert_valid(result)

    check()


def corrupt(packed, where):
    """Return the data truncated, or with one byte changed."""
    where %= len(packed)
    return packed[:where] + (b"\xff" + packed[where + 1 :] if where % 2 else b"")


def test_corrupt_json_text_is_read_or_rejected(tmp_path):
    path, images = tmp_path / "p.json", tmp_path / "images.json"
    images.write_text(json.dumps({"images": IMAGES}))
    readers = [read_person_boxes, lambda path: read_person_boxes(path, images)]
    both = json.dumps({"images": IMAGES, "annotations": BOXES}, indent=1)

    @FUZZ
    @given(mutations(both) | mutations(json.dumps(BOXES)), st.sampled_from(readers), st.booleans())
    def check(text, read, pack):
        data = text.encode("utf-8", "surrogatepass")
        path.write_bytes(corrupt(gzip.compress(data, mtime=0), len(text)) if pack else data)
        result = outcome(read, path, images)
        if not isinstance(result, str):
            assert_valid(result)

    check()


@pytest.mark.parametrize("depth", [100, 900, 990, 100_000])
def test_deeply_nested_json_is_rejected(tmp_path, depth):
    path = tmp_path / "p.json"
    nested = "[" * depth + "]" * depth
    path.write_text(
        json.dumps({"images": IMAGES, "annotations": [{**BOXES[0], "score": 0}]}).replace(
            '"score": 0', f'"score": {nested}'
        )
    )
    assert "p.json: " in outcome(read_person_boxes, path)


class Runs:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@st.composite
def broken_pickles(draw, folder):
    """Generate pickles of proposals with unusual objects, or with bytes changed, removed and duplicated."""
    table = np.array([[0.1, 0.2, 0.3, 0.4, 0.75]], dtype=draw(st.sampled_from(["f4", "f8", "i4", "f2"])))
    odd = st.sampled_from(
        [
            *(None, 1, 10**5000, "text", b"bytes", [], {}, (), {1}, 1j, 0.5, np.float32(1), np.zeros(5)),
            *(
                np.zeros((0, 5)),
                np.array(["a"]),
                np.array([None]),
                np.zeros((2, 5), bool),
                np.full((1, 5), 9e99),
            ),
            *(
                np.zeros((2, 0)),
                np.full((1, 5), np.nan),
                np.dtype("f4"),
                np.ndarray,
                Runs(folder),
                table.T,
                table,
            ),
        ]
    )
    keys = st.sampled_from(
        ["vid,0902", "vid", ",1", "a,b,3", "vid,nan", 1, None, (1, 2), 10**5000, b"vid,0902"]
    )
    content = draw(st.dictionaries(keys, odd | st.just(table), max_size=3) | odd)
    data = pickle.dumps(content, protocol=draw(st.integers(2, pickle.HIGHEST_PROTOCOL)))
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 4)))
        data = data[:start] + draw(st.binary(max_size=3)) + data[end:]
    return data


def test_any_pickle_is_read_or_rejected_and_none_is_executed(tmp_path):
    path, trace = tmp_path / "p.pkl", tmp_path / "trace"

    @FUZZ
    @given(broken_pickles(trace))
    def check(data):
        path.write_bytes(data)
        result = outcome(read_person_boxes, path)
        assert not trace.exists()
        if not isinstance(result, str):
            assert_valid(result)

    check()


def test_pickle_cannot_allocate_more_memory_than_its_size(tmp_path):
    path = tmp_path / "p.pkl"
    path.write_bytes(b"\x80\x05" + pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little") + b"ab.")
    with mock.patch("builtins.bytearray") as allocate:
        assert "not a pickle of person boxes" in outcome(read_person_boxes, path)
    allocate.assert_called_once_with(b"ab.")


def test_pickle_cannot_modify_the_reader(tmp_path):
    path = tmp_path / "p.pkl"
    state = b"}\x8c\x0c__defaults__\x8c\x01as"
    path.write_bytes(b"\x80\x04c_codecs\nencode\nN" + state + b"\x86b.")
    assert "expected to set the state of an array, got another object" in outcome(read_person_boxes, path)
