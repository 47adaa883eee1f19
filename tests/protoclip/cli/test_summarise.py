"""``protoclip summarise`` in process."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.scenes import ScenePairs
from datamodules.summary_cache import SummaryCache
from protoclip.cli import main
from protoclip.cli.build import build_datamodule
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import section
from protoclip.cli.summarise import Settings
from tests.conftest import Compose
from tests.streams import streamed, write_corpus
from tests.tiny_t5 import save_tiny_t5

CONF = Path(__file__).parents[3] / "conf"
SCENES = ("data=scenes", "data.num_pairs=6")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny T5."""
    return save_tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def source() -> ScenePairs:
    return ScenePairs("train", 6)


def test_a_model_summarises_the_first_caption_of_each_pair(
    t5: str, source: ScenePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = (f"summariser.model.name={t5}", "summariser.model.device=cpu", "summariser.model.max_new_tokens=3")
    words = ["summarise", *SCENES, "summariser=t5", "summariser.batch_size=4", *model]
    assert main(words) == 0
    assert "summaries/scenes/t5: 6 summaries, 0 of them empty" in capsys.readouterr().out
    cache = SummaryCache("summaries/scenes/t5")
    cache.check(source.fingerprint)
    settings = section(Settings, "summariser", compose_config(words[1:]))
    assert [cache.row(index) for index in range(6)] == settings.model([source.captions(pair)[0] for pair in range(6)])
    assert cache.facts["summariser"]["name"] == t5
    assert main(words) == 0
    assert capsys.readouterr().out == "summaries/scenes/t5 is finished: nothing to do\n"


def test_the_lead_is_named_in_the_sidecar_and_workers_change_nothing(source: ScenePairs, tmp_path: Path) -> None:
    made = []
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        words = ("summariser=lead", f"summariser.folder={folder}", "summariser.model.words=2", f"num_workers={workers}")
        assert main(["summarise", *SCENES, *words]) == 0
        made.append((folder / "summaries.txt").read_text())
        facts = json.loads((folder / "summaries.json").read_text())
        assert facts["summariser"] == {"library": None, "name": "lead", "words": 2}
    assert made[0] == made[1] == "".join(f"{' '.join(source.captions(i)[0].split()[:2])}\n" for i in range(6))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "summariser").glob("*.yaml")))
def test_every_summariser_of_the_config_tree_is_built_without_its_model(name: str) -> None:
    settings = section(Settings, "summariser", compose_config([f"summariser={name}"]))
    assert (settings.name, settings.folder) == (name, f"summaries/scenes/{name}")
    assert json.dumps(settings.model.describe())


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data=scenes", "no summariser is chosen: add summariser=t5, or summariser=lead"),
        ("summariser=leed", "summariser=leed: there is lead, t5: did you mean 'lead'?"),
        ("summariser.model.words=0", "summariser.model.words=0: should be greater than or equal to 1"),
        ("+summariser.model.word=3", "summariser.model.word: there is no such option: did you mean 'words'?"),
        ("summariser.batch_size=0", "summariser.batch_size=0: should be greater than or equal to 1"),
        ("data.num_pairs=many", "data.num_pairs=many: should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_mistakes_are_told_in_one_line(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    option = word.split("=", maxsplit=1)[0]
    chosen = [] if word.startswith(("data=", "summariser=")) else ["summariser=lead"]
    words = [other for other in SCENES if other.split("=")[0] != option]
    assert main(["summarise", *words, *chosen, word]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] == [f"error: {told}"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made_of", ["stream", "shards"])
def test_a_stream_finds_its_summaries_by_key(
    compose_tiny: Compose, tmp_path: Path, made_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = write_corpus(tmp_path / "corpus", pairs=24, shards=3)
    chosen = ("summariser=lead", "summariser.model.words=6", f"summariser.folder={tmp_path}/summaries")
    lanes = ["data.train.lanes=3"] if made_of == "stream" else []
    assert main(["summarise", f"data={made_of}", f"data.path='{pattern}'", *lanes, *chosen]) == 0
    assert "24 summaries, 0 of them empty" in capsys.readouterr().out
    words = ("data.roi_dim=5", "episode.size=24", "run.episodes=2", *streamed(pattern, lanes=3))
    datamodule = build_datamodule(compose_tiny("pyramidclip", *words, *chosen))
    datamodule.require({"summary": "text"})
    stream = datamodule.stream
    assert stream is not None
    captions = {pair.index: " ".join(pair.captions[0].split()[:6]) for pair in stream.every(lambda _: None)}
    assert len(set(captions.values())) == 24
    seen: list[int] = []
    for batch in datamodule.train_dataloader():
        seen += batch["index"].tolist()
        expected = datamodule.tokenize([captions[index] for index in batch["index"].tolist()])
        assert torch.equal(batch["summary"], expected)
    assert sorted(seen) == sorted(captions)


def test_summaries_of_another_corpus_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("summariser=lead", f"summariser.folder={tmp_path}")
    assert main(["summarise", *SCENES, *words]) == 0
    assert main(["summarise", "data=scenes", "data.num_pairs=5", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"the cache {tmp_path} is of another corpus: choose another folder by summariser.folder=DIR" in error
