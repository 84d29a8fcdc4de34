import multiprocessing
import os
import random
import time
from contextlib import suppress

import pytest
from annotated import write_dataset, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_det.cli.main import main
from vmae_det.data import catalog
from vmae_det.data.catalog import get_dataset
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError, UserError
from vmae_det.web.annotate import store as store_module
from vmae_det.web.annotate.dataset import open_dataset
from vmae_det.web.annotate.document import Cell, make_patch
from vmae_det.web.annotate.store import Store

A, B = (0.1, 0.1, 0.3, 0.5), (0.2, 0.2, 0.4, 0.6)
ANNOTATIONS = """\
one,0000,0.100,0.100,0.300,0.500,1,4
one,0000,0.100,0.100,0.300,0.500,3,4
 two , 1 ,0.5,0.5,0.6,0.75,1,9
one,0001,0.1,0.1,0.3,0.5,1,4
one,0002

two,1.5,0.5,0.5,0.6,0.75,3,9"""


def times_of(document, person):
    """Return the keyframes of a person."""
    return sorted(time for time, other in document.cells if other == person)


@pytest.fixture
def dataset_file(tmp_path):
    return write_dataset(tmp_path / "set", ANNOTATIONS)


def open_store(file):
    return Store(open_dataset(str(file)))


def edit(store, video, values):
    """Set cells {(second, person): (box, actions) or None} and looked-at keyframes {second: bool}."""
    content = {}
    for key, value in values.items():
        second, person = key if isinstance(key, tuple) else (key, None)
        value = Cell(value[0], tuple(value[1:])) if isinstance(value, tuple) else value
        content[round(second * 1000), person] = value
    return store.apply(video, lambda document: make_patch(document, content))


def documents(file):
    with open_store(file) as store:
        return {video: store.document(video)[0] for video in store.annotated_videos()}


def content(file):
    return (file.parent / "annotations.csv").read_text()


def test_a_document_is_what_the_files_say(dataset_file):
    document = documents(dataset_file)["one"]
    assert document.cells == {(0, 4): Cell(A, (1, 3)), (1000, 4): Cell(A, (1,))}
    assert document.looked == {0, 1000, 2000}
    assert documents(dataset_file)["two"].cells.keys() == {(1000, 9), (1500, 9)}


def test_opening_and_closing_writes_nothing(dataset_file):
    before = {path: path.read_bytes() for path in dataset_file.parent.iterdir() if path.is_file()}
    with open_store(dataset_file) as store:
        store.document("one")
    assert {path: path.read_bytes() for path in dataset_file.parent.iterdir() if path.is_file()} == before


def test_lines_that_are_still_true_keep_their_bytes_and_their_place(dataset_file):
    with open_store(dataset_file) as store:
        edit(store, "one", {(0, 4): (A, 1), (1, 5): (B, 2)})
        edit(store, "one", {3: True})
    assert content(dataset_file) == (
        "one,0000,0.100,0.100,0.300,0.500,1,4\n"
        "one,0001,0.1,0.1,0.3,0.5,1,4\n"
        "one,0001,0.2,0.2,0.4,0.6,2,5\n"
        "one,0002\n\n"
        "one,0003\n"
        " two , 1 ,0.5,0.5,0.6,0.75,1,9\n"
        "two,1.5,0.5,0.5,0.6,0.75,3,9"
    )
    assert not (dataset_file.parent / "annotated_persons.csv").exists()
    assert dataset_file.read_text().endswith("label_map: actions.pbtxt")


