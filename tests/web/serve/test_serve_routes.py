"""The HTTP interface of `vmae-det serve`, on a real server with a tiny model."""

import gzip
import json
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
import torch
from annotated import write_video
from odd_videos import UNREADABLE
from served import load_model, serving, write_weights
from starlette.routing import Route

from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.rendering.detect_video import DetectionSettings, detect_video
from vmae_det.web import security
from vmae_det.web.serve import decoder
from vmae_det.web.serve.app import build_app
from vmae_det.web.serve.messages import Message
from vmae_det.web.serve.openapi import describe_interface
from vmae_det.web.serve.worker import Limits

MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def video(folder):
    return write_video(folder / "clip.mp4", seconds=2)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(write_weights(folder / "one_stage.pt"))


@pytest.fixture(scope="module")
def client(model, folder):
    with serving(model, folder / "out", queue=4, max_bytes=MAX_BYTES) as client:
        yield client


@pytest.fixture(scope="module")
def classifier(folder):
    with serving(load_model(write_weights(folder / "classifier.pt", "classifier")), folder / "c") as client:
        yield client


@pytest.fixture
def slow_model(model, monkeypatch):
    """The model answers nothing until the event is set."""
    go, original = threading.Event(), type(model).answer

    def answer(self, call):
        go.wait(30)
        return original(self, call)

    monkeypatch.setattr(type(model), "answer", answer)
    yield go
    go.set()


def detect(client, content, query="name=clip.mp4&format=csv", **headers):
    return client.request("POST", f"/api/detect?{query}", content, **headers)


def finished(client, answer):
    assert answer.status == 202, answer.body
    return client.wait(answer.json["id"])


def result(client, job, name):
    (path,) = [one["path"] for one in job["results"] if one["name"] == name]
    return client.get(path)


# ---------------------------------------------------------------- the results


