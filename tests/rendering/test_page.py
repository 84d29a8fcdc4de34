"""The HTML page in a browser, operated by mouse and by keyboard."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264
from PIL import Image

from vmae_det.formats.ava_csv import read_action_csv, write_action_csv
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.inference.predictor import ActionDetections
from vmae_det.rendering import page as page_module
from vmae_det.rendering.page import playable_suffix, write_page
from vmae_det.video.readers import open_video

NASTY = "</script><img src=x onerror=\"document.title='hacked'\">"
LABEL_MAP = LabelMap(
    (1, 4, 9),
    ("walk", "talk to (e.g., a person)", NASTY),
    ("PERSON_MOVEMENT", "PERSON_INTERACTION", "OBJECT_MANIPULATION"),
)
BLUE = [86, 180, 233]  # PERSON_MOVEMENT on the video
ENTER, ESCAPE, TAB, LEFT, UP, RIGHT, DOWN = (
    "\ue007",
    "\ue00c",
    "\ue004",
    "\ue012",
    "\ue013",
    "\ue014",
    "\ue015",
)
RECIPE = Recipe(size=(320, 240), count=100, options=x264(keyint=50, bframes=2))


def detect(video):
    """Person 1 walks to the right in four keyframes, person 2 talks in the second and third."""
    boxes = [(0.1 + 0.1 * i, 0.3, 0.3 + 0.1 * i, 0.9) for i in range(4)]
    rows = [(0, boxes[0], (0.9, 0.2, 0.01))]
    rows += [(1, boxes[1], (0.8, 0.0, 0.35)), (1, (0.7, 0.2, 0.9, 0.8), (0.0, 0.7, 0.0))]
    rows += [(2, boxes[2], (0.6, 0.5, 0.0)), (2, (0.7, 0.2, 0.9, 0.8), (0.0, 0.4, 0.0))]
    rows += [(3, boxes[3], (0.7, 0.0, 0.0))]
    return ActionDetections(
        video=video,
        video_start=900.0,
        timestamp=np.array([900.0 + row[0] for row in rows]),
        boxes=np.array([row[1] for row in rows]),
        person_scores=np.full(len(rows), 0.95),
        scores=np.array([row[2] for row in rows], dtype=np.float32),
        label_map=LABEL_MAP,
    )


@pytest.fixture(scope="module")
def detections(tmp_path_factory):
    return detect(write_numbered(tmp_path_factory.mktemp("video") / "clip", RECIPE))


@pytest.fixture(scope="module")
def page(detections, tmp_path_factory):
    return write_page(detections, tmp_path_factory.mktemp("page") / "page.html")


def open_page(browser, page, width=1280):
    browser.open(page, width)
    browser.until("video.readyState >= 2 && !video.seeking", "the video does not load")


def frame_seen(browser):
    """Return the number of the visible frame after seeking."""
    browser.until("video.paused && !video.seeking && Math.abs(position() - now) < data.period")
    pixels = browser.js(
        """const c = document.createElement('canvas'); c.width = 96; c.height = 64;
        const pen = c.getContext('2d'); pen.drawImage(video, 0, 0, 96, 64);
        return Array.from(pen.getImageData(0, 0, 96, 64).data)"""
    )
    return numbers(np.array(pixels, dtype=np.uint8).reshape(1, 64, 96, 4)[..., :3])[0]


def drawn(browser, box, color=BLUE):
    """Return the share of the edges of a box, xyxy in [0, 1], that is drawn in a color; of the worst edge."""
    left, top, width, height = browser.js("return pictureRect()")
    x1, y1, x2, y2 = np.array(box) * [width, height, width, height] + [left, top, left, top]
    area = [round(value) for value in (x1 - 1, y1 - 1, x2 - x1 + 2, y2 - y1 + 2)]
    pixels = browser.js(
        """const [x, y, width, height] = arguments[0], c = document.createElement('canvas');
        [c.width, c.height] = [width, height];
        const pen = c.getContext('2d'); pen.drawImage(overlay, -x, -y);
        return Array.from(pen.getImageData(0, 0, width, height).data)""",
        area,
    )
    picture = np.array(pixels).reshape(area[3], area[2], 4)
    hit = (np.abs(picture[..., :3] - color).max(axis=2) < 12) & (picture[..., 3] > 200)
    edges = (hit[:3].any(axis=0), hit[-3:].any(axis=0), hit[:, :3].any(axis=1), hit[:, -3:].any(axis=1))
    return min(edge.mean() for edge in edges)


def bar_offset(browser, person, action, seconds):
    """Return the position of a person's action at a time, relative to the center of the sheet."""
    return browser.js(
        """const [person, action, seconds] = arguments;
        const lane = lanes.find((l) => l.person.id === person
            && (l.column === null ? null : data.actions[l.column].id) === action);
        return [xOf(seconds) - scroller.clientWidth / 2,
            lane.y - scroller.scrollTop + lane.height - 4 - scroller.clientHeight / 2]""",
        person,
        action,
        seconds,
    )


