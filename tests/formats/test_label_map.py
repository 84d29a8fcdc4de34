import time
from pathlib import Path

import numpy as np
import pytest

from vmae_det.data.catalog import read_dataset_file
from vmae_det.formats.label_map import LabelMap, builtin_label_maps, suggest_label_map, write_label_map
from vmae_det.utils.errors import DataError

SHARED = Path(__file__).parents[3] / "shared"
LABEL_MAP = LabelMap((1, 3, 12), ("bend", "crouch", "stand"), ("", "", ""))


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_both_pbtxt_forms_are_read_in_file_order(tmp_path):
    item = write(
        tmp_path / "item.pbtxt",
        'item {\n  name: "watch (a person)"\n  id: 80\n}',
        'item { name: "sit" id: 11 }',
    )
    assert LabelMap.from_file(item) == LabelMap((80, 11), ("watch (a person)", "sit"), ("", ""))
    label = 'label {\n  name: "sit"\n  label_id: 11\n  label_type: PERSON_MOVEMENT\n}'
    assert LabelMap.from_file(write(tmp_path / "label.pbtxt", "# comment", label)).kinds == (
        "PERSON_MOVEMENT",
    )


def test_list_of_ids_and_names(tmp_path):
    path = write(tmp_path / "list.txt", "# actions", "1: bend/bow", "", "3: 'sit: low'", "12 : run (a // b)")
    names = ("bend/bow", "sit: low", "run (a // b)")
    assert LabelMap.from_file(path) == LabelMap((1, 3, 12), names, ("",) * 3)
    for separator in ("\t", " ", ", ", ","):
        path = write(tmp_path / "list.txt", *(f"{i}{separator}{name}" for i, name in zip((1, 3, 12), names)))
        assert LabelMap.from_file(path).names == names
    with pytest.raises(DataError, match=":1: expected item"):  # a CSV file of boxes
        LabelMap.from_file(write(tmp_path / "boxes.csv", "1,902,0.1,0.2,0.3,0.4,12"))


def test_single_quotes_comments_and_escapes(tmp_path):
    text = r"""item { name: 'a // "b" # c' id: 1 } // the first
    item { name: "it's \"x\" caf\303\251 \xc3\xa9t\xc3\xa9\n\\ \q" id: 2 } # the second"""
    path = write(tmp_path / "map.pbtxt", text)
    names = ('a // "b" # c', 'it\'s "x" café été \\ \\q')
    assert LabelMap.from_file(path).names == names
    write_label_map(tmp_path / "again.pbtxt", LabelMap.from_file(path))
    assert LabelMap.from_file(tmp_path / "again.pbtxt").names == names


@pytest.mark.parametrize(
    "text",
    [
        "a{0}b",
        "item{0}x",
        "item{0}:{0}x",
        "item {{ name{0}id: 1 }}",
        "item {{ name:{0}",
        "1{0}2",
        "1:{0}",
        "{1}",
        "1{1}:",
        'item {{ name: "{2}',
        "item {{ name: {1}{0}x }}",
        'item {{ name: "{0} id: 1 }}',
        "{3}",
    ],
)
def test_malformed_label_maps_are_rejected_in_linear_time(tmp_path, text):
    path = write(
        tmp_path / "map.pbtxt", text.format(" " * 200_000, "1" * 200_000, "\\" * 200_000, "a : {" * 40_000)
    )
    start = time.monotonic()
    with pytest.raises(DataError):
        LabelMap.from_file(path)
    assert time.monotonic() - start < 5


def test_columns_of_known_and_unknown_ids():
    assert LABEL_MAP.columns(np.array([12, 1, 3, 2, -1, 0, 99, 10**9])).tolist() == [
        2,
        0,
        1,
        -1,
        -1,
        -1,
        -1,
        -1,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', r":2: duplicate id 1, first used in line 1"),
        ('item { name: "a" id: 1 }\nitem { name: "a" id: 2 }', r":2: duplicate name 'a'"),
        ('item {\n  name: "a"\n}', r":1: expected item .* got an entry without id"),
        ("item {\n  id: 1\n}", r":1: expected item .* got an entry without name"),
        ('item {\n  name: "a"\n  id: one\n}', r":1: id must be an integer of 1 or more, got 'one'"),
        ('item { name: "a" id: 0 }', r"id must be an integer from 1"),
        ('item { name: "a"\nitem { name: "b" id: 2 }', r":2: expected item"),
        ('item { name: "a"\n id: 1', r":1: expected a closing brace"),
        ("1-bend\n2-sit", r":1: expected item"),
        ("item { name: ' ' id: 1 }", r":1: the name is empty"),
        ("", r"expected entries item .*, got none"),
    ],
)
def test_invalid_label_map_is_reported_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        LabelMap.from_file(write(tmp_path / "map.pbtxt", text))


