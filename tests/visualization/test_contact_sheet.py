"""Contact sheets of intact and of damaged datasets."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from vmae_det.data.catalog import get_dataset
from vmae_det.formats.label_map import LabelMap
from vmae_det.rendering.label_drawing import render_label
from vmae_det.rendering.style import KIND_COLORS, DrawStyle
from vmae_det.utils.errors import DataError
from vmae_det.visualization import contact_sheet
from vmae_det.visualization.contact_sheet import draw_contact_sheets

TRUTH = "annotations/mini_ava_train.csv"


@pytest.fixture
def folder(mini_ava, tmp_path):
    return Path(shutil.copytree(mini_ava, tmp_path / "mini_ava"))


def sheets(folder, number=36):
    return draw_contact_sheets(get_dataset(str(folder / "train.yaml")), number)


def count_colored(picture):
    """Return the number of pixels in the colors of boxes."""
    return sum(int((picture == color).all(axis=2).sum()) for color in KIND_COLORS.values())


def black_frames(monkeypatch):
    """Replace the frames by black ones, so that only drawn pixels are not black."""
    monkeypatch.setattr(contact_sheet, "_read_frame", lambda path, seconds: np.zeros((144, 192, 3), np.uint8))


def test_pages_contain_twelve_keyframes_each(folder):
    pages = sheets(folder)  # 25 keyframes
    assert [page.shape[1:] for page in pages] == [(1970, 3)] * 3
    assert pages[0].shape[0] > 3 * 360 > pages[2].shape[0] > 360
    assert len(sheets(folder, number=12)) == 1


def test_person_boxes_are_dashed_and_white(folder, monkeypatch):
    black_frames(monkeypatch)
    one = sheets(folder, number=1)[0]
    (folder / "person_boxes/mini_ava_train.csv").write_text("Bwf51kPTB9k,0908,0.1,0.1,0.2,0.2,,0.9\n")
    other = sheets(folder, number=1)[0]
    inside = (slice(40, 390), slice(12, 488))
    assert (one[inside] == 255).all(axis=2).sum() > (other[inside] == 255).all(axis=2).sum() + 100


def test_a_caption_has_the_time_even_with_a_long_name(folder, monkeypatch):
    black_frames(monkeypatch)
    written = []
    fit = contact_sheet.fit_text
    monkeypatch.setattr(contact_sheet, "fit_text", lambda *args: written.append(text := fit(*args)) or text)
    long = "v_HandstandPushups_g01_c02_" + 12 * "very_long_name_"
    (folder / TRUTH).write_text(f"{long},1234.567,0.1,0.1,0.9,0.9,1,0\n")
    sheets(folder, number=1)
    letters = [text.letters for text in written]
    assert "1234.567 s" in letters
    assert any(text.startswith("v_Handstand") and text.endswith("…") for text in letters)
    monkeypatch.setattr(
        contact_sheet, "_read_frame", lambda *_: (_ for _ in ()).throw(DataError("no video file"))
    )
    written.clear()
    sheets(folder, number=1)
    assert "1234.567 s" in [text.letters for text in written]


def test_annotations_have_no_score(folder):
    (label,) = contact_sheet._labels([1], LabelMap((1,), ("walk",), ("PERSON_MOVEMENT",)))
    assert label.score is None
    bare, scored = (
        render_label((label._replace(score=score),), None, DrawStyle.for_frame(360, 480))
        for score in (None, 1.0)
    )
    assert bare.color.shape[1] < scored.color.shape[1]  # no number
    color = KIND_COLORS["PERSON_MOVEMENT"]
    assert (bare.color[-1] == color).all(axis=1).sum() < (scored.color[-1] == color).all(axis=1).sum()


def test_boxes_in_pixels_are_reported_as_not_visible(folder, monkeypatch):
    black_frames(monkeypatch)
    assert count_colored(sheets(folder, number=4)[0]) > 1000
    rows = [line.split(",") for line in (folder / TRUTH).read_text().splitlines()]
    rows = [[*row[:2], *(f"{1 + 100 * float(v):.0f}" for v in row[2:6]), *row[6:]] for row in rows]
    (folder / TRUTH).write_text("".join(",".join(row) + "\n" for row in rows))
    page = sheets(folder, number=4)[0]
    assert count_colored(page) == 0
    assert (page == contact_sheet._ERROR_COLOR).all(axis=2).any()


def test_missing_and_broken_videos_are_gray(folder):
    for path in (folder / "videos").iterdir():
        path.unlink() if path.stem < "H" else path.write_bytes(b"no video")
    (page,) = sheets(folder, number=4)
    assert (page == contact_sheet._ERROR_COLOR).all(axis=2).any()
    assert (page[200, 20:480] == 235).all()