def click_bar(browser, *target):
    from selenium.webdriver import ActionChains

    x, y = bar_offset(browser, *target)
    sheet = browser.find("#sheet")
    ActionChains(browser.driver).move_to_element_with_offset(sheet, round(x), round(y)).click().perform()


def lane_names(browser):
    return browser.js(
        "return lanes.map((l) => l.person.id + ':' + (l.column === null ? '' : data.actions[l.column].id))"
    )


def test_the_page_makes_no_requests(page, browser):
    text = page.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert NASTY not in text
    open_page(browser, page)
    requests = browser.requests()
    assert requests
    assert all(url.startswith(("file:", "blob:", "data:")) for url in requests)
    assert browser.complaints() == []
    assert list(page.parent.iterdir()) == [page]  # the video is embedded


def test_boxes_follow_the_playing_video(page, detections, browser):
    open_page(browser, page)
    assert frame_seen(browser) == 0
    assert drawn(browser, detections.boxes[0]) > 0.6
    browser.press(" ")
    browser.until("now > 1.2", "it does not play")
    browser.press("k")
    frame = frame_seen(browser)
    assert frame > 25
    at = 0.1 + 0.1 * frame / 25
    assert drawn(browser, (at, 0.3, at + 0.2, 0.9)) > 0.6
    assert drawn(browser, (at + 0.03, 0.3, at + 0.23, 0.9)) < 0.3
    assert browser.js("return now") == pytest.approx(frame / 25, abs=1e-3)


def test_a_click_on_a_bar_seeks_its_keyframe(page, detections, browser):
    open_page(browser, page)
    for action, seconds, keyframe in ((1, 2.3, 2), (1, 1.6, 2), (9, 0.7, 1), (1, 0.2, 0), (4, 2.4, 2)):
        click_bar(browser, 1, action, seconds)
        assert frame_seen(browser) == 25 * keyframe
        row = np.flatnonzero(detections.timestamp == 900 + keyframe)[0]
        assert drawn(browser, detections.boxes[row]) > 0.6
        assert drawn(browser, detections.boxes[row] + [0.02, 0, 0.02, 0]) < 0.3
    click_bar(browser, 1, 4, 3.3)  # no bar: the time itself
    assert frame_seen(browser) in (82, 83)


def test_filters(page, browser):
    open_page(browser, page)
    assert lane_names(browser) == ["1:", "1:1", "1:4", "1:9", "2:", "2:4"]
    browser.press("]", "]", "]", "]")  # 0.3 -> 0.5
    assert browser.text("#score-value") == "0.50"
    assert lane_names(browser) == ["1:", "1:1", "1:4", "2:", "2:4"]
    assert browser.text("#passing") == "6 of 9 rows"
    browser.find("#actions [data-action='4']").click()
    assert lane_names(browser) == ["1:", "1:1"]
    browser.find("#search").send_keys("WAL")
    assert [
        label.text.split()[0] for label in browser.find_all("#actions label") if label.is_displayed()
    ] == ["walk"]
    browser.find("#none").click()
    assert lane_names(browser) == []
    assert "No actions match" in browser.text("#nobody")
    assert not browser.find("#export-csv").is_enabled()
    assert "no actions match" in browser.text("#now")
    browser.find("#search").clear()
    browser.find("#search").send_keys(" ")
    browser.find("#all").click()
    browser.press(*"[" * 20)
    browser.js("scroller.focus()")
    browser.press(*"[" * 20)
    assert browser.text("#score-value") == "0.05"  # lowest score in the page
    assert browser.text("#passing") == "9 of 9 rows"