def test_people_without_an_action_are_in_the_person_boxes_with_stable_ids(dataset_file):
    with open_store(dataset_file) as store:
        edit(store, "one", {(1, 5): (B,), (2, 5): (B,)})
        edit(store, "one", {(1, 4): (A,)})
        expected = store.document("one")[0]
    assert documents(dataset_file)["one"] == expected
    spec = get_dataset(str(dataset_file))
    assert spec.complete_persons is False
    persons = read_person_boxes(spec.person_boxes)
    assert sorted(zip(persons.videos[persons.video], persons.timestamp)) == [
        *[("one", 0.0), ("one", 1.0), ("one", 1.0), ("one", 2.0)],
        *[("two", 1.0), ("two", 1.5)],
    ]
    assert dataset_file.read_text().startswith("type: detection  # mine\n")
    assert "one,0001\n" in content(dataset_file)
    with open_store(dataset_file) as store:
        edit(store, "one", {(1, 5): None, (2, 5): None})
    assert documents(dataset_file)["one"].cells == {(0, 4): Cell(A, (1, 3)), (1000, 4): Cell(A)}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_dataset_whose_people_all_have_actions_again_is_complete(dataset_file, restarts):
    """A new box has no action until the annotator presses its key; the files may be written meanwhile."""
    before = dataset_file.read_text() + "\n"
    persons = dataset_file.parent / "annotated_persons.csv"
    store = open_store(dataset_file)
    for _ in range(2):
        edit(store, "one", {(1, 5): (B,), (2, 4): (A,)})
        store.rewrite()
        assert persons.exists()
        if restarts:
            store.close()
            store = open_store(dataset_file)
        edit(store, "one", {(2, 4): (A, 1)})
        store.rewrite()
        assert persons.exists()  # of person 5
        edit(store, "one", {(1, 5): (B, 2)})
        store.rewrite()
        assert not persons.exists()
        assert dataset_file.read_text() == before
    store.close()
    assert get_dataset(str(dataset_file)).complete_persons
    assert documents(dataset_file)["one"].cells[1000, 5] == Cell(B, (2,))


def test_ids_that_no_file_states_follow_the_people_and_stay(tmp_path):
    moving = "".join(
        f"v,000{s},0.{1 + s},0.1,0.{3 + s},0.5,1\nv,000{s},0.{8 - s},0.6,0.9,0.9,3,7\n" for s in range(3)
    )
    file = write_dataset(
        tmp_path / "set", moving + "v,0003,0.1,0.1,0.2,0.2,1,7\nv,0003,0.0,0.9,0.03,1.0,1,7\n"
    )
    before = documents(file)["v"]
    assert times_of(before, 8) == [0, 1000, 2000]
    assert (
        sum(time == 3000 for time, _ in before.cells) == 2
    )  # one of two people of the same id gets another one
    with open_store(file) as store:
        edit(store, "v", {(1, 8): None})
        edit(store, "v", {(3, 7): None})
        expected = store.document("v")[0]
    assert documents(file)["v"].cells == expected.cells
    assert "v,0000,0.1,0.1,0.3,0.5,1\n" in content(file)
    assert times_of(documents(file)["v"], 8) == [0, 2000]


def test_files_changed_by_another_program_are_never_overwritten(dataset_file):
    with open_store(dataset_file) as store:
        edit(store, "one", {3: True})
        store.rewrite()
        changed = content(dataset_file) + "\nthree,0001"
        (dataset_file.parent / "annotations.csv").write_text(changed)
        for _ in range(2):
            with pytest.raises(
                UserError, match=r"annotations.csv was changed by another program; stop and start"
            ):
                edit(store, "one", {3: False})
        assert "changed by another program" in store.problem
    assert content(dataset_file) == changed


def test_unsaved_edits_survive_a_change_of_other_lines_and_refuse_one_of_theirs(dataset_file, monkeypatch):
    monkeypatch.setattr(store_module, "QUIET", 60)
    monkeypatch.setattr(store_module, "LONGEST_WAIT", 60)
    journal = dataset_file.parent / ".annotations.unsaved.json"
    original = content(dataset_file)
    store = open_store(dataset_file)
    edit(store, "one", {3: True})
    kept = journal.read_bytes()
    (dataset_file.parent / "annotations.csv").write_text(original + "\nthree,0001")
    with pytest.raises(UserError, match="changed by another program"):
        store.close()
    assert journal.read_bytes() == kept
    assert 3000 in documents(dataset_file)["one"].looked
    assert content(dataset_file).endswith("\nthree,0001")
    journal.write_bytes(kept)
    (dataset_file.parent / "annotations.csv").write_text(original.replace("one,0002", "one,0007"))
    with pytest.raises(
        DataError, match=r"edits of one were made to other lines than annotations.csv has now"
    ):
        open_store(dataset_file)


