"""`vmae-det inspect` compared with published numbers and with arithmetic by hand."""

import cv2
import pytest
import torch
from torch import nn

from vmae_det import model_zoo
from vmae_det.cli.inspect import describe
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.engine.inspection import count_flops, count_tokens, empty_model, estimate_memory, inspect_config
from vmae_det.modeling import build_model
from vmae_det.solver import build_schedule
from vmae_det.utils.errors import ConfigError
from vmae_det.visualization.schedule import draw_schedule, schedule_as_text


@pytest.mark.parametrize(
    ("size", "millions", "gflops"),
    [("small", 22, 57), ("base", 87, 180), ("large", 305, 597), ("huge", 633, 1192)],
)
def test_parameters_and_gflops_of_the_published_classifiers(size, millions, gflops):
    cfg = model_zoo.get_config(f"Kinetics/vit_{size}_16x4_finetune.yaml")
    parameters = sum(parameter.numel() for parameter in empty_model(cfg).parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.01)
    assert count_flops(cfg, count_tokens(cfg)) / 1e9 == pytest.approx(gflops, rel=0.01)


def test_pre_training_counts_the_encoder_on_visible_tokens_only():
    cfg = model_zoo.get_config("Kinetics/vit_base_16x4_pretrain.yaml")
    tokens = count_tokens(cfg)
    # 196 positions, of which int(0.9 * 196) = 176 are masked in each of 8 slices.
    assert (tokens.grid, tokens.encoded, tokens.decoded, tokens.predicted) == ((8, 14, 14), 160, 1568, 1408)
    encoder = 1536 * 768 * 160 + 12 * (12 * 768**2 * 160 + 2 * 160**2 * 768)
    decoder = 768 * 384 * 160 + 3 * (12 * 384**2 * 1568 + 2 * 1568**2 * 384) + 384 * 1536 * 1408
    # The last block computes keys and values of all tokens, and all else only for predicted tokens.
    decoder += 2 * 384**2 * 1568 + 10 * 384**2 * 1408 + 2 * 1408 * 1568 * 384
    assert count_flops(cfg, tokens) == pytest.approx(encoder + decoder, rel=0.002)


@pytest.mark.parametrize(
    ("opts", "tokens", "head"),
    [
        # 160 visible and 1408 masked tokens in 8 slices; 256 pixels with 3 colors per patch.
        (("MODEL.DECODER.MASK", "running_cell"), (160, 160 + 704, 704), 2 * 768),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", 1), (160, 160 + 176, 176), 768),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", 32), (160, 1568, 1408), 4 * 768),
    ],
)
def test_pre_training_counts_the_decoder_on_predicted_tokens(opts, tokens, head):
    cfg = model_zoo.get_config("Kinetics/vit_base_16x4_pretrain.yaml")
    cfg.merge_from_list(list(opts))
    found = count_tokens(cfg)
    assert (found.encoded, found.decoded, found.predicted) == tokens
    assert empty_model(cfg).decoder.head.out_features == head
    encoder = 1536 * 768 * 160 + 12 * (12 * 768**2 * 160 + 2 * 160**2 * 768)
    blocks = 3 * (12 * 384**2 * tokens[1] + 2 * tokens[1] ** 2 * 384)
    last = 2 * 384**2 * tokens[1] + 10 * 384**2 * tokens[2] + 2 * tokens[2] * tokens[1] * 384
    decoder = 768 * 384 * 160 + blocks + last + 384 * head * tokens[2]
    assert count_flops(cfg, found) == pytest.approx(encoder + decoder, rel=0.002)


def test_attention_is_quadratic_in_the_number_of_tokens():
    cfg = model_zoo.get_config("Kinetics/vit_large_32x4_320px_finetune.yaml")
    tokens = count_tokens(cfg)
    assert tokens.encoded == 16 * 20 * 20 == 6400
    expected = 1536 * 1024 * 6400 + 24 * (12 * 1024**2 * 6400 + 2 * 6400**2 * 1024)
    assert count_flops(cfg, tokens) == pytest.approx(expected, rel=0.002)


