"""Tests of training and inference on one GPU: `make gpu-test`. Without VMAE_TEST_DEVICE they are skipped.

VMAE_TEST_DEVICE=cuda runs them on the GPU. VMAE_TEST_DEVICE=cpu runs them on the CPU, with smaller frames, to
find mistakes in the tests themselves. Nothing in this folder imports an optional package of the tests.
"""

import gc
import os
import platform
from pathlib import Path

import pytest
import torch

REQUESTED = os.environ.get("VMAE_TEST_DEVICE", "")
REPORT = os.environ.get("VMAE_GPU_REPORT", "")
_figures: list[tuple[str, str, str]] = []


def _skip_reason():
    if REQUESTED not in ("", "cpu", "cuda"):
        raise pytest.UsageError(f"VMAE_TEST_DEVICE: expected cpu or cuda, got {REQUESTED}")
    if not REQUESTED:
        return "GPU tests run only with VMAE_TEST_DEVICE: make gpu-test"
    if "PYTEST_XDIST_WORKER" in os.environ:
        return "GPU tests share one device: run them without -n"
    if REQUESTED == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU on this machine; VMAE_TEST_DEVICE=cpu runs the GPU tests on the CPU"
    return None


if REQUESTED not in ("cpu", "cuda") or _skip_reason():
    # Their imports take seconds. The remaining test is skipped with the reason.
    collect_ignore = [
        path.name for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_device"
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark all tests in this folder, and skip them if they cannot run."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _skip_reason() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def device():
    """The device of VMAE_TEST_DEVICE."""
    if REQUESTED == "cpu":
        return torch.device("cpu")
    torch.set_num_threads(os.cpu_count())  # for the reference values
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def gpu(device):
    """The GPU. A test that uses it is skipped on the CPU."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True)
def clean_device():
    """Restore the precision of GEMM, and release the memory of the test."""
    yield
    torch.set_float32_matmul_precision("highest")
    gc.collect()
    if REQUESTED == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@pytest.fixture
def device_cfg(tiny_cfg, device):
    """device_cfg(TASK, KEY, VALUE, ...): `tiny_cfg` on the device."""
    return lambda task, *overrides: tiny_cfg(task, "MODEL.DEVICE", device.type, *overrides)


@pytest.fixture
def report(request):
    """report(NAME, VALUE): add a row to the table that is printed at the end."""
    return lambda name, value: _figures.append((request.node.name, name, value))


def pytest_terminal_summary(terminalreporter):
    """Print the figures as Markdown, and write them to VMAE_GPU_REPORT."""
    if not _figures:
        return
    counts = {
        key: len(terminalreporter.stats.get(key, ())) for key in ("passed", "failed", "error", "skipped")
    }
    text = "\n".join([*_machine(), "", _counts(counts), "", *_table()]) + "\n"
    terminalreporter.section("figures for docs/results/gpu.md")
    terminalreporter.write_line(text)
    if REPORT:
        Path(REPORT).write_text(text, encoding="utf-8")


def _counts(counts):
    return ", ".join(f"{number} {key}" for key, number in counts.items())


def _machine():
    import torchvision

    python, vision = platform.python_version(), torchvision.__version__
    versions = f"- Python {python}, torch {torch.__version__}, torchvision {vision}"
    if REQUESTED != "cuda":
        threads = torch.get_num_threads()
        return [f"- device: the CPU, {threads} threads. This tests the tests, not a GPU", versions]
    card, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
    cudnn, nccl = torch.backends.cudnn.version(), ".".join(map(str, torch.cuda.nccl.version()))
    return [
        f"- device: {card.name}, {card.total_memory / 2**30:.0f} GiB; GPUs in this machine: {count}",
        f"- driver {_driver()}, CUDA {torch.version.cuda}, cuDNN {cudnn}, NCCL {nccl}",
        versions,
    ]


def _driver():
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def _table():
    rows = [f"| `{test}` | {name} | {value} |" for test, name, value in _figures]
    return ["| test | figure | value |", "|---|---|---|", *rows]