def test_export_contains_what_the_filters_match(page, detections, browser, tmp_path):
    open_page(browser, page)
    browser.find("#actions [data-action='9']").click()
    browser.find("#export-csv").click()
    path = tmp_path / "shown.csv"
    path.write_text(browser.saved("clip_shown.csv"))
    shown = read_action_csv(path, LABEL_MAP, kind="detections")
    all_rows = detections.to_rows()
    expected = all_rows.select((all_rows.score >= 0.3) & (all_rows.action != 9))
    np.testing.assert_array_equal(shown.action, expected.action)
    np.testing.assert_array_equal(shown.timestamp, expected.timestamp)
    np.testing.assert_array_equal(shown.boxes, expected.boxes.round(6))
    np.testing.assert_array_equal(shown.score.astype(np.float32), expected.score.astype(np.float32))
    assert shown.videos.tolist() == ["clip"]
    # The same text as written by the toolkit.
    write_action_csv(tmp_path / "own.csv", expected)
    assert path.read_text() == (tmp_path / "own.csv").read_text()

    browser.find("#export-json").click()
    saved = json.loads(browser.saved("clip_shown.json"))
    assert saved["video"] == "clip.mp4"
    assert [person["track"] for person in saved["people"]] == [1, 1, 2, 1, 2, 1]
    assert saved["people"][3]["actions"] == [
        {"id": 1, "name": "walk", "score": 0.6},
        {"id": 4, "name": "talk to (e.g., a person)", "score": 0.5},
    ]
    assert saved["people"][0]["person_score"] == 0.95


def test_keyboard_shortcuts(page, browser):
    open_page(browser, page)
    browser.press(RIGHT)
    assert frame_seen(browser) == 25
    browser.press(RIGHT, RIGHT, LEFT)  # while the player seeks
    assert frame_seen(browser) == 50
    browser.press(".", ".", ",")
    assert frame_seen(browser) == 51
    browser.press("j")
    assert frame_seen(browser) == 0
    browser.press("l")
    assert frame_seen(browser) == 99
    browser.press(DOWN)
    assert "Person 2" in browser.text(".name[aria-selected=true]")
    assert "talk to" in browser.js("return byId('spoken').textContent")
    browser.press("p")
    assert frame_seen(browser) == 25  # person 2 starts to talk
    browser.press(UP, "n")
    assert frame_seen(browser) == 50  # person 1 starts to talk
    browser.press(ENTER)
    assert "1:1" not in lane_names(browser)
    assert browser.find(".name[aria-selected=true]").get_attribute("aria-expanded") == "false"
    browser.press("?")
    assert browser.find("#help").is_displayed()
    browser.press(ESCAPE)
    assert not browser.find("#help").is_displayed()

    # Tab reaches every control, and the focus is visible.
    reached = set()
    browser.js("document.activeElement.blur()")
    for _ in range(40):
        browser.press(TAB)
        element = browser.driver.switch_to.active_element
        if element.tag_name in ("body", "html"):  # end of the page
            continue
        reached.add(element.get_attribute("id") or element.get_attribute("data-action"))
        style = "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
        assert browser.js(style) == ["solid", "3px"], element.get_attribute("outerHTML")
    assert reached >= {"export-csv", "export-json", "open-help", "seek", "before", "play", "after", "speed"}
    assert reached >= {"mute", "full", "score", "search", "all", "none", "1", "4", "9", "scroller", "zoom-in"}
    # Controls handle their own keys: a space in the search does not play, an arrow on the score does not
    # seek.
    browser.find("#search").send_keys("k ")
    browser.find("#score").send_keys(RIGHT)
    assert browser.text("#score-value") == "0.31"
    assert frame_seen(browser) == 50
    assert browser.complaints() == []


