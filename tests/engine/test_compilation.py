"""Compiled models: the same numbers, and nothing is compiled twice."""

import functools
import logging

import pytest
import torch
from torch._dynamo.utils import counters

from vmae_det.config import check_config
from vmae_det.engine.compilation import compile_model
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError

SCOPES = ("block", "stack")


@pytest.fixture
def graphs(monkeypatch):
    """graphs(): the number of graphs compiled since the last call. The compiler only traces them."""
    real = torch.compile

    def trace(method, mode=None, **options):
        return real(method, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", trace)
    torch._dynamo.reset()
    counters.clear()

    def take():
        number = counters["stats"]["unique_graphs"]
        assert not counters["graph_break"], counters["graph_break"]
        counters.clear()
        return number

    yield take
    torch._dynamo.reset()


def make_batch(model, clips=2, size=(64, 64), persons=(2, 3), frames=4):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (clips, 3, frames, *size), generator=generator, dtype=torch.uint8)
    batch = {"video": video, "seed": torch.arange(clips)}
    if model.task == "classification":
        return batch | {"label": torch.arange(clips)}
    if model.task == "detection":
        counts = (persons * clips)[:clips]
        boxes = [torch.tensor([[4.0, 2, 40, 50]]).repeat(count, 1) for count in counts]
        return batch | {
            "boxes": boxes,
            "labels": [torch.ones(count, model.roi_head.classifier.out_features) for count in counts],
            "person_scores": [torch.ones(count) for count in counts],
        }
    return batch


def train_step(model, batch):
    torch.manual_seed(0)
    model.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


# The encoder's blocks are the same in fine-tuning and detection, and so is the encoder.
@pytest.mark.parametrize(
    ("task", "scope"),
    [("pretrain", "block"), ("pretrain", "stack"), ("finetune", "stack"), ("detect", "block")],
)
def test_same_numbers_in_training_and_evaluation(tiny_cfg, graphs, task, scope):
    cfg = tiny_cfg(
        *(task, "MODEL.COMPILE_SCOPE", scope, "MODEL.BACKBONE.DROP_PATH", 0.5),
        *("MODEL.ACTIVATION_CHECKPOINTING", scope == "block"),
    )
    eager, compiled = build_model(cfg).train(), build_model(cfg).train()
    compile_model(cfg, compiled)
    batch = make_batch(eager)
    for got, expected in zip(train_step(compiled, batch), train_step(eager, batch), strict=True):
        torch.testing.assert_close(got, expected)
    assert graphs() > 0
    with torch.no_grad():
        got, expected = (model.eval()(batch) for model in (compiled, eager))
    for name in ("loss", "scores"):
        torch.testing.assert_close(got.get(name), expected.get(name))
    assert graphs() > 0


def test_one_graph_for_each_region(tiny_cfg, graphs):
    cfg = tiny_cfg("pretrain", "MODEL.COMPILE_SCOPE", "stack", "MODEL.DECODER.MASK", "running_cell")
    model = build_model(cfg).train()
    compile_model(cfg, model)
    train_step(model, make_batch(model))
    assert graphs() == 3  # encoder, decoder, loss


@pytest.mark.parametrize("scope", SCOPES)
def test_training_compiles_fixed_shapes(tiny_cfg, monkeypatch, scope):
    """Also of the decoder's blocks, which share the code of the encoder's and have other shapes."""
    real, inputs = torch.compile, []

    def record(graph, examples):
        inputs.append(examples)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda method, mode=None, **more: real(method, backend=record, **more)
    )
    torch._dynamo.reset()
    cfg = tiny_cfg("pretrain", "MODEL.COMPILE_SCOPE", scope)
    model = build_model(cfg).train()
    compile_model(cfg, model)
    model(make_batch(model))
    torch._dynamo.reset()
    assert len(inputs) >= 2
    assert all(torch.is_tensor(value) for examples in inputs for value in examples)  # no symbolic sizes


