"""`vmae-det print-config`: the output is a config file, and the origin of each value is right."""

import json
import logging
from pathlib import Path

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.cli.config_arguments import load_config, resolve_config
from vmae_det.cli.main import main
from vmae_det.cli.print_config import config_as_yaml
from vmae_det.config import get_cfg
from vmae_det.config.cfg_node import flatten, value_of
from vmae_det.config.defaults import KEYS
from vmae_det.config.origins import Origin
from vmae_det.utils.safe_yaml import load_yaml


@pytest.fixture
def printed(capsys, monkeypatch):
    """Return a function that runs the command and returns its lines."""
    # Commands that other tests have run in this process may have set up a log on standard output.
    monkeypatch.setattr(logging.getLogger("vmae_det"), "handlers", [])

    def run(*args):
        assert main(["print-config", *map(str, args)]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Three files: own.yaml includes shared/middle.yaml, which includes base.yaml."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "base.yaml").write_text("SEED: 3\nSOLVER:\n  EPOCHS: 7\n  BASE_LR: 1e-4\n  BATCH_SIZE: 8\n")
    (tmp_path / "shared" / "middle.yaml").write_text(
        "_BASE_: ../base.yaml\n\nSOLVER: {EPOCHS: 9,\n  WARMUP_EPOCHS: 2}\nINPUT.CROP_SIZE: 64\n"
    )
    (tmp_path / "own.yaml").write_text(
        "DATASETS: {TRAIN: [a, b]}\n_BASE_: shared/middle.yaml\nSOLVER.BASE_LR: 2e-4\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def origins(text):
    """Return the comment of each key of the output."""
    return {line.split(":")[0].strip(): line.rsplit("# ", 1)[1] for line in text.splitlines() if "# " in line}


def test_the_origin_is_the_file_and_line_that_set_a_value_last(chain, printed):
    text = printed("--config-file", "own.yaml", "--diff", "SEED", "4", "SOLVER.WARMUP_EPOCHS", "0")
    assert origins(text) == {
        "CROP_SIZE": "shared/middle.yaml:5",
        "TRAIN": "own.yaml:1",
        "BASE_LR": "own.yaml:3",
        "EPOCHS": "shared/middle.yaml:3",
        "WARMUP_EPOCHS": "command line",
        "BATCH_SIZE": "base.yaml:5",
        "SEED": "command line",
    }


def test_a_value_without_a_source_is_a_default(chain, printed):
    everything = origins(printed("--config-file", "own.yaml"))
    assert everything["NUM_FRAMES"] == "default"
    assert set(everything) == {key.rpartition(".")[2] for key in KEYS}


def test_the_line_of_a_value_behind_an_alias_or_a_merge_key(tmp_path, monkeypatch, printed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        "MODEL:\n  BACKBONE: &vit\n    EMBED_DIM: 384\n    DEPTH: 4\n"
        "  DECODER:\n    <<: {DEPTH: 2}\n    EMBED_DIM: 192\n"
    )
    text = printed("--config-file", "own.yaml", "--diff")
    lines = [line.rsplit("# ", 1)[1] for line in text.splitlines() if "#" in line]
    assert lines == ["own.yaml:3", "own.yaml:4", "own.yaml:7", "own.yaml:6"]


@pytest.mark.parametrize("options", [[], ["--diff"]])
@pytest.mark.parametrize("name", ["AVA/vit_small_16x4.yaml", "MiniAVA/pretrain.yaml"])
def test_the_output_is_the_same_config(printed, tmp_path, name, options):
    overrides = ["SOLVER.MIN_LR", "1e-7", "DATASETS.TRAIN", "('a: b', 'é #c')", "OUTPUT_DIR", "b's"]
    (tmp_path / "again.yaml").write_text(printed("--config-file", name, *options, *overrides))
    assert load_config(str(tmp_path / "again.yaml"), []) == load_config(name, overrides)


def test_the_defaults(printed, tmp_path):
    text = printed("--diff")
    assert text == "{}  # all keys have their defaults\n"
    (tmp_path / "defaults.yaml").write_text(text)
    assert load_config(str(tmp_path / "defaults.yaml"), []) == get_cfg()
    assert load_yaml(printed()) == load_yaml(get_cfg().dump())


@pytest.fixture
def weights(tmp_path):
    cfg = model_zoo.get_config("MiniAVA/detect.yaml")
    cfg.merge_from_list(["INPUT.TEST_SHORT_SIDE", 99, "SOLVER.LOG_PERIOD", 3])
    torch.save({"model": {}, "config": cfg.dump()}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize("with_file", [False, True])
def test_the_config_of_weights(printed, weights, tmp_path, with_file):
    (tmp_path / "own.yaml").write_text("SOLVER: {EPOCHS: 90}\nMODEL: {BACKBONE: {DEPTH: 3}}\n")
    args = ["--config-file", str(tmp_path / "own.yaml")] if with_file else []
    # The override is the default, which the config of the weights would replace.
    default = KEYS["INPUT.TEST_SHORT_SIDE"].default
    overrides = ["MODEL.WEIGHTS", str(weights), "INPUT.TEST_SHORT_SIDE", str(default)]
    text = printed(*args, "--diff", *overrides)
    found = origins(text)
    assert found["EMBED_DIM"] == f"config of {weights}"
    assert found["TEST_SHORT_SIDE"] == "command line"
    assert ("LOG_PERIOD" in found) is not with_file  # a file replaces all but the network
    assert found["DEPTH"] == (f"{tmp_path}/own.yaml:2" if with_file else f"config of {weights}")
    (tmp_path / "again.yaml").write_text(text)
    expected = load_config(args[1] if args else "", overrides)
    assert default == expected.INPUT.TEST_SHORT_SIDE
    assert load_config(str(tmp_path / "again.yaml"), []) == expected


def test_auto_is_resolved(printed, weights):
    key, head = "MODEL.ROI_HEAD.NUM_CLASSES", model_zoo.get_config("MiniAVA/detect.yaml").MODEL.ROI_HEAD
    text = printed(
        "--config-file", "MiniAVA/detect.yaml", "--key", key, "MODEL.WEIGHTS", weights, key, "auto"
    )
    assert load_yaml(text) == {"MODEL": {"ROI_HEAD": {"NUM_CLASSES": head.NUM_CLASSES}}}
    assert origins(text) == {"NUM_CLASSES": "command line: auto"}


def test_keys_by_prefix(printed):
    text = printed("--key", "SOLVER.WARM", "--key", "MODEL.MASK", "--config-file", "MiniAVA/pretrain.yaml")
    keys = [key for key, _ in flatten(load_yaml(text))]
    assert keys == ["MODEL.MASK.TYPE", "MODEL.MASK.RATIO", "SOLVER.WARMUP_LR", "SOLVER.WARMUP_EPOCHS"]


def test_json(printed, chain):
    printed("--config-file", "own.yaml", "--json", "r.json", "--key", "SOLVER", "SOLVER.EPOCHS", "5")
    keys = json.loads((chain / "r.json").read_text())["keys"]
    assert keys["SOLVER.BASE_LR"] == {
        **{"value": 2e-4, "default": KEYS["SOLVER.BASE_LR"].default},
        **{"origin": "file", "source": "own.yaml", "line": 3, "auto": False},
    }
    assert keys["SOLVER.EPOCHS"]["origin"] == "command line"
    assert keys["SOLVER.AMP"]["origin"] == "default"
    assert all(key.startswith("SOLVER.") for key in keys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--key", "SOVLER"], "--key SOVLER: no config key starts with it; did you mean 'SOLVER'?"),
        (["--config-file", "gone.yaml"], "neither a file nor a config of the model zoo"),
        (["--config-file", "own.yaml", "SOLVER.EPOCHS", "0"], "SOLVER.EPOCHS: must be in [1,"),
        (["--config-file", "own.yaml", "--json", "base.yaml"], "base.yaml: would overwrite an input file"),
        (["MODEL.WEIGHTS", "gone.pt"], "gone.pt"),
    ],
)
def test_errors(chain, capsys, args, message):
    before = (chain / "base.yaml").read_text()
    assert main(["print-config", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (chain / "base.yaml").read_text() == before


def test_values_with_line_breaks_are_one_line():
    text = config_as_yaml(
        {"DATASETS.TRAIN": ("a\n\u2028b", "c")}, {"DATASETS.TRAIN": Origin("file", "d\ne", 3)}
    )
    assert text.count("\n") == 1
    assert load_yaml(text) == {"DATASETS": {"TRAIN": ["a\n\u2028b", "c"]}}


def test_configs_of_the_zoo():
    for name in model_zoo.config_names()[::6]:
        cfg, base, found = resolve_config(name, [])
        assert base == get_cfg()
        for key, origin in found.items():
            lines = Path(origin.source).read_text(encoding="utf-8").splitlines()
            assert key.rpartition(".")[2] in lines[origin.line - 1]
        changed = {key for key, value in flatten(cfg) if value != value_of(base, key)}
        assert changed <= set(found)
