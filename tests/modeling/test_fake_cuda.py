"""The models on fake CUDA tensors: devices, dtypes, and no wait for the GPU.

Every model runs forward on the device "cuda" in float32 and bfloat16, one of each kind in float16, and each
backward in float32 on the device "meta" (see `fake_cuda`). The last test plants faults in several places. The
same check must fail.
"""

import numpy as np
import pytest
import torch
from fake_cuda import (
    HiddenWait,
    WrongDevice,
    WrongType,
    backward_stand_in,
    expected_waits,
    fake_cuda,
    no_waits,
    to_fake,
)

from vmae_det.config import get_cfg
from vmae_det.modeling import build_model, classification, detection, pretraining
from vmae_det.modeling.attention_maps import attention_maps, box_query_weights
from vmae_det.modeling.backbones import vit
from vmae_det.modeling.backbones.blocks import Mlp

AMP = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLIPS = 3
CLASSES = 5

CHECKPOINTING = ("MODEL.ACTIVATION_CHECKPOINTING", True)
DROP_PATH = ("MODEL.BACKBONE.DROP_PATH", 0.5, "MODEL.BACKBONE.DEPTH", 2)  # the first block has none
ROTARY = ("MODEL.BACKBONE.NAME", "VJepa21ViT")
PRETRAINING = {
    "tube": (),
    "random": ("MODEL.MASK.TYPE", "random"),
    "frame": ("MODEL.MASK.TYPE", "frame"),
    "running_cell": ("MODEL.DECODER.MASK", "running_cell"),
    "target_frames": ("MODEL.RECONSTRUCTION.NUM_FRAMES", 8),
    "single_frame": ("MODEL.RECONSTRUCTION.NUM_FRAMES", 1),
    "pixels": ("MODEL.RECONSTRUCTION.NORMALIZE", False),
    "l1": ("MODEL.RECONSTRUCTION.LOSS", "l1"),
    "smooth_l1": ("MODEL.RECONSTRUCTION.LOSS", "smooth_l1"),
    "rotary": ROTARY,
    "checkpointing": (*CHECKPOINTING, *DROP_PATH),
}
CLASSIFICATION = {
    "plain": (),
    "smoothing": ("MODEL.CLASSIFIER.LABEL_SMOOTHING", 0.1),
    "mixing": ("MODEL.CLASSIFIER.LABEL_SMOOTHING", 0.1),
    "dropout": ("MODEL.CLASSIFIER.DROPOUT", 0.5, *DROP_PATH),
    "linear_probe": ("MODEL.CLASSIFIER.LINEAR_PROBE", True),
    "checkpointing": (*CHECKPOINTING, *DROP_PATH),
}
HEAD_OPTIONS = (
    *("MODEL.ROI_HEAD.CONTEXT", True, "MODEL.ROI_HEAD.NUM_LAYERS", 2),
    *("MODEL.ROI_HEAD.TEMPORAL_POOL", "max", "MODEL.ROI_HEAD.FOCAL_GAMMA", 2.0),
)
DETECTION = {
    "published": (),
    "mean_loss": ("MODEL.ROI_HEAD.LOSS", "mean", "MODEL.ROI_HEAD.DROPOUT", 0.5, *DROP_PATH),
    "no_jitter": ("MODEL.ROI_HEAD.BOX_JITTER", False),
    "aligned": ("MODEL.ROI_HEAD.ALIGNED", True, "MODEL.ROI_HEAD.SAMPLING_RATIO", 2),
    "no_person_score": ("MODEL.ROI_HEAD.USE_PERSON_SCORE", False),
    "wide_frames": ("MODEL.BACKBONE.POSITIONS", "axes"),
    "frame_sizes": (),
    "no_boxes": (),
    "attention": (*HEAD_OPTIONS, "MODEL.ROI_HEAD.NAME", "AttentionRoIHead"),
    "checkpointing": (*CHECKPOINTING, *DROP_PATH),
    "rotary": (*ROTARY, *CHECKPOINTING),
}
MODELS = {"MaskedAutoencoder": PRETRAINING, "VideoClassifier": CLASSIFICATION, "ActionDetector": DETECTION}
CASES = [(model, case) for model, cases in MODELS.items() for case in cases]
OUTPUTS = {
    "MaskedAutoencoder": {
        "mask": torch.bool,
        "predicted": torch.bool,
        "reconstruction": torch.uint8,
        "loss": torch.float32,
    },
    "VideoClassifier": {"scores": torch.float32},
    "ActionDetector": {"scores": torch.float32},
}


