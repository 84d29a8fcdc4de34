"""`vmae-det serve`: arguments, and a server started by the command."""

import http.client
import json

import pytest
from annotated import write_video
from served import write_weights
from visited import visit_and_stop

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.web import server as server_module


def test_a_video_is_detected_until_the_server_stops(tmp_path, capsys, monkeypatch):
    weights = write_weights(tmp_path / "model.pt")
    video = write_video(tmp_path / "a.mp4", seconds=1).read_bytes()
    common = ["serve", "--weights", str(weights), "--output", str(tmp_path / "out"), "--no-browser"]
    answers = {}

    def request(port, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def visit(port):
        answers["large"] = request(port, "POST", "/api/detect", bytes(2**20 + 1))
        status, job = request(port, "POST", "/api/detect?name=a.mp4&format=csv", video)
        while job["state"] in ("queued", "running"):
            job = request(port, "GET", f"/api/jobs/{job['id']}")[1]
        answers["job"] = status, job["state"], [one["name"] for one in job["results"]]
        answers["second server"] = main([*common, "--port", "0"])

    visit_and_stop(monkeypatch, visit)
    assert main([*common, "--port", "0", "--max-mb", "1", "--queue", "1"]) == 0
    assert answers["job"] == (202, "done", ["a.csv"])
    assert answers["large"] == (413, {"error": "the request is too large; at most 1 MiB are accepted"})
    assert answers["second server"] == 2
    assert "open in another vmae-det process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("one_stage", ["--whole-frame"], None),
        ("classifier", ["--whole-frame"], "--whole-frame: not used with a classifier"),
        ("classifier", ["--precision", "fp32"], "--precision: not used with a classifier"),
        ("two_stage", ["PERSON_DETECTOR.NAME", "no_such"], "PERSON_DETECTOR.NAME"),
        ("one_stage", ["--host", "203.0.113.7"], "no address of this machine"),
        ("one_stage", ["--queue", "0"], "--queue: expected an integer"),
        ("one_stage", ["--max-mb", "nan"], "--max-mb: expected a number"),
    ],
)
def test_wrong_arguments_are_one_error(kind, options, problem, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(server_module.LocalServer, "run", lambda *_, **__: None)
    weights = write_weights(tmp_path / "model.pt", kind)
    command = ["serve", "--weights", str(weights), "--output", str(tmp_path / "out"), "--port", "0"]
    if problem is None:
        assert main([*command, *options]) == 0
        return
    try:
        status = main([*command, *options])
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2
    assert problem in capsys.readouterr().err


def test_weights_without_classes_are_refused(tmp_path, capsys):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskedAutoencoder"
    save_weights({}, cfg.dump(), tmp_path / "model.pt")
    assert (
        main(["serve", "--weights", str(tmp_path / "model.pt"), "--output", str(tmp_path), "--port", "0"])
        == 2
    )
    assert "is a MaskedAutoencoder; expected an action detector or a classifier" in capsys.readouterr().err
