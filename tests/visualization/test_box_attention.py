"""Heat maps of attention are at the positions of their tokens, and sum to 1."""

import numpy as np
import pytest

from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.readers import open_video
from vmae_det.visualization import box_attention as attention
from vmae_det.visualization.box_attention import BoxAttention, animate_attention, attend_boxes, draw_attention

BOX = (0.1, 0.2, 0.4, 0.9)


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


@pytest.mark.parametrize("task", ["detect", "finetune", "pretrain"])
def test_maps_cover_the_clip_around_the_keyframe(tiny_cfg, video, task):
    cfg = tiny_cfg(task)
    found = attend_boxes(cfg, video, 2.0, [BOX, (0.5, 0, 1.4, 1)])
    assert found.maps.shape[:2] == (2, 2)  # boxes, time slices of 4 frames
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2, 3)), 1, rtol=1e-4)
    assert found.seconds[2] == 0  # the keyframe
    rate = float(open_video(video).rate)
    np.testing.assert_allclose(found.seconds[3], cfg.INPUT.SAMPLING_RATE / rate, atol=0.01)
    assert [found.slice_of(t) for t in range(4)] == [0, 0, 1, 1]


def test_queries_are_the_tokens_in_the_box_at_the_keyframe(tiny_cfg, video, monkeypatch):
    queries = []

    def spy(backbone, clip, weights, method):
        queries.append(weights)
        return weights

    monkeypatch.setattr(attention, "attention_maps", spy)
    found = attend_boxes(tiny_cfg("detect"), video, 2.0, [BOX], "last")
    assert found.maps[0, 0].sum() == 0
    rows, columns = np.nonzero(found.maps[0, 1])
    height, width = found.maps.shape[2:]
    # The centers of the query tokens are in the box, or up to half a token outside.
    assert (np.abs((columns + 0.5) / width - 0.25) <= 0.15 + 0.5 / width + 0.02).all()
    assert (np.abs((rows + 0.5) / height - 0.55) <= 0.35 + 0.5 / height + 0.02).all()


def test_the_top_actions_of_a_detector_are_added(tiny_cfg, video):
    names = [f"action {number}" for number in range(11)]
    found = attend_boxes(tiny_cfg("detect"), video, 2.0, [BOX], label_names=names)
    assert found.names[0].count("action") == 2


@pytest.mark.parametrize("box", [(0.4, 0.2, 0.1, 0.9), (1.1, 0, 1.5, 1), (0.1, float("nan"), 0.2, 0.5)])
def test_boxes_without_area_in_the_frame_raise_an_error(tiny_cfg, video, box):
    with pytest.raises(UserError, match=r"--box: got .*expected x1 y1 x2 y2"):
        attend_boxes(tiny_cfg("detect"), video, 2.0, [box])


def test_a_time_after_the_end_raises_an_error(tiny_cfg, video):
    with pytest.raises(DataError, match=r"second 900\.000 is outside the video"):
        attend_boxes(tiny_cfg("detect"), video, 900.0, [BOX])


def one_hot(token, shape=(4, 6, 6), area=(1.0, 1.0)):
    """Return a gray clip of 8 frames with all attention on one token."""
    maps = np.zeros((1, *shape))
    maps[(0, *token)] = 1
    frames = np.full((8, 144, 144, 3), 120, np.uint8)
    return BoxAttention(frames, np.arange(8) / 4 - 1, np.array([[0.0, 0, 1, 1]]), maps, area)


def yellow(picture):
    """Return rows and columns of the pixels near the top color of viridis."""
    values = picture.astype(int)
    return np.nonzero((values[..., 0] > 170) & (values[..., 1] > 170) & (values[..., 2] < 110))


def test_heat_is_at_its_token_and_in_its_time_slice(monkeypatch):
    monkeypatch.setattr(attention, "_TOP_QUANTILE", 1.0)
    found = one_hot((2, 1, 4))
    rows, columns = yellow(attention._draw_heat_map(found, 0, 4))
    assert abs(rows.mean() - 36) < 6  # center of token (1, 4); a token has 24 pixels
    assert abs(columns.mean() - 108) < 6
    assert len(yellow(attention._draw_heat_map(found, 0, 3))[0]) == 0
    assert len(yellow(attention._draw_heat_map(found, 0, 5))[0]) > 0


def test_padding_is_cropped(monkeypatch):
    monkeypatch.setattr(attention, "_TOP_QUANTILE", 1.0)
    rows, _ = yellow(attention._draw_heat_map(one_hot((2, 1, 4), area=(0.5, 1.0)), 0, 4))
    assert abs(rows.mean() - 72) < 12  # the frame is the upper half of the map


def test_the_animation_has_one_size_and_the_picture_includes_the_keyframe(monkeypatch):
    found = one_hot((2, 1, 4))
    titles = []
    monkeypatch.setattr(
        attention,
        "draw_rows",
        lambda rows, names, draw=attention.draw_rows: titles.append(names) or draw(rows, names),
    )
    assert draw_attention(found).dtype == np.uint8
    assert titles[0][4] == "keyframe"
    frames = animate_attention(found)
    assert len(frames) == 8
    assert len({frame.shape for frame in frames}) == 1
