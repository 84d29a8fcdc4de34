"""The loop of a user: annotate videos from nothing, look at the errors of a run, correct a box."""

import csv
import shlex
import socket

import yaml
from annotated import write_video
from annotator import Annotator
from visited import visit_and_stop

from vmae_det.cli.main import main
from vmae_det.data.catalog import get_dataset
from vmae_det.data.split import split_dataset

STAND, WALK, WAVE = 1, 2, 3
TRUTH = {  # video -> second -> person -> (box in thousandths, actions)
    "hall": {
        1: {0: ((100, 200, 301, 900), [STAND]), 1: ((700, 150, 903, 1000), [WALK, WAVE])},
        2: {0: ((105, 200, 301, 900), [STAND]), 1: ((651, 150, 860, 988), [WALK])},
    },
    "yard": {0: {0: ((400, 0, 500, 999), [WALK])}, 3: {0: ((0, 5, 100, 999), [STAND, WAVE])}},
}
CORRECTED = (110, 190, 301, 900)  # hall, second 2, person 0


def lines(file):
    with file.open(newline="") as stream:
        return sorted((*row[:2], *map(float, row[2:])) for row in csv.reader(stream))


def lines_of(truth):
    return sorted(
        (video, f"{second:04d}", *(side / 1000 for side in box), action, person)
        for video, keyframes in truth.items()
        for second, people in keyframes.items()
        for person, (box, actions) in people.items()
        for action in actions
    )


def annotate(arguments, visit, monkeypatch):
    """Run the command; call `visit(address)` when its page can be opened."""
    with monkeypatch.context() as patch:
        visit_and_stop(patch, lambda port: visit(f"http://127.0.0.1:{port}/"))
        assert main(["annotate", *arguments, "--no-browser"]) == 0


def test_annotate_look_correct_and_look_again(browser, tmp_path, monkeypatch):
    browser.complaints()  # drops those of other tests' pages
    annotator = Annotator(browser)
    for video in TRUTH:
        write_video(tmp_path / "videos" / f"{video}.mp4")

    def annotate_all(address):
        annotator.open(address, "hall", 0)
        annotator.annotate(TRUTH["hall"])
        annotator.press("]")
        browser.until("document.getElementById('title').textContent === 'yard'")
        annotator.annotate(TRUTH["yard"])
        browser.driver.get("about:blank")

    videos = str(tmp_path / "videos")
    annotate([videos, "--actions", "stand,walk,wave", "--port", "0"], annotate_all, monkeypatch)
    data = tmp_path / "videos_annotations"
    assert lines(data / "annotations.csv") == lines_of(TRUTH)
    assert annotator.presses < 250
    # A box has no action until its key is pressed. That leaves no trace.
    content = (data / "dataset.yaml").read_text()
    assert get_dataset(str(data / "dataset.yaml")).complete_persons
    assert not (data / "annotated_persons.csv").exists()

    # What `train --data` writes, with a detector that takes all people for waving.
    split = split_dataset(get_dataset(str(data / "dataset.yaml")), tmp_path / "run/data", seed=1)
    tested = {video: TRUTH[video] for video in TRUTH if video in (split.val.parent / "val.csv").read_text()}
    assert list(tested) == ["hall"]
    rows = [",".join(map(str, (*row[:6], WAVE, 0.9))) for row in lines_of(tested)]
    (tmp_path / "run/detections.csv").write_text("\n".join(dict.fromkeys(rows)))
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({"DATASETS": {"TEST": [str(split.val)]}}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    assert main(["review", str(tmp_path / "run"), "--annotate-url", url, "--workers", "1"]) == 0
    browser.open(tmp_path / "run/review/index.html")
    command = shlex.split(browser.text("#fix code"))
    assert command[:3] == ["vmae-det", "annotate", str(data / "dataset.yaml")]  # not the part

    def correct(address):
        browser.until("[...document.querySelectorAll('#list button')].some((b) => b.title === 'hall, 2 s')")
        next(b for b in browser.find_all("#list button") if b.get_attribute("title") == "hall, 2 s").click()
        review = browser.driver.current_window_handle
        browser.find("#annotate").click()
        page = next(handle for handle in browser.driver.window_handles if handle != review)
        browser.driver.switch_to.window(page)
        try:
            browser.resize(1280)
            browser.until("document.getElementById('place')?.textContent === '2 s'")
            assert browser.text("#title") == "hall"
            assert annotator.sees()["person"] in (0, 1)  # is selected
            annotator.select(0)
            annotator.press("e")
            annotator.shape(CORRECTED)
            annotator.press("Enter")
            annotator.wait_until_saved()
        finally:
            browser.driver.close()
            browser.driver.switch_to.window(review)

    annotate(command[2:], correct, monkeypatch)
    corrected = {**TRUTH, "hall": {**TRUTH["hall"], 2: {**TRUTH["hall"][2], 0: (CORRECTED, [STAND])}}}
    assert lines(data / "annotations.csv") == lines_of(corrected)
    assert (data / "dataset.yaml").read_text() == content
    split_dataset(get_dataset(str(data / "dataset.yaml")), tmp_path / "again", seed=1)
    assert "hall,0002,0.11,0.19," in (tmp_path / "again/val.csv").read_text()  # the next training has it
    assert browser.complaints() == []
