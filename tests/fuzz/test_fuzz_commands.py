"""Every command on bad inputs. `make fuzz` runs more of them, including slow ones."""

import pytest

from tests.fuzz.driver import fuzz, report

COUNT = 1520


@pytest.mark.parametrize("half", [0, 1])
def test_bad_inputs_end_in_one_line(half, mini_ava, tmp_path):
    part = slice(half, None, 2)
    outcomes, failures = fuzz(
        COUNT, seed=0, workers=1, folder=tmp_path, part=part, quick=True, mini_ava=mini_ava
    )
    assert not failures, report(failures)
    assert outcomes["passed"] >= COUNT // 2