def test_a_touched_file_is_no_conflict(dataset_file):
    with open_store(dataset_file) as store:
        (dataset_file.parent / "annotations.csv").write_text(content(dataset_file))
        edit(store, "one", {3: True})


EDITS = [{(2, 5): (B,)}, {(1, 4): (A, 1, 5)}, {(0, 4): (A,)}, {2: False}]


def test_a_failure_at_any_write_loses_nothing(tmp_path, monkeypatch):
    real, step = store_module.write_bytes, 0
    while True:
        file = write_dataset(tmp_path / f"set{step}", ANNOTATIONS)
        writes = 0

        def failing(path, data, step=step):
            nonlocal writes
            writes += 1
            if writes > step:
                raise OSError(28, "No space left on device", str(path))
            real(path, data)

        monkeypatch.setattr(store_module, "QUIET", 60)
        monkeypatch.setattr(store_module, "LONGEST_WAIT", 60)
        monkeypatch.setattr(store_module, "write_bytes", failing)
        store, acknowledged = open_store(file), None
        finished = False
        try:
            acknowledged = store.document("one")[0]
            for number, values in enumerate(EDITS):
                edit(store, "one", values)
                acknowledged = store.document("one")[0]
                if number == 1:
                    store.rewrite()
            store.close()
            finished = True
        except OSError:
            pass
        monkeypatch.setattr(store_module, "write_bytes", real)
        assert documents(file)["one"] == acknowledged, step
        assert documents(file)["two"].cells.keys() == {(1000, 9), (1500, 9)}
        assert not list(file.parent.glob(".*.unsaved.json"))
        if finished:
            assert step > 8
            break
        step += 1


def test_a_full_disk_is_reported_and_the_files_are_written_later(dataset_file, monkeypatch):
    monkeypatch.setattr(store_module, "QUIET", 0.05)
    real = store_module.write_bytes

    def failing(path, data):
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    with open_store(dataset_file) as store:
        monkeypatch.setattr(store_module, "write_bytes", failing)
        edit(store, "one", {3: True})
        end = time.monotonic() + 5
        while not store.failure:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "No space left" in store.failure
        monkeypatch.setattr(store_module, "write_bytes", real)
    assert "one,0003" in content(dataset_file)


def test_temporary_files_of_killed_processes_are_removed(dataset_file):
    old, new, other = (
        dataset_file.parent / name
        for name in (".annotations.7-1.tmp.csv", ".annotations.8-1.tmp.csv", ".annotations.csv")
    )
    for file in (old, new, other):
        file.touch()
    os.utime(old, (1e9, 1e9))
    os.utime(other, (1e9, 1e9))
    documents(dataset_file)
    assert [file.exists() for file in (old, new, other)] == [False, True, True]


def test_edits_reach_the_files_without_closing(dataset_file, monkeypatch):
    monkeypatch.setattr(store_module, "QUIET", 0.05)
    journal = dataset_file.parent / ".annotations.unsaved.json"
    with open_store(dataset_file) as store:
        edit(store, "one", {3: True})
        end = time.monotonic() + 5
        while "one,0003" not in content(dataset_file) or journal.exists():
            assert time.monotonic() < end
            time.sleep(0.02)


def edit_until_killed(file, first, acknowledged):
    store_module.QUIET, store_module.LONGEST_WAIT = 0.0, 0.005
    store = open_store(file)
    for number in range(first, 10**6):
        edit(store, "one", {(number % 4, 10 + number): (A, 1) if number % 3 else (A,)})
        acknowledged.send(number)


def test_a_killed_process_loses_nothing_that_it_acknowledged(dataset_file, preloaded_processes):
    rng, context, first = random.Random(3), multiprocessing.get_context("spawn"), 0
    for _ in range(4):
        received, sent = context.Pipe(duplex=False)
        process = context.Process(target=edit_until_killed, args=(dataset_file, first, sent))
        process.start()
        sent.close()
        last = received.recv()
        time.sleep(rng.random() * 0.2)
        process.kill()
        with suppress(EOFError):
            while True:
                last = received.recv()
        process.join()
        document = documents(dataset_file)["one"]
        assert {person for _, person in document.cells} >= set(range(10, 11 + last))
        read_action_csv(
            dataset_file.parent / "annotations.csv", LabelMap.from_file(dataset_file.parent / "actions.pbtxt")
        )
        assert not list(dataset_file.parent.glob(".*.unsaved.json"))
        first = document.next_person - 10
    assert first > 4


