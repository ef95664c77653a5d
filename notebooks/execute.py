"""Runs the notebooks beside this file and writes them, with what they print and draw, to a folder.

python notebooks/execute.py out/notebooks     # to see that they run
python notebooks/execute.py notebooks         # to keep what they show; one by its name: ... notebooks refine
"""

import hashlib
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LONGEST = 300
"""Seconds a cell may take."""
SETTINGS = (
    "--log-level=40",
    "--InlineBackend.figure_formats={'jpeg'}",
    "--InlineBackend.print_figure_kwargs={'bbox_inches': 'tight', 'pil_kwargs': {'quality': 85, 'subsampling': 0}}",
)
"""Of the kernel: no warning about its sockets, and pictures as JPEG, which keeps notebooks of photos small."""


def digest(notebook: nbformat.NotebookNode) -> str:
    """What the code of a notebook is recognised by: outputs belong to the code that has the same."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def execute(path: Path, folder: Path) -> None:
    """Run one notebook and write it to the folder.

    Raises: nbclient.exceptions.CellExecutionError: if a cell fails.
        RuntimeError: if a cell writes to stderr: a reader would see the warning.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=LONGEST, record_timing=False, extra_arguments=list(SETTINGS))
    client.execute(cwd=str(folder))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name} writes to stderr: {output['text']}")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "executed": digest(notebook)}
    nbformat.write(notebook, folder / path.name)


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        start = time.perf_counter()
        execute(path, folder)
        size = (folder / path.name).stat().st_size / 1000
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s, {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
