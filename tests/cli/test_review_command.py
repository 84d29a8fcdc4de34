"""`vmae-det review`: the runs that it accepts, and one clear error for everything else."""

import csv
import json

import numpy as np
import pytest
import yaml
from annotated import LABEL_MAP, write_dataset, write_video

from vmae_det.cli.main import main

TRUTH = "a,0001,0,0,0.4,0.8,1,0\na,0003,0,0,0.4,0.8,2,0"
PERFECT = "a,0001,0,0,0.4,0.8,1,0.9\na,0003,0,0,0.4,0.8,2,0.9"


def write_run(folder, detections=PERFECT, videos=("a",), truth=TRUTH, name="data", **config):
    """Write a dataset and a run that was tested on it; return the run."""
    data = write_dataset(folder / name, truth, videos=videos)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"DATASETS": {"TEST": [str(data)]}, **config}))
    if detections is not None:
        (run / "detections.csv").write_text(detections)
    return run


def review(*arguments):
    return main(["review", *map(str, arguments), "--workers", "1"])


def content(folder):
    """Return the data of a page."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="review">')[1].split("</script>")[0])


def test_a_perfect_run(tmp_path, capsys):
    run = write_run(tmp_path)
    assert review(run, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out/index.html")
    assert content(tmp_path / "out")["errors"] == []
    assert len((tmp_path / "out/review.csv").read_text().splitlines()) == 1
    assert not (run / "review").exists()


def test_other_detections_of_another_dataset_and_a_keyframe_outside_the_video(tmp_path, capsys):
    run = write_run(tmp_path, detections=None)
    other = write_dataset(tmp_path / "other", "b,0002,0,0,0.4,0.8,1,0\nb,0099,0,0,0.5,0.5,2,3", videos=["b"])
    (tmp_path / "d.csv").write_text("b,0002,0,0,0.4,0.8,2,0.5")
    options = ["--annotate-url", "https://host:9000/x"]
    assert review(run, "--dataset", other, "--detections", tmp_path / "d.csv", *options) == 0
    printed = capsys.readouterr().out
    # The keyframe at second 99 has no clip, and is listed all the same.
    assert "1 of 4 errors have no clip: second 99.000 is outside the video" in printed
    data = content(run / "review")
    assert [
        (data["kinds"][e["kind"]]["name"], e["second"], bool(e["clip"]["name"])) for e in data["errors"]
    ] == [
        ("not detected", 99, False),
        *[("outranked", 2, True), ("not scored", 2, True), ("confusion", 2, True)],
    ]
    assert data["annotate"] == {
        "url": "https://host:9000/x",
        "command": f"vmae-det annotate {other} --port 9000",
    }


def test_several_test_sets(tmp_path, capsys):
    run = write_run(tmp_path, detections=None)
    first, second = (write_dataset(tmp_path / name, TRUTH, videos=["a"]) for name in ("first", "second"))
    config = {"DATASETS": {"TEST": [str(first), str(second)]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert review(run) == 2
    assert f"was tested on {first}, {second}; pass one by --dataset" in capsys.readouterr().err
    (run / "second_dataset").mkdir()
    (run / "second_dataset/detections.csv").write_text(PERFECT)
    assert review(run, "--dataset", second) == 0


def no_config(folder):
    (write_run(folder) / "config.yaml").unlink()


def no_detections(folder):
    write_run(folder, detections=None)


def other_dataset(folder):
    write_run(folder, detections=PERFECT.replace("a,", "x,"))


def other_actions(folder):
    write_run(folder, detections="a,0001,0,0,0.4,0.8,77,0.9")


def no_video(folder):
    write_run(folder, detections="", videos=())


def broken_video(folder):
    run = write_run(folder, detections="")
    (run.parent / "data/videos/a.mp4").write_bytes(b"no video")


def untested(folder):
    (write_run(folder) / "config.yaml").write_text("SEED: 1\n")


def bad_config(folder):
    (write_run(folder) / "config.yaml").write_text("SEED: [\n")


def unlabeled(folder):
    run = write_run(folder)
    (run / "config.yaml").write_text(yaml.safe_dump({"DATASETS": {"TEST": [str(folder / "data/videos")]}}))


@pytest.mark.parametrize(
    ("prepare", "arguments", "problem"),
    [
        (lambda folder: None, [], "run: no such folder; expected the output folder of `vmae-det train`"),
        (no_config, [], "run: has no config.yaml"),
        (bad_config, [], "config.yaml"),
        (untested, [], "run: was not tested; pass the dataset by --dataset"),
        (no_detections, [], "detections.csv: no such file; run `vmae-det test` with OUTPUT_DIR"),
        (write_run, ["--detections", "no.csv"], "no.csv"),
        (write_run, ["--dataset", "nothing"], "--dataset: 'nothing' is neither a registered dataset"),
        (other_dataset, [], "no detections of the dataset"),
        (other_actions, [], "no detections of the dataset"),
        (no_video, [], "no video file for 1 of 1 video ids, such as 'a'"),
        (broken_video, [], "none of the 2 clips can be read"),
        (unlabeled, [], "is of type 'videos', expected detection or classification"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path, capsys, prepare, arguments, problem):
    prepare(tmp_path)
    assert review(tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "Traceback" not in error
    assert not (tmp_path / "run/review/index.html").exists()


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "127.0.0.1:8000", "http://x/#a", "http://x y/", "http://x:99999/"]
)
def test_addresses_of_annotate(tmp_path, capsys, address):
    with pytest.raises(SystemExit) as status:
        review(write_run(tmp_path), "--annotate-url", address)
    assert status.value.code == 2
    assert "--annotate-url: expected an address such as" in capsys.readouterr().err


# ---------------------------------------------------------------- classification


@pytest.fixture
def classification(tmp_path):
    """A run of a classifier whose classes have another order than those of the dataset."""
    for name in ("x", "y", "z"):
        write_video(tmp_path / f"data/videos/{name}.mp4", seconds=1)
    (tmp_path / "data/list.csv").write_text("x.mp4 0\ny.mp4 1\nz.mp4 0\n")
    (tmp_path / "data/actions.pbtxt").write_text(LABEL_MAP)
    content = {
        **{"type": "classification", "videos": "videos", "annotations": "list.csv"},
        "label_map": "actions.pbtxt",
    }
    (tmp_path / "data/dataset.yaml").write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    run.mkdir()
    config = {"DATASETS": {"TEST": [str(tmp_path / "data/dataset.yaml")]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    # Output 2 is class 0 of the dataset (stand), output 0 is class 1 (sit).
    scores = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.5, 0.3]], dtype=np.float32)
    np.savez(run / "scores.npz", index=np.arange(3), label=np.array([2, 0, 2]), scores=scores)
    return run


def test_wrong_classes_of_a_classifier(classification, capsys):
    assert review(classification) == 0
    with (classification / "review/review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["class"], row["video"], row["detected"]) for row in rows] == [
        ("wrong class", "stand", "x.mp4", "sit"),
        ("wrong class", "stand", "z.mp4", "class 1"),
    ]
    data = content(classification / "review")
    assert data["annotate"] is None
    assert ["top-1 accuracy", "33.33 %"] in data["facts"]
    assert "wrong class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": np.array([2, 0, 0])}, "are no scores of the dataset"),
        ({"index": np.array([0, 1, 7])}, "are no scores of the dataset"),
        ({"scores": np.full((3, 3), np.nan)}, "expected index (V,), label (V,) and finite scores"),
        ({"label": np.array([{}, {}, {}])}, "expected the scores that `vmae-det test` writes"),
        (None, "scores.npz: no such file; run `vmae-det test`"),
    ],
)
def test_mistakes_in_scores(classification, capsys, change, problem):
    path = classification / "scores.npz"
    if change is None:
        path.unlink()
    else:
        arrays = dict(np.load(path)) | change
        np.savez(path, **arrays)
    assert review(classification) == 2
    assert problem in capsys.readouterr().err


def test_detections_of_a_classification_dataset(classification, capsys):
    assert review(classification, "--detections", "d.csv") == 2
    assert "is of type 'classification', expected detection" in capsys.readouterr().err