def test_results_are_those_of_detect(client, video, folder):
    job = finished(client, detect(client, video.read_bytes(), "name=clip.mp4&every=0.5&smooth=0"))
    names = ["clip.csv", "clip.html", "clip.jsonl", "clip_actions.mp4"]
    assert [one["name"] for one in job["results"]] == names
    assert (job["state"], job["progress"], job["warnings"]) == ("done", 1.0, [])
    assert job["video_seconds"] == pytest.approx(2)
    predictor = ActionPredictor(read_config(folder / "one_stage.pt"))
    detect_video(predictor, video, None, folder / "expected" / "clip", DetectionSettings(["csv"], every=0.5))
    assert result(client, job, "clip.csv").body == (folder / "expected" / "clip.csv").read_bytes()
    page = result(client, job, "clip.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    overlay = job["results"][3]["path"]
    part = client.get(overlay, Range="bytes=4-7")
    assert (part.status, part.body, part.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    files = sorted(path.name for path in (folder / "out" / job["id"]).rglob("*") if path.is_file())
    assert files == sorted([*names, "job.json"])  # the upload is deleted


def test_a_two_stage_detector_scores_the_frame_or_the_people_of_a_detector(folder, video, monkeypatch):
    weights = write_weights(folder / "two_stage.pt", "two_stage")
    predictor = ActionPredictor(read_config(weights))
    settings = DetectionSettings(["csv"], smooth=2.0)
    detect_video(predictor, video, WholeFramePerson(), folder / "expected" / "frame", settings)
    expected = (folder / "expected" / "frame.csv").read_text().replace("frame,", "clip,")
    frame = load_model(weights, whole_frame=True)

    class Detector:
        def detect(self, frames):
            return [WholeFramePerson()(0, one) for one in frames]

    monkeypatch.setattr("vmae_det.web.serve.model.build_person_detector", lambda cfg: Detector())
    for served in (frame, load_model(weights)):
        with serving(served, folder / "two") as client:
            job = finished(client, detect(client, video.read_bytes()))
            assert result(client, job, "clip.csv").body.decode() == expected


def test_a_classifier_scores_the_video_and_its_seconds(classifier, video):
    content = video.read_bytes()
    job = finished(classifier, classifier.request("POST", "/api/classify?name=clip.mp4", content))
    assert [one["name"] for one in job["results"]] == ["clip_classes.csv", "clip_classes.jsonl"]
    (line,) = result(classifier, job, "clip_classes.jsonl").body.splitlines()
    assert {one["name"] for one in json.loads(line)["classes"]} == {"walk", "sit", "talk <b>"}
    answer = classifier.request("POST", "/api/classify?name=clip.mp4&every=1&format=jsonl,html", content)
    job = finished(classifier, answer)
    assert [one["name"] for one in job["results"]] == ["clip_timeline.html", "clip_timeline.jsonl"]


def test_the_other_task_is_one_clear_error(client, classifier, video):
    answer = client.request("POST", "/api/classify", video.read_bytes())
    assert answer.status == 422
    assert answer.json["error"] == ("this server has a detector, one_stage.pt; send videos to /api/detect")
    answer = classifier.request("POST", "/api/detect", video.read_bytes())
    assert answer.status == 422
    assert "has a classifier" in answer.json["error"]


# ---------------------------------------------------------------- wrong videos and requests


@pytest.mark.parametrize("kind", ["text", "playlist", "audio_only"])
def test_a_broken_video_fails_its_job_in_one_sentence(client, tmp_path, kind):
    content = UNREADABLE[kind](tmp_path / "x").read_bytes()
    job = finished(client, detect(client, content))
    assert job["state"] == "failed"
    assert job["error"].startswith("clip.mp4: ")
    assert str(client.service.table.folder) not in job["error"]
    assert job["results"] == []
    assert not (client.service.table.folder / job["id"]).exists()


def test_a_truncated_video_has_a_warning(client, tmp_path):
    whole = write_video(tmp_path / "long.mp4", seconds=8).read_bytes()
    broken = whole[:200] + bytes(len(whole) - 1500 - 200) + whole[-1500:]
    job = finished(client, detect(client, broken))
    assert job["state"] == "failed" or job["warnings"]


def test_a_video_that_crashes_its_process_harms_no_other(client, video, slow_model):
    job = detect(client, video.read_bytes()).json["id"]
    client.wait(job, ["running"])
    end = time.monotonic() + 30
    while client.service.table._stops.get(job) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(client.service.table._stops[job].__self__.pid, signal.SIGSEGV)
    slow_model.set()
    failed = client.wait(job)
    assert failed["error"] == (
        "clip.mp4: the decoder crashed (SIGSEGV); the video is damaged, or needs too much memory"
    )
    assert finished(client, detect(client, video.read_bytes()))["state"] == "done"


def test_videos_have_a_largest_length_memory_and_time(model, folder, video, slow_model):
    cases = {
        "has 2 seconds; at most 1 are accepted (--max-seconds)": Limits(max_seconds=1),
        "not processed within 0.5 s (--timeout)": Limits(timeout=0.5),
    }
    threading.Timer(2, slow_model.set).start()
    for reason, limits in cases.items():
        with serving(model, folder / "limits", limits=limits) as client:
            assert finished(client, detect(client, video.read_bytes()))["error"] == f"clip.mp4: {reason}"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_large_frames_exceed_the_memory_limit(model, folder):
    large = write_video(folder / "large.mp4", seconds=1, rate=2, size=(2048, 1536))
    with serving(model, folder / "memory", limits=Limits(max_memory=2**25)) as client:
        job = finished(client, detect(client, large.read_bytes()))
        assert job["state"] == "failed"
        assert "memory" in job["error"]


def test_a_system_without_limits_is_named_once(model, folder, video, monkeypatch, caplog):
    monkeypatch.setattr(decoder, "resource", None)  # as on Windows
    with serving(model, folder / "no_limits") as client:
        assert finished(client, detect(client, video.read_bytes()))["state"] == "done"
    assert caplog.messages.count("--max-memory is not used: this system has no such limit") == 1


def test_bodies_above_the_limit_are_refused_declared_or_not(client):
    assert detect(client, bytes(MAX_BYTES + 1)).status == 413

    def chunks():
        for _ in range(MAX_BYTES // 10_000 + 2):
            yield bytes(10_000)

    answer = client.request("POST", "/api/detect", chunks())  # in chunks, without a length
    assert answer.status == 413
    client.idle()
    leftovers = {job["state"] for job in client.jobs()} & {"receiving", "queued"}
    assert not leftovers


def test_a_body_of_unknown_length_is_accepted(client, video):
    content = video.read_bytes()
    parts = (content[start : start + 700] for start in range(0, len(content), 700))
    assert finished(client, client.request("POST", "/api/detect?format=csv", parts))["state"] == "done"


@pytest.mark.parametrize(
    ("query", "headers", "status", "reason"),
    [
        ("every=0", {}, 422, "every: expected a number in [0.01, 1000000], got '0'"),
        ("every=nan", {}, 422, "every: expected a number"),
        ("format=exe", {}, 422, "format: unknown format 'exe'"),
        ("evry=1", {}, 422, "unknown option 'evry'; did you mean 'every'?"),
        ("", {"Content_Type": "multipart/form-data; boundary=x"}, 415, "curl --data-binary @FILE"),
        ("", {"Host": "evil.example"}, 421, "unknown host"),
        ("", {"Origin": "http://evil.example"}, 403, "another site"),
    ],
)
def test_wrong_requests_start_nothing(client, video, query, headers, status, reason):
    before = client.jobs()
    answer = detect(client, video.read_bytes(), query, **headers)
    assert answer.status == status
    assert reason in answer.json["error"]
    assert client.jobs() == before


def test_an_empty_body_starts_nothing(client):
    for body in (b"", iter([])):
        answer = detect(client, body)
        assert answer.status == 400, answer.body
        assert "expected the bytes of a video" in answer.json["error"]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        ({"url": "file:///etc/passwd"}, 422, "expected an address that starts with http"),
        ({"url": "http://user:secret@example.org/x.mp4"}, 422, "user name"),
        ({"url": 3}, 422, "expected"),
        ({"url": "http://example.org/x.mp4", "every": -1}, 422, "every"),
        ([], 400, "expected a JSON object"),
        ({"url": "http://" + "x" * 70_000}, 413, "too large"),
    ],
)
def test_wrong_json_starts_nothing(client, content, status, reason):
    answer = client.post_json("/api/detect", content)
    assert answer.status == status
    assert reason in answer.json["error"]
    assert "secret" not in answer.json["error"]


@pytest.mark.parametrize(
    "name", ["../../x.mp4", "/etc/passwd", "..\\x.mp4", "%05d.jpg", ".", "a\nb.mp4", "x" * 300, "é 'ü.mov"]
)
def test_names_are_no_paths(client, video, folder, name):
    outside = sorted(folder.iterdir())
    job = finished(client, detect(client, video.read_bytes(), f"name={quote(name)}&format=csv"))
    assert job["state"] == "done", job
    assert sorted(folder.iterdir()) == outside
    (file,) = job["results"]
    assert client.get(file["path"]).body.count(b",") > 5
    assert "/" not in job["name"]
    assert "/" not in file["name"]


def test_the_name_may_be_a_header(client, video):
    answer = client.request("POST", "/api/detect", video.read_bytes(), X_File_Name="caf%C3%A9.mp4")
    assert answer.json["name"] == "café.mp4"
    client.request("DELETE", f"/api/jobs/{answer.json['id']}")


def test_only_results_can_be_read(client, video):
    job = finished(client, detect(client, video.read_bytes()))["id"]
    base = f"/api/jobs/{job}/results"
    for path in (
        f"{base}/job.json",
        f"{base}/../job.json",
        f"{base}/..%2Fjob.json",
        f"{base}/%2e%2e%2fjob.json",
        f"{base}//etc/passwd",
        f"{base}/.",
        "/api/jobs/..%2F..%2Fx/results/clip.csv",
        "/api/jobs/ffffffffffffffffffffffff",
    ):
        assert client.get(path).status == 404, path


# ---------------------------------------------------------------- the queue


def test_a_full_queue_says_when_to_try_again(client, video, slow_model):
    client.idle()
    accepted = [detect(client, video.read_bytes()).json["id"]]
    client.wait(accepted[0], ["running"])
    accepted += [detect(client, video.read_bytes()).json["id"] for _ in range(4)]
    answer = detect(client, video.read_bytes())
    assert answer.status == 503
    assert answer.json["error"] == "the queue is full with 4 videos; try again later"
    assert int(answer.headers["retry-after"]) >= 1
    assert [client.get(f"/api/jobs/{job}").json["position"] for job in accepted] == [None, 0, 1, 2, 3]
    assert b"vmae_det_queue_length 4\n" in client.get("/metrics").body

    cancelled = client.request("DELETE", f"/api/jobs/{accepted[2]}").json
    assert cancelled["state"] == "cancelled"
    assert client.get(f"/api/jobs/{accepted[3]}").json["position"] == 1
    begin = time.monotonic()
    assert client.request("DELETE", f"/api/jobs/{accepted[0]}").json["state"] == "cancelled"
    slow_model.set()
    states = [client.wait(job)["state"] for job in accepted]
    assert states == ["cancelled", "done", "cancelled", "done", "done"]
    assert time.monotonic() - begin < 30
    folders = {path.name for path in client.service.table.folder.iterdir()}
    assert not {accepted[0], accepted[2]} & folders

    client.request("DELETE", f"/api/jobs/{accepted[1]}")
    assert client.get(f"/api/jobs/{accepted[1]}").status == 404
    assert accepted[1] not in {path.name for path in client.service.table.folder.iterdir()}


def test_an_upload_that_is_broken_off_leaves_nothing(client):
    client.idle()
    before = {job["id"] for job in client.jobs()}
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(
            b"POST /api/detect?name=x.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
        )
        end = time.monotonic() + 10
        while not (new := {job["id"] for job in client.jobs()} - before):
            assert time.monotonic() < end
        (job,) = new
        found = client.get(f"/api/jobs/{job}").json
        assert (found["state"], found["name"]) == ("receiving", "x.mp4")
    end = time.monotonic() + 10
    folder = client.service.table.folder / job  # deleted after the job has left the list
    while {job["id"] for job in client.jobs()} != before or folder.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_upload_can_be_cancelled_by_its_job(client):
    client.idle()
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(
            b"POST /api/detect?name=y.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
        )
        end = time.monotonic() + 10
        while not (new := [job for job in client.jobs() if job["state"] == "receiving"]):
            assert time.monotonic() < end
        client.request("DELETE", f"/api/jobs/{new[0]['id']}")
        connection.sendall(b"def" * 300)
        assert b"409" in connection.recv(1000)
    assert client.get(f"/api/jobs/{new[0]['id']}").json["state"] == "cancelled"


def test_a_slow_upload_ends_and_frees_its_place(model, folder, monkeypatch):
    original = security.Security.__init__

    def impatient(self, app, **options):
        original(self, app, **options, body_timeout=0.3)

    monkeypatch.setattr(security.Security, "__init__", impatient)
    with serving(model, folder / "slow") as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
            connection.sendall(
                b"POST /api/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        client.idle()
        assert client.jobs() == []


def test_the_server_stops_at_once_while_the_model_is_busy(model, folder, video, slow_model):
    with serving(model, folder / "stop") as client:
        client.wait(detect(client, video.read_bytes()).json["id"], ["running"])
        begin = time.monotonic()
    assert time.monotonic() - begin < 2


def test_clients_at_the_same_time(client, video):
    client.idle()
    content = video.read_bytes()

    def work(number):
        while (answer := detect(client, content, f"name=v{number}.mp4&format=csv")).status == 503:
            time.sleep(0.05)
        job = finished(client, answer)
        return job["state"], result(client, job, f"v{number}.csv").body.replace(b"v%d," % number, b"")

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(work, range(6)))
    assert {state for state, _ in outcomes} == {"done"}
    assert len({rows for _, rows in outcomes}) == 1


def test_a_mix_of_requests_leaves_a_server_that_works(client, video):
    client.idle()
    before, content = {job["id"] for job in client.jobs()}, video.read_bytes()

    def good():
        while (answer := detect(client, content)).status == 503:
            time.sleep(0.05)
        return finished(client, answer)["state"]

    def broken():
        while (answer := detect(client, content[:200])).status == 503:
            time.sleep(0.05)
        return finished(client, answer)["state"]

    def cancelled():
        start = b"POST /api/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(start)

    def large():
        return detect(client, bytes(4 * 2**20)).status

    def other_host():
        return client.get("/api/jobs", Host="evil.example").status

    def outside():
        return client.get("/api/jobs/..%2f..%2fetc/results/passwd").status

    expected = {good: "done", broken: "failed", cancelled: None, large: 413, other_host: 421, outside: 404}
    with ThreadPoolExecutor(8) as pool:
        outcomes = [(kind, pool.submit(kind)) for _ in range(4) for kind in expected]
    wrong = [(kind.__name__, one.result()) for kind, one in outcomes if one.result() != expected[kind]]
    assert not wrong
    client.idle()
    states = [job["state"] for job in client.jobs() if job["id"] not in before]
    assert sorted(states) == 4 * ["done"] + 4 * ["failed"]
    assert client.get("/healthz").status == 200


# ---------------------------------------------------------------- description, health


def check(value, schema, components, where="$"):
    """Assert that JSON is as its schema says. Understands what the description uses."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        assert value in schema["enum"], where
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    types = {
        "string": str,
        "number": (int, float),
        "integer": int,
        "null": type(None),
        "array": list,
        "object": dict,
    }
    assert not kinds or any(isinstance(value, types[kind]) for kind in kinds), (where, value)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), where
        if schema.get("additionalProperties") is False:
            assert set(value) <= set(schema["properties"]), where
        for name, own in value.items():
            check(own, schema.get("properties", {}).get(name, {}), components, f"{where}.{name}")
    for item in value if isinstance(value, list) else ():
        check(item, schema.get("items", {}), components, f"{where}[]")


def test_the_description_has_all_routes_and_no_others(client):
    described = {
        (path, method.upper())
        for path, item in describe_interface()["paths"].items()
        for method in item
        if method != "parameters"
    }
    served = {
        (route.path, method)
        for route in build_app(client.service).routes
        if isinstance(route, Route) and route.path != "/"
        for method in route.methods - {"HEAD"}
    }
    assert described == served


def test_answers_are_as_described(client, video):
    description = client.get("/api/openapi.json").json
    components = description["components"]["schemas"]
    done = finished(client, detect(client, video.read_bytes()))
    failed = finished(client, detect(client, b"x"))
    calls = [
        ("GET", "/api/server", "/api/server", None),
        ("POST", "/api/detect", "/api/detect?format=csv", video.read_bytes()),
        ("POST", "/api/detect", "/api/detect?every=x", video.read_bytes()),
        ("POST", "/api/classify", "/api/classify", video.read_bytes()),
        ("GET", "/api/jobs", "/api/jobs", None),
        ("GET", "/api/jobs/{job}", f"/api/jobs/{done['id']}", None),
        ("GET", "/api/jobs/{job}", f"/api/jobs/{failed['id']}", None),
        ("GET", "/api/jobs/{job}", "/api/jobs/none", None),
        ("GET", "/api/jobs/{job}/results/{name}", done["results"][0]["path"], None),
        ("GET", "/api/jobs/{job}/results/{name}", f"/api/jobs/{done['id']}/results/none", None),
        ("DELETE", "/api/jobs/{job}", f"/api/jobs/{done['id']}", None),
        ("GET", "/metrics", "/metrics", None),
        ("GET", "/healthz", "/healthz", None),
    ]
    for method, path, address, body in calls:
        answer = client.request(method, address, body)
        responses = description["paths"][path][method.lower()]["responses"]
        assert str(answer.status) in responses, (address, answer.status)
        content = responses[str(answer.status)]["content"]
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in content, address
        if media_type == "application/json":
            check(answer.json, content[media_type]["schema"], components)


def test_metrics_are_prometheus_text(client):
    lines = client.get("/metrics").body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    named = {name.partition("{")[0] for name in values}
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == named
    assert float(values['vmae_det_jobs_total{state="done"}']) >= 1
    assert float(values["vmae_det_decoder_peak_memory_bytes"]) > 2**20
    assert float(values["vmae_det_job_seconds_total"]) > 0


def test_health_is_that_of_the_worker(client, monkeypatch):
    assert client.get("/healthz").json == {"status": "ok", "error": None}
    monkeypatch.setattr(type(client.service.worker), "is_alive", False)
    answer = client.get("/healthz")
    assert (answer.status, answer.json["error"]) == (503, "no jobs are run; restart the server")


def failing_with(error):
    def find(batch):
        raise error

    return find


def test_a_lost_device_is_reported_until_the_model_works(client, video, monkeypatch):
    with monkeypatch.context() as patch:
        # No GPU of this number exists, so the device fails, as after an error of CUDA.
        error = RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
        patch.setattr(client.service.model._scorer, "find", failing_with(error))
        patch.setattr(client.service.model, "_device", torch.device("cuda:99"))
        job = finished(client, detect(client, video.read_bytes()))
    reason = (
        "the device cuda:99 failed; restart the server "
        "(RuntimeError: CUDA error: an illegal memory access was encountered)"
    )
    assert (job["state"], job["error"]) == ("failed", reason)
    health = client.get("/healthz")
    assert (health.status, health.json) == (503, {"status": "failed", "error": reason})
    assert b"vmae_det_model_up 0\n" in client.get("/metrics").body
    assert finished(client, detect(client, video.read_bytes()))["state"] == "done"
    assert client.get("/healthz").status == 200
    assert b"vmae_det_model_up 1\n" in client.get("/metrics").body


def test_a_model_that_fails_for_every_video_is_reported(client, video, monkeypatch):
    monkeypatch.setattr(client.service.model, "_failures", 0)
    monkeypatch.setattr(client.service.model, "failure", None)
    monkeypatch.setattr(client.service.model._scorer, "find", failing_with(ValueError("bad weights")))
    jobs = [finished(client, detect(client, video.read_bytes())) for _ in range(2)]
    assert {job["error"] for job in jobs} == {"the model failed; the server's terminal shows the reason"}
    assert client.get("/healthz").status == 200  # the videos may be at fault
    job = finished(client, detect(client, video.read_bytes()))
    assert job["error"] == "the model failed 3 times in a row (ValueError: bad weights)"
    assert client.get("/healthz").json["error"] == job["error"]


def test_a_person_detector_that_works_does_not_hide_a_model_that_fails(folder, monkeypatch):
    class Detector:
        def detect(self, frames):
            return [WholeFramePerson()(0, one) for one in frames]

    monkeypatch.setattr("vmae_det.web.serve.model.build_person_detector", lambda cfg: Detector())
    model = load_model(write_weights(folder / "two.pt", "two_stage"))
    model._scorer = failing_with(ValueError("bad weights"))
    for _ in range(3):
        assert model.failure is None
        assert model.answer(Message("people", None, [np.zeros((8, 8, 3), np.uint8)])).kind == "result"
        assert model.answer(Message("score", {}, [])).kind == "error"
    assert model.failure == "the model failed 3 times in a row (ValueError: bad weights)"


def test_a_compressed_body_is_no_video(client, video):
    job = finished(client, detect(client, gzip.compress(video.read_bytes()), Content_Encoding="gzip"))
    assert job["state"] == "failed"


@pytest.mark.parametrize("text", ["can't allocate lock", "can't start new thread", "Cannot allocate memory"])
def test_errors_of_threads_without_memory_name_the_limit(text):
    assert decoder._is_memory(RuntimeError(text))
    assert not decoder._is_memory(RuntimeError("moov atom not found"))
