"""Parameters and GFLOPs of the published weights, counted by hand and, for a few, by `inspect`."""

import importlib.util

import pytest

from vmae_det import model_zoo
from vmae_det.cli.main import main
from vmae_det.engine.inspection import count, count_flops, count_tokens, empty_model
from vmae_det.model_zoo.costs import COSTS
from vmae_det.model_zoo.listing import weights_table

ROOT = model_zoo.config_folder().parent


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def blocks(width, hidden, depth):
    """Parameters of transformer blocks."""
    attention = linear(width, 3 * width) + linear(width, width)
    return depth * (attention + linear(width, hidden) + linear(hidden, width) + 4 * width)


def block_flops(width, hidden, tokens, queries=None):
    """Multiply-adds of a block, with 5 operations for a value of a norm; only `queries` tokens leave it."""
    queries = queries or tokens
    norms = 5 * (tokens + queries) * width
    attention = (2 * tokens + queries) * width**2 + 2 * tokens * queries * width + queries * width**2
    return norms + attention + 2 * queries * width * hidden


def count_by_hand(cfg):
    """Parameters and multiply-adds of a model with a VideoViT."""
    node, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    width, hidden = node.EMBED_DIM, int(node.EMBED_DIM * node.MLP_RATIO)
    values = 3 * node.TUBELET_SIZE * node.PATCH_SIZE**2
    cells = (cfg.INPUT.CROP_SIZE // node.PATCH_SIZE) ** 2
    slices = cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE
    masked = int(cells * cfg.MODEL.MASK.RATIO) if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder" else 0
    visible = slices * (cells - masked)
    extra_tokens = node.CLASS_TOKEN + (node.NAME == "VJepa21ViT")  # the latter is added to all tokens
    parameters = linear(values, width) + blocks(width, hidden, node.DEPTH) + (extra_tokens + 2) * width
    flops = visible * (values + 5) * width
    flops += node.DEPTH * block_flops(width, hidden, visible + node.CLASS_TOKEN)
    if cfg.MODEL.META_ARCHITECTURE == "ActionDetector":
        return parameters + linear(width, cfg.MODEL.ROI_HEAD.NUM_CLASSES), flops
    if not masked:
        classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
        return parameters + linear(width, classes), flops + width * classes
    predicted = slices * (masked // 2 if decoder.MASK == "running_cell" else masked)
    dim = decoder.EMBED_DIM
    parameters += linear(width, dim, bias=False) + dim + blocks(dim, 4 * dim, decoder.DEPTH) + 2 * dim
    flops += visible * width * dim + predicted * dim * (values + 5)
    flops += (decoder.DEPTH - 1) * block_flops(dim, 4 * dim, visible + predicted)
    flops += block_flops(dim, 4 * dim, visible + predicted, predicted)
    return parameters + linear(dim, values), flops


def test_every_config_of_published_weights_has_its_cost():
    assert set(COSTS) == {weights.config for weights in model_zoo.WEIGHTS.values()}


@pytest.mark.parametrize("name", COSTS)
def test_the_stated_cost_is_that_of_the_model(name):
    """The model is built on the meta device."""
    cfg, (millions, gflops) = model_zoo.get_config(name), COSTS[name]
    is_hiera = cfg.MODEL.BACKBONE.NAME == "Hiera"
    if is_hiera:  # its GFLOPs take 5 to 20 s; test_hiera.py has a small one
        pytest.importorskip("hiera", reason="needs hiera-transformer (pip install vmae_det[hiera])")
    parameters = count(empty_model(cfg))
    assert parameters / 1e6 == pytest.approx(millions, abs=0.05)
    if not is_hiera:
        by_hand, flops = count_by_hand(cfg)
        assert parameters == by_hand
        assert flops / 1e9 == pytest.approx(gflops, abs=0.05, rel=1e-3)


def test_the_flops_by_hand_are_those_of_the_model():
    cfg = model_zoo.get_config("AVA/umt_base_8x37.yaml")
    tokens = count_tokens(cfg)
    assert count_flops(cfg, tokens) == pytest.approx(count_by_hand(cfg)[1], rel=1e-3)


def test_the_list_and_the_page_have_every_name(capsys):
    assert main(["inspect", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(model_zoo.WEIGHTS)
    assert lines[1].split()[:6] == ["videomae-base", "ViT-B/16,", "16", "x", "224", "94.2"]
    assert len(weights_table()) == len(model_zoo.WEIGHTS)


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documentation is in a clone only")
def test_the_table_of_the_page_is_current():
    spec = importlib.util.spec_from_file_location("zoo_table", ROOT / "docs" / "_ext" / "zoo_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run: python docs/_ext/zoo_table.py"
