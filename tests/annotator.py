"""Annotates on the page of `vmae-det annotate` with key presses alone, like a person who sees the screen."""

import json
from urllib.parse import quote

from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

_NAMES = {
    "ArrowLeft": Keys.LEFT,
    "ArrowRight": Keys.RIGHT,
    "ArrowUp": Keys.UP,
    "ArrowDown": Keys.DOWN,
    "Enter": Keys.ENTER,
    "Escape": Keys.ESCAPE,
    "Home": Keys.HOME,
    "End": Keys.END,
    "Space": " ",
}
_STEPS = (100, 20, 5, 1)  # of the arrow keys, in thousandths of the frame
_FIRST_STEP = 1  # index of the step with which editing starts
_VIEW = """
const done = arguments[0];
import('/static/view.js').then(({ view, second, selectable }) => done(view.doc && {
  video: view.doc.id, second: second(), person: view.person, selectable: selectable(), mode: view.mode,
  keyframes: view.doc.keyframes, poses: [...view.doc.poses],
  cells: [...view.doc.at(second())].map(([person, cell]) => ({ person, ...cell })),
  everybody: [...view.doc.people().keys()] }), (error) => done({ error: String(error) }));
"""
_ACTION_KEYS = """
const done = arguments[0];
import('/static/labels.js').then((m) => done([...m.actionKeys].map(([key, { id }]) => [id, key])));
"""


class Annotator:
    """The keyboard of an annotator.

    Attributes:
        presses: number of keys pressed. A key with Shift counts once.
    """

    def __init__(self, browser):
        self.browser, self.presses = browser, 0
        self.keys_of_actions = {}

    def open(self, address, video, second, width=1280):
        """Open the page at a keyframe, if it is not open; then show that keyframe."""
        if self.browser.driver.current_url.startswith(address):
            self.browser.resize(width)
            self.browser.js("location.hash = arguments[0]", f"#{quote(video)},{second}")
        else:
            self.browser.open(f"{address}#{quote(video)},{second}", width)
        for name, text in (("title", video), ("place", f"{second} s")):
            self.browser.until(f"document.getElementById('{name}').textContent === {json.dumps(text)}")
        self.keys_of_actions = dict(self.browser.driver.execute_async_script(_ACTION_KEYS))

    def press(self, *names):
        """Press keys: "a", "shift+a", "ArrowLeft", and "; a" for two keys in sequence."""
        chain = ActionChains(self.browser.driver, duration=0)
        for part in " ".join(names).split():
            name = part.removeprefix("shift+")
            if name != part:
                chain.key_down(Keys.SHIFT)
            chain.send_keys(_NAMES.get(name, name))
            if name != part:
                chain.key_up(Keys.SHIFT)
            self.presses += 1
        chain.perform()

    def write(self, text):
        """Type into a field."""
        self.browser.driver.switch_to.active_element.send_keys(text)
        self.presses += len(text)

    def sees(self):
        """Return what is on the screen: second, person, mode, cells, ..."""
        return self.browser.driver.execute_async_script(_VIEW)

    def wait_until_saved(self):
        """Wait until the page says that everything is saved."""
        self.browser.until("document.getElementById('saving-text').textContent === 'Saved'", seconds=30)

    def go(self, second):
        """Move to a keyframe of the video."""
        seen = self.sees()
        distance = seen["keyframes"].index(second) - seen["keyframes"].index(seen["second"])
        arrow = "ArrowRight" if distance > 0 else "ArrowLeft"
        self.press(*[f"shift+{arrow}"] * (abs(distance) // 10), *[arrow] * (abs(distance) % 10))

    def select(self, person):
        """Select somebody at the keyframe."""
        seen = self.sees()
        if seen["person"] != person:
            people = seen["selectable"]
            at = people.index(seen["person"]) if seen["person"] in people else -1
            distance = people.index(person) - at
            self.press(*["ArrowDown" if distance > 0 else "ArrowUp"] * abs(distance))

    def shape(self, target):
        """Move and resize the box that is being edited; `target` is xyxy in thousandths of the frame."""
        x1, y1, x2, y2 = (round(1000 * side) for side in self.sees()["mode"]["box"])
        size, wanted = (x2 - x1, y2 - y1), (target[2] - target[0], target[3] - target[1])
        smaller = [min(a, b) for a, b in zip(size, wanted)]
        # Shrink, move, grow: a box never leaves the frame on the way.
        stages = [
            ("shift+", [b - a for a, b in zip(size, smaller)]),
            ("", [target[0] - x1, target[1] - y1]),
            ("shift+", [b - a for a, b in zip(smaller, wanted)]),
        ]
        level = _FIRST_STEP
        for shift, distances in stages:
            level = self._cover(shift, distances, level)

    def _cover(self, shift, distances, level):
        plan = {}
        for axis, distance in enumerate(distances):
            for k, step in enumerate(_STEPS):
                count = int(distance / step)  # never beyond the target, where the edge of the frame may be
                distance -= count * step
                if count:
                    forward, back = (("ArrowRight", "ArrowLeft"), ("ArrowDown", "ArrowUp"))[axis]
                    plan.setdefault(k, []).extend([shift + (forward if count > 0 else back)] * abs(count))
        for k in sorted(plan):
            self.press(*[","] * (k - level), *["."] * (level - k), *plan[k])
            level = k
        return level

    def label(self, actions):
        """Switch the labels of the selected person so that they are these."""
        seen = self.sees()
        present = next(cell["actions"] for cell in seen["cells"] if cell["person"] == seen["person"])
        replaces_pose = any(action in seen["poses"] and action not in present for action in actions)
        dropped = [a for a in present if a not in actions and not (a in seen["poses"] and replaces_pose)]
        self.press(*(self.keys_of_actions[a] for a in [*dropped, *(a for a in actions if a not in present)]))

    def annotate(self, truth):
        """Annotate a video from nothing.

        Args:
            truth: second -> person -> (box in thousandths, action ids).

        Returns:
            The ids that the page gave to the people of the truth.
        """
        ids, last = {}, {}
        for second in sorted(truth):
            self.go(second)
            for person, (box, actions) in sorted(truth[second].items()):
                known = person in ids and ids[person] in self.sees()["selectable"]
                if known:  # as one second ago, and what differs
                    self.select(ids[person])
                    self.press("c")
                    if last[person][0] != box:
                        self.press("e")
                        self.shape(box)
                        self.press("Enter")
                else:
                    self.press("n")
                    self.shape(box)
                    self.press("Enter")
                    ids.setdefault(person, self.sees()["person"])
                self.label(actions)
                last[person] = box, actions
        self.wait_until_saved()
        return ids
