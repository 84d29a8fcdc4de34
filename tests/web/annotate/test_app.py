import asyncio
import json
import struct

import cv2
import numpy as np
import pytest
from annotated import write_dataset, write_video
from asgi import post_json, request, send

from vmae_det.utils.errors import DataError
from vmae_det.video.sampling import frames_around
from vmae_det.web.annotate.app import Annotation, build_app, keyframe_times
from vmae_det.web.annotate.dataset import open_dataset
from vmae_det.web.annotate.proposals import READY, Proposal, Proposer
from vmae_det.web.annotate.store import Store
from vmae_det.web.events import Events
from vmae_det.web.frames import MAX_RATE, FrameServer

BOX = [0.1, 0.1, 0.3, 0.5]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("app") / "set",
        "one,0900,0.1,0.1,0.3,0.5,1,4\none,0901\none,0990\ngone,0900\n",
        videos=["one", "two"],
        video_start=900,
    )


@pytest.fixture
def annotation(source, tmp_path):
    with Store(open_dataset(str(source), tmp_path / "copy")) as store:
        yield Annotation(store, Proposer(None))


@pytest.fixture
def app(annotation):
    return build_app(annotation)


def patch(second, person, before, after):
    return {"second": second, "person": person, "before": before, "after": after}


def edit(app, *changes, video="one", **content):
    body = {"client": "me", "edit": {"name": "patch", "patch": list(changes)}, **content}
    return post_json(app, f"/api/videos/{video}/edits", body)


def frames_of(content):
    frames = []
    while content:
        size, second = struct.unpack("<If", content[:8])
        frames.append(
            (second, cv2.imdecode(np.frombuffer(content[8 : 8 + size], np.uint8), cv2.IMREAD_COLOR))
        )
        content = content[8 + size :]
    return frames


def test_the_dataset_lists_its_videos_actions_and_progress(app):
    answer = request(app, path="/api/dataset").json
    assert answer["detector"] is None
    assert answer["actions"][0] == {"id": 1, "name": "stand", "kind": "PERSON_MOVEMENT"}
    videos = {video["id"]: video for video in answer["videos"]}
    assert videos["one"] == {
        "id": "one",
        "seconds": pytest.approx(4),
        "keyframes": 5,
        "looked_at": 3,
        "boxes": 1,
        "error": None,
    }
    assert (videos["two"]["keyframes"], videos["two"]["looked_at"]) == (4, 0)
    assert videos["gone"]["error"] == "gone: its video file is missing"


def test_a_document_has_keyframes_cells_and_findings(app):
    answer = request(app, path="/api/videos/one").json
    assert answer["keyframes"] == [900, 901, 902, 903, 990]
    assert answer["cells"] == [{"second": 900, "person": 4, "box": BOX, "actions": [1]}]
    assert answer["looked_at"] == [900, 901, 990]
    assert (answer["width"], answer["height"], answer["rate"], answer["start"]) == (48, 32, 5, 900)
    assert [(f["second"], f["problem"], f["severity"]) for f in answer["findings"]] == [
        (990, "keyframe_outside_video", "error")
    ]
    assert answer["proposal_state"] == "none"
    assert request(app, path="/api/videos/none").status == 404
    missing = request(app, path="/api/videos/gone").json
    assert (missing["width"], missing["keyframes"]) == (None, [900])


def test_a_video_whose_start_is_not_known_does_not_hide_the_others(tmp_path):
    file = write_dataset(tmp_path / "set", "one,0000\n", videos=["one", "two"], video_start="starts.csv")
    (file.parent / "starts.csv").write_text("two,900\n")
    with Store(open_dataset(str(file))) as store:
        app = build_app(Annotation(store, Proposer(None)))
        one, two = sorted(request(app, path="/api/dataset").json["videos"], key=lambda video: video["id"])
        assert one["error"].endswith("starts.csv: no line for the video 'one'")
        assert (two["error"], two["keyframes"]) == (None, 4)
        assert request(app, path="/api/videos/one").json["keyframes"] == [0]
        assert request(app, path="/api/videos/one/clip", query="second=0").status == 422
        assert request(app, path="/api/videos/two").json["keyframes"] == [900, 901, 902, 903]


def test_an_edit_is_saved_and_answered_with_findings(app, annotation):
    answer = edit(app, patch(902, 5, None, {"box": BOX, "actions": [2]}), new_people=[5])
    assert answer.status == 200
    assert answer.json["revision"] == annotation.store.document("one")[1]
    answer = edit(app, patch(900, 6, None, {"box": BOX, "actions": []}))
    assert [f["person"] for f in answer.json["findings"]] == [6, None]
    annotation.store.rewrite()
    assert "one,0902,0.1,0.1,0.3,0.5,2,5\n" in annotation.dataset.annotations.read_text()


