"""`detect --precision`: what is chosen by default, what is said about it, and what it changes."""

import json

import pytest
import torch
from numbered_videos import Recipe, write_numbered

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.engine.setup import warn_about_device
from vmae_det.inference.precision import set_precision
from vmae_det.modeling import build_model
from vmae_det.utils import cpu
from vmae_det.utils.errors import UserError


@pytest.fixture
def units(monkeypatch):
    """units(NAME): act as a CPU with these instructions for bfloat16; "" for none."""
    flags = {"AMX": "amx_bf16", "": "fpu"}
    return lambda name: monkeypatch.setattr(cpu, "_flags", lambda: {flags[name]})


@pytest.mark.parametrize(("name", "amp"), [("AMX", "bf16"), ("", "none")])
@pytest.mark.parametrize("trained", ["none", "bf16", "fp16"])
def test_a_cpu_decides_by_its_instructions_whatever_training_used(tiny_cfg, units, name, amp, trained):
    units(name)
    cfg = tiny_cfg("detect", "SOLVER.AMP", trained)
    set_precision(cfg)
    assert amp == cfg.SOLVER.AMP


def test_what_the_user_sets_is_kept(tiny_cfg, units):
    units("AMX")
    cfg = tiny_cfg("detect", "SOLVER.AMP", "none")
    set_precision(cfg, "auto", amp_is_set=True)
    assert cfg.SOLVER.AMP == "none"
    for precision, amp in (("fp32", "none"), ("bf16", "bf16"), ("fp16", "fp16")):
        set_precision(cfg, precision)
        assert amp == cfg.SOLVER.AMP
    with pytest.raises(UserError, match=r"--precision fp32: SOLVER\.AMP is set too; pass only one"):
        set_precision(cfg, "fp32", amp_is_set=True)
    cfg.MODEL.WEIGHTS = "model.onnx"
    set_precision(cfg)
    with pytest.raises(UserError, match=r"--precision: that of model\.onnx is fixed in the file"):
        set_precision(cfg, "bf16")


def test_detect_says_what_it_chose_and_computes_in_it(tiny_cfg, tmp_path, units, capsys):
    cfg = tiny_cfg("detect", "MODEL.ROI_HEAD.NUM_CLASSES", 3, "SOLVER.AMP", "bf16")
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_head.classifier.weight, std=0.5)
    label_map = {"ids": (1, 2, 7), "names": ("stand", "walk", "wave"), "kinds": ("",) * 3}
    weights = save_weights(model.state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)
    video = write_numbered(tmp_path / "video", Recipe(count=30))

    def detect(*arguments):
        output = tmp_path / "out"
        command = ["detect", str(video), "--whole-frame", "--weights", str(weights), "--output", str(output)]
        assert main([*command, "--format", "jsonl", "--smooth", "0", "--overwrite", *arguments]) == 0
        lines = map(json.loads, next(output.glob("*.jsonl")).read_text().splitlines())
        return [person["actions"] for line in lines for person in line.get("people", line.get("persons"))]

    units("AMX")
    fast = detect()
    assert (
        "Precision: bf16 on cpu (the CPU has AMX; --precision fp32 is slower and exact)"
        in capsys.readouterr().out
    )
    exact = detect("--precision", "fp32")
    assert "Precision: fp32 on cpu (--precision)" in capsys.readouterr().out
    assert fast != exact
    assert detect("SOLVER.AMP", "none") == exact
    units("")
    assert detect() == exact
    assert "Precision: fp32 on cpu (the CPU has no instructions for bfloat16)" in capsys.readouterr().out
    warn_about_device.cache_clear()
    assert detect("--precision", "bf16") == fast
    assert "bf16 is emulated on this CPU, which is slower than none (float32)" in capsys.readouterr().out


def test_flags_of_this_cpu(monkeypatch, tmp_path):
    """AMX is preferred to AVX-512."""
    flags = {
        "fpu avx512f": ("", False),
        "fpu avx512_bf16": ("AVX-512 BF16", False),
        "avx512_bf16 amx_bf16 avx512_vnni fpu": ("AMX", True),
    }
    for line, expected in flags.items():
        (tmp_path / "cpuinfo").write_text(f"model name: amx_bf16\nflags\t\t: {line}\n")
        monkeypatch.setattr(cpu, "Path", lambda _: tmp_path / "cpuinfo")
        cpu._flags.cache_clear()
        assert (cpu.bfloat16_units(), cpu.has_int8_units()) == expected
    cpu._flags.cache_clear()