def build(model, case):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", model, "INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.BACKBONE.PATCH_SIZE", 8, "MODEL.MASK.RATIO", 0.5),
            *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("MODEL.ROI_HEAD.NUM_CLASSES", CLASSES, "MODEL.CLASSIFIER.NUM_CLASSES", CLASSES),
            *MODELS[model][case],
        ]
    )
    return build_model(cfg)


def make_batch(case):
    """Return a batch with all that a model takes, in training and in testing."""
    counts = [0] * CLIPS if case == "no_boxes" else range(CLIPS)  # one clip has no box
    width = 48 if case == "wide_frames" else 32
    batch = {
        "video": torch.zeros(CLIPS, 3, 4, 32, width, dtype=torch.uint8),
        "seed": torch.arange(CLIPS),
        "label": torch.arange(CLIPS),
        "boxes": [torch.zeros(count, 4) for count in counts],
        "labels": [torch.zeros(count, CLASSES) for count in counts],
        "person_scores": [torch.ones(count) for count in counts],
    }
    if case == "mixing":
        box, weight = torch.zeros(CLIPS, 4, dtype=torch.int64), torch.ones(CLIPS)
        batch["mixing"] = {"partner": torch.arange(CLIPS), "box": box, "weight": weight}
    if case == "frame_sizes":
        batch["size"] = [torch.tensor([28.0, 32.0])] * CLIPS
    if case in ("target_frames", "single_frame"):
        frames = 8 if case == "target_frames" else 1
        batch["target"] = torch.zeros(CLIPS, 3, frames, 32, width, dtype=torch.uint8)
    return batch


def check_tensor(name, tensor, dtype, device):
    if tensor.dtype != dtype:
        raise WrongType(f"{name} is {tensor.dtype}, expected {dtype}")
    if tensor.device.type != device:
        raise WrongDevice(f"{name} is on {tensor.device}, expected {device}")


def check_training(model, batch, amp=None, device="cuda"):
    """Run a forward and a backward pass; check the loss and the gradients."""
    precisions = []
    for module in model.modules():
        if isinstance(module, Mlp):
            module.fc1.register_forward_hook(lambda _, __, output: precisions.append(output.dtype))
    model.train()
    with no_waits():
        with torch.autocast("cuda", amp, enabled=amp is not None):
            loss = model(batch)["loss"]
        assert loss.shape == ()
        check_tensor("loss", loss, torch.float32, device)
        backward_stand_in(loss) if device == "cuda" else loss.backward()
    assert set(precisions) == {amp or torch.float32}  # autocast is active
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        if parameter.requires_grad:
            check_tensor(name, parameter.grad, torch.float32, device)


def check_testing(model, batch, outputs, amp=None):
    """Run a forward pass in evaluation mode, and check the predictions."""
    model.eval()
    with no_waits(), torch.no_grad(), torch.autocast("cuda", amp, enabled=amp is not None):
        predictions = model(batch)
    assert predictions.keys() == outputs.keys()
    for name, value in predictions.items():
        for tensor in value if isinstance(value, list) else [value]:
            check_tensor(name, tensor, outputs[name], "cuda")


