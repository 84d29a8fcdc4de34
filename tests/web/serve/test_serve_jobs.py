"""The queue of jobs and the folders of results, messages between processes, names and options."""

import multiprocessing
import time

import numpy as np
import pytest
import torch

from vmae_det.web.errors import RequestError
from vmae_det.web.serve import jobs
from vmae_det.web.serve.jobs import CANCELLED, DONE, FAILED, JobTable, QueueFullError
from vmae_det.web.serve.messages import Message, MessageError, pack, receive, send, unpack
from vmae_det.web.serve.options import parse_options
from vmae_det.web.serve.uploads import safe_name


@pytest.fixture
def table(tmp_path):
    return JobTable(tmp_path / "out", capacity=2, keep_seconds=100)


def run_job(table, text="rows"):
    """Add a job and finish it, as the worker does."""
    job = table.open("detect", "a.mp4", {})
    (table.video_folder(job) / "a.mp4").write_bytes(b"video")
    assert table.submit(job, 5)
    assert table.next() is job
    table.results_folder(job).mkdir()
    (table.results_folder(job) / "a.csv").write_text(text)
    (table.results_folder(job) / ".a.tmp").write_text("half")
    table.finish(job, None, 2.0)
    return job


def test_results_are_deleted_after_their_time(table, monkeypatch):
    old, now = run_job(table), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    young = run_job(table)
    table.expire()
    assert table.list() == [young, old]
    monkeypatch.setattr(time, "time", lambda: now + 110)
    table.expire()
    assert table.list() == [young]
    assert [path.name for path in table.folder.iterdir()] == [young.id]


def test_finished_jobs_survive_a_restart_and_others_are_cleaned(table):
    job = run_job(table)
    waiting = table.open("detect", "b.mp4", {})
    (table.folder / "mine.mp4").write_text("of the user")
    (table.folder / "a" / "b").mkdir(parents=True)
    damaged = run_job(table)
    (table.results_folder(damaged) / "a.csv").write_text("changed")
    again = JobTable(table.folder, 2, 100)
    assert [one.id for one in again.list()] == [job.id]
    assert again.describe(again.list()[0]) == table.describe(job)
    assert job.results == {"a.csv": 4}
    names = {path.name for path in table.folder.iterdir()}
    assert names == {job.id, "mine.mp4", "a"}
    assert waiting.id not in names


def test_expired_results_are_deleted_at_start(table):
    run_job(table)
    assert JobTable(table.folder, 2, keep_seconds=0).list() == []
    assert list(table.folder.iterdir()) == []


def test_the_number_of_finished_jobs_is_bounded(table, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_FINISHED", 3)
    finished = [run_job(table) for _ in range(5)]
    table.expire()
    assert table.list() == finished[:1:-1]


def test_the_queue_is_bounded_and_counts_uploads(table):
    first = table.open("detect", "a.mp4", {})
    table.submit(first, 1)
    table.open("detect", "b.mp4", {})
    with pytest.raises(QueueFullError):
        table.open("detect", "c.mp4", {})
    assert table.next() is first
    table.open("detect", "c.mp4", {})


def test_a_job_that_is_cancelled_before_its_process_starts_is_stopped(table):
    job = table.open("detect", "a.mp4", {})
    table.submit(job, 1)
    table.next()
    assert table.cancel(job)
    stopped = []
    table.on_cancel(job, lambda: stopped.append(1))
    assert stopped == [1]
    table.finish(job, "the decoder crashed")
    assert (job.state, job.error) == (CANCELLED, None)
    assert not table.cancel(job)
    assert (table.ended[CANCELLED], table.ended[FAILED], table.ended[DONE]) == (1, 0, 0)


def test_messages_keep_arrays():
    a, b = multiprocessing.Pipe()
    batch = {
        "video": torch.arange(48, dtype=torch.uint8).reshape(1, 3, 2, 2, 4),
        "boxes": [torch.zeros(0, 4), torch.ones(2, 4)],
        "none": [],
    }
    send(a, Message("score", *pack(batch)))
    message = receive(b)
    assert message.kind == "score"
    received = unpack(message.content, message.arrays)
    assert received["video"].equal(batch["video"])
    assert [tuple(one.shape) for one in received["boxes"]] == [(0, 4), (2, 4)]
    assert received["none"] == []


@pytest.mark.parametrize(
    "parts",
    [
        [b"\x80\x04."],
        [b"[]"],
        [b'["score", {}, [["object", [1]]]]'],
        [b'["score", {}, [["uint8", [99999999999]]]]'],
        [b'["score", {}, [["uint8", [2]]]]', b"xyz"],
        [b'["score", {}, [["uint8", [-1, -4]]]]', b"xyz"],
    ],
)
def test_other_messages_are_refused(parts):
    a, b = multiprocessing.Pipe()
    for part in parts:
        a.send_bytes(part)
    with pytest.raises(MessageError):
        receive(b)
    with pytest.raises(MessageError):
        unpack({"video": 2}, [np.zeros(1)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd.mp4"),
        ("C:\\x\\y.AVI", "y.AVI"),
        ("frame%05d.jpg", "frame_05d.jpg"),
        ("...", "video.mp4"),
        ("", "video.mp4"),
        (".hidden", "hidden.mp4"),
        ("a b,c'.mov", "a_b_c.mov"),
        ("日本.mkv", "日本.mkv"),
        ("a.tar/b.mp4\0", "b.mp4"),
    ],
)
def test_safe_names(name, expected):
    assert safe_name(name) == expected


def test_long_names_leave_room_for_results():
    assert len(safe_name("語" * 300 + ".mp4").encode()) < 200


def test_options_have_the_defaults_of_the_commands():
    assert parse_options("detect", {}) == {
        "every": 1.0,
        "threshold": 0.3,
        "smooth": 2.0,
        "format": ["html", "csv", "jsonl", "overlay"],
    }
    assert parse_options("classify", {})["format"] == ["csv", "jsonl"]
    assert parse_options("classify", {"every": "0.5", "format": ["overlay", "csv"]})["format"] == [
        "csv",
        "overlay",
    ]


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("classify", {"format": "html"}, "format: html requires every"),
        ("classify", {"smooth": 1}, "smooth: requires every"),
        ("detect", {"every": True}, "every: expected a number"),
        ("detect", {"every": [1]}, "every: expected a number"),
        ("detect", {"threshold": "inf"}, "threshold: expected a number"),
        ("detect", {"format": []}, "format: expected names"),
        ("detect", {"format": [1]}, "format: expected names"),
    ],
)
def test_wrong_options(kind, given, reason):
    with pytest.raises(RequestError, match=reason) as caught:
        parse_options(kind, given)
    assert caught.value.status == 422
