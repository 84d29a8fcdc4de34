"""The evaluation report in a browser, with malicious names."""

import csv
import json

import numpy as np
import pytest

from vmae_det.evaluation.report import build_report
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap
from vmae_det.visualization.evaluation_report import write_report

NASTY = "</script><script>document.title = 'hacked'</script>"
LABEL_MAP = LabelMap(
    (1, 2, 3, 4),
    ("sit", "talk to (e.g., a person)", NASTY, "never"),
    ("PERSON_MOVEMENT", "PERSON_INTERACTION", "PERSON_INTERACTION", "PERSON_MOVEMENT"),
)


def boxes(seed, noise, scored):
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(0)
    count = 120
    corner = truth.uniform(0, 0.5, (count, 2))
    box = np.concatenate([corner, corner + 0.4], axis=1)
    action = truth.integers(1, 4, count)
    if scored:
        box = np.clip(box + rng.normal(0, noise, box.shape), 0, 1)
        action = np.where(rng.random(count) < 0.7, action, rng.integers(1, 4, count))
    return ActionBoxes(
        np.array(["a", "b", "c"], dtype=object),
        (np.arange(count) % 3).astype(np.int32),
        np.arange(count) // 6 + 900.0,
        box,
        action.astype(np.int32),
        rng.random(count) if scored else np.ones(count),
        np.full(count, -1, dtype=np.int32),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    report = build_report(boxes(0, 0, False), boxes(1, 0.05, True), LABEL_MAP, base=boxes(2, 0.1, True))
    return write_report(tmp_path_factory.mktemp("report"), report, f"run {NASTY}")


def test_json_and_csv_match_the_report(page):
    report = json.loads((page.parent / "report.json").read_text())
    lost = sum(row["price"] for row in report["causes"])
    assert report["mAP"] + lost == pytest.approx(1)
    with (page.parent / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(LABEL_MAP.names)
    assert float(rows[0]["ap"]) == report["per_class"]["sit"]["ap"]
    assert float(rows[1]["ap"]) + sum(
        float(rows[1][key]) for key in rows[1] if "lost" in key
    ) == pytest.approx(1)
    assert (rows[3]["ap"], rows[3]["lost to confusion"]) == ("", "")


def test_the_confusions_add_up_to_the_annotated_boxes(page):
    report = json.loads((page.parent / "report.json").read_text())
    with (page.parent / "confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert (
        head[1:] == report["confusion_matrix"]["columns"] == [*LABEL_MAP.names, "not scored", "not detected"]
    )
    for row, expected in zip(rows, report["classes"], strict=True):
        assert row[0] == expected["name"]
        assert sum(map(int, row[1:])) == expected["num_ground_truth"]


def test_the_page_makes_no_requests(page):
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert NASTY not in text


@pytest.mark.parametrize("width", [1280, 390])
def test_mouse_and_keyboard(page, browser, width):
    all_of, text = browser.find_all, browser.text
    report = json.loads((page.parent / "report.json").read_text())
    browser.open(page, width)
    assert browser.driver.title == f"{100 * report['mAP']:.2f} frame-mAP"
    assert text("#mean") == f"{100 * report['mAP']:.2f}"
    assert NASTY in text("#title")
    assert len(all_of("#causes tr")) == 2 + len(report["causes"])
    assert "bootstrap over videos" in text("#compared")
    assert len(all_of("#classes button")) == 3  # "never" has no ground truth

    nasty = next(button for button in all_of("#classes button") if button.get_attribute("data-class") == "3")
    nasty.click()
    assert text("#chosen") == NASTY
    assert nasty.get_attribute("aria-pressed") == "true"
    assert len(all_of("#curve circle")) > 0

    next(button for button in all_of("#controls button") if "name" in button.text).click()
    select = browser.find("#kind")
    select.send_keys("person movement")
    assert [button.get_attribute("data-class") for button in all_of("#classes button")] == ["1"]
    select.send_keys("all kinds")

    cells = [cell.text for cell in all_of("svg.matrix .v")]
    assert 4 <= len(cells) <= 3 * 6
    assert all_of("table.pairs tr")[0].text == "annotated predicted count of %"

    # Keyboard
    browser.js("document.querySelector('[data-order=frequency]').focus()")
    browser.press("\ue007")
    assert browser.driver.switch_to.active_element.get_attribute("aria-pressed") == "true"
    assert all_of("#frequency circle")
    assert all_of("#calibration circle")
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.js(overflow) <= 0
    assert browser.complaints() == []