def test_a_click_on_the_video_selects_a_person(page, browser):
    from selenium.webdriver import ActionChains

    open_page(browser, page)
    browser.press(RIGHT)
    frame_seen(browser)
    left, top, width, height = browser.js("return pictureRect()")
    stage_width, stage_height = browser.js("return [stage.clientWidth, stage.clientHeight]")
    x, y = left + 0.8 * width - stage_width / 2, top + 0.5 * height - stage_height / 2
    overlay = browser.find("#overlay")
    ActionChains(browser.driver).move_to_element_with_offset(overlay, round(x), round(y)).click().perform()
    assert browser.text("#now [aria-pressed=true]") == "Person 2"
    assert frame_seen(browser) == 25


@pytest.mark.parametrize("width", [1280, 390])
def test_controls_are_fully_visible(page, browser, width):
    open_page(browser, page, width)
    assert browser.js("return document.documentElement.scrollWidth") == width
    controls = ["#play", "#before", "#after", "#speed", "#full", "#export-csv", "#open-help", "#zoom-in"]
    places = [
        browser.js(f"return document.querySelector('{c}').getBoundingClientRect().toJSON()") for c in controls
    ]
    assert all(place["left"] >= 0 and place["right"] <= width and place["width"] for place in places)
    assert (
        len({round(place["top"]) for place in places[:5]}) == 1
    )  # the controls of the player are in one line
    # Nothing covers the center of a control.
    for control, place in zip(controls, places):
        middle = [place["left"] + place["width"] / 2, place["top"] + place["height"] / 2]
        script = f"return document.elementFromPoint(...arguments[0])?.closest('{control}') !== null"
        assert place["top"] > 800 or browser.js(script, middle), control
    if width < 600:
        assert not browser.find("#actions").is_displayed()
        browser.find("#filters summary").click()
    assert browser.find("#actions").is_displayed()
    assert browser.complaints() == []


def test_malicious_names(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "EMBED_BYTES", 0)
    name = f"a%23b#c?d&e;f {NASTY.replace('/', '')}'\" =é日\\..\\x"
    video = write_numbered(tmp_path / "video", RECIPE).rename(tmp_path / f"{name}.mp4")
    out = tmp_path / "out ?#%41"
    path = write_page(detect(video), out / f"{name}.html")
    assert sorted(file.name for file in out.iterdir()) == [f"{name}.html", f"{name}.mp4"]
    open_page(browser, path)
    assert browser.js("return video.videoWidth") == 320
    assert browser.text("#title") == f"{name}.mp4"
    assert browser.driver.title == f"{name}.mp4: detected actions"
    assert any(NASTY in label.text for label in browser.find_all("#actions label"))
    assert all(url.startswith("file:") or url == "data:," for url in browser.requests())
    browser.find("#export-csv").click()
    safe = f"{name}_shown.csv"
    for letter in '\\/:*?"<>|':
        safe = safe.replace(letter, "_")
    line = browser.saved(safe).splitlines()[0]
    quoted = name.replace('"', '""')
    assert line == f'"{quoted}",0900,0.1,0.3,0.3,0.9,1,0.899999976'
    assert browser.complaints() == []


