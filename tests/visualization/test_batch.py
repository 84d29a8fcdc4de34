"""Contact sheets of training batches show the clips as the model receives them."""

import numpy as np
import pytest
import torch

from vmae_det.data.loader import build_train_dataset, build_train_loader, load_batch_of_step
from vmae_det.modeling import model_class
from vmae_det.utils.errors import ConfigError
from vmae_det.visualization import batch as batches
from vmae_det.visualization.batch import draw_batch

MIXED = ("INPUT.MIXUP", 0.8, "INPUT.CUTMIX", 1.0)


def load_batches(cfg, step, count):
    """Return the first clips of a step, and the full batch of the loader."""
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    first = load_batch_of_step(cfg, dataset, step, count)
    full = next(iter(build_train_loader(cfg, dataset, step)))
    return first, full


@pytest.mark.parametrize(
    ("task", "keys"),
    [("pretrain", ("DATALOADER.REPEATED_AUG", 2)), ("finetune", MIXED), ("detect", ("INPUT.FLIP", 1.0))],
)
@pytest.mark.parametrize("step", [0, 1])
def test_clips_are_those_of_the_training_step(tiny_cfg, task, keys, step):
    first, full = load_batches(tiny_cfg(task, "DATALOADER.CLIPS_PER_VIDEO", 4, *keys), step, 2)
    count = len(first["video"])
    assert count == 2
    assert torch.equal(first["video"], full["video"][:count])
    assert torch.equal(first["seed"], full["seed"][:count])
    if task == "finetune":
        for key, value in full["mixing"].items():
            assert torch.equal(first["mixing"][key], value[:count]), key


def test_mixed_pairs_are_complete(tiny_cfg):
    first, full = load_batches(tiny_cfg("finetune", *MIXED), 0, 3)
    assert torch.equal(first["mixing"]["partner"], full["mixing"]["partner"])


@pytest.mark.parametrize("task", ["pretrain", "finetune", "detect"])
def test_a_sheet_and_an_animation(tiny_cfg, task):
    sheet, frames = draw_batch(tiny_cfg(task), count=3)
    assert sheet.dtype == np.uint8
    assert sheet.std() > 10
    assert len(frames) == 4
    assert len({frame.shape for frame in frames}) == 1
    assert sheet.shape[0] > draw_batch(tiny_cfg(task), count=2)[0].shape[0]


def load_and_draw(cfg, draw, count=4):
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    batch = load_batch_of_step(cfg, dataset, 0, count)
    return batch, draw(cfg, dataset, batch)


def test_the_mask_is_that_of_the_model(tiny_cfg):
    cfg = tiny_cfg("pretrain")
    from vmae_det.modeling import build_model

    batch, clips = load_and_draw(cfg, batches._draw_pretraining)
    masks = build_model(cfg).eval()(batch)["mask"].numpy()
    for clip, mask in zip(clips, masks):
        (_, frames), (caption, visible) = clip.rows
        assert caption == "75% masked"
        pixels = mask.reshape(2, 4, 4).repeat(2, 0).repeat(16, 1).repeat(16, 2)
        assert (visible[~pixels] == frames[~pixels]).all()
        assert (visible[pixels] == 128).all()


def test_captions_contain_the_mixed_targets(tiny_cfg):
    batch, clips = load_and_draw(
        tiny_cfg("finetune", "INPUT.MIXUP", 0.8, "SEED", 3), batches._draw_classification
    )
    weight, names = float(batch["mixing"]["weight"][0]), ("stand", "walk", "run", "crouch", "jump", "fall")
    assert 0.05 < weight < 0.95
    for number, clip in enumerate(clips):
        caption = clip.rows[0][0]
        shares = [float(line.split()[-1]) for line in caption.split("\n")]
        assert 0.8 < sum(shares) <= 1.01
        label = int(batch["label"][number])
        if label < len(names):
            assert names[label] in caption
        partner = batch["video"][batch["mixing"]["partner"][number]].float()
        mixed = batch["video"][number].float() * weight + partner * (1 - weight)
        frames = torch.from_numpy(clip.rows[0][1]).permute(3, 0, 1, 2).float()
        assert (frames - mixed).abs().max() <= 1


def test_without_mixing_clips_have_one_target(tiny_cfg):
    batch, clips = load_and_draw(tiny_cfg("finetune"), batches._draw_classification)
    for number, clip in enumerate(clips):
        caption, frames = clip.rows[0]
        assert "\n" not in caption
        assert (frames == batch["video"][number].permute(1, 2, 3, 0).numpy()).all()


def test_boxes_are_jittered_as_in_training(tiny_cfg, monkeypatch):
    from vmae_det.modeling.boxes import clip_indices, jitter_boxes

    dashed = []
    monkeypatch.setattr(batches, "draw_dashed_box", lambda picture, box: dashed.append(box))
    batch, clips = load_and_draw(tiny_cfg("detect"), batches._draw_detection, 2)
    boxes = batch["boxes"]
    expected = jitter_boxes(torch.cat(boxes), clip_indices(boxes), batch["seed"], 64, 64).numpy()
    factor = clips[0].rows[0][1].shape[1] / 64
    assert factor == 5
    shown = np.unique(np.stack(dashed), axis=0)
    np.testing.assert_allclose(shown, np.unique(factor * expected, axis=0), rtol=1e-5)
    people = sum(len(clip.rows[0][0].split("\n")) for clip in clips)
    assert people == len(expected)


def test_a_dataset_smaller_than_a_batch_raises_an_error(tiny_cfg):
    with pytest.raises(ConfigError, match=r"SOLVER\.BATCH_SIZE: 4096"):
        draw_batch(tiny_cfg("detect", "SOLVER.BATCH_SIZE", 4096))