def saved_bytes(model, *inputs):
    """Return the bytes that autograd saves for the backward pass, without parameters and buffers."""
    model_storages = {
        tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]
    }
    saved = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        result = model.logits(*inputs)
    del result
    return sum(size for pointer, (size, _) in saved.items() if pointer not in model_storages)


@pytest.mark.parametrize("task", ["finetune", "detect"])
def test_activation_memory_matches_a_real_run(task, tiny_cfg):
    cfg = tiny_cfg(task, "MODEL.BACKBONE.DROP_PATH", 0.2)
    model = build_model(cfg).train()
    side = cfg.INPUT.CROP_SIZE
    inputs = [torch.rand(2, 3, cfg.INPUT.NUM_FRAMES, side, side)]
    if task == "detect":
        inputs.append([torch.tensor([[0.0, 0.0, side, side]])] * 2)
    memory = estimate_memory(cfg, count_tokens(cfg))
    assert 2 * memory.clip + memory.casts == pytest.approx(saved_bytes(model, *inputs), rel=0.02)


def test_memory_of_weights_gradients_and_optimizer(tiny_cfg):
    def memory(*opts):
        cfg = tiny_cfg("finetune", *opts)
        return estimate_memory(cfg, count_tokens(cfg))

    number = sum(parameter.numel() for parameter in build_model(tiny_cfg("finetune")).parameters())
    adamw = memory()
    assert (adamw.weights, adamw.gradients, adamw.optimizer) == (4 * number, 4 * number, 8 * number)
    assert (adamw.ema, adamw.casts) == (0, 0)
    assert adamw.total(3) == 16 * number + 3 * adamw.clip
    assert memory("SOLVER.OPTIMIZER", "sgd").optimizer == 4 * number
    assert memory("SOLVER.EMA_DECAY", 0.999).ema == 4 * number
    mixed = memory("SOLVER.AMP", "bf16")
    assert mixed.clip < 0.8 * adamw.clip
    assert 0 < mixed.casts <= 2 * number
    probe = memory("MODEL.CLASSIFIER.LINEAR_PROBE", True)
    head = 24 * 11 + 11 + 2 * 24  # linear layer and norm with width 24, 11 classes
    assert (probe.weights, probe.gradients, probe.optimizer) == (4 * number, 4 * head, 8 * head)


def test_token_dropout_is_counted():
    cfg, node = get_cfg(), "MODEL.BACKBONE."
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "VideoClassifier", "INPUT.CROP_SIZE", 64])
    cfg.merge_from_list([node + "EMBED_DIM", 48, node + "DEPTH", 2, node + "NUM_HEADS", 2])
    plain = inspect_config(cfg)
    cfg.merge_from_list([node + "TOKEN_KEEP_RATE", 0.7, node + "TOKEN_DROP_BLOCKS", (1,)])
    dropping = inspect_config(cfg)
    assert (plain.tokens.kept, dropping.tokens.kept) == (0, 90)  # of 8 x 4 x 4 = 128
    dropped, width = 128 - 90, 48
    first = 9 * dropped * width**2 + 5 * dropped * width  # projection, MLP and second norm
    second = 12 * dropped * width**2 + 2 * (128**2 - 90**2) * width + 2 * 5 * dropped * width
    assert plain.flops - dropping.flops == pytest.approx(first + second)
    assert plain.total_parameters == dropping.total_parameters
    assert "8 x 4 x 4 = 128, 90 left after token dropout" in "\n".join(describe(cfg, dropping))


