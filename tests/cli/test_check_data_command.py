"""`vmae-det check-data`: exit status, JSON output, and invalid usage."""

import json
import shutil
import subprocess
import sys

import pytest

from vmae_det.cli.main import main


def test_a_dataset_without_errors_exits_with_status_0(mini_ava, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert main(["check-data", str(mini_ava / "val.yaml"), "--json", str(file), "--decode", "none"]) == 0
    text = capsys.readouterr().out
    assert "warning class_without_rows" in text  # warnings do not change the status
    assert "no errors, 1 warning" in text
    report = json.loads(file.read_text())
    assert report["ok"]
    assert report["counts"]["videos"] == 2
    assert report["person_box_recall"]


def test_a_file_of_the_dataset_is_not_overwritten(mini_ava, tmp_path, capsys):
    folder = shutil.copytree(mini_ava, tmp_path / "mini_ava")
    for name in ("val.yaml", "train.yaml", "annotations/mini_ava_val.csv"):
        sets = [str(folder / "val.yaml"), "--against", str(folder / "train.yaml")]
        assert main(["check-data", *sets, "--json", str(folder / name)]) == 2
        assert "would overwrite an input file" in capsys.readouterr().err
        assert (folder / name).read_bytes() == (mini_ava / name).read_bytes()


def test_errors_exit_with_status_1_and_sheets_are_drawn(mini_ava, tmp_path, capsys):
    folder = shutil.copytree(mini_ava, tmp_path / "mini_ava")
    truth = folder / "annotations/mini_ava_train.csv"
    truth.write_text(truth.read_text().replace(",0903,", ",0999,", 1))
    sheets = tmp_path / "sheets"
    assert main(["check-data", str(folder / "train.yaml"), "--sheets", str(sheets), "--workers", "1"]) == 1
    text = capsys.readouterr().out
    assert "ERROR keyframe_outside_video: 1 of 80 rows" in text
    assert f"{truth}:1: " in text
    assert [path.name for path in sorted(sheets.iterdir())] == ["sheet_1.png", "sheet_2.png", "sheet_3.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mini_ava_trian"], "did you mean 'mini_ava_train'"),
        (["{mini_ava}/clips_val.yaml", "--sheets", "x"], "--sheets: requires a dataset of type 'detection'"),
        (["{mini_ava}/train.yaml", "--against", "{mini_ava}/clips_val.yaml"], "--against: "),
    ],
)
def test_invalid_usage_exits_with_status_2(mini_ava, capsys, arguments, message):
    assert main(["check-data", *(text.format(mini_ava=mini_ava) for text in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_torch_is_not_imported(mini_ava):
    code = (
        "import sys\nfrom vmae_det.cli.main import main\n"
        f"if __name__ == '__main__':\n    main(['check-data', {str(mini_ava / 'train.yaml')!r}])\n"
        "    assert 'torch' not in sys.modules, 'check-data imports torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
