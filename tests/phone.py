"""A page in a browser, as wide as a phone: beside it a page with every fault, to know that they would be seen."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

import pytest

WIDTH = 390  # pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FAULTY = """<!DOCTYPE html><title>faulty</title><div style="width:600px">wide</div><p style="font-size:9px">small</p>
<img src="data:image/png;base64,AAAA" alt=""><script>console.error("deliberate")</script>"""
HARNESS = """<!DOCTYPE html><title>harness</title><pre></pre>{frames}
<script>
const shows = (element) => element.getClientRects().length
  && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const inside = frame.contentDocument;
    for (const details of inside.querySelectorAll("details")) details.open = true;
    const sizes = [...inside.body.querySelectorAll("*")].filter(shows)
      .map((element) => parseFloat(frame.contentWindow.getComputedStyle(element).fontSize));
    return {{
      title: inside.title,
      inner: frame.contentWindow.innerWidth,
      scroll: inside.documentElement.scrollWidth,
      images: [...inside.images].map((image) => image.complete && image.naturalWidth),
      tables: [...inside.querySelectorAll(".scroll")].map((box) => box.scrollWidth - box.clientWidth),
      smallest: Math.min(...sizes),
    }};
  }});
  document.querySelector("pre").textContent = "<<<" + JSON.stringify(found) + ">>>";
}});
</script>"""


@dataclass(frozen=True)
class Measured:
    """A page on a phone.

    Attributes:
        title: of the page.
        inner: width of the window, in pixels.
        scroll: width of the page, in pixels.
        images: width of each, 0 where it is broken.
        tables: by how much each is wider than the box that it scrolls in, in pixels.
        smallest: font size of the page's smallest text outside figures, in pixels.
    """

    title: str
    inner: int
    scroll: int
    images: list[int]
    tables: list[int]
    smallest: float


def on_a_phone(page: str, folder: Path) -> Measured:
    """Open a page, which must write nothing to the console; a visible skip without a browser, unless one is required.

    Args:
        page: the HTML.
        folder: where the browser may write.
    """
    frames = "".join(
        f'<iframe width="{WIDTH}" height="800" srcdoc="{escape(text)}"></iframe>' for text in (page, FAULTY)
    )
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(frames=frames), encoding="utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    told = ("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom")
    command = [_browser(), *options, *told, f"--user-data-dir={folder / 'profile'}", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"&lt;&lt;&lt;(.*)&gt;&gt;&gt;", done.stdout)
    assert found, f"the browser has not loaded the page: {done.stderr[-2000:]}"
    measured, faulty = (Measured(**each) for each in json.loads(unescape(found[1])))
    assert faulty.scroll > faulty.inner
    assert (faulty.images, faulty.smallest) == ([0], 9)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in console if "deliberate" in line]
    assert [line for line in console if "deliberate" not in line] == []
    assert measured.inner == WIDTH
    return measured


def _browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"no browser: install one of {', '.join(BROWSERS)}"
        if os.environ.get("PROTOCLIP_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    return found
