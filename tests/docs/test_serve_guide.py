"""The examples of docs/guides/serve.md, read from the page and run against a server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from annotated import write_video
from served import load_model, serving, write_weights

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    write_video(folder / "street.mp4", seconds=2)
    with serving(load_model(write_weights(folder / "model.pt")), folder / "out") as client:
        client.folder = folder
        yield client


def test_the_python_example_prints_the_keyframes(client, capsys, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    monkeypatch.chdir(client.folder)
    exec(code.replace(ADDRESS, f"http://127.0.0.1:{client.port}"), {})
    # The server runs in this process, and its log has the time in brackets.
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("[")]
    assert [line.split()[0] for line in lines] == ["0.0", "1.0"]
    assert all(line.endswith(" people") for line in lines)


@pytest.mark.skipif(not shutil.which("curl"), reason="requires curl")
def test_the_curl_examples_answer_as_the_page_says(client):
    commands = [line.strip() for line in GUIDE.splitlines() if line.startswith("    curl -s")]
    assert len(commands) == 3
    answers = [
        json.loads(
            subprocess.run(
                command.replace(ADDRESS, f"http://127.0.0.1:{client.port}"),
                shell=True,
                cwd=client.folder,
                capture_output=True,
                check=True,
            ).stdout
        )
        for command in commands
    ]
    assert (answers[0]["name"], answers[0]["options"]["every"]) == ("street.mp4", 0.5)
    assert answers[0]["id"] in {job["id"] for job in answers[1]["jobs"]}
    assert answers[2]["name"] == "a.mp4"


def test_the_page_names_all_routes_and_metrics(client):
    for path in client.get("/api/openapi.json").json["paths"]:
        named = path.replace("{job}", "ID").replace("{name}", "NAME")
        assert named in GUIDE, path
    for name in re.findall(rb"# TYPE (vmae_det_\w+)", client.get("/metrics").body):
        assert name.decode() in GUIDE or "memory" in name.decode(), name