def test_a_large_video_next_to_the_page_is_not_copied(detections, monkeypatch, tmp_path):
    monkeypatch.setattr(page_module, "EMBED_BYTES", 0)
    video = tmp_path / "clip.mp4"
    video.write_bytes(detections.video.read_bytes())
    write_page(detect(video), tmp_path / "other.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "other.html"]


def test_no_other_video_is_overwritten(detections, monkeypatch, tmp_path):
    monkeypatch.setattr(page_module, "EMBED_BYTES", 0)
    own = write_numbered(tmp_path / "clip", Recipe(codec="mpeg4", count=100))  # not playable in browsers
    (tmp_path / "page.mp4").write_bytes(b"another video")
    kept = {path: path.read_bytes() for path in (own, tmp_path / "page.mp4")}
    for _ in range(2):
        assert b"clip_page.mp4" in write_page(detect(own), tmp_path / "clip.html").read_bytes()
    write_page(detections, tmp_path / "page.html")
    assert (tmp_path / "page_page.mp4").read_bytes() == detections.video.read_bytes()
    assert kept == {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize(
    ("recipe", "suffix"),
    [
        (Recipe(), ".mp4"),
        (Recipe(suffix=".webm", codec="libvpx-vp9"), ".webm"),
        (Recipe(suffix=".mkv"), ""),
        (Recipe(codec="mpeg4"), ""),
        (Recipe(pix_fmt="yuv444p"), ""),
        (Recipe(suffix=".avi", codec="mpeg4"), ""),
    ],
)
def test_playable_formats(tmp_path, recipe, suffix):
    assert playable_suffix(write_numbered(tmp_path / "video", recipe)) == suffix


ODD = {
    "late start": Recipe(size=(320, 240), count=100, stamps=[100 + i for i in range(100)]),
    "late start, webm": Recipe(".webm", "libvpx-vp9", size=(320, 240), stamps=range(50, 150)),
    "hidden frames": Recipe(size=(320, 240), count=120, skip=20, options=x264(keyint=40, bframes=2)),
    "mpeg4, late": Recipe(".avi", "mpeg4", size=(320, 240), count=100, options={"qscale": "2"}),
    "variable rate": Recipe(
        size=(320, 240),
        stamps=np.cumsum(np.random.default_rng(0).integers(15, 70, 100)),
        time_base=Fraction(1, 1000),
    ),
    "turned": Recipe(size=(240, 320), count=100, rotation=90),
    "turned and mirrored": Recipe(size=(240, 320), count=100, rotation=270, mirrored=True),
    "mkv, late": Recipe(".mkv", size=(320, 240), stamps=range(70, 170)),
}


@pytest.mark.parametrize("kind", ODD)
def test_frames_of_odd_videos(tmp_path, browser, kind):
    """The page shows the same frame of a keyframe as the readers."""
    if "turned" in kind and not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("requires PyAV 18.1 to write display matrices")
    video = write_numbered(tmp_path / "odd", ODD[kind])
    reader = open_video(video)
    expected = numbers(reader.frames(np.array([reader.index_at(k) for k in range(4)])))
    assert -1 not in expected
    open_page(browser, write_page(detect(video), tmp_path / "page.html"))
    found = []
    for k in range(4):
        browser.js(f"seekKeyframe({k})")
        found.append(frame_seen(browser))
        assert browser.js("return now") == pytest.approx(reader.times[reader.index_at(k)], abs=0.002)
    assert found == expected


def test_a_folder_of_frames(tmp_path, browser):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "rate.txt").write_text("5")
    for number in range(20):
        Image.fromarray(numbered_frame(number, 96, 65)).save(folder / f"{number:03}.png")
    open_page(browser, write_page(detect(folder), tmp_path / "page.html"))
    browser.press(RIGHT, RIGHT)
    assert frame_seen(browser) == 10


def test_a_browser_without_frame_callbacks(page, detections, browser):
    driver = browser.driver
    script = {"source": "delete HTMLVideoElement.prototype.requestVideoFrameCallback"}
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        open_page(browser, page)
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    browser.press(RIGHT)
    assert frame_seen(browser) == 25
    assert drawn(browser, detections.boxes[1]) > 0.6
    browser.press(" ")
    browser.until("now > 1.5", "it does not play")


def test_a_video_that_cannot_be_played(detections, tmp_path, browser, monkeypatch):
    monkeypatch.setattr(page_module, "EMBED_BYTES", 0)
    path = write_page(detections, tmp_path / "page.html")
    (tmp_path / "page.mp4").unlink()
    browser.open(path)
    browser.until("!byId('trouble').hidden")
    assert lane_names(browser) == ["1:", "1:1", "1:4", "1:9", "2:", "2:4"]
    browser.complaints()  # about the missing file


def test_a_video_without_people(tmp_path, browser):
    video = write_numbered(tmp_path / "empty", RECIPE)
    nobody = ActionDetections(
        video, 0.0, np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3)), LABEL_MAP
    )
    open_page(browser, write_page(nobody, tmp_path / "page.html"))
    assert browser.text("#nobody") == "No people were detected in this video."
    browser.press(RIGHT, DOWN, "n", ENTER, "]")
    assert browser.complaints() == []


