"""A report of long words and many arms on a phone; that of finished runs is in ``protoclip/cli/test_report.py``."""

from dataclasses import replace
from pathlib import Path

from protoclip.reports.page import Card, Group, Section, chart, render
from tests.phone import on_a_phone
from tests.protoclip.reports.test_main_metrics import row
from tests.protoclip.reports.test_page import ROWS, drawn, page

LONG = "a-word-that-nobody-breaks" * 8
FIGURE = chart(drawn(), LONG, LONG)
GROUP = Group(LONG, [FIGURE], [Card(LONG, LONG, FIGURE, [LONG])])
SECTION = Section("long", LONG, LONG, [GROUP], [(LONG, "#ff0000")], [LONG])


def test_a_report_fits_a_phone(tmp_path: Path) -> None:
    arms = [row(f"an-arm-with-a-very-long-name-{number}", "x_zero_shot", top1=float(number)) for number in range(12)]
    long = replace(page([*ROWS, *arms]), title=LONG, subtitle=LONG, sections=[*page().sections, SECTION])
    found = on_a_phone(render(long), tmp_path)
    assert found.title == LONG
    assert found.scroll <= found.inner
    assert len(found.images) == 4
    assert all(found.images)
    assert max(found.tables) > 0  # a wide table scrolls in its own box
    assert found.smallest >= 11
