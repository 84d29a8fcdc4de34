"""The page of the worst errors in a browser, with malicious names, and its files."""

import csv
import json
import shutil
from urllib.parse import unquote

import av
import pytest
from annotated import write_dataset
from selenium.webdriver.common.keys import Keys

from vmae_det.cli.main import main
from vmae_det.evaluation.worst_errors import KINDS

NASTY = "<img src=x onerror=document.title='hacked'>"
VIDEO = "a#1 <b>é"  # also its file name
LEFT, RIGHT, NOBODY, LOOSE = "0,0,0.4,0.8", "0.5,0,0.9,0.8", "0.42,0.9,0.48,1", "0,0,0.4,0.3"
TRUTH = [
    *[f"{VIDEO},0001,{LEFT},1,0", f"{VIDEO},0001,{RIGHT},3,7", f"{VIDEO},0001,{RIGHT},2,7"],
    *[f"b,0002,{LEFT},1,0", f"b,0003,{LEFT},5,2"],
]
# "stand" is right in both videos; nobody is in NOBODY; person 7 is missed; NASTY (5) loses to "sit" (2).
FOUND = [
    *[f"{VIDEO},0001,{LEFT},1,0.9", f"{VIDEO},0001,{NOBODY},1,0.8", f"{VIDEO},0001,{NOBODY},2,0.1"],
    *[f"b,0002,{LEFT},1,0.9", f"b,0003,{LEFT},5,0.3", f"b,0003,{LEFT},2,0.6", f"b,0002,{LOOSE},1,0.7"],
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its review."""
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "data", "\n".join(TRUTH), videos=[VIDEO, "b"])
    with (folder / "data/actions.pbtxt").open("a") as file:
        file.write(f'label {{ name: "{NASTY}" label_id: 6 }}\n')
    text = (folder / "data/annotations.csv").read_text()
    (folder / "data/annotations.csv").write_text(text.replace(",5,2", ",6,2"))
    (folder / "detections.csv").write_text("\n".join(FOUND).replace(",5,0.3", ",6,0.3"))
    (folder / "config.yaml").write_text(f"DATASETS:\n  TEST: ['{data}']\n")
    assert main(["review", str(folder), "--workers", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(run):
    with (run / "review/review.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_lists_the_errors(rows):
    columns = ("kind", "class", "score", "video", "second", "person", "annotated", "detected")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("background", "stand", "0.8", VIDEO, "1", "", "", "stand"),
        ("background", "sit", "0.1", VIDEO, "1", "", "", "stand"),
        ("not detected", "sit", "", VIDEO, "1", "7", "wave; sit", ""),
        ("not detected", "wave", "", VIDEO, "1", "7", "wave; sit", ""),
        ("outranked", NASTY, "0.3", "b", "3", "2", NASTY, "sit"),
        ("confusion", "sit", "0.6", "b", "3", "2", NASTY, "sit"),
        ("loose box", "stand", "0.7", "b", "2", "0", "stand", "stand"),
    ]
    assert [rows[0][name] for name in ("x1", "y1", "x2", "y2", "annotated_x1")] == [
        "0.42",
        "0.9",
        "0.48",
        "1",
        "",
    ]
    assert [rows[2][name] for name in ("annotated_x1", "x1")] == ["0.5", ""]
    assert rows[6]["iou"] == "0.3750"


def test_clips_are_short_and_have_a_picture_of_the_keyframe(run, rows):
    names = {row["clip"] for row in rows}
    assert len(names) == 3  # one for each keyframe
    clips = {path.name for path in (run / "review/clips").iterdir()}
    assert clips == {name for clip in names for name in (clip[6:], clip[6:].replace("mp4", "jpg"))}
    with av.open(run / "review" / rows[0]["clip"]) as file:
        frames = list(file.decode(video=0))
        assert (file.streams.video[0].codec_context.name, len(frames)) == ("h264", 11)
    picture = av.open(run / "review" / rows[0]["clip"].replace("mp4", "jpg"))
    # The white column of frame 5, second 1, is at x = 5.
    column = next(picture.decode(video=0)).to_ndarray(format="gray")[16].argmax()
    assert column == frames[5].to_ndarray(format="gray")[16].argmax() == 5


def test_a_second_call_writes_missing_clips_and_deletes_old_ones(run, rows):
    folder = run / "review/clips"
    kept, lost = (run / "review" / rows[index]["clip"] for index in (0, -1))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (folder / f"{'0' * 16}.mp4").write_bytes(b"of an earlier review")
    (folder / "mine.mp4").write_bytes(b"not a clip")
    try:
        assert main(["review", str(run), "--workers", "1"]) == 0
        assert kept.stat().st_mtime_ns == before
        assert lost.exists()
        assert not (folder / f"{'0' * 16}.mp4").exists()
        assert (folder / "mine.mp4").exists()
    finally:
        (folder / "mine.mp4").unlink()


def open_page(browser, run, width=1280):
    browser.complaints()
    browser.open(run / "review/index.html", width)


def choose(browser, kind):
    browser.find_all("#kinds button")[KINDS.index(kind)].click()


def test_the_page_shows_the_errors_of_a_kind_and_class(run, browser):
    open_page(browser, run)
    counts = [count.text for count in browser.find_all("#kinds b")]
    assert counts == ["2", "2", "1", "0", "1", "1", "0"]
    assert browser.text("#position") == "1 of the 2 worst, 2 in all"
    assert "nobody here" in browser.text("#about")
    assert "stand (0.800)" in browser.text("#about")
    assert [box.text for box in browser.find_all("#boxes .box")] == ["detected: stand 0.800"]
    browser.until("document.getElementById('video').currentTime > 0", "the clip plays")
    # One person with two actions is missed once. Its box is annotated only.
    choose(browser, "not detected")
    assert browser.text("#position") == "1 of the 1 worst, 2 in all"
    assert [box.text for box in browser.find_all("#boxes .box")] == ["annotated: wave, sit"]
    choose(browser, "outranked")
    texts = [box.text for box in browser.find_all("#boxes .box")]
    assert texts == [f"annotated: {NASTY}", "detected: sit 0.600"]
    # The two are told apart by the style of the line, too.
    styles = [box.value_of_css_property("border-top-style") for box in browser.find_all("#boxes .box")]
    assert styles == ["solid", "dashed"]
    box = browser.js(
        "const [b, s] = ['#boxes .annotated', '#stage'].map((s) => "
        "document.querySelector(s).getBoundingClientRect());"
        "return [b.x - s.x, b.y - s.y, b.width, b.height].map((v, i) => v / (i % 2 ? s.height : s.width))"
    )
    assert box == pytest.approx([0, 0, 0.4, 0.8], abs=0.02)
    choose(browser, "not scored")
    assert browser.text("#nothing") == "✓ Nothing wrong of this kind."
    choose(browser, "background")
    browser.js(
        "const s = document.getElementById('class'); s.value = 2; s.dispatchEvent(new Event('change'))"
    )
    assert browser.text("#nothing") == "✓ Nothing wrong of this kind: wave."
    assert browser.js("return document.title") == f"Worst errors of {run.name}"
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data"}
    assert browser.complaints() == []


def test_keys_and_the_stop_at_the_keyframe(run, browser):
    open_page(browser, run)
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.text("#position") == "2 of the 2 worst, 2 in all"
    assert "sit (0.100)" in browser.text("#about")
    browser.press(Keys.SPACE)
    browser.until(
        "document.getElementById('video').paused && document.getElementById('video').readyState >= 2"
    )
    browser.until("Math.abs(document.getElementById('video').currentTime - 1) < 0.05", "the keyframe")
    assert not browser.js("return document.querySelector('#boxes.away')")
    browser.press("b")
    assert not browser.find("#boxes").is_displayed()
    browser.press(Keys.ARROW_LEFT)
    assert browser.text("#position").startswith("1 of")
    assert browser.complaints() == []


def test_the_link_opens_the_keyframe_in_annotate(run, browser):
    open_page(browser, run)
    address, _, at = browser.find("#annotate").get_attribute("href").partition("#")
    assert address == "http://127.0.0.1:8000/"
    video, _, second = at.rpartition(",")
    assert (unquote(video), second) == (VIDEO, "1")
    assert browser.text("#fix code") == f"vmae-det annotate {run / 'data/dataset.yaml'}"


def test_a_lost_clip_is_said(run, browser, tmp_path):
    shutil.copytree(run / "review", tmp_path / "review")
    shutil.rmtree(tmp_path / "review/clips")
    browser.open(tmp_path / "review/index.html")
    browser.until("!document.getElementById('trouble').hidden")
    assert "is missing or damaged" in browser.text("#trouble")
    browser.complaints()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(run, browser, width):
    open_page(browser, run, width)
    choose(browser, "outranked")
    browser.js("document.querySelector('details').open = true")
    assert browser.js("return document.documentElement.scrollWidth") <= width


def test_names_are_no_code(run):
    text = (run / "review/index.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "http://" not in text.replace("http://127.0.0.1:8000/", "")
    data = text.split('<script type="application/json" id="review">')[1].split("</script>")[0]
    assert NASTY in json.loads(data)["classes"]
