"""The notebooks of ``notebooks/`` run through on the two runs of a tiny comparison, in one kernel.

A kernel's imports cost seconds, so the notebooks share one; the first starts in ``notebooks/``, the others in the root.
"""

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from hydra import compose, initialize_config_module
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from PIL import Image

from protoclip.cli.experiment import run_experiment
from tests.conftest import TINY, TINY_METHODS

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
WORDS = (
    *(word for word in TINY if not word.startswith(("evaluation", "logger"))),
    "~logger.tensorboard",
    "trainer.log_every_n_steps=2",
    "evaluation=scenes",
    "evaluation.every=2",
    "evaluation.validation.pictures.scenes.size=16",
    "evaluation.validation.pictures.objects.size=16",
    "evaluation.validation.pictures.objects_train.size=32",
    "evaluation.test.pictures.scenes.size=30",
    "evaluation.test.pictures.objects.size=100",
    "evaluation.test.pictures.objects_train.size=64",
    "~evaluation.test.tasks.scenes_linear_probe",
)
FIGURES = {"clustering_ari_ami": 2, "compare_runs": 3, "prototypes": 5, "tsne": 5}
TABLES = {
    "clustering_ari_ami": {"setup": "protoclip", "scores": "ami", "contingency": "→"},
    "compare_runs": {"setup": "episodes", "table": "| protoclip |", "claims": "| protoclip beats clip |", "cost": "%"},
    "prototypes": {"setup": "protoclip-scenes", "sizes": "effective", "similarity": "AMI"},
    "tsne": {
        "setup": "protoclip-scenes",
        "classes": "100 of 100",
        "captions": "modality gap",
        "prototypes": "32 of",
    },
}
Notebook = Any


def read(name: str) -> Notebook:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("clip", "protoclip"):
        words = [f"method={method}", f"runs={folder}", *WORDS, *TINY_METHODS[method]]
        with initialize_config_module("conf", version_base="1.3"):
            run_experiment(compose("config", overrides=words))
    return folder


@pytest.fixture(scope="module")
def executed(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Notebook]]:
    own = tmp_path_factory.mktemp("jupyter")
    environment = {
        **os.environ,
        "IPYTHONDIR": str(own),
        "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "PROTOCLIP_RUN": str(runs / "*/*"),
        "PROTOCLIP_RUNS": str(runs / "*/*"),
    }
    manager = KernelManager(connection_file=str(own / "kernel.json"))
    manager.start_kernel(cwd=str(FOLDER), env=environment)
    try:
        notebooks = {name: read(name) for name in NAMES}
        for notebook in notebooks.values():
            notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # type: ignore[no-untyped-call]
            NotebookClient(notebook, km=manager, timeout=120).execute()
        yield notebooks
    finally:
        manager.shutdown_kernel(now=True)


def outputs(notebook: Notebook, kind: str) -> Iterator[tuple[str, str]]:
    """The cell of each output of a kind, and the output."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if kind in output.get("data", {}):
                yield cell.id, output.data[kind]


@pytest.mark.parametrize("name", NAMES)
def test_committed_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("name", NAMES)
def test_figures(executed: dict[str, Notebook], name: str) -> None:
    figures = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in outputs(executed[name], "image/png")]
    assert len(figures) == FIGURES[name]
    for figure in figures:
        coloured = np.asarray(figure.convert("HSV"))[..., 1] > 50  # axes and texts are grey
        assert coloured.mean() > 0.001


@pytest.mark.parametrize("name", NAMES)
def test_tables(executed: dict[str, Notebook], name: str) -> None:
    shown: dict[str, str] = {}
    for kind in ("text/markdown", "text/plain"):
        for cell, text in outputs(executed[name], kind):
            shown[cell] = shown.get(cell, "") + text
    assert {cell: word for cell, word in TABLES[name].items() if word not in shown.get(cell, "")} == {}
