"""Checkpoints of other programs, with objects of classes that cannot be imported here."""

import argparse
import collections
import enum
import io
import logging
import pickle
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from published_files import state_dict

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

FORMATS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 5": {"pickle_protocol": 5},
}


class Schedule(enum.Enum):
    COSINE = 1


class Scaler:
    def __init__(self):
        self.scale = 65536.0


class OwnDict(dict):
    pass


@pytest.fixture
def absent(monkeypatch):
    """absent("package.module", "Class", base): a class that can be pickled, but no longer exists when the
    file is read."""
    made = []

    def make(module, name, base=object, **members):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            if full not in sys.modules:
                monkeypatch.setitem(sys.modules, full, types.ModuleType(full))
                made.append(full)
        kind = type(name, (base,), {"__module__": module, **members})
        setattr(sys.modules[module], name, kind)
        return kind

    make.remove = lambda: [sys.modules.pop(full) for full in made]
    return make


def videomae(weights, _):
    """`utils.save_model` of VideoMAE and VideoMAE-Action-Detection, without DeepSpeed."""
    args = argparse.Namespace(model="vit_base", drop_path=0.1, opt_betas=[0.9, 0.95], eps=np.float64(1e-8))
    return {
        "model": weights,
        "optimizer": optimizer_state(),
        "epoch": 3,
        "scaler": {"scale": 1.0},
        "args": args,
    }


def deepspeed(weights, absent):
    """`model.save_checkpoint` of a DeepSpeed engine."""
    scaler = absent("deepspeed.runtime.fp16.loss_scaler", "LossScaler")()
    scaler.cur_scale = 1
    return {
        "module": weights,
        "buffer_names": ["pos_embed"],
        "optimizer": {"loss_scaler": scaler, "fp32_groups_flat": [torch.zeros(5)]},
        "param_shapes": [collections.OrderedDict(a=torch.Size([2, 3]))],
        "ds_config": {"train_batch_size": 8},
        "dp_world_size": 1,
        "epoch": 2,
        "args": argparse.Namespace(lr=1e-3),
    }


def mmengine(weights, absent):
    """`Runner.save_checkpoint` of mmengine."""
    buffer = absent("mmengine.logging.history_buffer", "HistoryBuffer")()
    buffer.history = np.arange(4)
    config = absent("mmengine.config.config", "ConfigDict", dict)(lr=1e-3)
    wrapper = absent("mmengine.optim.optimizer.optimizer_wrapper", "OptimWrapper")()
    return {
        "meta": {"epoch": 1, "cfg": "model = dict()", "seed": np.int64(3), "config": config},
        "state_dict": weights,
        "message_hub": {
            "log_scalars": collections.OrderedDict(loss=buffer),
            "runtime_info": collections.defaultdict(list, iter=[np.float32(2)]),
        },
        "optimizer": wrapper,
        "param_schedulers": [{"begin": 0, "by_epoch": True}],
    }


def omegaconf(weights, absent):
    """A PyTorch Lightning checkpoint with a Hydra config."""
    node = absent("omegaconf.dictconfig", "DictConfig")()
    node._content = {"lr": absent("omegaconf.nodes", "AnyNode")()}
    return {
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        "hyper_parameters": node,
        "loops": collections.Counter(a=1),
        "pytorch-lightning_version": "2.1",
    }


def custom_classes(weights, _):
    return {
        "model": OwnDict(weights),
        "schedule": Schedule.COSINE,
        "scaler": Scaler(),
        "sets": ({1, 2}, frozenset("ab")),
        "device": torch.device("cpu"),
        "path_of": {Schedule.COSINE: "cosine", ("a", Scaler): 1},
        "loss": np.float32(0.5),
        "best": (np.bool_(True), np.str_("top1"), np.int64(7)),
        "rng": np.random.get_state(),
        "function": read_checkpoint,
        "complex": 1j,
    }


def optimizer_state():
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


