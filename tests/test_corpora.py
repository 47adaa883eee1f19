"""The recipes of public corpora read what their downloaders leave."""

from pathlib import Path

import numpy as np
import pytest

from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import training_pairs
from tests.corpora import CAPTIONS, write_corpora

DATA = Path(__file__).parent.parent / "conf" / "data"
RECIPES = sorted(path.stem for path in DATA.glob("*.yaml") if "expected_pairs" in path.read_text(encoding="utf-8"))


def test_every_recipe_is_tested() -> None:
    assert set(RECIPES) == set(CAPTIONS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_its_corpus(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    write_corpora(tmp_path)
    words = (DATA / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split()
    assert words == ["protoclip-train", f"data={name}", "data.path=FOLDER"]
    config = compose_config([words[1], f"data.path={tmp_path}"])
    source = training_pairs(config)
    assert config.data.expected_pairs > 100_000
    assert len(source) == 1
    assert np.asarray(source.image(0)).shape == (3, 6, 8)
    assert list(source.captions(0)) == CAPTIONS[name]
