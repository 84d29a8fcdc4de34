"""The annotation page in a browser, with the server behind it, operated by key presses."""

import csv
import json
import threading
import urllib.request
from contextlib import contextmanager

import pytest
from annotated import write_video
from annotator import Annotator

from vmae_det.web.annotate.app import Annotation, build_app
from vmae_det.web.annotate.dataset import open_dataset
from vmae_det.web.annotate.proposals import Proposal, Proposer
from vmae_det.web.annotate.store import Store
from vmae_det.web.server import LocalServer

NASTY = "<img src=x onerror=\"document.title='hacked'\">"
LABEL_MAP = """
label { name: "stand" label_id: 1 label_type: PERSON_MOVEMENT }
label { name: "walk" label_id: 2 label_type: PERSON_MOVEMENT }
label { name: "carry (e.g., a box)" label_id: 5 label_type: OBJECT_MANIPULATION }
label { name: "<img src=x onerror=\\"document.title='hacked'\\">" label_id: 9 label_type: PERSON_INTERACTION }
"""
STAND, WALK, CARRY, TALK = 1, 2, 5, 9
VIDEOS = ("main", "boxes", "other", "crowd", NASTY, "narrow", "truth", "tall", "reload")


class Site:
    """A server, its dataset on disk, and an annotator at it."""

    def __init__(self, address, dataset, browser):
        self.address, self.dataset, self.browser = address, dataset, browser
        self.annotator = Annotator(browser)
        self.press, self.sees = self.annotator.press, self.annotator.sees

    def open(self, video, second=0, width=1280):
        self.annotator.open(self.address, video, second, width)

    def rows(self, video):
        """Return the lines of a video in the CSV, when everything is written: second, box, action, person."""
        self.annotator.wait_until_saved()
        self.store.rewrite()
        lines = csv.reader(self.dataset.annotations.open(newline=""))
        found = [line for line in lines if line[0] == video]
        boxes = [
            (tuple(map(float, line[2:6])), int(line[6]), int(line[7])) if line[2:] else () for line in found
        ]
        return sorted((float(line[1]), *box) for line, box in zip(found, boxes))

    def labels(self, video):
        """Return second, person and action of the lines in the CSV."""
        return sorted((row[0], row[3], row[2]) for row in self.rows(video) if row[1:])

    def tracks(self):
        """Return person -> seconds, as the page shows them."""
        script = "import('/static/view.js').then(({ view }) => done([...view.doc.people()]))"
        return dict(self.ask(script))

    def ask(self, script):
        return self.browser.driver.execute_async_script(f"const done = arguments[0]; {script}")

    def post(self, video, patch, client="other"):
        """Change a video as another page does."""
        content = {"client": client, "edit": {"name": "patch", "patch": patch}}
        request = urllib.request.Request(
            f"{self.address}api/videos/{video}/edits",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


class TwoPeople:
    """Proposes a person who stands in a corner, and one who walks and is found in two of four keyframes."""

    name = "two people"

    def __call__(self, video, path, start, keyframes):
        for k, time in enumerate(keyframes):
            found = [Proposal(time, 1, (0.1, 0.2, 0.3, 0.9), 0.9, ((STAND, 0.8), (WALK, 0.1)))]
            if k < 2:
                found.append(Proposal(time, 2, (0.5 + k / 10, 0.2, 0.7 + k / 10, 0.9), 0.6, ((WALK, 0.7),)))
            yield (k + 1) / len(keyframes), found


@contextmanager
def annotating(folder, detector):
    """Serve a folder of videos; yield the address, the dataset and the store."""
    dataset = open_dataset(str(folder / "videos"), label_map=str(folder / "actions.pbtxt"))
    with LocalServer() as server, Store(dataset) as store:
        app = build_app(Annotation(store, Proposer(lambda: detector, detector.name)))
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(app,), kwargs={"announce": lambda _: ready.set()})
        thread.start()
        assert ready.wait(10)
        yield server.address, dataset, store
        server.stop()
        thread.join()


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    (folder / "videos").mkdir()
    (folder / "actions.pbtxt").write_text(LABEL_MAP)
    for name in VIDEOS:
        write_video(folder / "videos" / f"{name}.mp4")
    with annotating(folder, TwoPeople()) as (address, dataset, store):
        site = Site(address, dataset, browser)
        site.store = store
        yield site
        browser.driver.get("about:blank")  # ends its events


