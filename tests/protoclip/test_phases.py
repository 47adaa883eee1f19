import pytest

from protoclip.phases import Phase, check_phases, term_weights

WEIGHTS = {"image_text": 1.0, "prototype": 0.5}


def test_the_first_episodes_have_other_weights() -> None:
    phases = {"warmup": Phase(2, {"prototype": 0.0})}
    found = [term_weights(WEIGHTS, phases, episode) for episode in range(4)]
    assert found == [{"image_text": 1.0, "prototype": 0.0}] * 2 + [WEIGHTS] * 2
    assert WEIGHTS == {"image_text": 1.0, "prototype": 0.5}


def test_a_phase_can_raise_a_weight() -> None:
    """The InfoNCE episode of the authors' code has the CLIP loss even where the method has none."""
    weights = {"image_text": 0.0, "prototype": 1.0}
    phases = {"warmup": Phase(1, {"image_text": 1.0, "prototype": 0.0})}
    check_phases(weights, phases)
    assert term_weights(weights, phases, 0) == {"image_text": 1.0, "prototype": 0.0}
    assert term_weights(weights, phases, 1) == weights


def test_later_phases_override_earlier_ones() -> None:
    phases = {"first": Phase(2, {"prototype": 0.1}), "second": Phase(1, {"prototype": 0.2})}
    assert [term_weights(WEIGHTS, phases, episode)["prototype"] for episode in range(3)] == [0.2, 0.1, 0.5]


def test_no_phases_and_phases_of_no_length() -> None:
    assert term_weights(WEIGHTS, {}, 0) == WEIGHTS
    assert term_weights(WEIGHTS, {"warmup": Phase(0, {"prototype": 0.0})}, 0) == WEIGHTS
    assert Phase(1).weights == {}


def test_the_last_episodes_have_other_weights() -> None:
    phases = {"end": Phase(weights={"prototype": 0.0}, from_episode=2)}
    assert [term_weights(WEIGHTS, phases, episode)["prototype"] for episode in range(4)] == [0.5, 0.5, 0.0, 0.0]


def test_episodes_in_between_have_other_weights() -> None:
    phases = {"middle": Phase(3, {"prototype": 0.0}, from_episode=1)}
    assert [term_weights(WEIGHTS, phases, episode)["prototype"] for episode in range(4)] == [0.5, 0.0, 0.0, 0.5]
    assert not any(Phase(1, from_episode=2).active(episode) for episode in range(4))


def test_accepts_what_trains_something() -> None:
    check_phases(WEIGHTS, {"warmup": Phase(1, {"prototype": 0.0})})
    check_phases({"prototype": 1.0}, {"warmup": Phase(0, {"prototype": 0.0})})


@pytest.mark.parametrize(
    ("weights", "phases", "message"),
    [
        ({"prototype": 1.0}, {"warmup": Phase(1, {"prototype": 0.0})}, r"phases\.warmup\.first_episodes=0"),
        ({"a": 0.0, "b": 0.0}, {}, "every term has weight 0"),
        (WEIGHTS, {"warmup": Phase(1, {"prototypes": 0.0})}, r"phases\.warmup\.weights names no term: prototypes"),
        (WEIGHTS, {"warmup": Phase(0, {"prototypes": 0.0})}, "names no term"),
        ({"prototype": 1.0}, {"end": Phase(None, {"prototype": 0.0}, 2)}, r"phases\.end\.first_episodes=0"),
    ],
)
def test_refuses_phases_that_train_nothing(weights: dict[str, float], phases: dict[str, Phase], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_phases(weights, phases)
    assert "\n" not in str(caught.value)


def test_phases_are_judged_together() -> None:
    """Each leaves a term its weight, both at once leave none; and one may mend what another breaks."""
    without = {"one": Phase(2, {"prototype": 0.0}), "other": Phase(1, {"image_text": 0.0})}
    with pytest.raises(ValueError, match="first_episodes"):
        check_phases(WEIGHTS, without)
    check_phases(
        {"image_text": 0.0, "prototype": 1.0},
        {"one": Phase(1, {"prototype": 0.0}), "two": Phase(1, {"image_text": 1.0})},
    )