def test_weights_are_on_the_meta_device():
    model = empty_model(model_zoo.get_config("Kinetics/vit_huge_16x4_finetune.yaml"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_command_prints_everything_and_draws_the_schedule(tmp_path, capsys):
    opts = ["DATASETS.ROOT", str(tmp_path / "data")]
    args = [
        "inspect",
        "--output",
        str(tmp_path / "out"),
        "--config-file",
        "Kinetics/vit_small_16x4_finetune.yaml",
    ]
    assert main([*args, *opts]) == 0
    text = capsys.readouterr().out
    for expected in (
        "16 frames of 224 x 224",
        "8 x 14 x 14 = 1568",
        "22.04 M: backbone 21.88 M",
        "GFLOPs       57.0 per clip",
        "0.001 x 512 videos / 256 = 0.002",
        "150 epochs; 5 epochs of warm-up from 2e-06, then half a cosine to 2e-06",
        "number of steps unknown: registered dataset 'kinetics400_train'",
        "1024 clips on one process",
        "0.009689",  # 0.7 ** 13
    ):
        assert expected in text, expected
    picture = cv2.imread(str(tmp_path / "out" / "schedule.png"))
    assert picture.shape == (400, 800, 3)
    assert picture.std() > 5


def test_steps_if_the_dataset_is_available(tiny_cfg, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.mp4").touch()
    opts = ["DATASETS.TRAIN", (str(tmp_path),), "DATALOADER.CLIPS_PER_VIDEO", 3, "SOLVER.BATCH_SIZE", 4]
    found = inspect_config(tiny_cfg("pretrain", *opts))
    assert (found.steps, found.no_steps) == (4, "")  # 18 clips per epoch, 4 per step


def test_inspect_does_not_create_mini_ava(tmp_path):
    cfg = model_zoo.get_config("MiniAVA/pretrain.yaml")
    cfg.merge_from_list(["DATASETS.ROOT", str(tmp_path)])
    found = inspect_config(cfg)
    assert found.steps is None
    assert "mini_ava_unlabelled" in found.no_steps
    assert list(tmp_path.iterdir()) == []


def test_groups_are_sorted_by_learning_rate_and_include_all_parameters(tiny_cfg):
    found = inspect_config(tiny_cfg("detect", "SOLVER.LAYER_DECAY", 0.5, "SOLVER.HEAD_LR_FACTOR", 3.0))
    scales = {part: group.lr_scale for group in found.rates for part in group.parts}
    assert scales == {
        "backbone.patch_embed": 0.125,
        "backbone.blocks.0": 0.25,
        "backbone.blocks.1": 0.5,
        "backbone.norm": 1.0,
        "roi_head": 3.0,
    }
    assert [group.lr_scale for group in found.rates] == sorted(scales.values())
    assert sum(group.decaying + group.not_decaying for group in found.rates) == found.total_parameters


def test_an_unknown_key_is_one_line(capsys):
    assert (
        main(["inspect", "--config-file", "Kinetics/vit_small_16x4_finetune.yaml", "SOLVER.EPOCS", "3"]) == 2
    )
    assert "did you mean 'SOLVER.EPOCHS'" in capsys.readouterr().err


def test_the_plot_rises_to_the_peak_and_falls(tiny_cfg):
    cfg = tiny_cfg("pretrain", "SOLVER.EPOCHS", 10, "SOLVER.WARMUP_EPOCHS", 2.0, "SOLVER.MIN_LR", 0.0)
    lines = schedule_as_text(build_schedule(cfg), epochs=10, width=50, height=5)
    peak = cfg.SOLVER.BASE_LR * cfg.SOLVER.BATCH_SIZE / 256
    assert lines[0].startswith(f"{peak:9.2e}")
    assert lines[0].index("*") - lines[0].index("|") - 1 in range(8, 12)  # epoch 2 of 10, on 50 columns
    curve = lines[4][lines[4].index("|") + 1 :].ljust(50)
    assert (curve[0], curve[-1]) == ("*", "*")
    picture = draw_schedule(build_schedule(cfg), 10, "title")
    blue = (picture == (31, 119, 180)).all(axis=2)
    columns = blue.any(axis=0).nonzero()[0]
    first, last = columns[0], columns[-1]
    highest = {column: blue[:, column].nonzero()[0].min() for column in columns}
    top = min(highest, key=highest.get)
    assert (top - first) / (last - first) == pytest.approx(0.2, abs=0.03)


def test_an_unknown_task(tiny_cfg, monkeypatch):
    class OddModel(nn.Module):
        task = "odd"

    cfg = tiny_cfg("finetune")
    monkeypatch.setattr("vmae_det.engine.inspection.model_class", lambda _: OddModel)
    with pytest.raises(ConfigError, match="has the task 'odd'"):
        count_flops(cfg, count_tokens(cfg))