@pytest.mark.parametrize("scope", SCOPES)
def test_numbers_of_boxes_compile_nothing(tiny_cfg, graphs, scope):
    head = {"block": "AttentionRoIHead", "stack": "MaxPoolRoIHead"}[scope]
    cfg = tiny_cfg("detect", "MODEL.COMPILE_SCOPE", scope, "MODEL.ROI_HEAD.NAME", head)
    model = build_model(cfg).train()
    compile_model(cfg, model)
    train_step(model, make_batch(model, persons=(1, 2)))
    assert graphs() > 0
    for persons in ((3, 1), (7, 9), (1, 1)):
        train_step(model, make_batch(model, persons=persons))
        assert graphs() == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_frame_and_batch_sizes_of_an_evaluation_are_compiled_once(tiny_cfg, graphs, scope):
    cfg = tiny_cfg("detect", "MODEL.COMPILE_SCOPE", scope)
    model = build_model(cfg)
    compile_model(cfg, model)
    train_step(model.train(), make_batch(model))
    graphs()
    model.eval()
    with torch.no_grad():
        model(make_batch(model, clips=3, size=(64, 96)))
        assert graphs() == 1
        for clips, size in ((3, (64, 80)), (2, (96, 64)), (4, (64, 64))):
            model(make_batch(model, clips, size))
            assert graphs() == 0
        model(make_batch(model, clips=1, size=(64, 96)))
        assert graphs() == 1
        model(make_batch(model, clips=1, size=(64, 80)))
        assert graphs() == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_token_dropout_compiles_without_breaks_and_only_once(tiny_cfg, graphs, scope):
    dropping = ("MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7, "INPUT.NUM_FRAMES", 8, "MODEL.COMPILE_SCOPE", scope)
    cfg = tiny_cfg("detect", *dropping)
    eager, compiled = build_model(cfg).train(), build_model(cfg).train()
    compile_model(cfg, compiled)
    batch = make_batch(eager, frames=8)
    for got, expected in zip(train_step(compiled, batch), train_step(eager, batch), strict=True):
        torch.testing.assert_close(got, expected)
    assert graphs() == {"block": 2, "stack": 1}[scope]  # each block has another number of tokens
    train_step(compiled, make_batch(eager, persons=(1, 4), frames=8))
    assert graphs() == 0
    with torch.no_grad():
        compiled.eval()(make_batch(eager, clips=3, size=(64, 96), frames=8))
        assert graphs() > 0
        for clips, size in ((2, (96, 64)), (4, (80, 80))):
            batch = make_batch(eager, clips, size, frames=8)
            got, expected = (model.eval()(batch)["scores"] for model in (compiled, eager))
            torch.testing.assert_close(got, expected)
            assert graphs() == 0


def test_drop_path_rates_are_not_compiled_one_by_one(tiny_cfg, graphs):
    """More rates than entries of PyTorch's cache; without it, the last blocks would run in eager mode."""
    cfg = tiny_cfg("finetune", "MODEL.BACKBONE.DEPTH", 12, "MODEL.BACKBONE.DROP_PATH", 0.2)
    model = build_model(cfg).train()
    compile_model(cfg, model)
    train_step(model, make_batch(model))
    assert graphs() == 2  # the first block drops nothing


def test_model_without_regions_is_reported(tiny_cfg, graphs, caplog):
    cfg = tiny_cfg("pretrain")
    with caplog.at_level(logging.WARNING):
        compile_model(cfg, torch.nn.Linear(2, 2))
    assert "nothing is compiled: Linear has no part of MODEL.COMPILE_SCOPE block" in caplog.text


def test_cuda_graphs_exclude_losses_and_evaluation(tiny_cfg, monkeypatch):
    calls, marks = [], []

    def record(method, mode=None, **options):
        calls.append((method.__qualname__, mode))
        return functools.partial(method)

    monkeypatch.setattr(torch, "compile", record)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    compiled = ("MODEL.COMPILE", True, "MODEL.COMPILE_SCOPE", "stack", "MODEL.CUDA_GRAPHS", True)
    cfg = tiny_cfg("pretrain", *compiled)
    check_config(cfg)
    model = build_model(cfg).train()
    compile_model(cfg, model)
    modes = dict(reversed(calls))  # the first of the two is that of training
    assert modes == {
        "MaskedAutoencoder._training_loss": None,
        "VideoViT.encode": "reduce-overhead",
        "VideoViT.encode_blocks": "reduce-overhead",
        "VideoViT.encode_and_drop": "reduce-overhead",
        "Decoder.forward": "reduce-overhead",
    }
    assert [mode for _, mode in calls].count("reduce-overhead") == 4
    train_step(model, make_batch(model))
    assert marks == [1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("MODEL.COMPILE", True, "MODEL.COMPILE_SCOPE", "stack", "SOLVER.PARALLEL", "fsdp"),
            "MODEL.COMPILE_SCOPE: stack, but SOLVER.PARALLEL fsdp",
        ),
        (("MODEL.COMPILE", True, "MODEL.CUDA_GRAPHS", True), "MODEL.CUDA_GRAPHS: True, but only"),
        (
            (
                *("MODEL.COMPILE", True, "MODEL.COMPILE_SCOPE", "stack", "MODEL.CUDA_GRAPHS", True),
                *("SOLVER.ACCUMULATE", 2),
            ),
            "MODEL.CUDA_GRAPHS: True, but SOLVER.ACCUMULATE 2",
        ),
    ],
)
def test_contradictions_are_refused(tiny_cfg, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(tiny_cfg("pretrain", *overrides))