@pytest.fixture(autouse=True)
def no_complaints(site):
    """No error in the console, and no request to another host."""
    site.browser.complaints()  # drops those of other tests' pages
    yield
    assert site.browser.complaints() == []
    addresses = [url for url in site.browser.requests() if not url.startswith(("data:", "blob:", "about:"))]
    assert all(url.startswith(site.address) for url in addresses)


def test_annotates_with_the_keyboard_alone(site):
    site.open("main")
    site.press("n", "ArrowLeft", "ArrowLeft", "shift+ArrowDown", "Enter", "1", "3")  # stand, carry
    first = (0.36, 0.2, 0.56, 0.82)
    assert site.rows("main") == [(0, first, STAND, 0), (0, first, CARRY, 0)]
    site.press("2")  # a pose replaces the other pose
    site.press("ArrowRight", "c")  # as one second ago
    site.press("e", ",", "ArrowRight", "Enter", "3")
    second = (0.365, 0.2, 0.565, 0.82)
    assert site.rows("main")[2:] == [(1, second, WALK, 0)]
    site.press("h", "ArrowRight", "ArrowRight", "Enter")  # hold until 3
    expected = [(0, first, WALK, 0), (0, first, CARRY, 0)] + [(s, second, WALK, 0) for s in (1, 2, 3)]
    assert site.rows("main") == expected
    site.press("ArrowLeft", "s")  # another person from 2 on
    assert [row[3] for row in site.rows("main")] == [0, 0, 0, 1, 1]
    site.press("x")
    assert [row[0] for row in site.rows("main") if row[1:]] == [0, 0, 1, 3]
    site.press("ArrowRight", "j", "Enter")  # the other person again
    assert site.tracks() == {0: [0, 1, 3]}
    site.press("shift+x")
    assert site.labels("main") == []
    site.press(*["z"] * 4)
    assert site.rows("main") == expected
    site.press(*["shift+z"] * 4)
    assert site.labels("main") == []
    site.press(*["z"] * 20)
    assert site.rows("main") == []
    assert site.sees()["cells"] == []
    assert "Nothing to undo" in site.browser.text("#notice")


def test_annotates_a_video_from_nothing_like_the_truth(site):
    truth = {
        0: {0: ((100, 200, 301, 900), [STAND]), 1: ((700, 150, 903, 1000), [WALK, CARRY])},
        1: {0: ((100, 200, 301, 900), [STAND, TALK]), 1: ((551, 150, 760, 988), [WALK, CARRY])},
        2: {0: ((0, 150, 250, 900), [WALK])},
        3: {0: ((0, 150, 250, 900), [WALK]), 1: ((400, 0, 500, 1000), [WALK])},
    }
    site.open("truth")
    site.annotator.presses = 0
    ids = site.annotator.annotate(truth)
    expected = [
        (second, tuple(side / 1000 for side in box), action, ids[person])
        for second, people in truth.items()
        for person, (box, actions) in people.items()
        for action in actions
    ]
    assert sorted(site.rows("truth")) == sorted(expected)
    assert ids == {0: 0, 1: 1}
    assert site.annotator.presses < 250


def test_draws_moves_and_resizes_with_the_mouse(site):
    from selenium.webdriver import ActionChains

    def drag(start, end):
        left, top, width, height = site.ask("import('/static/player.js').then((m) => done(m.pictureRect()))")
        stage = site.browser.find("#boxes")
        size = stage.size
        chain = ActionChains(site.browser.driver, duration=20)
        points = (start, tuple((a + b) / 2 for a, b in zip(start, end)), end)
        for k, (x, y) in enumerate(points):
            offset = left + x * width - size["width"] / 2, top + y * height - size["height"] / 2
            chain.move_to_element_with_offset(stage, round(offset[0]), round(offset[1]))
            if k == 0:
                chain.click_and_hold()
        chain.release().perform()

    def box():
        return site.sees()["cells"][0]["box"]

    site.open("boxes")
    drag((0.2, 0.2), (0.4, 0.8))
    assert box() == pytest.approx([0.2, 0.2, 0.4, 0.8], abs=0.005)
    drag((0.3, 0.5), (0.5, 0.5))  # the selected box
    assert box() == pytest.approx([0.4, 0.2, 0.6, 0.8], abs=0.01)
    drag((0.6, 0.8), (0.7, 0.9))  # its corner
    assert box() == pytest.approx([0.4, 0.2, 0.7, 0.9], abs=0.015)
    drag((0.9, 0.1), (0.9, 0.1))  # a click beside it
    assert site.sees()["person"] is None
    site.annotator.wait_until_saved()


