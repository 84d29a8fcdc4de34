"""Random values for every key: each is refused with the name of the key, or a model trains with it."""

import random

import numpy as np
import pytest
import torch

from vmae_det.config import check_config
from vmae_det.config.defaults import KEYS
from vmae_det.config.size_bounds import min_training_bytes
from vmae_det.data.loader import build_train_dataset, collate
from vmae_det.data.mixup import BatchMixing
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer, build_schedule
from vmae_det.utils.errors import ConfigError

ODD = [
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1e400",
        "1e20",
        "1e-320",
        "-1",
        "-0.0",
        "0",
        "1",
        "2",
        "3",
        "0.5",
        "7",
    ),
    *(
        "1j",
        "None",
        "True",
        "''",
        "",
        " ",
        "foo",
        "'foo'",
        "auto",
        "[1, 2",
        "()",
        "[]",
        "(1,)",
        "{}",
        "{1: 2}",
    ),
    *(
        "9223372036854775808",
        "2147483648",
        "4294967296",
        "-9223372036854775809",
        "0x10",
        "\0",
        "a\nb",
        "é" * 3,
    ),
    *(
        "(0.5, 0.5)",
        "(0.9, 0.1)",
        "(1e-320, 1)",
        "(1.0, 2.0, 3.0)",
        "(nan, 1)",
        "('a',)",
        "(('a',),)",
        "[[]]",
    ),
    *("9" * 5000, "(" * 300, "-" * 5000 + "1", "b'x'", "...", "lambda: 0", "__import__('os')", "a" * 5000),
]


def drawn(rng, key):
    """Values near the default of a key, and of any type."""
    default = KEYS[key].default
    if isinstance(default, bool):
        yield str(not default)
    elif isinstance(default, (int, float)):
        yield repr(type(default)(default * rng.choice([0, 0.5, 2, 3, 10])))
        yield repr(type(default)(10 ** rng.uniform(-3, 6)))
    elif isinstance(default, tuple) and default:
        yield repr(tuple(value * rng.choice([0.25, 1, 1, 2, -1]) for value in default))
        yield repr(tuple(sorted(10 ** rng.uniform(-2, 1) for _ in default)))
    yield from getattr(KEYS[key].range, "choices", ())
    yield from rng.sample(ODD, 12)


def train_a_step(cfg):
    """Train with a config, in this process and without writing files."""
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    batch = collate([dataset[0, index] for index in range(2)])
    mixing = BatchMixing.from_config(cfg)
    if mixing and "label" in batch:
        batch["mixing"] = mixing(0, len(batch["label"]))
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg)
    rates = [schedule(where) for where in (0.0, 0.3, 0.999)]
    assert np.isfinite(rates).all()
    assert max(rates) <= cfg.SOLVER.BASE_LR * cfg.SOLVER.BATCH_SIZE / 256 * (1 + 1e-9)
    loss = sum(model(batch).values())
    assert torch.isfinite(loss)
    loss.backward()
    optimizer.step()


def is_small(cfg):
    model, clips = min_training_bytes(cfg, 1)
    return model < 3e6 and clips < 3e7


def outcome(cfg, key, value, train):
    """Return the error message for a value, or "accepted" or "trained"."""
    before, cfg = cfg, cfg.clone()
    try:
        cfg.merge_from_list([key, value])
        check_config(cfg)
        if train and cfg != before and is_small(cfg):
            train_a_step(cfg)
            return "trained"
    except ConfigError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{key} {value!r}: {error!r}") from error
    return "accepted"


@pytest.fixture
def one_thread():
    """Use one thread: more slow down steps of milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_value_of_any_key_is_refused_by_name_or_trains(tiny_cfg, one_thread):
    tasks = [tiny_cfg(task) for task in ("pretrain", "finetune", "detect")]
    rng = random.Random(0)
    found = {"trained": 0, "accepted": 0, "refused": 0}
    for number, key in enumerate(KEYS):
        trains = key.startswith(("MODEL.", "INPUT.", "SOLVER."))
        for value in drawn(rng, key):
            said = outcome(tasks[number % 3], key, value, trains)
            if said in found:
                found[said] += 1
                trains = trains and said != "trained"
            else:
                found["refused"] += 1
                assert key in said, (key, value)
                assert len(said) < 500
    assert found["refused"] > 500
    assert found["trained"] > 25