@pytest.mark.parametrize(
    ("model", "case", "amp"),
    [
        *((model, case, amp) for model, case in CASES for amp in ("float32", "bfloat16")),
        *((model, next(iter(cases)), "float16") for model, cases in MODELS.items()),
    ],
)
def test_forward(model, case, amp):
    built, batch = build(model, case), make_batch(case)
    with fake_cuda():
        fake, batch = to_fake(built), to_fake(batch)
        check_training(fake, batch, AMP[amp])
        check_testing(fake, batch, OUTPUTS[model], AMP[amp])


@pytest.mark.parametrize(("model", "case"), CASES)
def test_backward(model, case):
    built, batch = build(model, case), make_batch(case)
    with fake_cuda():
        check_training(to_fake(built, "meta"), to_fake(batch, "meta"), device="meta")


@pytest.mark.parametrize("case", ["tube", "target_frames", "single_frame", "pixels"])
def test_reconstruct(case):
    """It waits once, to count the masked tokens. Training does not call it."""
    built, batch = build("MaskedAutoencoder", case), make_batch(case)
    with fake_cuda():
        fake, batch = to_fake(built), to_fake(batch)
        video, mask = torch.rand(CLIPS, 3, 4, 32, 32, device="cuda"), torch.ones(CLIPS, 32, device="cuda")
        with no_waits(), torch.no_grad():
            target = batch["target"].float() if "target" in batch else None
            with expected_waits("the number of masked tokens is counted", value=16) as waits:
                prediction, expected = fake.reconstruct(video, mask.bool(), target)
        assert len(waits) == 1
    assert prediction.shape == expected.shape
    check_tensor("prediction", prediction, torch.float32, "cuda")
    check_tensor("target", expected, torch.float32, "cuda")


def test_attention_maps():
    """They wait once a block, to select the queries that have weight. They are for pictures only."""
    built = build("ActionDetector", "published")
    with fake_cuda():
        encoder = to_fake(built).backbone
        video, box = torch.rand(1, 3, 4, 32, 32, device="cuda"), torch.ones(4, device="cuda")
        with no_waits():
            weights = box_query_weights(box, (2, 4, 4), 8, 1)[None]
            check_tensor("weights", weights, torch.float32, "cuda")
            with pytest.raises(HiddenWait, match=r"attention_maps\.py:\d+ \(_weighted_attention\).*nonzero"):
                attention_maps(encoder, video, weights)


# ---------------------------------------------------------------- the checks


WAITS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: 1 if x.any() else 0,
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "to_gpu": lambda x: torch.ones(3).to(x.device),
    "to_cpu": lambda x: x.cpu(),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1, 2]),
    "as_tensor": lambda x: torch.as_tensor(np.ones(2), device=x.device),
    "copy_": lambda x: x.copy_(torch.ones(3)),
    "set_item": lambda x: x.__setitem__(0, 1.0),
    "index_list": lambda x: x[[0, 1]],
    "index_on_cpu": lambda x: x[torch.tensor([0, 1])],
    "mask": lambda x: x[x > 0],
    "set_mask": lambda x: x.__setitem__(x > 0, x),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x.long()),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long()),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "event": lambda x: torch.cuda.Event().synchronize(),
}
NO_WAITS = {
    "scalar": lambda x: x + 1.0,
    "scalar_on_cpu": lambda x: x + torch.tensor(1.0),
    "full": lambda x: x.new_full((3,), 1.0),
    "to_gpu": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "to_cpu": lambda x: x.to("cpu", non_blocking=True),
    "fill": lambda x: x[:2].fill_(1.0),
    "set_mask": lambda x: x.__setitem__(x > 0, 1.0),
    "index": lambda x: x[torch.arange(2, device=x.device)],
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long(), 5),
    "on_cpu": lambda x: torch.arange(3).sum().item(),
}


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference"])
@pytest.mark.parametrize("case", WAITS)
def test_waits_are_found(case, inference):
    with fake_cuda(), torch.inference_mode(inference):
        x = torch.ones(3, device="cuda")
        with no_waits(), pytest.raises(HiddenWait, match=r"test_fake_cuda\.py:\d+ \(<lambda>\)"):
            WAITS[case](x)


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference"])
@pytest.mark.parametrize("case", NO_WAITS)
def test_other_operations_pass(case, inference):
    with fake_cuda(), torch.inference_mode(inference):
        x = torch.ones(3, device="cuda")
        with no_waits():
            NO_WAITS[case](x)