def test_accepts_a_box_and_a_track_of_proposals(site):
    site.open("crowd")
    site.press("p")
    site.browser.until("document.getElementById('proposal-state').textContent === '6 proposals'")
    site.press("ArrowDown", "ArrowDown")
    assert site.sees()["person"] == "p2"
    site.press("Enter")
    assert site.labels("crowd") == [(0, 0, WALK)]
    site.press("ArrowDown")
    assert site.sees()["person"] == "p1"
    site.press("shift+a")
    assert site.tracks() == {0: [0], 1: [0, 1, 2, 3]}
    site.press("ArrowRight", "a")  # the other box of the walker
    assert site.tracks() == {0: [0, 1], 1: [0, 1, 2, 3]}
    assert site.sees()["selectable"] == [0, 1]
    site.press("x")
    assert site.sees()["selectable"] == [1, 0]  # was here a second ago, and is not proposed again
    assert site.tracks() == {0: [0], 1: [0, 1, 2, 3]}
    site.press("z")
    stands = [(second, 1, STAND) for second in range(4)]
    assert site.labels("crowd") == sorted([(0, 0, WALK), (1, 0, WALK), *stands])


@pytest.mark.parametrize(("key", "expected"), [("r", [WALK, CARRY]), ("x", [WALK])])
def test_shows_what_another_page_changed(site, key, expected):
    site.open("other")
    site.press("n", "Enter", "1")
    site.annotator.wait_until_saved()
    seen = site.sees()
    person, before = seen["person"], {"box": seen["cells"][-1]["box"], "actions": [STAND]}
    change = {"second": 0, "person": person, "before": before, "after": {**before, "actions": [TALK]}}
    site.post("other", [change])
    pressed = "document.querySelector('[data-action=\"{}\"]').ariaPressed === 'true'"
    site.browser.until(pressed.format(TALK))  # at once
    # A change that the page has not heard of when it sends its own edit: the page takes it for its own.
    own = site.ask("import('/static/api.js').then(({ client }) => done(client))")
    change = {**change, "before": change["after"], "after": {**before, "actions": [WALK]}}
    site.post("other", [change], client=own)
    site.press("3")
    site.browser.until("document.getElementById('conflict').open")
    assert site.browser.text("#conflict-list") == f"Person {person} at 0 s: labels: walk."
    assert "carry" in site.browser.text("#conflict-edit")
    site.press(key)
    assert [label for label in site.labels("other") if label[1] == person] == [
        (0, person, a) for a in expected
    ]
    assert all("409" in entry["message"] for entry in site.browser.complaints())
    site.press("shift+x")
    site.annotator.wait_until_saved()


def test_marks_keyframes_as_looked_at(site):
    site.open("narrow", 1)
    site.press("d")
    assert site.sees()["second"] == 2
    assert site.rows("narrow") == [(1,)]  # a keyframe without people
    site.press("ArrowLeft", "shift+d")
    assert site.rows("narrow") == []
    site.press("d")
    site.annotator.wait_until_saved()
    site.press("u")
    site.browser.until("document.getElementById('place').textContent === '3 s'")


def test_chooses_a_video_a_second_and_a_label_by_name(site):
    site.open("main")
    site.press("/")
    site.annotator.write("narr")
    site.press("Enter")
    site.browser.until("document.getElementById('title').textContent === 'narrow'")
    site.press("g")
    site.annotator.write("2")
    site.press("Enter")
    assert site.sees()["second"] == 2
    assert not site.browser.find("#notice").is_displayed()  # Enter belongs to the dialog alone
    site.press("n", "Enter", "f")
    site.annotator.write("carr")
    site.press("Enter")
    assert site.labels("narrow") == [(2, 0, CARRY)]
    site.press("shift+x")


