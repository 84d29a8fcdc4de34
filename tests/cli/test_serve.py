"""`vmae-det serve`: arguments, and a server started by the command."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from subprocess import Popen

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


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a group of processes")
def test_ctrl_c_stops_the_server_while_the_model_is_busy_and_a_video_arrives(tmp_path):
    (tmp_path / "stuck.py").write_text(
        "import time\n"
        "from vmae_det.web.serve.model import ServedModel\n"
        "def answer(self, call):\n"
        "    open('called', 'w').close()\n"
        "    time.sleep(60)\n"
        "ServedModel.answer = answer\n"
    )
    weights = write_weights(tmp_path / "model.pt")
    video = write_video(tmp_path / "a.mp4", seconds=1).read_bytes()
    command = [sys.executable, "-m", "vmae_det.cli.main", "serve", "--import", "stuck", "--no-browser"]
    command += ["--weights", str(weights), "--output", str(tmp_path / "out"), "--port", "0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = Popen(
            command, stdout=file, stderr=file, env=env, cwd=tmp_path, start_new_session=True, text=True
        )
    try:
        port = int(wait_for(lambda: re.search(r"http://127\.0\.0\.1:(\d+)/\n", log.read_text()))[1])
        with socket.create_connection(("127.0.0.1", port)) as upload:
            start = "POST /api/detect?format=csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
            upload.sendall(start.format(1000).encode() + b"abc")
            with socket.create_connection(("127.0.0.1", port)) as complete:
                complete.sendall(start.format(len(video)).encode() + video)
                assert complete.recv(12) == b"HTTP/1.1 202"
            wait_for((tmp_path / "called").exists)
            begin = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
            assert process.wait(20) == 0
            assert time.monotonic() - begin < 4  # 0.8 on an idle machine
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def wait_for(condition, seconds=120):
    """Wait until a condition is true; return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


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