keys = st.tuples(st.integers(0, 3), st.sampled_from([None, 4, 5, 9]))
cells = st.none() | st.tuples(st.sampled_from([A, B, (0.0, 0.123457, 1 / 3, 1.0)]), st.sampled_from([1, 3]))
cells = cells | cells.map(lambda cell: cell and cell[:1])
CHANGES = st.lists(st.dictionaries(keys, st.tuples(st.booleans(), cells), max_size=3), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES, CHANGES)
def test_any_edits_are_read_back_as_they_were(tmp_path_factory, first, second):
    file = write_dataset(tmp_path_factory.mktemp("any") / "set", ANNOTATIONS)
    for edits in (first, second):
        with open_store(file) as store:
            for values in edits:
                chosen = {
                    time if person is None else (time, person): flag if person is None else cell
                    for (time, person), (flag, cell) in values.items()
                }
                edit(store, "one", chosen)
            expected = store.document("one")[0]
        found = documents(file)["one"]
        rounded = {
            key: Cell(tuple(round(v, 6) for v in cell.box), cell.actions)
            for key, cell in expected.cells.items()
        }
        assert (found.cells, found.looked) == (rounded, expected.looked)
    assert " two , 1 ,0.5,0.5,0.6,0.75,1,9\n" in content(file)


# ---------------------------------------------------------------- datasets


def annotate_everything(file):
    with open_store(file) as store:
        for number, video in enumerate(open_dataset(str(file)).videos()):
            for second in range(4):
                cell = (
                    (0.1, 0.1, 0.5 + 0.1 * number, 0.9),
                    *([1 + (second + number) % 2] if second != 2 else []),
                )
                edit(store, video, {(second, 0): cell, second: True})


def test_a_folder_of_videos_becomes_a_dataset_that_trains(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_video(tmp_path / "clips" / f"{name}.mp4")
    with pytest.raises(UserError, match="a new dataset needs its actions"):
        open_dataset(str(tmp_path / "clips"))
    dataset = open_dataset(str(tmp_path / "clips"), actions=["stand", "Sit", "juggle"])
    assert dataset.file == tmp_path / "clips_annotations" / "dataset.yaml"
    assert dataset.label_map.kinds == ("PERSON_MOVEMENT", "PERSON_MOVEMENT", "")
    assert dataset.poses == {1, 2}
    assert list(dataset.videos()) == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"--actions: not used with .*, which has a label map"):
        open_dataset(str(tmp_path / "clips"), actions=["stand"])
    assert open_dataset(str(tmp_path / "clips")) == dataset
    annotate_everything(dataset.file)
    capsys.readouterr()
    assert main(["check-data", str(dataset.file)]) == 1
    problems = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("ERROR")]
    assert problems == ["class_without_training_rows:"]  # nobody juggles
    arguments = ["train", "--data", str(dataset.file), "--model", "tiny", "--dry-run"]
    assert main([*arguments, "MODEL.WEIGHTS", ""]) == 0


def test_a_registered_dataset_is_copied_and_never_written(tmp_path, monkeypatch):
    source = write_dataset(tmp_path / "data" / "mini_ava", ANNOTATIONS, videos=["one"])
    source.rename(source.with_name("train.yaml"))
    monkeypatch.setenv("VMAE_DET_DATASETS", str(tmp_path / "data"))
    monkeypatch.setitem(catalog._CATALOG, "mini_ava_train", catalog.CatalogEntry(file="mini_ava/train.yaml"))
    with pytest.raises(UserError, match=r"registered dataset, .* pass --output FOLDER"):
        open_dataset("mini_ava_train")
    before = (source.parent / "annotations.csv").read_bytes()
    copy = open_dataset("mini_ava_train", tmp_path / "copy")
    with Store(copy) as store:
        edit(store, "one", {(1, 5): (B,)})
    assert (source.parent / "annotations.csv").read_bytes() == before
    assert open_dataset("mini_ava_train", tmp_path / "copy").file == copy.file
    assert documents(copy.file)["one"].cells[1000, 5] == Cell(B)
    assert list(copy.videos()) == ["one", "two"]
    assert copy.videos()["two"] is None


