import itertools
import os
import time

import pytest

from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.data.catalog import read_dataset_file
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.safe_yaml import InvalidYAMLError, load_yaml

LEVELS = "abcdefghij"


def bomb(opening, closing, first):
    """Return ten levels of aliases, each referring to the previous one ten times."""
    lines = [f"a: &a {first}"]
    for before, name in itertools.pairwise(LEVELS):
        lines.append(f"{name}: &{name} {opening}{', '.join([f'*{before}'] * 10)}{closing}")
    return "\n".join(lines)


BAD = {
    "unhashable": "? [a, b]\n: 1\n? {c: 1}\n: 2\n",
    "brackets": "[" * 5000,
    "closed brackets": "SOLVER: " + "[" * 5000 + "]" * 5000,
    "braces": "{a: " * 3000,
    "digits": "SEED: " + "9" * 5000,
    "month": "SEED: 2024-13-45\n",
    "list bomb": bomb("[", "]", "[1, 2]"),
    "merge bomb": bomb("{<<: [", "]}", "{k: 1}"),
    "itself": "SOLVER: &a {EPOCHS: *a}\n",
    "base itself": "_BASE_: &a [*a]\n",
    "tag": "SEED: !!python/name:os.system\n",
    "long": "#" * 3_000_000,
    "no anchor": "SEED: *a\n",
    "control": "SEED: \x01\n",
    "repeated key": "SEED: 1\nSEED: 2\n",
    "repeated group": "SOLVER: {EPOCHS: 3}\nSEED: 1\nSOLVER: {BASE_LR: 0.1}\n",
    "list": "- a\n",
    "number": "3\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_invalid_yaml_is_rejected_quickly_with_its_file(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    start = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_file(path)
    with pytest.raises(DataError) as data_error:
        read_dataset_file(path)
    with pytest.raises(ConfigError, match=r"^weights\.pt: |SEED|_BASE_"):
        get_cfg().merge_from_text(text, "weights.pt")
    assert time.perf_counter() - start < 20
    for message in (str(error.value), str(data_error.value)):
        assert "bad.yaml" in message
        assert len(message) < 1000


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"SEED: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not UTF-8 text"):
        get_cfg().merge_from_file(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"expected a file, got a folder"):
        get_cfg().merge_from_file(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read as a config file: File name too long"):
        get_cfg().merge_from_file("x" * 5000)


def test_pipe_is_rejected_without_waiting(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "config.yaml").write_text("_BASE_: pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe\.yaml: .* got a pipe.* \(the _BASE_ of .*config\.yaml\)"):
        get_cfg().merge_from_file(tmp_path / "config.yaml")
    assert main(["train", "--config-file", str(tmp_path / "pipe.yaml")]) == 2
    assert "expected a file, got a pipe" in capsys.readouterr().err


def test_byte_order_mark_aliases_and_merges(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("SOLVER: &a {EPOCHS: 7}\nTEST: {PERIOD: 2}\n", encoding="utf-8-sig")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.SOLVER.EPOCHS, cfg.TEST.PERIOD) == (7, 2)
    assert load_yaml("a: &a {k: 1}\nb: {<<: *a, l: 2}\nc: [*a, *a]\n")["b"] == {"k": 1, "l": 2}
    merged = load_yaml("a: &a {k: 1}\nb: &b {<<: *a, k: 2}\nc: {<<: *b, k: 3}\n1: x\n'1': y\n")
    assert merged == {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 3}, 1: "x", "1": "y"}


def test_line_of_an_error():
    with pytest.raises(InvalidYAMLError, match="not valid YAML") as error:
        load_yaml("a: 1\nb: [\n")
    assert error.value.line == 3
    with pytest.raises(InvalidYAMLError, match="duplicate key 'b'") as error:
        load_yaml("a: 1\nc:\n  b: 2\n  d: 0\n  b: 2\n")
    assert error.value.line == 5