def test_names_are_shown_as_text(site):
    site.open(NASTY)
    assert site.browser.text("#title") == NASTY
    site.press("n", "Enter", "4")
    site.browser.until("document.querySelector('#people .text').textContent[0] === '<'")
    assert NASTY in site.browser.text("#people")
    site.press("/")
    assert NASTY in site.browser.text("#video-list")
    site.press("Escape")
    site.press("?")
    assert site.browser.js("return document.getElementById('help').open")
    assert NASTY in site.browser.text("#keys")
    site.press("Escape")
    assert site.browser.js("return document.querySelectorAll('img').length") == 0
    assert site.browser.js("return document.title") == f"{NASTY}: annotate"
    site.annotator.wait_until_saved()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(site, width):
    site.open("main", width=width)
    outside = """[...document.querySelectorAll('button, input, output, h2, p')].filter((e) => {
        const { left, right, width } = e.getBoundingClientRect();
        const isVisible = e.checkVisibility({ visibilityProperty: true }) && width > 1;
        return isVisible && (left < 0 || right > innerWidth);
    }).map((e) => e.outerHTML.slice(0, 80)).join()"""
    site.browser.until(f"{outside} === ''", "something is outside of the page")  # the timeline is drawn later
    assert site.browser.js("return document.documentElement.scrollWidth") == width


def test_every_control_has_a_name(site):
    site.open("main")
    site.press("n", "Enter")
    nameless = site.browser.js(
        """return [...document.querySelectorAll('button, input, [role=listbox], [role=img], dialog, section')]
            .filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.textContent.trim()))
            .filter((e) => !e.labels?.length)
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    site.press("shift+x")
    site.annotator.wait_until_saved()


def test_goes_from_problem_to_problem(site):
    box = {"box": [0.1, 0.1, 0.5, 0.9], "actions": [WALK]}
    patch = [
        (0, 3, box),
        (2, 3, box),
        (2, 4, box),
        (3, 4, {**box, "actions": [STAND, CARRY]}),
        (3, 3, {**box, "actions": [CARRY]}),
    ]
    site.post("tall", [{"second": s, "person": p, "before": None, "after": cell} for s, p, cell in patch])
    site.open("tall")
    assert "3 problems" in site.browser.text("#queues")
    for second, person, text in (
        (2, 4, "nearly the box"),
        (3, 3, "no pose"),
        (3, 4, "nearly the box"),
        (2, 4, "nearly"),
    ):
        site.press("w")
        seen = site.sees()
        assert (seen["second"], seen["person"]) == (second, person)
        assert text in site.browser.text("#notice").lower()
    assert "nearly the box of person 3" in site.browser.text("#people .finding")
    site.press("x", "w", "x")  # boxes 4 at 2 s, then person 3 at 3 s, which has no pose
    site.annotator.wait_until_saved()
    site.browser.until("document.getElementById('queues').textContent.includes('0 problems')")
    site.press("w")
    assert "No problems" in site.browser.text("#notice")


def test_undo_and_redo_survive_a_reload_up_to_what_another_page_changed(site):
    def reload():
        site.annotator.wait_until_saved()
        site.browser.driver.refresh()
        site.browser.until("document.getElementById('title')?.textContent === 'reload'")
        site.browser.until("document.getElementById('place').textContent !== ''")

    site.open("reload")
    site.press("n", "Enter", "1", "3", "z")  # stand; carry is taken back
    reload()
    site.press("shift+z")
    assert site.labels("reload") == [(0, 0, STAND), (0, 0, CARRY)]
    site.press("z", "z")
    assert site.labels("reload") == []
    site.press("z", "z", "shift+z", "shift+z")
    assert site.labels("reload") == [(0, 0, STAND)]
    box = site.sees()["cells"][0]["box"]
    change = {"second": 0, "person": 0, "before": {"box": box, "actions": [STAND]}}
    site.post("reload", [{**change, "after": {"box": box, "actions": [WALK]}}])
    reload()
    site.press("z")
    assert site.labels("reload") == [(0, 0, WALK)]
    assert "Nothing to undo" in site.browser.text("#notice")
