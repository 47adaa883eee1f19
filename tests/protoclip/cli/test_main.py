"""The help of our own commands is there at once."""

import subprocess
import sys

QUICK = """
import contextlib, io, sys, time
from protoclip.cli import main, train
names = ("", "compare", "teacher", "runs", "table", "export", "import")
names += ("data", "data check", "data convert", "data show")
own = [(main, [*name.split(), "--help"]) for name in names]
for command, words in [*own, (train, ["--help"])]:
    start, out = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        command(words)
    assert len(out.getvalue()) > 100, (words, out.getvalue())
print(*sorted(name for name in ("torch", "pytorch_lightning", "jsonargparse", "pandas") if name in sys.modules))
"""


def test_help_imports_neither_torch_nor_lightning() -> None:
    told = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "", told.stdout
