import numpy as np
import pytest
from matplotlib.figure import Figure

from protoclip.reports import charts
from protoclip.reports.charts import (
    confusion_chart,
    cost_chart,
    curve_chart,
    most_confused,
    similarity_chart,
)
from protoclip.reports.curves import Curve


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_colours_are_one_each_and_begin_again() -> None:
    found = charts.colours_of("abcdefgh")
    assert len(set(found.values())) == len(charts.COLOURS) == 7
    assert found["h"] == found["a"]


def test_curves_of_seeds_lie_under_their_mean() -> None:
    two = [Curve((1, 2, 3), (1.0, 2.0, 3.0)), Curve((1, 2, 3), (3.0, 4.0, 5.0))]
    figure = curve_chart("$loss$_$", {"a": two, "b": two[:1]}, {"a": "#ff0000", "b": "#0000ff"})
    axis = figure.axes[0]
    assert axis.get_title() == "$loss$_$"
    drawn = [(line.get_color(), np.asarray(line.get_ydata()).tolist()) for line in axis.lines]
    assert drawn == [
        ("#ff0000", [1, 2, 3]),
        ("#ff0000", [3, 4, 5]),
        ("#ff0000", [2, 3, 4]),
        ("#0000ff", [1, 2, 3]),
    ]


def test_a_curve_of_one_episode_is_seen() -> None:
    figure = curve_chart("x", {"a": [Curve((4,), (1.0,))]}, {"a": "#ff0000"})
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_similarities_share_their_axis() -> None:
    figure = similarity_chart("a", np.array([0.5, 0.7]), np.array([-0.1, 0.1]), (-1.0, 1.0))
    axis = figure.axes[0]
    assert axis.get_xlim() == (-1.0, 1.0)
    assert [float(np.asarray(line.get_xdata())[0]) for line in axis.lines] == pytest.approx([0.0, 0.6])
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["unmatched", "matched"]


def test_small_matrices_have_their_shares_written() -> None:
    shares = np.array([[90.0, 10.0], [0.2, 99.8]])
    figure = confusion_chart("a", shares, ["cat", "an uncommonly long name"])
    assert texts(figure) == ["90", "10", "100"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["cat", "an uncommonly…"]
    many = np.eye(charts.ANNOTATED + 1) * 100
    assert not texts(confusion_chart("a", many, [str(number) for number in range(len(many))]))


def test_most_confused_classes_stand_in_pairs() -> None:
    shares = np.eye(5)
    shares[4, 1] = 30  # seen from either side
    shares[0, 3] = 20
    shares[3, 0] = 5
    assert most_confused([shares], 2) == [1, 4]
    assert most_confused([shares], 4) == [1, 4, 0, 3]
    assert most_confused([shares], 3)[:2] == [1, 4]
    other = np.zeros((5, 5))
    other[0, 3] = 10
    assert most_confused([shares, other], 2) == [0, 3]
    assert most_confused([shares], 5) == [0, 1, 2, 3, 4]


def test_costs_are_stacked_and_empty_phases_left_out() -> None:
    phases = {
        "CLIP": {"extraction": 0.0, "recording": 0.0, "training": 4.0},
        "Proto": {"extraction": 2.0, "training": 4.0},
    }
    figure = cost_chart(phases, {"CLIP": "4 s", "Proto": "6 s"})
    axis = figure.axes[0]
    bars = [(box.get_x(), box.get_width()) for bars in axis.containers for box in bars.patches]  # type: ignore[attr-defined]
    assert bars == [(0, 4), (0, 4), (4, 0), (4, 2)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "extraction"]
    assert [text.strip() for text in texts(figure)] == ["4 s", "6 s"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["CLIP", "Proto"]