def test_imported_people_without_an_action_keep_their_lines(tmp_path):
    idle = [f"one,000{second},0.700000,0.1,0.9,0.9,,1.0\n" for second in range(3)]
    persons = ["one,0000,0.100,0.100,0.300,0.500,,1.0\n", *idle]
    file = write_dataset(
        tmp_path / "set", ANNOTATIONS, person_boxes="annotated_persons.csv", complete_persons="false"
    )
    (file.parent / "annotated_persons.csv").write_text("".join(persons))
    before = documents(file)["one"]
    assert times_of(before, 5) == [0, 1000, 2000]
    with open_store(file) as store:
        edit(store, "one", {(1, 5): ((0.7, 0.1, 0.9, 0.9), 3)})
        edit(store, "one", {(2, 4): (B,)})
        expected = store.document("one")[0]
    assert documents(file)["one"] == expected
    written = (file.parent / "annotated_persons.csv").read_text().splitlines(keepends=True)
    assert set(persons) <= set(written)
    assert sorted(set(written) - set(persons)) == [
        "one,0001,0.1,0.1,0.3,0.5,,1.000000\n",
        "one,0002,0.2,0.2,0.4,0.6,,1.000000\n",
    ]
    assert "one,0001,0.7,0.1,0.9,0.9,3,5\n" in content(file)


def test_person_boxes_of_a_detector_are_not_written(tmp_path):
    file = write_dataset(tmp_path / "set", ANNOTATIONS, person_boxes="detected.csv")
    detected = file.parent / "detected.csv"
    detected.write_text("one,0000,0.1,0.1,0.5,0.5,,0.9\n")
    with open_store(file) as store:
        edit(store, "one", {(1, 5): (B,)})
        expected = store.document("one")[0]
    assert documents(file)["one"] == expected
    assert detected.read_text() == "one,0000,0.1,0.1,0.5,0.5,,0.9\n"
    assert not (file.parent / "annotated_persons.csv").exists()


def test_videos_of_the_other_set_are_not_listed(tmp_path):
    file = write_dataset(tmp_path / "set", "one,0000\n", videos=["one", "two", "new"])
    val = file.parent / "val.csv"
    val.write_text("two,0000\n")
    (file.parent / "val.yaml").write_text(file.read_text().replace("annotations.csv", "val.csv"))
    train = file.rename(file.with_name("train.yaml"))
    assert sorted(open_dataset(str(train)).videos()) == ["new", "one"]
    assert sorted(open_dataset(str(file.with_name("val.yaml"))).videos()) == ["new", "two"]
    assert sorted(open_dataset(str(train), tmp_path / "copy").videos()) == ["new", "one"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda folder: (folder / "annotations.csv").write_text("one,0000,0.1,0.1,3,0.5,1,4\n"),
            "annotations.csv:1: ",
        ),
        (lambda folder: (folder / "annotations.csv").write_bytes(b"\x1f\x8b0"), "gunzip"),
        (
            lambda folder: (folder / "dataset.yaml").write_text("type: videos\nvideos: videos\n"),
            "expected 'detection'",
        ),
    ],
)
def test_invalid_datasets_are_one_clear_error(dataset_file, change, problem):
    change(dataset_file.parent)
    with pytest.raises(UserError, match=problem):
        open_store(dataset_file)


def test_windows_line_breaks_are_kept(tmp_path):
    file = write_dataset(tmp_path / "set", ANNOTATIONS.replace("\n", "\r\n"))
    with open_store(file) as store:
        edit(store, "one", {(1, 4): (A, 1, 5)})
    data = (file.parent / "annotations.csv").read_bytes()
    assert b"one,0001,0.1,0.1,0.3,0.5,5,4\r\n" in data
    assert data.count(b"\n") == data.count(b"\r\n")
