"""`vmae-det evaluate --classes`: accuracy, confusions, report, and wrong inputs."""

import csv
import json

import numpy as np
import pytest

from vmae_det.cli.main import main
from vmae_det.evaluation import top_k_accuracy
from vmae_det.evaluation.classification import evaluate_classes
from vmae_det.formats.class_csv import ClassScores, read_class_scores
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.formats.video_list import VideoList
from vmae_det.utils.errors import ConfigError, DataError

NAMES = ('run, "fast"', "walk", "sit", "<b>wave</b>", "fall", "jump")
LABELS = LabelMap((2, 4, 6, 8, 9, 11), NAMES, ("",) * 6)


def video_list(names, labels):
    return VideoList(np.array(names, dtype=object), np.array(labels), np.arange(1, len(names) + 1))


def write_scores(folder, videos, names, scores):
    """Write a file per video, as `classify` does."""
    for video, of_video in zip(videos, scores):
        path = folder / f"{video}_classes.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["video", "rank", "id", "class", "score"])
            for rank, column in enumerate(np.argsort(-of_video), start=1):
                writer.writerow([video, rank, column + 1, names[column], repr(float(of_video[column]))])


@pytest.fixture
def case():
    """60 videos in subfolders with scores that are often right, for classes in another order."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=60)  # no video of the last class
    scores = rng.random((60, 6)).round(1)  # with ties
    scores[np.arange(60), labels] += 0.3
    videos = [f"{NAMES[label][0]}/v.{number}" for number, label in enumerate(labels)]
    return videos, labels, scores


def test_accuracy_and_confusions(case):
    videos, labels, scores = case
    order = [3, 1, 5, 0, 2, 4]
    predictions = ClassScores(tuple(videos[::-1]), tuple(NAMES[c] for c in order), scores[::-1][:, order])
    truth = video_list([f"clips/{video}.mp4" for video in videos], labels)
    result = evaluate_classes(truth, predictions, LABELS)
    expected = top_k_accuracy(scores, labels)
    assert (result.top(1), result.top(5)) == (expected["top1"], expected["top5"])
    assert 0 < result.top(1) < 100
    assert result.names == NAMES
    assert result.confusion.sum() == 60
    np.testing.assert_array_equal(result.confusion.sum(axis=1), np.bincount(labels, minlength=6))
    assert 100 * np.trace(result.confusion) / 60 == pytest.approx(result.top(1))  # ties are confusions
    accuracy = result.accuracy()
    np.testing.assert_allclose(accuracy[:5], 100 * result.confusion.diagonal()[:5] / result.num_videos[:5])
    assert np.isnan(accuracy[5])
    assert result.mean_class_accuracy == pytest.approx(accuracy[:5].mean())
    off = result.confusion[0] - np.diag(result.confusion.diagonal())[0]
    assert result.confused_with(0) == (NAMES[off.argmax()], off.max())


def test_videos_without_scores_are_wrong_and_others_are_ignored(case):
    videos, labels, scores = case
    truth = video_list([f"{video}.mp4" for video in videos], labels)
    names = (*videos[:40], "other")
    predictions = ClassScores(names, NAMES, np.concatenate([scores[:40], scores[:1]]))
    result = evaluate_classes(truth, predictions, LABELS)
    assert (result.num_missing, result.num_ignored) == (20, 1)
    part = top_k_accuracy(scores[:40], labels[:40])
    assert result.top(1) == pytest.approx(part["top1"] * 40 / 60)
    assert result.top(5) == pytest.approx(part["top5"] * 40 / 60)
    assert "20 of 60 videos have no scores and count as wrong" in result.table()


def test_ambiguous_videos_and_unknown_classes(case):
    truth = video_list(["a.mp4"], [0])
    predictions = ClassScores(("x/a", "y/a"), NAMES, np.eye(6)[:2])
    with pytest.raises(DataError, match="scores of the video a are ambiguous: x/a or y/a"):
        evaluate_classes(truth, predictions, LABELS)
    assert evaluate_classes(video_list(["y/a.mp4"], [1]), predictions, LABELS).top(1) == 100
    one = ClassScores(("a",), NAMES, np.eye(6)[:1])
    with pytest.raises(DataError, match="scores of a match two videos of the ground truth: x/a, y/a"):
        evaluate_classes(video_list(["x/a.mp4", "y/a.mp4"], [0, 1]), one, LABELS)
    assert evaluate_classes(video_list(["x/a.mp4", "a.mp4"], [0, 0]), one, LABELS).ranks.tolist() == [0, 1]
    with pytest.raises(DataError, match="no video of the ground truth, such as b, has scores"):
        evaluate_classes(video_list(["b.mp4"], [0]), predictions, LABELS)
    with pytest.raises(ConfigError, match="--label-map: required"):
        evaluate_classes(truth, predictions)
    with pytest.raises(ConfigError, match="line 1 of the ground truth has the label 6, but there are 6"):
        evaluate_classes(video_list(["x/a.mp4"], [6]), predictions, LABELS)
    few = ClassScores(("x/a",), NAMES[:2], np.eye(2)[:1])
    with pytest.raises(ConfigError, match="the class 'sit' of the ground truth is not among the 2 classes"):
        evaluate_classes(video_list(["x/a.mp4"], [2]), few, LABELS)
    numbered = ClassScores(("x/a",), ("class 0", "class 1"), np.eye(2)[1:])
    assert evaluate_classes(video_list(["x/a.mp4"], [1]), numbered).top(1) == 100


def test_command_and_report(case, tmp_path, capsys):
    videos, labels, scores = case
    write_scores(tmp_path / "<i>out", videos, NAMES, scores)
    write_label_map(tmp_path / "map.pbtxt", LABELS)
    rows = [f"clips/{video}.mp4 {label}" for video, label in zip(videos, labels)]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    command = ["evaluate", "--ground-truth", tmp_path / "list.csv", "--classes", tmp_path / "<i>out"]
    command += ["--label-map", tmp_path / "map.pbtxt", "--json", tmp_path / "r.json"]
    assert main([*map(str, command), "--report", str(tmp_path / "report")]) == 0
    expected = top_k_accuracy(scores, labels)
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("all videos"))
    assert line.split()[2:] == [f"{expected['top1']:.2f}", f"{expected['top5']:.2f}", "60"]
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["top1"] == expected["top1"]
    assert content["per_class"]["jump"] == {"top1": None, "top5": None, "num_videos": 0}
    with (tmp_path / "report" / "confusion.csv").open(newline="") as file:
        matrix = list(csv.reader(file))
    assert matrix[0][1:] == list(NAMES)
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == content["confusion"]
    with (tmp_path / "report" / "classes.csv").open(newline="") as file:
        classes = {row["class"]: row for row in csv.DictReader(file)}
    assert (classes["jump"]["top1"], classes["jump"]["num_videos"]) == ("", "0")
    assert classes["sit"]["top1"] == f"{content['per_class']['sit']['top1']:.2f}"
    of_classes = [row["top1"] for row in content["per_class"].values() if row["num_videos"]]
    assert content["mean_class_accuracy"] == pytest.approx(np.mean(of_classes))
    page = (tmp_path / "report" / "report.html").read_text()
    assert "/&lt;i&gt;out</h1>" in page
    assert f'<div class="mean">{expected["top1"]:.2f}</div>' in page
    assert "<b>wave</b>" not in page
    assert "&lt;b&gt;wave&lt;/b&gt;" in page
    assert "@@" not in page
    assert page.count("<g><title>") == len(NAMES) ** 2
    assert main([*map(str, command), "--iou", "0.5"]) == 2
    assert "--iou requires --detections or --tubes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "contains no rows"),
        ("a,b\n", "a_classes.csv:1: expected the header video,rank,id,class,score, got 'a,b'"),
        ("video,rank,id,class,score\nv,1,1,walk\n", "a_classes.csv:2: expected 5 columns"),
        ("video,rank,id,class,score\nv,1,1,walk,nan\n", "a_classes.csv:2: expected a finite number as score"),
        ("video,rank,id,class,score\nv,1,1,a,1\nv,2,1,a,1\n", "a_classes.csv:3: .*has the class 'a' twice"),
        ("video,rank,id,class,score\nv,1,1,a,1\nw,1,1,b,1\n", "the video 'w' has 1 classes, expected the 1"),
    ],
)
def test_damaged_files(tmp_path, text, problem):
    (tmp_path / "a_classes.csv").write_text(text)
    for source in (tmp_path, tmp_path / "a_classes.csv"):
        with pytest.raises(DataError, match=problem):
            read_class_scores(source)
    (tmp_path / "a_classes.csv").write_text("video,rank,id,class,score\nv,1,1,a,1\n")
    (tmp_path / "b_classes.csv").write_text("video,rank,id,class,score\nv,1,1,a,1\n")
    with pytest.raises(DataError, match=r"b_classes.csv:2: the video 'v' is also in .*a_classes.csv"):
        read_class_scores(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no files"):
        read_class_scores(tmp_path / "empty")
