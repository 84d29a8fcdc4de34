"""CPU settings that PyTorch does not choose by itself."""

import ctypes
import subprocess
import sys

import pytest
import torch

from vmae_det.utils import cpu

FAULTS = """
import resource, sys, torch
from vmae_det.utils.cpu import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB, 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(30)][-1])  # the first ones allocate
"""


@pytest.fixture
def here(monkeypatch):
    """Act as a CPU with fast GEMM; restore the setting of PyTorch."""
    monkeypatch.setattr(cpu, "_fast_gemm", False)
    monkeypatch.setattr(cpu, "_is_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpu, "_keeps_float32", lambda: True)
    cpu._has_fast_gemm.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    cpu._has_fast_gemm.cache_clear()


def test_fast_gemm_on_and_off(here):
    cpu.use_fast_gemm()
    assert cpu.is_fast_gemm_enabled()
    assert torch.get_float32_matmul_precision() == "medium"
    cpu.use_fast_gemm(False)
    assert not cpu.is_fast_gemm_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("lacks", ["_is_amd", "_keeps_float32"])
def test_other_cpus_are_not_changed(here, monkeypatch, lacks):
    monkeypatch.setattr(cpu, lacks, lambda: False)
    cpu.use_fast_gemm()
    assert not cpu.is_fast_gemm_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_precision_on_a_gpu_is_not_changed(here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cpu.use_fast_gemm()
    assert not cpu.is_fast_gemm_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_precision_set_by_the_user_is_not_changed(here):
    torch.set_float32_matmul_precision("high")
    cpu.use_fast_gemm()
    assert not cpu.is_fast_gemm_enabled()
    assert torch.get_float32_matmul_precision() == "high"


def test_gemm_that_rounds_to_bfloat16_is_detected(monkeypatch):
    product = torch.Tensor.__matmul__

    def rounding(a, b):
        short = a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"
        return product(a.bfloat16(), b.bfloat16()).float() if short else product(a, b)

    assert isinstance(cpu._keeps_float32(), bool)
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert cpu._keeps_float32() is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_freed_memory_is_reused():
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if not mallopt or not mallopt(-3, 1 << 28):  # this process keeps the setting, which changes no result
        pytest.skip("no glibc, or one that returns blocks of more than 32 MiB to the system")
    run = [sys.executable, "-c", FAULTS]
    default, kept = (
        int(subprocess.run([*run, how], check=True, capture_output=True, text=True).stdout)
        for how in ("default", "keep")
    )
    assert kept < 100 < default


@pytest.mark.parametrize(
    ("environment", "loader_workers", "threads"),
    [
        ({}, 0, 8),
        ({}, 3, 5),
        ({}, 20, 1),
        ({"LOCAL_WORLD_SIZE": "2"}, 1, 3),
        ({"OMP_NUM_THREADS": "1"}, 0, 1),
        ({"OMP_NUM_THREADS": "4"}, 6, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 0, 8),
        ({"OMP_NUM_THREADS": "100"}, 0, 8),
    ],
)
def test_threads_share_the_cores_and_respect_the_environment(
    monkeypatch, environment, loader_workers, threads
):
    monkeypatch.setattr(cpu, "count_cores", lambda: 8)
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cpu.count_threads(loader_workers) == threads
