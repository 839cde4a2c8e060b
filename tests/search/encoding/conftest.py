"""The encoders, loaded once."""

from pathlib import Path

import pytest

from penstock.search.encoding import Encoder, open_encoder
from penstock.search.encoding.clip import Clip
from tests.search.encoding import clip_export


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The real one."""
    return open_encoder("minilm", None)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole export; not to be changed."""
    return clip_export.export(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    """Made-up weights."""
    return Clip(clip_folder)


@pytest.fixture(scope="session")
def clip_of_fixed_width(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """The same weights in a graph whose texts are padded to 77 tokens."""
    return Clip(clip_export.export(tmp_path_factory.mktemp("clip"), width=77))