LAYOUTS = {
    videomae: "argparse.Namespace",
    deepspeed: "deepspeed.runtime.fp16.loss_scaler.LossScaler, argparse.Namespace",
    mmengine: "mmengine.logging.history_buffer.HistoryBuffer, mmengine.optim.optimizer.optimizer_wrapper.Opt",
    omegaconf: "omegaconf.dictconfig.DictConfig",
    custom_classes: "test_foreign_files.Schedule, test_foreign_files.Scaler",
}


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_files_of_other_programs(layout, how, absent, tiny_cfg, tmp_path, caplog):
    theirs = state_dict("videomae", "finetune")
    parameters = collections.OrderedDict((name, torch.nn.Parameter(value)) for name, value in theirs.items())
    torch.save(layout(parameters, absent), tmp_path / "theirs.pth", **FORMATS[how])
    absent.remove()
    model = build_model(
        tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.BACKBONE.POSITIONS", "flat")
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            report = load_weights(model, tmp_path / "theirs.pth")
    assert not report.missing
    assert not report.unused
    assert torch.equal(model.head.weight, theirs["head.weight"])
    assert torch.equal(model.backbone.blocks[1].mlp.fc1.weight, theirs["blocks.1.mlp.fc1.weight"])
    (message,) = [record.getMessage() for record in caplog.records]  # once, although it was read twice
    assert "theirs.pth: skipped objects that are neither tensors nor plain data" in message
    assert LAYOUTS[layout] in message


def test_plain_data_is_read_unchanged(tmp_path):
    torch.save(custom_classes({"a.weight": torch.ones(2)}, None), tmp_path / "x.pt")
    content = read_checkpoint(tmp_path / "x.pt")
    assert content["sets"] == ({1, 2}, {"a", "b"})
    assert content["loss"] == 0.5
    assert content["best"][2] == 7
    assert content["device"] == "cpu"
    assert content["path_of"] == {}  # its keys are objects


def test_all_dtypes_and_strides_of_tensors(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {str(dtype): base.to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)}
    tensors |= {
        str(dtype): (base > 3).to(dtype) for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool)
    }
    tensors |= {"transposed": base.T, "slice": base[1:3, ::2], "scalar": torch.tensor(3.5)}
    tensors |= {"expanded": torch.ones(1).expand(5), "empty": torch.zeros(0, 3), "complex": base * 1j}
    tensors |= {"uint16": torch.ones(2, dtype=torch.uint16), "float8": torch.ones(2).to(torch.float8_e4m3fn)}
    tensors |= {
        "parameter": torch.nn.Parameter(base),
        "buffer": torch.nn.Buffer(base) if hasattr(torch.nn, "Buffer") else base,
    }
    for options in FORMATS.values():
        torch.save(tensors, tmp_path / "x.pt", **options)
        read = read_checkpoint(tmp_path / "x.pt")
        for name, value in tensors.items():
            assert read[name].dtype == value.dtype
            assert torch.equal(read[name].to(torch.complex128), value.detach().to(torch.complex128)), name
    assert read["slice"].untyped_storage().data_ptr() == read["transposed"].untyped_storage().data_ptr()


def test_numpy_arrays_are_parameters(tiny_cfg, tmp_path):
    theirs = state_dict("videomae", "finetune")
    torch.save({"model": {name: value.numpy() for name, value in theirs.items()}}, tmp_path / "x.pth")
    model = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5))
    assert not load_weights(model, tmp_path / "x.pth").missing
    assert torch.equal(model.head.weight, theirs["head.weight"])


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"expected a dict .*got an object of torch\.nn\.modules\.linear\.Linear"
    ):
        read_checkpoint(tmp_path / "model.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"no parameters; it contains model \(an object of torch\.nn\.modules\.linear"
    ):
        convert_weights(tmp_path / "model.pt", tmp_path / "out.pt", "vmae_det")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_content_decides_the_file_type(tmp_path):
    tensors = state_dict("videomae", "finetune")
    safetensors.torch.save_file(tensors, tmp_path / "pytorch_model.bin")
    torch.save(tensors, tmp_path / "model.safetensors")
    for name in ("pytorch_model.bin", "model.safetensors"):
        convert_weights(tmp_path / name, tmp_path / "out.pt", "vmae_det")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        read_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"", "an empty file"),
        (b"PK\x03\x04 no archive", "damaged, or not a checkpoint"),
        (pickle.dumps({"a": 1}), "refused: a pickle that torch.save did not write"),
    ],
)
def test_files_that_are_not_checkpoints(tmp_path, content, expected):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=expected):
        read_checkpoint(tmp_path / "x.pt")


def test_a_changed_number_is_found_by_the_crc(tmp_path):
    torch.save({"model": {"a.weight": torch.ones(4000)}}, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    index = content.index(np.ones(100, np.float32).tobytes())
    content[index + 200] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged.*CRC"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore")  # torch's, about future changes of some of these kinds
def test_tensors_of_unsupported_kinds_are_refused(tmp_path):
    theirs = state_dict("videomae", "finetune")
    name = "blocks.0.mlp.fc1.weight"
    kinds = {
        "a sparse tensor": theirs[name].to_sparse(),
        "a quantized tensor": torch.quantize_per_tensor(theirs[name], 0.1, 0, torch.qint8),
        "a meta tensor": theirs[name].to("meta"),
        "a nested tensor": torch.nested.nested_tensor([theirs[name]]),
        "a tensor with a conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "test_foreign_files.Scaler": Scaler(),
        "an array that is not numeric": np.array([{}, []], dtype=object),
    }
    for expected, value in kinds.items():
        torch.save({"model": theirs | {name: value}}, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=rf"x\.pth: {name}.* {expected}"):
            convert_weights(tmp_path / "x.pth", tmp_path / "out.pt", "vmae_det")
    assert not (tmp_path / "out.pt").exists()


def test_a_file_of_python_2(tmp_path):
    """Strings are bytes there, and protocol 2 is the highest."""
    buffer = io.BytesIO()
    torch.save({"model": {"a.weight": torch.ones(2)}}, buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue().replace(b"X\x08\x00\x00\x00a.weight", b"U\x08a.weight")
    (tmp_path / "x.pth").write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / "x.pth")["model"]["a.weight"], torch.ones(2))