def test_a_conflict_is_answered_with_the_present_document(app):
    answer = edit(app, patch(900, 4, {"box": BOX, "actions": [2]}, None))
    assert answer.status == 409
    assert answer.json["document"]["cells"][0]["actions"] == [1]
    assert answer.json["document"]["clients"] == 0
    assert "changed by someone else" in answer.json["error"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"edit": {"name": "patch", "patch": [patch(1, 4, None, None)]}}, 422),
        ({"edit": {"name": "other"}}, 422),
        ({"edit": {"name": "patch"}}, 422),
        ({}, 422),
    ],
)
def test_invalid_edits_are_refused(app, content, status):
    assert post_json(app, "/api/videos/one/edits", content).status == status
    assert request(app, "POST", "/api/videos/one/edits", body=b"{}").status == 415
    json_type = {"content-type": "application/json"}
    for body in (b"{", b"[]", b"[" * 100_000):
        assert request(app, "POST", "/api/videos/one/edits", headers=json_type, body=body).status == 400


def test_an_edit_that_cannot_be_saved_is_asked_for_again_later(app, annotation):
    annotation.dataset.annotations.write_text("one,0900\n")
    answer = edit(app, patch(902, 5, None, {"box": BOX, "actions": [2]}))
    assert answer.status == 503
    assert "was changed by another program" in answer.json["error"]
    assert "was changed" in request(app, path="/api/dataset").json["problem"]


def test_a_clip_has_the_frames_around_a_keyframe(app):
    answer = request(app, path="/api/videos/one/clip", query="second=901&height=240")
    frames = frames_of(answer.body)
    assert [round(second, 3) for second, _ in frames] == [round(i / 5, 3) for i in range(-5, 6)]
    for second, image in frames:
        assert image.shape == (32, 48, 3)  # not enlarged
        assert image[:, round(5 + 5 * second)].mean() > 150  # the bright column of this frame
    only = frames_of(request(app, path="/api/videos/one/clip", query="second=901&height=240&span=0").body)
    assert [second for second, _ in only] == [0]
    assert request(app, path="/api/videos/one/clip", query="second=990&height=240").body == b""
    for query in ("second=x", "second=nan", "", "second=901&height=241", "second=901&span=60"):
        assert request(app, path="/api/videos/one/clip", query=query).status == 400, query
    assert request(app, path="/api/videos/gone/clip", query="second=901").status == 422


def test_the_next_keyframe_that_nobody_has_seen_goes_around(app):
    def unseen(after):
        return request(app, path="/api/queue", query=f"kind=unseen&after={after}").json

    assert unseen("one,900") == {"video": "one", "second": 902}
    assert unseen("one,903") == {"video": "two", "second": 900}
    assert unseen("two,903") == {"video": "one", "second": 902}
    assert request(app, path="/api/queue", query="kind=other").status == 400
    assert request(app, path="/api/queue", query="kind=uncertain").json is None


def test_the_least_certain_keyframe_comes_first(app, annotation):
    own = annotation.proposer.of("one")
    own.state = READY
    for time, value in ((900_000, 0.9), (902_000, 0.2), (903_000, 0.5)):
        own.proposals.append(Proposal(time, 1, tuple(BOX), 0.9, ((1, 0.5),), value))

    def uncertain(after):
        return request(app, path="/api/queue", query=f"kind=uncertain&after={after}").json

    assert uncertain("two,900") == {"video": "one", "second": 903}  # 900 has been looked at
    assert uncertain("one,903") == {"video": "one", "second": 902}
    shown = request(app, path="/api/videos/one").json["proposals"]
    assert shown[0] == {"second": 900, "person": "p1", "box": BOX, "score": 0.9, "actions": [[1, 0.5]]}


def test_proposals_need_a_detector(app):
    answer = post_json(app, "/api/videos/one/propose", {})
    assert (answer.status, answer.json["error"]) == (422, "there is no detector")


class Finder:
    name = "finder"

    def __init__(self, outcome):
        self.outcome = outcome

    def __call__(self, video, path, start, keyframes):
        for number, time in enumerate(keyframes, start=1):
            if self.outcome == "failure":
                raise DataError("cannot be read", path)
            found = [Proposal(time, 1, tuple(BOX), 0.9)] if self.outcome == "people" else []
            yield number / len(keyframes), found


def wait_for(condition):
    import time

    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("outcome", ["people", "nobody", "failure"])
