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
