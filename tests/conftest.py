"""Shared fixtures: a tiny MiniAVA, configs that train in seconds, and the golden cases if present."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

# Threads that wait for each other spin by default, which takes most of the time on shared cores. The
# variable is read when torch is loaded, here and in processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.config.defaults import KEYS
from vmae_det.synthetic_data.mini_ava import TINY, make_mini_ava
from vmae_det.utils import cpu

SHARED = Path(__file__).parents[2] / "shared"

pytest_plugins = ["browser", "preloaded"]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests run in the background of a shell script
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Each worker of pytest-xdist, with the processes it starts, has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_make_parametrize_id(val):
    """Make test names printable and the same in every process."""
    if isinstance(val, bytes):
        return f"{len(val)}_bytes"
    return ascii(val)[1:41] if isinstance(val, str) and not (val.isascii() and len(val) <= 80) else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """Make reports valid UTF-8, because names with lone surrogates cannot be sent between processes."""
    report = (yield).get_result()
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]


def pytest_collection_finish():
    """Exclude the imported modules and the collected tests, millions of objects, from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def default_gemm():
    """Disable fast GEMM after each test, because commands enable it."""
    yield
    cpu.use_fast_gemm(False)


@pytest.fixture(scope="session")
def mini_ava(tmp_path_factory):
    """The folder of a tiny MiniAVA. The workers of pytest-xdist share it; tests must not change it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return make_mini_ava(folder / "datasets" / "mini_ava", size=TINY, progress=False)


@pytest.fixture
def tiny_cfg(mini_ava, tmp_path):
    """tiny_cfg("pretrain" | "mocov3" | "finetune" | "detect", KEY, VALUE, ...): a MiniAVA config.

    It trains in seconds.
    """
    sets = {
        "pretrain": ("unlabelled.yaml", None),
        "mocov3": ("unlabelled.yaml", "clips_val.yaml"),
        "finetune": ("clips_train.yaml", "clips_val.yaml"),
        "detect": ("train.yaml", "val.yaml"),
    }

    def make(task, *overrides):
        cfg = model_zoo.get_config(f"MiniAVA/{task}.yaml")
        train, val = sets[task]
        cfg.DATASETS.TRAIN = (str(mini_ava / train),)
        cfg.DATASETS.TEST = (str(mini_ava / val),) if val else ()
        cfg.merge_from_list(
            [
                *("OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu", "MODEL.COMPILE", False),
                *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
                *("MODEL.BACKBONE.PATCH_SIZE", 16, "MODEL.BACKBONE.TUBELET_SIZE", 2),
                *("MODEL.DECODER.EMBED_DIM", 16, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
                *("INPUT.NUM_FRAMES", 4, "INPUT.CROP_SIZE", 64, "INPUT.TRAIN_SHORT_SIDE", 64),
                *("INPUT.TEST_SHORT_SIDE", 64, "DATALOADER.NUM_WORKERS", 0, "SOLVER.LOG_PERIOD", 1),
                *("SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 1, "SOLVER.WARMUP_EPOCHS", 0.0),
                *(("SOLVER.HEAD_LR_FACTOR", 20.0) if task == "detect" else ()),
                *(("MODEL.MOCO.HIDDEN_DIM", 16, "MODEL.MOCO.OUT_DIM", 8) if task == "mocov3" else ()),
                *(("DATALOADER.CLIPS_PER_VIDEO", 4) if task == "mocov3" else ()),
                *(("TEST.KNN_BANK", str(mini_ava / "clips_train.yaml")) if task == "mocov3" else ()),
                # The published choices
                *("MODEL.ROI_HEAD.NAME", "MaxPoolRoIHead", "MODEL.ROI_HEAD.FOCAL_GAMMA", 0.0),
                *("MODEL.RECONSTRUCTION.NORMALIZE", True, "DATALOADER.CACHE_MB", 0),
                *("DATALOADER.DECODE_SMALLER", False, "MODEL.DECODER.MASK", "none", "MODEL.MASK.RATIO", 0.75),
            ]
        )
        for key in cfg.MODEL.PERSON_HEAD:
            cfg.MODEL.PERSON_HEAD[key] = KEYS[f"MODEL.PERSON_HEAD.{key}"].default
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a file system here")
    yield folder
    logger = logging.getLogger("vmae_det")
    for handler in list(logger.handlers):  # log.txt is open on it
        logger.removeHandler(handler)
        handler.close()
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Golden:
    """A golden case: outputs of the published implementation."""

    def __init__(self, name):
        import numpy as np

        folder = SHARED / "golden" / "videomae"
        if not (folder / f"{name}.json").exists():
            pytest.skip("the golden cases are missing (../shared/golden, next to the repository)")
        sys.path.insert(0, str(SHARED / "golden"))
        from golden_weights import golden_array, golden_state_dict

        case = json.loads((folder / f"{name}.json").read_text())
        self.arch = case["arch"]
        self.arrays = np.load(folder / f"{name}.npz")
        shapes = {key: tuple(shape) for key, shape in case["state_dict"].items()}
        self.state_dict = {key: torch.from_numpy(value) for key, value in golden_state_dict(shapes).items()}
        height, width = (self.arch.get(side, self.arch["img_size"]) for side in ("height", "width"))
        shape = (self.arch["batch"], 3, self.arch["frames"], height, width)
        self.video = torch.from_numpy(golden_array(self.arch["video"], shape))

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name])


@pytest.fixture
def golden():
    """golden(NAME): the case, or a skip if the golden cases are missing."""
    return Golden


def relative_error(actual, expected):
    """Return the largest difference divided by the largest value."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())
