import re

import pytest

from vmae_det import model_zoo
from vmae_det.utils.errors import ConfigError

DOCS = model_zoo.config_folder().parent / "docs"


@pytest.mark.parametrize("name", model_zoo.WEIGHTS)
def test_published_weights_name_an_address_and_a_config(name):
    weights = model_zoo.get_weights(name)
    assert weights.url.startswith(f"https://huggingface.co/MCG-NJU/{name}/resolve/main/")
    assert weights.url.endswith((".safetensors", ".bin"))
    assert weights.config in model_zoo.config_names()
    assert weights.sha256 is None or re.fullmatch("[0-9a-f]{64}", weights.sha256)
    task = model_zoo.get_config(weights.config).MODEL.META_ARCHITECTURE
    assert task == ("VideoClassifier" if "finetuned" in name else "MaskedAutoencoder")
    size = next((size for size in ("small", "large", "huge") if size in name), "base")
    assert f"vit_{size}_" in weights.config
    assert ("ssv2" in name) == weights.config.startswith("SSv2/")


def test_unknown_weights():
    with pytest.raises(ConfigError, match="did you mean 'videomae-base-ssv2'"):
        model_zoo.get_weights("videomae-base-ssv")


@pytest.mark.skipif(not DOCS.is_dir(), reason="the pages are part of a clone, not of the installed package")
def test_the_page_lists_what_there_is():
    text = (DOCS / "model_zoo.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`((?:Kinetics|SSv2|UCF101|HMDB51|AVA)/\w+\.yaml)`", text))
    assert listed == {name for name in model_zoo.config_names() if not name.startswith("MiniAVA/")}
    for name, weights in model_zoo.WEIGHTS.items():
        assert f"`{name}`" in text
        assert weights.url in text
