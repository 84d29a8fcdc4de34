"""The tables of docs/guides/train_your_data.md have the values of the code."""

import re
from pathlib import Path

import pytest

from vmae_det import model_zoo
from vmae_det.engine import auto_schedule

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "train_your_data.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
TASKS = {"pre-training": "pretraining", "classification": "classification", "detection": "detection"}

pytestmark = pytest.mark.skipif(not TEXT, reason="the documentation is in a clone only")


def test_the_tiny_network():
    cfg = model_zoo.get_config("MiniAVA/_Base.yaml")
    row = next(line for line in TEXT.splitlines() if line.startswith("| `tiny`"))
    blocks, dimension, frames, height, width = map(int, re.findall(r"\d+", row))
    assert (blocks, dimension) == (cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.EMBED_DIM)
    assert (frames, height, width) == (cfg.INPUT.NUM_FRAMES, *2 * (cfg.INPUT.CROP_SIZE,))


@pytest.mark.parametrize("name", TASKS)
def test_rates_and_steps(name):
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| {name} |"))
    rate, steps, tiny_rate, tiny_steps = (cell.strip() for cell in row.split("|")[2:-1])
    rules = [auto_schedule._SCHEDULES[TASKS[name], is_tiny] for is_tiny in (False, True)]
    assert [float(rate), float(tiny_rate)] == [rule.rate for rule in rules]
    assert steps == f"{rules[0].steps}, {auto_schedule._CPU_STEPS}"
    assert int(tiny_steps) == rules[1].steps
