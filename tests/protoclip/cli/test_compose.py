from protoclip.cli.compose import compose_config, known_options


def test_words_reach_the_config() -> None:
    config = compose_config(["method=clip", "batch_size=7"])
    assert (config.method, config.datamodule.batch_size) == ("clip", 7)


def test_known_options_are_groups_and_keys() -> None:
    known = known_options()
    assert {"method", "batch_size", "episode.size", "optimizer.optimizer.lr", "callbacks.evaluation"} <= set(known)
    assert known == sorted(set(known))
