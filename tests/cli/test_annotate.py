"""`vmae-det annotate`: arguments, and a page served by the command."""

import http.client
import json
import subprocess
import sys

import pytest
from annotated import write_dataset, write_video
from visited import visit_and_stop

from vmae_det.cli.main import main
from vmae_det.data import catalog
from vmae_det.data.catalog import CatalogEntry


def test_a_page_is_served_until_the_server_stops(tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "clips" / "a.mp4", seconds=2)
    answers = {}

    def visit(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        patch = [{"second": 1, "person": 0, "before": None, "after": {"box": [0, 0, 1, 1], "actions": [2]}}]
        body = json.dumps({"client": "x", "edit": {"name": "patch", "patch": patch}})
        headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
        connection.request("POST", "/api/videos/a/edits", body, headers)
        response = connection.getresponse()
        answers["edit"] = response.status, response.read()
        other = ["annotate", str(tmp_path / "clips"), "--port", "0", "--no-browser"]
        answers["second server"] = main(other)

    visit_and_stop(monkeypatch, visit)
    arguments = ["annotate", str(tmp_path / "clips"), "--actions", "walk, run", "--port", "0", "--no-browser"]
    assert main(arguments) == 0
    assert answers["edit"][0] == 200, answers
    assert answers["second server"] == 2
    assert "open in another vmae-det process" in capsys.readouterr().err
    assert (tmp_path / "clips_annotations" / "annotations.csv").read_text() == "a,0001,0.0,0.0,1.0,1.0,2,0\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["mini_ava_train"], "pass --output FOLDER to annotate a copy"),
        (["no_such_dataset"], "DATASET: 'no_such_dataset' is neither a registered dataset"),
        (["FOLDER"], "a new dataset needs its actions"),
        (["FOLDER", "--actions", "a,,b"], "--actions: expected names separated by commas"),
        (["FOLDER", "--label-map", "ava"], "no such file or built-in label map"),
        (["FOLDER", "--actions", "a", "--host", "203.0.113.7"], "no address of this machine"),
        (["SET", "--actions", "a"], "--actions: not used with"),
        (["SET", "--weights", "no.pt"], "no.pt"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path, capsys, monkeypatch, arguments, problem):
    monkeypatch.setenv("VMAE_DET_DATASETS", str(tmp_path / "data"))
    monkeypatch.setitem(catalog._CATALOG, "mini_ava_train", CatalogEntry(file="mini_ava/train.yaml"))
    write_video(tmp_path / "clips" / "a.mp4", seconds=1)
    file = write_dataset(tmp_path / "set", "a,0000\n")
    write_dataset(tmp_path / "data" / "mini_ava", "a,0000\n").rename(
        tmp_path / "data" / "mini_ava" / "train.yaml"
    )
    names = {"FOLDER": str(tmp_path / "clips"), "SET": str(file)}
    arguments = [names.get(argument, argument) for argument in arguments]
    assert main(["annotate", *arguments, "--port", "0", "--no-browser"]) == 2
    assert problem in capsys.readouterr().err


SERVE = """
import sys
from vmae_det.cli.main import main
from vmae_det.web.server import LocalServer
LocalServer.run = lambda self, app, **options: print("torch" in sys.modules)
sys.exit(main(sys.argv[1:]))
"""


def test_a_part_of_a_part_is_one_clear_error(tmp_path, capsys):
    file = write_dataset(tmp_path / "set", "a,0000\n")
    file.write_text(file.read_text() + "\npart_of: dataset.yaml\n")
    assert main(["annotate", str(file), "--no-browser"]) == 2
    error = capsys.readouterr().err
    assert "part_of: expected an entire dataset" in error
    assert error.count("\n") == 1


def test_the_server_needs_no_torch(tmp_path):
    """It starts in a second and keeps 300 MB less, until somebody asks for proposals."""
    file = write_dataset(tmp_path / "set", "a,0000\n", videos=["a"])
    command = [sys.executable, "-c", SERVE, "annotate", str(file), "--port", "0", "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
