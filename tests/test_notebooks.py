"""The notebooks run from start to end in a kernel, a miniature of each; long work moves a bar there, and only there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemamba.utils import progress

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples/notebooks"
LEFT_THERE = {
    "first_fusion": ("curves.png", "log/demo/first/weights/last.safetensors"),
    "own_geotiff": ("fused.tif", "adapted.tif"),
    "paper_table": ("board/leaderboard.tex", "board/grid.png"),
    "hmif": ("estimate/psf.npy", "SpectraLift.mat"),
}


def bars(notebook) -> list[str]:
    """The last states of all progress bars, as a page without HTML shows them."""
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    return [o.data["text/plain"] for o in outputs if "<progress" in o.data.get("text/html", "")]


def client(notebook, folder: Path):
    return nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})


@pytest.mark.parametrize("name", LEFT_THERE)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    """In an empty folder, where the package is found as one that is installed."""
    if name == "own_geotiff":
        pytest.importorskip("rasterio")
    monkeypatch.setenv("LEMAMBA_NOTEBOOKS", "quick")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    client(notebook, tmp_path).execute()
    out = tmp_path / "visualized_img/notebooks" / name
    assert not [file for file in LEFT_THERE[name] if not (out / file).is_file()]
    assert any("100.0%" in bar for bar in bars(notebook))
    reports = "".join(path.read_text() for path in out.rglob("*.json"))
    assert "ipykernel" not in reports  # as the command that made them


def test_the_notebooks_are_those_and_are_committed_without_outputs():
    found = {path.stem: nbformat.read(path, 4) for path in FOLDER.glob("*.ipynb")}
    assert found.keys() == LEFT_THERE.keys()
    for notebook in found.values():
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]


@contextlib.contextmanager
def cells(folder: Path) -> Iterator:
    """Give a function that executes code in a kernel which was started in a folder, and returns the notebook."""
    notebook = nbformat.v4.new_notebook()
    with (one := client(notebook, folder)).setup_kernel():

        def execute(code: str):
            notebook.cells.append(nbformat.v4.new_code_cell(code))
            one.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
            return notebook.cells[-1].outputs

        execute.notebook = notebook
        yield execute


def test_in_a_clone_a_kernel_finds_the_package_and_shows_bars(monkeypatch):
    """The bar is one output, which is replaced; with --quiet there is none."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with cells(FOLDER) as execute:
        first = nbformat.read(FOLDER / "paper_table.ipynb", 4).cells[1].source
        execute(first.partition("\nfrom IPython")[0])
        (said,) = execute("import lemamba.utils; print(lemamba.utils.__file__)")
        assert said.text.strip() == str(ROOT / "utils/__init__.py")
        code = "from lemamba.utils.progress import ProgressBar, track\nimport time\n"
        code += "with ProgressBar('a < b', 8) as bar:\n    for i in range(8): bar.update(i / 2, f'note {i}')\n"
        (bar,) = execute(code)
        assert bar.data["text/plain"] == "a < b  43.8%  0:00:00  left 0:00:00  note 7"  # 3.5 of 8
        assert '<progress value="0.4375" max="1">' in bar.data["text/html"] and "a &lt; b" in bar.data["text/html"]
        before, bar, after = execute("print('before')\nfor i in track('abc', 'letters'): pass\nprint('after')")
        assert (before.text, after.text) == ("before\n", "after\n") and "100.0%" in bar.data["text/plain"]
        with pytest.raises(nbclient.exceptions.CellExecutionError):
            execute("import lemamba; lemamba.run('fus')")
        (error,) = execute.notebook.cells[-1].outputs
        assert len(error.traceback) == 1 and error.traceback[0].startswith('error: unknown command "fus"')
        assert not execute("import os; os.environ['LEMAMBA_VERBOSITY'] = 'quiet'; assert list(track('ab', 'x'))")


def test_where_output_is_piped_there_is_no_bar():
    code = "from lemamba.utils.progress import is_live, track\nprint(list(track('ab', 'letters')), is_live())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['a', 'b'] False\n", "")


def test_a_terminal_of_ipython_is_no_notebook(monkeypatch):
    class Shell:
        kernel = None

    class IPython:
        get_ipython = staticmethod(lambda: Shell())

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert not progress.in_notebook() and "IPython" not in os.environ
    Shell.kernel = object()
    assert progress.in_notebook() and progress.is_live()


def test_the_time_left_is_that_of_the_share_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pages: list[str] = []

    class Output:
        update = staticmethod(lambda page, raw: pages.append(page["text/plain"]))

    class IPython:
        class display:  # noqa: N801
            display = staticmethod(lambda page, raw, display_id: Output())

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    bar = progress._NotebookBar("work", 200)
    now[0] += 3600.0
    bar.update(50, "")
    now[0] += progress.NOTEBOOK_EVERY / 2  # too soon for the page
    bar.update(100, "half")
    bar.stop()
    assert pages == [
        "work  25.0%  1:00:00  left 3:00:00",
        "work  50.0%  1:00:00  left 1:00:00  half",
    ]
