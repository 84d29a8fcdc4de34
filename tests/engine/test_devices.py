"""What depends on the device of a run, with stand-ins for GPUs: no test here needs one."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vmae_det.checkpoint import checkpointer, save_weights
from vmae_det.checkpoint.sharded import load_full_optimizer_state
from vmae_det.cli import main as command_line
from vmae_det.config import get_cfg
from vmae_det.data import loader as data_loader
from vmae_det.data import worker_pool
from vmae_det.engine import launch, setup
from vmae_det.engine.profiling import operations_table
from vmae_det.evaluation.evaluators import FrameMAPEvaluator
from vmae_det.solver import build_optimizer
from vmae_det.utils import cpu
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.transfer import copy_to_cpu

GPU = torch.device("cuda", 0)


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.fixture
def gpus(monkeypatch):
    """Make torch find two GPUs of compute capability 7.5."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


@pytest.fixture
def apple(monkeypatch):
    """Make torch find an MPS device and no GPU of NVIDIA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


class Operations(TorchDispatchMode):
    """Counts the calls of operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


# ---------------------------------------------------------------- choice of the device


def test_the_gpu_of_this_process(gpus, monkeypatch):
    assert setup.get_device(config()) == torch.device("cuda", 1)
    assert setup.get_device(config("MODEL.DEVICE", "cpu")).type == "cpu"
    monkeypatch.setattr(setup.distributed, "get_world_size", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(ConfigError, match=r"--num-gpus: process 4 finds only 2 GPUs on this machine"):
        setup.get_device(config("MODEL.DEVICE", "cuda"))
    selected = []
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    assert setup.get_device(config("MODEL.DEVICE", "cpu")).type == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert setup.get_device(config()) == torch.device("cuda", 1)
    assert selected == [1]  # not by the run on the CPU


@pytest.mark.parametrize(
    ("build", "visible", "reason"),
    [
        (None, None, "is built without CUDA"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES is ''"),
        ("13.0", None, "needs a driver for CUDA 13.0"),
    ],
)
def test_the_reason_for_a_missing_gpu(monkeypatch, build, visible, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE: cuda, but .*{reason}.*; set it to cpu or auto"):
        setup.get_device(config("MODEL.DEVICE", "cuda"))


def test_a_gpu_without_bfloat16(gpus, caplog):
    setup.warn_about_device.cache_clear()
    for amp in ("none", "fp16"):
        setup.warn_about_device(GPU, amp)
    assert not caplog.records
    for _ in range(2):
        setup.warn_about_device(GPU, "bf16")
    (record,) = caplog.records
    assert "SOLVER.AMP: bf16, but Tesla T4 (compute capability 7.5, below 8.0)" in record.getMessage()
    assert setup.choose_amp(GPU)[0] == "fp16"


@pytest.mark.parametrize(("flags", "expected"), [({"avx512_bf16"}, "bf16"), ({"avx512f"}, "none")])
def test_precision_of_training_on_a_cpu(monkeypatch, flags, expected):
    monkeypatch.setattr(cpu, "_flags", lambda: flags)
    assert setup.choose_amp(torch.device("cpu"))[0] == expected


def test_processes_on_the_cpu_of_a_machine_with_gpus(gpus, monkeypatch, capsys):
    monkeypatch.setattr(launch, "count_cores", lambda: 4)
    launch.check_processes(4, "cpu")
    assert "--num-gpus 4: MODEL.DEVICE is cpu, and 4 CPU cores; 4 proc" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--num-gpus: got 4, and this machine has 2 GPUs"):
        launch.check_processes(4, "auto")


def test_loader_workers_get_the_gpu_of_a_run_that_uses_one(gpus, monkeypatch):
    assert worker_pool._cuda_device() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert worker_pool._cuda_device() == 1


def test_only_runs_on_a_gpu_pin_memory(gpus, monkeypatch):
    """Pinning memory starts CUDA, also in a run on the CPU."""
    monkeypatch.setattr(data_loader, "FaultTolerantLoader", lambda *_, **options: options)
    monkeypatch.setattr(data_loader, "FaultTolerantDataset", lambda *_: None)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    dataset = type("Dataset", (), {"num_files": 1, "weights": None, "__len__": lambda _: 4})()
    mixing = ("INPUT.MIXUP", 0.8, "SOLVER.BATCH_SIZE", 4)
    for device, pins in {"auto": True, "cuda": True, "cpu": False, "mps": False}.items():
        options = data_loader.build_test_loader(config("MODEL.DEVICE", device), dataset)
        assert options["pin_memory"] is pins
        options = data_loader.build_train_loader(config("MODEL.DEVICE", device, *mixing), dataset)
        pinned.clear()
        options["finish"](0, {"label": torch.arange(4)})
        assert bool(pinned) is pins


# ---------------------------------------------------------------- MPS


def test_mps_is_used_only_if_chosen(apple):
    assert setup.get_device(config("MODEL.DEVICE", "mps")) == torch.device("mps")
    assert setup.get_device(config("MODEL.DEVICE", "auto")).type == "cpu"


@pytest.mark.parametrize(("built", "reason"), [(False, "built without MPS"), (True, "finds no MPS device")])
def test_missing_mps(monkeypatch, built, reason):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with pytest.raises(
        ConfigError, match=rf"MODEL\.DEVICE: mps, but torch .*{reason}.*; set it to cpu or auto"
    ):
        setup.get_device(config("MODEL.DEVICE", "mps"))


def test_precisions_of_mps(apple, monkeypatch):
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP: fp16 is not supported with MODEL\.DEVICE mps"):
        setup.get_device(config("MODEL.DEVICE", "mps", "SOLVER.AMP", "fp16"))
    cfg = config("MODEL.DEVICE", "mps", "SOLVER.AMP", "bf16")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP: bf16 .* set it to none; bf16 needs torch 2\.6"):
        setup.get_device(cfg)
    monkeypatch.setattr(torch, "__version__", "2.11.0+cpu")
    assert setup.get_device(cfg).type == "mps"


def test_mps_needs_autocast(apple, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1")
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: mps needs torch 2\.5 or newer, got 2\.4\.1; set"):
        setup.get_device(config("MODEL.DEVICE", "mps"))


@pytest.mark.parametrize(
    ("flags", "amp", "warned"),
    [
        ({"avx512f"}, "bf16", True),
        ({"avx512f"}, "none", False),
        ({"avx512_bf16"}, "bf16", False),
        (set(), "bf16", False),  # not x86: not known
    ],
)
def test_an_emulated_precision_on_a_cpu(monkeypatch, caplog, flags, amp, warned):
    monkeypatch.setattr(setup.cpu, "_flags", lambda: flags)
    setup.warn_about_device.cache_clear()
    setup.warn_about_device(torch.device("cpu"), amp)
    messages = ["SOLVER.AMP: bf16 is emulated on this CPU, which is slower than none (float32)"]
    assert caplog.messages == (messages if warned else [])


def test_mps_runs_a_single_process(apple, monkeypatch):
    with pytest.raises(ConfigError, match=r"--num-gpus: got 2, but MODEL\.DEVICE mps supports a single"):
        launch.check_processes(2, "mps")
    monkeypatch.setattr(setup.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"--num-gpus: got 2, but MODEL\.DEVICE mps supports a single"):
        setup.get_device(config("MODEL.DEVICE", "mps"))


def test_mps_is_called_untested_once(caplog):
    setup.warn_about_device.cache_clear()
    for _ in range(2):
        setup.warn_about_device(torch.device("mps"), "none")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "mps is untested" in record.getMessage()


def test_the_command_line_enables_the_fallback_of_mps(monkeypatch):
    monkeypatch.setattr(command_line, "_run", lambda _: 0)
    for given, expected in ((None, "1"), ("0", "0")):
        monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", given or "")
        if given is None:
            monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK")
        assert command_line.main(["train"]) == 0
        assert command_line.os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == expected


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 17.5 GB, other allocations: 1.1 GB, max allowed: 18.1 GB)",
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ..."),
    ],
)
def test_running_out_of_gpu_memory_is_one_line_with_a_cure(capsys, monkeypatch, message):
    error = message if isinstance(message, Exception) else RuntimeError(message)

    def run(*_):
        raise error

    monkeypatch.setattr(command_line, "_run", run)
    assert launch.run_guarded(run) == command_line.main(["visualize"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    for key in ("SOLVER.ACCUMULATE", "MODEL.ACTIVATION_CHECKPOINTING", "TEST.BATCH_SIZE"):
        assert said.count(key) == 2
    error = RuntimeError("a fault of the program")
    with pytest.raises(RuntimeError, match="a fault"):
        command_line.main(["visualize"])


def test_the_reason_of_nccl(monkeypatch, capsys):
    message = (
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled system error (run "
        "with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nncclSystemError: System call failed.\n"
        "Last error:\nError while creating shared memory segment /dev/shm/nccl-Bf3ZxX, No space left"
    )

    def fail(*_, **__):
        raise torch.distributed.DistBackendError(message)

    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    task = SimpleNamespace(timeout=1.0, restarted=False, restart_args=None)
    assert launch._run_in_group(task, launch.print_error) == launch.CONNECTION_LOST
    said = capsys.readouterr().err
    assert "process 0: Error while creating shared memory segment /dev/shm/nccl-Bf3ZxX, No space left" in said
    assert said.count("\n") == 1
    message = "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0]"
    assert launch._run_in_group(task, launch.print_error) == launch.CONNECTION_LOST
    assert f"process 0: {message}" in capsys.readouterr().err


# ---------------------------------------------------------------- copies between devices


def scores_of(*counts):
    return [torch.empty(count, 80, dtype=torch.bfloat16, device=GPU) for count in counts]


def test_the_scores_of_a_batch_are_copied_together():
    with FakeTensorMode(), Operations() as operations:
        copied = copy_to_cpu(scores_of(3, 0, 2))
    assert [(tuple(scores.shape), scores.device.type) for scores in copied] == [
        ((count, 80), "cpu") for count in (3, 0, 2)
    ]
    assert operations.names.count("_to_copy") == 1
    values = [torch.rand(count, 4, requires_grad=True) for count in (3, 0, 2)]
    assert all(a.equal(b) and not a.requires_grad for a, b in zip(copy_to_cpu(values), values))
    assert copy_to_cpu([]) == []


def test_the_evaluator_waits_once_a_batch(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "numpy", lambda scores: scores)  # fake tensors have no values
    evaluator = FrameMAPEvaluator(config(), None)
    keyframes = {"video_name": ["a"] * 3, "timestamp": [1.0, 2.0, 3.0], "boxes_relative": [[]] * 3}
    with FakeTensorMode(), Operations() as operations:
        evaluator.process(keyframes, {"scores": [scores.float() for scores in scores_of(3, 1, 2)]})
    assert operations.names.count("_to_copy") == 3 + 1  # three conversions to float32, and one copy


def test_weights_are_saved_from_the_cpu(monkeypatch, tmp_path):
    """`torch.load` on a machine without a GPU must read them."""
    saved = []
    monkeypatch.setattr(checkpointer, "_write_with_digest", lambda content, _: saved.append(content["model"]))
    with FakeTensorMode():
        model = nn.Linear(2, 3, device=GPU)
        state = model.state_dict()
        save_weights(state, "", tmp_path / "weights.pt")
    assert {value.device.type for value in saved[0].values()} == {"cpu"}
    assert {value.device.type for value in state.values()} == {"cuda"}
    assert saved[0]._metadata == state._metadata


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_resumed_run_keeps_its_implementation_of_the_optimizer(name):
    """A checkpoint of another device may name one that is slower here, or missing."""
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
    model.backbone.num_layers, model.backbone.layer_of = (lambda: 1), (lambda _: 0)

    def step(device):
        optimizer = build_optimizer(config("MODEL.DEVICE", device, "SOLVER.OPTIMIZER", name), model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    on_mps, on_cpu = step("mps"), step("cpu")
    for optimizer, other, fused in ((on_cpu, on_mps, True), (on_mps, on_cpu, False)):
        state = other.state_dict()
        state["param_groups"][0]["weight_decay"] = 0.25
        load_full_optimizer_state(optimizer, state)
        assert all(bool(group["fused"]) is fused for group in optimizer.param_groups)
        assert optimizer.param_groups[0]["weight_decay"] == 0.25
        optimizer.step()
    state["param_groups"].append(state["param_groups"][0])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        load_full_optimizer_state(on_cpu, state)


# ---------------------------------------------------------------- profile


def event(key, device, cpu=0.0, gpu=0.0, annotation=False):
    return SimpleNamespace(
        key=key,
        device_type=torch.autograd.DeviceType.CPU if device == "cpu" else torch.autograd.DeviceType.CUDA,
        cpu_time_total=cpu,
        self_cpu_time_total=cpu,
        self_device_time_total=gpu,
        is_user_annotation=annotation,
        count=2,
    )


def test_the_times_of_kernels_are_counted_once():
    """As torch's profiler reports a GPU: operations have the times of the kernels that they launch."""
    events = [
        event("forward", "cpu", cpu=4000.0),
        event("aten::mm", "cpu", cpu=3000.0, gpu=6000.0),
        event("sm80_gemm", "cuda", gpu=6000.0),
        event("softmax_kernel", "cuda", gpu=2000.0),
        event("forward", "cuda", gpu=8000.0, annotation=True),
        event("Optimizer.step#AdamW.step", "cuda", gpu=8000.0, annotation=True),
    ]
    lines = [line.split() for line in operations_table(events, 2, "cuda").splitlines()]
    assert lines[1] == ["forward", "2.00"]
    assert lines[3:] == [["sm80_gemm", "3.00", "75.0%", "1.0"], ["softmax_kernel", "1.00", "25.0%", "1.0"]]
    assert "aten::mm" in operations_table(events[:2], 2, "cpu")