# ---------------------------------------------------------------- planted faults


def cpu_tensor_in_mask(seeds, grid, kind, ratio):
    order = torch.rand(len(seeds), 16).argsort(dim=1)
    mask = torch.zeros(len(seeds), 16, dtype=torch.bool, device=seeds.device)
    return mask.scatter_(1, order[:, :8], True).repeat(1, 2)


def item_in_position_table(positions, grid, new_grid):
    return positions if positions.sum().item() else positions + 1


def mask_indexing_in_mixing(video, mixing):
    chosen = mixing["weight"] < 1
    video[chosen] = video[mixing["partner"][chosen]]
    return video


def new_tensor_in_rois(tensor, clips):
    factors = tensor.new_tensor([1.0, 1.0, 1.0, 1.0])
    return torch.cat([clips[:, None].to(tensor.dtype), tensor * factors], dim=1)


def double_in_target_statistics(pixels):
    mean = pixels.double().mean(dim=2, keepdim=True)
    return pixels - mean, mean, (pixels - mean).std(dim=2, keepdim=True)


def half_precision_in_loss(logits, labels, reduction, class_weights, **focal):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits.half(), labels.half())


def numpy_in_jitter(boxes, clips, seeds, height, width):
    return boxes + torch.from_numpy(np.ones((len(boxes), 4), np.float32)).to(boxes.device)


def count_in_masked_tokens(mask, num_masked):
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    number = mask[0].nonzero().shape[0]
    return order[:, number:], order[:, :number]


PLANTED = [
    ("MaskedAutoencoder", "tube", pretraining, "draw_mask", cpu_tensor_in_mask, WrongDevice, "mixes devices"),
    (
        *("ActionDetector", "wide_frames", vit, "resize_positions", item_in_position_table),
        *(HiddenWait, "a value on the GPU is read"),
    ),
    (
        *("VideoClassifier", "mixing", classification, "mix_videos", mask_indexing_in_mixing),
        *(HiddenWait, "indexed by a mask"),
    ),
    (
        "ActionDetector",
        "published",
        detection,
        "to_rois",
        new_tensor_in_rois,
        HiddenWait,
        r"\(4,\) is copied",
    ),
    (
        *("MaskedAutoencoder", "tube", pretraining, "_cube_statistics", double_in_target_statistics),
        *(WrongType, "returns float64"),
    ),
    ("ActionDetector", "published", detection, "box_loss", half_precision_in_loss, WrongType, "loss is"),
    (
        "ActionDetector",
        "published",
        detection,
        "jitter_boxes",
        numpy_in_jitter,
        HiddenWait,
        "is copied from cpu",
    ),
    (
        *("MaskedAutoencoder", "tube", pretraining, "split_tokens", count_in_masked_tokens),
        *(HiddenWait, "shape that depends on data"),
    ),
]


@pytest.mark.parametrize(
    ("model", "case", "module", "name", "fault", "error", "message"),
    [pytest.param(*planted, id=planted[4].__name__) for planted in PLANTED],
)
def test_planted_faults_are_found(monkeypatch, model, case, module, name, fault, error, message):
    """The error states what is wrong; if an operation is at fault, also the function that calls it."""
    built, batch = build(model, case), make_batch(case)
    monkeypatch.setattr(module, name, fault)
    with fake_cuda():
        fake, batch = to_fake(built), to_fake(batch)
        with pytest.raises(error, match=message) as caught:
            check_training(fake, batch)
    assert f"({fault.__name__})" in str(caught.value) or str(caught.value).startswith("loss is")
