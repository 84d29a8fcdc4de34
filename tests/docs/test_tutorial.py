"""The commands of docs/tutorial.md, read from the page and run in order on synthetic phone videos."""

import csv
import glob
import re
import shlex
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from export_annotations import to_cvat
from numbered_videos import Recipe, write_numbered, x264

from vmae_det.cli.main import main
from vmae_det.formats.label_map import LabelMap
from vmae_det.video.readers import open_video

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
RATE, START = 12, 900  # MiniAVA's
ACTIONS = ("stand", "walk", "wave")  # as the page says

# Added to each `train` of the page: no published weights, and one epoch. The detector starts from the weights
# of the pre-training, which the page adds in a sentence.
ADDED = {
    "my_videos/unlabelled": "--model tiny DATALOADER.CLIPS_PER_VIDEO 2",
    "my_data/train/dataset.yaml": "--weights output/unlabelled/model_final.pt",
}
QUICK = "MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 0"
ONE_EPOCH = "SOLVER.EPOCHS 1"

# Files that each command writes, by the first words of the command.
OUTPUTS = {
    "import annotations/train": [
        f"my_data/train/{f}" for f in ("annotations.csv", "actions.pbtxt", "dataset.yaml")
    ],
    "import annotations/val": [
        f"my_data/val/{f}" for f in ("annotations.csv", "actions.pbtxt", "dataset.yaml")
    ],
    "check-data my_data/train/dataset.yaml --sheets": ["sheets/train/sheet_1.png"],
    "check-data my_data/val/dataset.yaml --sheets": ["sheets/val/sheet_1.png"],
    "train --data my_videos/unlabelled": [
        "output/unlabelled/model_final.pt",
        "output/unlabelled/reconstruction.png",
    ],
    "train --data my_data": [
        f"output/my_data/{f}" for f in ("model_final.pt", "detections.csv", "config.yaml", "choices.txt")
    ],
    "evaluate --ground-truth": ["report/report.html"],
    "detect my_videos/new.mp4 --boxes": [
        "detected/new.csv",
        "detected/new.jsonl",
        "detected/new_actions.mp4",
    ],
}

pytestmark = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV writes display matrices from 18.1 on"
)


def blocks():
    """Yield the blocks of the page in order: ("command", line) or (language, content)."""
    kind, content = None, []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if kind is not None:
                yield kind, "\n".join(content) + "\n"
            kind, content = (line[3:], []) if kind is None else (None, [])
        elif kind is not None:
            content.append(line)
        elif re.match(r"    vmae-det ", line):
            yield "command", line.strip()


def phone_video(source, path, **recipe):
    """Write the video `source` as a phone would store it."""
    frames = open_video(source).frames(np.arange(len(open_video(source))))
    size = (144, 192) if recipe.get("rotation", 0) % 180 else (192, 144)
    recipe = Recipe(count=len(frames), size=size, rate=RATE, options=x264(keyint=12), **recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_numbered(path, recipe, lambda number, width, height: frames[number])


def uneven_timestamps(count):
    """Return timestamps in milliseconds: frames are up to 30 ms late, except at full seconds."""
    late = np.random.default_rng(0).integers(0, 30, count) * (np.arange(count) % RATE > 0)
    return (np.arange(count) * 1000 // RATE + late).tolist()


@pytest.fixture
def folder(mini_ava, tmp_path, monkeypatch):
    """Videos and CVAT exports as the page expects them. The second of a set is rotated, the third uneven."""
    label_map = LabelMap.from_file(mini_ava / "annotations/mini_ava_actions.pbtxt")
    names = {i: name for i, name in zip(label_map.ids, label_map.names) if name in ACTIONS}
    forms = [
        {},
        {"rotation": 90},
        {"stamps": uneven_timestamps(120), "time_base": Fraction(1, 1000)},
        {"rotation": 270},
    ]
    for split, place in (("train", "kitchen"), ("val", "hall")):
        rows = list(csv.reader((mini_ava / f"annotations/mini_ava_{split}.csv").open()))
        rows = [row for row in rows if int(row[6]) in names]
        ids = {video: f"{place}_{n}" for n, video in enumerate(sorted({row[0] for row in rows}), start=1)}
        for (video, name), form in zip(ids.items(), forms):
            phone_video(mini_ava / f"videos/{video}.mp4", tmp_path / f"my_videos/{split}/{name}.mp4", **form)
        annotations = tmp_path / "annotations" / split
        annotations.mkdir(parents=True)
        to_cvat([[ids[row[0]], *row[1:]] for row in rows], names, RATE, START, annotations)
    for number, unlabeled in enumerate(sorted((mini_ava / "unlabelled").glob("*.mp4"))):
        phone_video(unlabeled, tmp_path / f"my_videos/unlabelled/more_{number}.mp4", **forms[number])
    phone_video(
        mini_ava / f"videos/{video}.mp4",
        tmp_path / "my_videos/new.mp4",
        rotation=90,
        stamps=uneven_timestamps(120),
        time_base=Fraction(1, 1000),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, capsys):
    """Run a command of the page and return its output."""
    words = shlex.split(command)[1:]
    words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    if words[0] == "train":
        added = ADDED[words[words.index("--data") + 1]]
        words += f"{added} {QUICK} {'' if '--dry-run' in words else ONE_EPOCH}".split()
    status = main(words)
    printed = capsys.readouterr()
    assert status == 0, f"{command}\n{printed.out}{printed.err}"
    return printed.out


def pattern(line):
    """Return a line with placeholders for numbers and spaces."""
    return re.sub(r"\s*[\d.]+%?\s*|\s+", "#", line.strip())


def test_every_command_of_the_page(folder, capsys):
    expected, printed = dict(OUTPUTS), ""
    for kind, content in blocks():
        if kind == "command":
            printed = run(content, capsys)
            if "--dry-run" in content:
                assert "MODEL.ROI_HEAD.NUM_CLASSES" in printed
                assert not (folder / "output/my_data").exists()
                continue
            for start in [start for start in expected if content.startswith(f"vmae-det {start}")]:
                for path in expected.pop(start):
                    assert (folder / path).stat().st_size, f"{path}, after: {content}"
        elif kind == "text":
            lines = {pattern(line) for line in printed.splitlines()}
            missing = [s for s in content.splitlines() if s.strip(" .") and pattern(s) not in lines]
            assert not missing, f"{missing} is not in:\n{printed}"
        elif kind == "csv":
            (folder / "new_persons.csv").write_text(content)
    assert not expected, f"not on the page: {list(expected)}"

    source, drawn = open_video("my_videos/new.mp4"), open_video("detected/new_actions.mp4")
    np.testing.assert_allclose(drawn.times, source.times, atol=2e-4)
    assert drawn.frames([0]).shape == source.frames([0]).shape == (1, 144, 192, 3)
