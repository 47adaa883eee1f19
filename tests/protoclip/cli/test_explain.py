import pytest
from omegaconf.errors import InterpolationKeyError

from protoclip.cli.build import check_settings
from protoclip.cli.explain import explain_flag, explain_interpolation, nearest
from tests.conftest import Compose


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("batch_size=abc", "batch_size=abc: should be a valid integer, unable to parse string as an integer"),
        ("batch_size=0", "batch_size=0: should be greater than or equal to 1"),
        ("batch_size=null", "batch_size=null: should be a valid integer"),
        ("episode.size=2.5", "episode.size=2.5: should be a valid integer, got a number with a fractional part"),
        ("prototype.kmeans.redo=x", "prototype.kmeans.redo=x: should be a valid integer, unable to parse string as an"),
        ("optimizer.optimizer.lr=abc", "optimizer.optimizer.lr=abc: expected float"),
        ("+optimizer.optimizer.lrr=1", "optimizer.optimizer.lrr: there is no such option: did you mean 'lr'?"),
        ("+terms.image_text.wieght=1", "terms.image_text.wieght: there is no such option: did you mean 'weight'?"),
        ("+trainer.max_epoch=1", "trainer.max_epoch: there is no such option: did you mean 'max_epochs'?"),
        ("trainer.gradient_clip_val=x", "trainer.gradient_clip_val=x: expected float or int or null"),
        ("heads.prototype.norm=bn", "heads.prototype.norm=bn: expected Literal['batch', 'layer', 'none']"),
        ("terms=5", "terms=5: expected a dict"),
        ("optimizer.optimizer.betas=3", "optimizer.optimizer.betas=3: expected a list"),
        ("seed=x", "seed=x: expected int"),
        ("run.episodes=x", "run.episodes=x: should be a valid integer"),
        ("evaluation.every=0", "evaluation.every=0: should be 1 or more"),
        ("data.train._target_=datamodules.scenes.Scene", "data.train: Import path datamodules.scenes.Scene does"),
        (
            "+evaluation.test.tasks.x={_target_:protoclip.evaluation.ZeroShit,pictures:objects}",
            "evaluation.test.tasks: protoclip.evaluation has no ZeroShit: did you mean 'ZeroShot'?",
        ),
        (
            "+evaluation.test.pictures.x={_target_:datamodules.labelled_folders.Zzz,root:x}",
            "evaluation.test.pictures: datamodules.labelled_folders has no Zzz: there is ",
        ),
        ("callbacks.phase_timer=5", "callbacks.phase_timer=5: Not a valid subclass of Callback"),
    ],
)
def test_the_line_names_the_option(compose_tiny: Compose, word: str, line: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_settings(compose_tiny("protoclip", word))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("clip", "teacher=minilm"),
            "terms.minilm.empty takes the value of prototype.empty, which there is not: choose method=protoclip, "
            "method=teacher or method=distillation, or leave teacher out by teacher=[]",
        ),
        (
            ("clip", "batch_size=${epsode.size}"),
            "batch_size takes the value of epsode.size, which there is not: give it a value of its own",
        ),
    ],
)
def test_a_value_of_an_option_that_there_is_not(compose_tiny: Compose, words: tuple[str, ...], line: str) -> None:
    with pytest.raises(InterpolationKeyError) as caught:
        check_settings(compose_tiny(*words))
    assert explain_interpolation(caught.value) == line


def test_nearest() -> None:
    assert nearest("batch_sise", ["batch_size", "seed"]) == ": did you mean 'batch_size'?"
    assert nearest("batch_size", ["batch_size"]) == ""
    assert nearest("zzz", ["batch_size"]) == ""


def test_flags() -> None:
    told = explain_flag("Unrecognized arguments: --trainer.max_epoch=3", ["--trainer.max_epochs", "--seed"])
    assert told == "--trainer.max_epoch: there is no such option: did you mean '--trainer.max_epochs'?"
    told = explain_flag("Parser key \"model.weight_decay\":\n  Expected a <class 'float'>. Got value: x", [])
    assert told == "--model.weight_decay: expected float"
