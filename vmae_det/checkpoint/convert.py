"""Weights from one published format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmae_det.checkpoint.files import check_suffix, read_checkpoint, write_checkpoint
from vmae_det.checkpoint.published import from_our_names, inflate
from vmae_det.checkpoint.weights import read_weights, some
from vmae_det.utils.errors import WeightsError

# Frames of a cube in all published video models.
_TUBELET_SIZE = 2


@dataclass(frozen=True)
class ConvertReport:
    """What became of the parameters of a file.

    Args:
        output: the file that was written.
        source_format, format: the names of both formats.
        written: parameters in the new file.
        left_out: parameters of the old file that have no place in the new one.
    """

    output: Path
    source_format: str
    format: str
    written: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.output}: {len(self.written)} parameters, from {self.source_format} to {self.format}"
        if self.left_out:
            text += f"; left out, as that has no place for them: {some(self.left_out)}"
        return text


def convert_weights(source: str | Path, output: str | Path, family: str) -> ConvertReport:
    """Write the weights in `source` as the file `output`, whole or not at all.

    No bit of a weight changes. The format of the `family` is the one for the task of the weights. An image
    model's patch embedding becomes that of cubes of two frames. The config and label map of a file of this
    program stay with it as long as the new file is one, too.

    Args:
        source: a file, a URL, or a name of the model zoo; see `locate`.
        output: a file of PyTorch's (.pt, .pth, .bin), its tensors under the key that the format has them
            under, or .safetensors.
        family: of `formats.FORMATS`.

    Raises:
        WeightsError: the source cannot be read or recognised, the output cannot be written.
    """
    output = Path(output)
    check_suffix(output)
    content = read_checkpoint(source)
    recognised = read_weights(content, where=str(source))
    weights = inflate(recognised.weights, _TUBELET_SIZE)
    target, state_dict, left_out = from_our_names(weights, family)
    if not state_dict:
        raise WeightsError(f"{source}: nothing in it has a place in {target.name} format")
    both_ours = recognised.format.names is None and target.names is None
    extras = {key: content.get(key) for key in ("config", "label_map")} if both_ours else {}
    write_checkpoint(state_dict, output, target.top_key, extras)
    return ConvertReport(
        output, recognised.format.name, target.name, tuple(state_dict), (*recognised.unused, *left_out)
    )
