import pytest

from protoclip.cli.compose import chosen_option, compose_config, known_options


def test_words_reach_the_config() -> None:
    config = compose_config(["method=clip", "batch_size=7"])
    assert (config.method, config.datamodule.batch_size) == ("clip", 7)


def test_the_chosen_option_of_a_group() -> None:
    assert chosen_option([], "views") == "crop"
    assert chosen_option(["experiment=flickr8k_protoclip"], "views") == "light"
    assert chosen_option(["experiment=flickr8k_protoclip", "views=none"], "views") == "none"


def test_known_options_are_groups_and_keys() -> None:
    known = known_options()
    assert {"method", "batch_size", "episode.size", "optimizer.optimizer.lr", "callbacks.evaluation"} <= set(known)
    assert known == sorted(set(known))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation=scenes_validation", "set=[dtd,scenes]"], "evaluation=scenes_validation has scenes already"),
        (["set=scenes"], "evaluation=scenes has scenes already"),  # the default
        (["data=flickr8k", "set=[cifar10,flickr8k]"], "evaluation=flickr8k has cifar10, flickr8k already"),
        (["evaluation=protoclip_paper", "set=[dtd]"], "evaluation=protoclip_paper has dtd already"),
    ],
)
def test_a_set_that_the_evaluation_has_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}: leave it out of set=, or choose evaluation=none$"):
        compose_config(words)


def test_sets_join_an_evaluation_without_them() -> None:
    option = "evaluation.test.tasks.cifar10_linear_probe.C=1"
    test = compose_config(["set=[cifar10]", option]).evaluation.test
    assert {"scenes", "cifar10"} <= {*test.pictures}
    assert test.tasks.cifar10_linear_probe.C == 1
    assert "objects" in compose_config(["evaluation=none", "set=[scenes]"]).evaluation.test.pictures