def test_a_detector_runs_in_the_background(source, tmp_path, outcome):
    with Store(open_dataset(str(source), tmp_path / "copy")) as store:
        proposer = Proposer(lambda: Finder(outcome), "finder")
        app = build_app(Annotation(store, proposer))
        assert post_json(app, "/api/videos/one/propose", {}).status == 202
        wait_for(lambda: proposer.of("one").state != "running")
        answer = request(app, path="/api/videos/one").json
        if outcome != "people":
            assert answer["proposal_state"] == "failed"
            reasons = {"failure": "one.mp4: cannot be read", "nobody": "try a lower PERSON_DETECTOR.SCORE"}
            assert answer["message"].endswith(reasons[outcome])
        else:
            assert [p["second"] for p in answer["proposals"]] == [900, 901, 902, 903]  # inside the video
            assert (answer["proposal_state"], answer["progress"]) == ("ready", 1)
        assert request(app, path="/api/dataset").json["detector"] == "finder"


def test_person_boxes_of_the_dataset_are_proposals_with_tracks(tmp_path):
    lines = "".join(f"one,000{s},0.{1 + s},0.1,0.{3 + s},0.5,,0.9\n" for s in range(3))
    (tmp_path / "boxes.csv").write_text(lines)
    own = Proposer(None, persons=tmp_path / "boxes.csv").of("one")
    assert (own.state, {p.track for p in own.proposals}) == (READY, {1})
    assert Proposer(None, persons=tmp_path / "boxes.csv").of("two").state == "none"
    (tmp_path / "boxes.csv").write_text("one,x\n")
    assert Proposer(None, persons=tmp_path / "boxes.csv").of("one").state == "failed"


def test_pages_are_told_of_edits_and_of_each_other(annotation):
    app = build_app(annotation)
    events = next(
        cell.cell_contents
        for cell in app.routes[3].endpoint.__closure__
        if isinstance(cell.cell_contents, Events)
    )

    async def scenario():
        events.start(asyncio.get_running_loop())
        first = events.listen("a", "one")
        received = [await anext(first), await anext(first)]
        second = events.listen("b", "one")
        await anext(second)
        received.append(await anext(first))
        body = {
            "client": "b",
            "edit": {"name": "patch", "patch": [patch(902, 5, None, {"box": BOX, "actions": []})]},
        }
        headers = {"content-type": "application/json"}
        await send(app, "POST", "/api/videos/one/edits", headers=headers, body=json.dumps(body).encode())
        received.append(await anext(first))
        shown = await send(app, "GET", "/api/videos/one", query="client=a")
        await second.aclose()
        received.append(await anext(first))
        await first.aclose()
        return [json.loads(line[6:]) for line in received[1:]], shown.json

    news, shown = asyncio.run(scenario())
    assert [one["type"] for one in news] == ["presence", "presence", "edit", "presence"]
    assert [one["clients"] for one in news if one["type"] == "presence"] == [0, 1, 0]
    assert (news[2]["video"], news[2]["client"]) == ("one", "b")
    assert shown["clients"] == 1


def test_the_page_is_served(app):
    page = request(app)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<script" in page.body
    assert request(app, path="/static/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    for path in ("/static/../app.py", "/static/app.py", "/x", "/api/videos/..%2F..%2Fetc"):
        assert request(app, path=path).status == 404


def test_keyframes_are_regular_and_those_of_the_annotations():
    assert keyframe_times(900, 2.96, 1, set()) == [900_000, 901_000, 902_000]
    assert keyframe_times(0, 3, 1, set()) == [0, 1000, 2000, 3000]
    assert keyframe_times(0, 2, 0.5, {250, 5000}) == [0, 250, 500, 1000, 1500, 2000, 5000]
    assert keyframe_times(0, 2, 1, {1001}) == [0, 1001, 2000]
    assert keyframe_times(-1.5, 2, 1, set()) == [500]


@pytest.mark.parametrize("rate", [5, 24, 25, 29.97, 50, 60, 240])
def test_clips_have_at_most_twelve_frames_a_second_and_the_keyframe(rate):
    times = np.arange(0, 20, 1 / rate)
    for second in (0.0, 5.0, 19.9):
        wanted = frames_around(times, second, 1.0, MAX_RATE)
        assert np.abs(times[wanted] - second).min() <= 0.51 / rate
        assert len(wanted) <= 2 * 12 * 1.3 + 1
        assert np.abs(times[wanted] - second).max() <= 1 + 1e-5
    assert len(frames_around(times, 30.0, 1.0, MAX_RATE)) == 0


def test_frame_server_forgets_old_clips_and_closes_old_videos(tmp_path, monkeypatch):
    monkeypatch.setattr("vmae_det.web.frames._CACHE_BYTES", 20_000)
    files = {name: write_video(tmp_path / f"{name}.mp4", seconds=1) for name in "abcdef"}
    server = FrameServer(files)
    clips = {name: server.clip(name, 0.4, 240) for name in files}
    assert server._bytes <= 20_000
    assert len(server._readers) <= 4
    assert all(server.clip(name, 0.4, 240) == clips[name] for name in files)
    with pytest.raises(DataError, match="missing"):
        server.facts("g")
