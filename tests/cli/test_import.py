"""`vmae-det import`: output and files; the dataset passes check-data and can be trained on."""

import csv
import json

import pytest
import yaml

from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate


@pytest.fixture
def coco_file(mini_ava, tmp_path):
    """Return the training annotations of MiniAVA as COCO JSON."""
    with (mini_ava / "annotations/mini_ava_train.csv").open() as file:
        rows = list(csv.reader(file))
    images, annotations = {}, []
    for video, second, x1, y1, x2, y2, action, person in rows:
        name = f"{video}_{(int(second) - 900) * 12:06d}.jpg"
        images.setdefault(name, {"id": name, "file_name": name, "width": 192, "height": 144})
        x1, y1, x2, y2 = (float(v) * s for v, s in zip((x1, y1, x2, y2), (192, 144, 192, 144)))
        annotations.append(
            {"image_id": name, "category_id": int(action), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            | {"track_id": int(person)}
        )
    categories = [{"id": i, "name": f"action {i}"} for i in range(1, 15)]
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps({"images": list(images.values()), "annotations": annotations, "categories": categories})
    )
    return path


def imported(coco_file, mini_ava, tmp_path, *more):
    folder = tmp_path / "dataset"
    videos = str(mini_ava / "videos")
    arguments = ["import", str(coco_file), "--output", str(folder), "--videos", videos, *more]
    return main(arguments), folder


def test_the_dataset_passes_check_data_and_can_be_trained_on(coco_file, mini_ava, tmp_path, tiny_cfg, capsys):
    status, folder = imported(coco_file, mini_ava, tmp_path)
    message = capsys.readouterr().out
    assert status == 0
    assert "4 videos" in message
    assert "80 rows" in message
    assert yaml.safe_load((folder / "dataset.yaml").read_text())["type"] == "detection"
    assert main(["check-data", str(folder / "dataset.yaml"), "--decode", "none"]) == 0
    assert "no errors" in capsys.readouterr().out
    cfg = tiny_cfg("detect", "SOLVER.BATCH_SIZE", 12, "SOLVER.EPOCHS", 1)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (str(folder / "dataset.yaml"),), ()
    train_or_evaluate(cfg)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 2


def test_an_existing_dataset_requires_overwrite(coco_file, mini_ava, tmp_path, capsys):
    assert imported(coco_file, mini_ava, tmp_path)[0] == 0
    assert imported(coco_file, mini_ava, tmp_path)[0] == 2
    assert "already exists; choose another folder, or pass --overwrite" in capsys.readouterr().err
    assert imported(coco_file, mini_ava, tmp_path, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "nowhere"], "--videos: nowhere is not a folder"),
        (["--rate", "0"], "expected a number in [0.001, 100000], got '0'"),
        (["--format", "pascal"], "invalid choice: 'pascal'"),
    ],
)
def test_invalid_usage_exits_with_status_2(coco_file, tmp_path, capsys, arguments, message):
    try:
        status = main(["import", str(coco_file), "--output", str(tmp_path / "out"), *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
