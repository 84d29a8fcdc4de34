"""Where weights lie: by path, by address, or by their name in the model zoo."""

from __future__ import annotations

from pathlib import Path

from vmae_det.checkpoint.hub import fetch_model, parse_hub_name
from vmae_det.model_zoo.weights import WEIGHTS
from vmae_det.utils.errors import DataError, UserError, WeightsError, did_you_mean
from vmae_det.utils.input_files import check_regular_file
from vmae_det.utils.paths import is_address, local_path


def locate(source: str | Path, folders: bool = False) -> Path:
    """The file of weights on this machine, fetched if need be.

    Args:
        source: a path; an http(s) address, whose file is kept in the cache and checked where it ends in
            `#sha256=DIGITS`; a name of `model_zoo.WEIGHTS`; or, with `folders`, a model of the Hugging Face
            hub as `org/name` or `org/name@revision`. A path that exists goes before a name.
        folders: whether it may be a folder.

    Raises:
        WeightsError: there is no such file, or it cannot be fetched.
    """
    text = str(source)
    if not Path(text).exists():
        model = parse_hub_name(text) if folders and text not in WEIGHTS else None
        if model is not None:
            return fetch_model(model)
    if not is_address(text) and not Path(text).exists():
        if text not in WEIGHTS:
            near = "" if "/" in text or Path(text).suffix else did_you_mean(text, WEIGHTS)
            raise WeightsError(f"{text}: no such checkpoint file, nor weights of the model zoo{near}")
        known = WEIGHTS[text]
        text = known.url + (f"#sha256={known.sha256}" if known.sha256 else "")
    try:
        path = local_path(text)
    except UserError as error:
        raise WeightsError(str(error)) from None
    if not (folders and path.is_dir()):
        try:
            check_regular_file(path)
        except DataError as error:
            raise WeightsError(str(error)) from None
    return path
