"""Pictures of original, masked and reconstructed frames."""

import cv2
import numpy as np
import pytest

from vmae_det.utils.errors import UserError
from vmae_det.visualization import reconstruction_grid, write_png
from vmae_det.visualization.reconstruction import MASK_GRAY, mask_tokens

RED, GREEN = (250, 10, 10), (10, 250, 10)


def plain(color, length=8, height=32, width=48):
    return np.broadcast_to(np.array(color, np.uint8)[:, None, None, None], (3, length, height, width))


def test_exactly_the_masked_tokens_are_gray():
    mask = np.random.default_rng(0).random(4 * 2 * 3) < 0.6
    masked = mask_tokens(plain(RED), mask, patch_size=16, tubelet_size=2)
    token = 0
    for t in range(0, 8, 2):
        for y in range(0, 32, 16):
            for x in range(0, 48, 16):
                cube = masked[:, t : t + 2, y : y + 16, x : x + 16]
                assert (cube == (MASK_GRAY if mask[token] else plain(RED)[:, :1, :1, :1])).all()
                token += 1


@pytest.mark.parametrize("ratio", [0, 0.5, 1])
def test_grid_shows_rows_of_original_masked_and_reconstructed(ratio):
    mask = np.arange(24) < 24 * ratio
    grid = reconstruction_grid(plain(RED), plain(GREEN), mask, patch_size=16, tubelet_size=2, num_columns=4)
    assert grid.dtype == np.uint8
    area = {c: int((grid == np.array(c)).all(axis=2).sum()) for c in (RED, GREEN, (MASK_GRAY,) * 3)}
    row = area[GREEN]  # the third row is the reconstruction and nothing else is green
    assert row % (4 * 32 * 48) == 0
    # Time is the slowest axis of the tokens, so the half mask covers the first two of the four frames shown.
    assert area[RED] == row * (2 - ratio)
    assert area[(MASK_GRAY,) * 3] == pytest.approx(row * ratio, abs=50)  # captions have a few gray pixels


def test_short_clip_shows_each_frame_once():
    video = plain(RED, length=2)
    few = reconstruction_grid(video, video, np.zeros(6, bool), 16, 2, num_columns=6)
    two = reconstruction_grid(video, video, np.zeros(6, bool), 16, 2, num_columns=2)
    assert (few == two).all()


def test_write_png_stacks_several_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    write_png(tmp_path / "new" / "one.png", picture)
    assert (cv2.imread(str(tmp_path / "new" / "one.png"))[..., ::-1] == picture).all()
    write_png(tmp_path / "two.png", [picture, picture[:, :15]])
    stacked = cv2.imread(str(tmp_path / "two.png"))[..., ::-1]
    assert stacked.shape[1] == 30
    assert (stacked[:20] == picture).all()
    assert any((stacked[y : y + 20, :15] == picture[:, :15]).all() for y in range(20, stacked.shape[0] - 19))


def test_an_unwritable_folder_raises_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        write_png(tmp_path / "file" / "picture.png", np.zeros((4, 4, 3), np.uint8))
