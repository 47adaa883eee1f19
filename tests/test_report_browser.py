"""A report in a browser, as wide as a phone: beside it a page with every fault, to know that they would be seen."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import pytest

from protoclip.reports.page import Card, Group, Section, chart, render
from tests.protoclip.reports.test_main_metrics import row
from tests.protoclip.reports.test_page import ROWS, drawn, page

PHONE = 390  # pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LONG = "a-word-that-nobody-breaks" * 8
FIGURE = chart(drawn(), LONG, LONG)
GROUP = Group(LONG, [FIGURE], [Card(LONG, LONG, FIGURE, [LONG])])
SECTION = Section("long", LONG, LONG, [GROUP], [(LONG, "#ff0000")], [LONG])
FAULTY = """<!DOCTYPE html><title>faulty</title><div style="width:600px">wide</div>
<img src="data:image/png;base64,AAAA" alt=""><script>console.error("deliberate")</script>"""
HARNESS = """<!DOCTYPE html><title>harness</title><pre></pre>{frames}
<script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const inside = frame.contentDocument;
    return {{
      title: inside.title,
      inner: frame.contentWindow.innerWidth,
      scroll: inside.documentElement.scrollWidth,
      images: [...inside.images].map((image) => image.complete && image.naturalWidth),
      tables: [...inside.querySelectorAll(".scroll")].map((box) => box.scrollWidth - box.clientWidth),
    }};
  }});
  document.querySelector("pre").textContent = "<<<" + JSON.stringify(found) + ">>>";
}});
</script>"""


@pytest.fixture
def browser() -> str:
    """A browser; a visible skip without, a failure where one is required."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"no browser: install one of {', '.join(BROWSERS)}"
        if os.environ.get("PROTOCLIP_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def test_a_report_fits_a_phone(browser: str, tmp_path: Path) -> None:
    arms = [row(f"an-arm-with-a-very-long-name-{number}", "x_zero_shot", top1=float(number)) for number in range(12)]
    long = replace(page([*ROWS, *arms]), title=LONG, subtitle=LONG, sections=[*page().sections, SECTION])
    pages = [render(long), FAULTY]
    frames = "".join(f'<iframe width="{PHONE}" height="800" srcdoc="{escape(text)}"></iframe>' for text in pages)
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.format(frames=frames), encoding="utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    told = ("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom")
    command = [browser, *options, *told, f"--user-data-dir={tmp_path / 'profile'}", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured = re.search(r"&lt;&lt;&lt;(.*)&gt;&gt;&gt;", done.stdout)
    assert measured, f"the browser has not loaded the page: {done.stderr[-2000:]}"
    report, faulty = json.loads(unescape(measured[1]))
    assert faulty["scroll"] > faulty["inner"]
    assert faulty["images"] == [0]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in console if "deliberate" in line]
    assert [line for line in console if "deliberate" not in line] == []
    assert report["title"] == LONG
    assert report["inner"] == PHONE
    assert report["scroll"] <= report["inner"]
    assert len(report["images"]) == 4
    assert all(report["images"])
    assert max(report["tables"]) > 0  # a wide table scrolls in its own box