def test_the_command(detections, tmp_path, browser, capsys):
    from vmae_det.cli.main import main

    write_action_csv(tmp_path / "found.csv", detections.to_rows())
    write_label_map(tmp_path / "map.pbtxt", replace(LABEL_MAP, names=("walk", "talk", "wave")))
    options = ["--video", detections.video, "--detections", tmp_path / "found.csv", "--video-start", "900"]
    options += ["--label-map", tmp_path / "map.pbtxt", "--output", tmp_path / "new" / "page.html"]
    assert main(["visualize", "page", *map(str, options)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "new" / "page.html")]
    open_page(browser, tmp_path / "new" / "page.html")
    assert lane_names(browser) == ["1:", "1:1", "1:4", "1:9", "2:", "2:4"]
    browser.press("n")
    assert frame_seen(browser) == 25
    assert drawn(browser, detections.boxes[1]) > 0.6
    browser.find("#export-json").click()
    assert json.loads(browser.saved("clip_shown.json"))["people"][0]["person_score"] is None


def test_a_track_is_not_shown_during_a_long_absence(detections, tmp_path, browser):
    apart = replace(
        detections,
        timestamp=np.array([900.0, 900.0, 900.5, 900.5, 903.0, 903.0]),
        tracks=np.array([7, 8, 7, 8, 7, 9]),
    )
    open_page(browser, write_page(apart, tmp_path / "page.html", threshold=0.5))
    found = np.array(browser.js("return people.map((p) => [p.id, p.from, p.to])"))
    np.testing.assert_allclose(found, [[7, 0, 3.75], [8, 0, 1.25], [9, 2.25, 3.75]], atol=0.03)
    present = "return [0.6, 1.2, 1.5, 2.2, 2.3, 3.9].map((t) => presentAt(t).map(({ person }) => person.id))"
    assert browser.js(present) == [[7, 8], [7, 8], [], [], [7, 9], []]
    assert browser.text("#score-value") == "0.50"


def test_classes_of_the_whole_frame(tmp_path, browser):
    video = write_numbered(tmp_path / "clip", RECIPE)
    classes = ActionDetections(
        video=video,
        video_start=0.0,
        timestamp=np.arange(4.0),
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (4, 1)),
        person_scores=np.ones(4),
        scores=np.tile(np.float32([0.6, 0.3, 0.1]), (4, 1)),
        label_map=LABEL_MAP,
    )
    page = write_page(classes, tmp_path / "page.html", threshold=0.2, whole_frame=True)
    open_page(browser, page)
    assert browser.js("return byId('facts').textContent") == "0:04 · 4 keyframes"
    assert "Whole frame" in browser.js("return byId('names').innerText")
    assert browser.js("return byId('now').innerText").split("\n")[0] == "Whole frame"
    assert drawn(browser, (0, 0, 1, 1)) < 0.5  # no box
    filled = "const [x, y] = pictureRect(); return overlay.getContext('2d').getImageData("
    label = browser.js(filled + "(x + 8) * devicePixelRatio, (y + 8) * devicePixelRatio, 1, 1).data[3]")
    assert label > 0  # the label is in the upper left corner