SIZES = {
    "ava_v2.2": 80,
    "ava_v2.2_scored": 60,
    "kinetics400": 400,
    "kinetics400_umt": 400,
    "kinetics600": 600,
    "kinetics700": 700,
    "kinetics710": 710,
    "ssv2": 174,
}


def test_builtin_label_maps():
    assert {name: len(LabelMap.builtin(name)) for name in builtin_label_maps()} == SIZES
    for name, size in SIZES.items():
        if name != "ava_v2.2_scored":
            assert LabelMap.builtin(name).ids == tuple(range(1, size + 1))
    for name in ("kinetics400", "kinetics600", "kinetics700", "ssv2"):
        assert list(LabelMap.builtin(name).names) == sorted(LabelMap.builtin(name).names)
    umt, union = LabelMap.builtin("kinetics400_umt").names, LabelMap.builtin("kinetics710").names[:400]
    assert sorted(umt) == sorted(LabelMap.builtin("kinetics400").names)
    # UMT starts on Kinetics-400 from the first 400 outputs for Kinetics-710, of which 13 are renamed.
    assert sum(ours != theirs for ours, theirs in zip(umt, union)) == 13


def test_builtin_classes_of_ava():
    actions, scored = LabelMap.builtin("ava_v2.2"), LabelMap.builtin("ava_v2.2_scored")
    assert actions.select(actions.columns(np.array(scored.ids))) == scored
    # Table 1 of Gu et al., 2018: 14 poses, 49 interactions with objects and 17 with persons.
    kinds = ("PERSON_MOVEMENT", "OBJECT_MANIPULATION", "PERSON_INTERACTION")
    assert [actions.kinds.count(kind) for kind in kinds] == [14, 49, 17]
    some = {1: "bend/bow (at the waist)", 12: "stand", 16: "brush teeth", 80: "watch (a person)"}
    assert {number: dict(zip(actions.ids, actions.names))[number] for number in some} == some
    official = SHARED / "golden" / "ava_eval" / "ava_action_list_v2.1_for_activitynet_2018.pbtxt"
    if official.exists():  # v2.2 has the same classes
        found = LabelMap.from_file(official)
        assert (found.ids, found.names) == (scored.ids, scored.names)


def test_builtin_names_instead_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert LabelMap.from_file("ava_v2.2") == LabelMap.builtin("ava_v2.2")
    with pytest.raises(DataError, match=r"no such file or built-in label map; did you mean 'ava_v2\.2'"):
        LabelMap.from_file("ava_v2.3")
    with pytest.raises(DataError, match=r"no such built-in.* expected one of: ava_v2\.2, .*ssv2"):
        LabelMap.builtin("words")
    with pytest.raises(DataError, match=r"no such file or built-in label map"):
        LabelMap.from_file("x" * 300)
    with pytest.raises(DataError, match=r"map\.pbtxt: no such file$"):
        LabelMap.from_file("map.pbtxt")
    (tmp_path / "ssv2").mkdir()
    assert len(LabelMap.from_file("ssv2")) == 174
    write_label_map(tmp_path / "ava_v2.2", LABEL_MAP)  # a file has precedence
    assert LabelMap.from_file("ava_v2.2") == LABEL_MAP
    assert suggest_label_map(80) == ", such as ava_v2.2"
    assert suggest_label_map(400) == ", such as kinetics400 or kinetics400_umt"
    assert suggest_label_map(3) == ""


def test_builtin_names_in_a_dataset_file(tmp_path):
    (tmp_path / "val.csv").touch()
    text = (
        "{type: detection, videos: ., annotations: val.csv, label_map: %s, scored_classes: ava_v2.2_scored}"
    )
    (tmp_path / "val.yaml").write_text(text % "ava_v2.2")
    spec = read_dataset_file(tmp_path / "val.yaml")
    assert [len(LabelMap.from_file(path)) for path in (spec.label_map, spec.scored_classes)] == [80, 60]
    (tmp_path / "val.yaml").write_text(text % "ava_v2.1")
    with pytest.raises(DataError, match=r"label_map: .*ava_v2\.1 does not exist"):
        read_dataset_file(tmp_path / "val.yaml")
