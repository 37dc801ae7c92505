"""``mmbert distill``: a small, fast student of a sentence encoder, or of a tuned classifier, tagger or reranker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.options import LanguageField
from mmbert.cli.push import pushes

_SHAPE = re.compile(r"(\d+)x(\d+)")


Student = Annotated[
    str,
    typer.Option(
        help="LAYERSxWIDTH of a fresh student with the teacher's tokenizer and token embeddings, or folder or hub name "
        "of an mmBERT that becomes the student."
    ),
]
Endpoint = Annotated[
    str | None, typer.Option(help="OpenAI-compatible server that runs the teacher: http://127.0.0.1:8080/v1")
]
Vectors = Annotated[
    str | None, typer.Option(help="File with columns `text` and `vector`, or .npy beside TEXT, instead of a teacher.")
]


@pushes
def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            help="Folder or hub name of any sentence-transformers model (with --endpoint its name there), or of a "
            "tuned classifier, tagger or reranker.",
            show_default=False,
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or globs of text in its languages, or a run with prepared text."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; the student is in its `final`.")] = Path(
        "runs/distil"
    ),
    student: Student = "6x384",
    keep: Annotated[
        int | None, typer.Option(help="Keep only so many layers of the mmBERT that --student names.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="What the teacher does: embed, classify, tag or rerank. Default: as its config says.")
    ] = "auto",
    texts: Annotated[int | None, typer.Option(help="Number of texts to learn from. Default: 200000.")] = None,
    languages: Annotated[
        str | None, typer.Option(help="Only texts in these languages, such as deu_Latn,swh_Latn. Default: all.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The teacher's prompt, by name or as text. Default: its default, or `query`.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="File, folder or glob of evaluation data whose sentences are left out. May be repeated."),
    ] = None,
    language_field: LanguageField = None,
    endpoint: Endpoint = None,
    vectors: Vectors = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another option of the recipe: training.epochs=1. May be repeated."),
    ] = None,
) -> Path:
    """Distil a sentence encoder into an mmBERT and write it to OUT/final. The same command resumes if interrupted.

    The teacher's vectors are computed once and kept in OUT/teacher. As a recipe: `mmbert finetune distil`. Of a tuned
    classifier, tagger or reranker the student learns the logits, as the recipe distil-classify says.
    """
    from mmbert.cli.finetune import show_result
    from mmbert.finetuning.finetune import finetune as run
    from mmbert.finetuning.recipe import FinetuneRecipe
    from mmbert.finetuning.teacher_config import task_of
    from mmbert.recipe_file import apply_overrides

    problem = None
    if task == "auto":
        task, problem = ("embed", None) if endpoint is not None or vectors is not None else task_of(teacher)
    given = {
        "text": text or [], "prompt": prompt, "exclude": exclude or [], "endpoint": endpoint, "vectors": vectors,
        "languages": languages.split(",") if languages else [], "language_field": language_field,
        **({} if texts is None else {"texts": texts}),
    }  # fmt: skip
    values: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", out.resolve().name).lstrip("._-") or "distil",
        **_student(teacher, student, keep),
        **({"task": "distil", "distil": {"teacher": teacher, **given}} if task == "embed" else {}),
        **(_of_head(teacher, task, given) if task != "embed" else {}),
        **({"classify": {"problem": problem}} if problem is not None else {}),
    }
    result = run(FinetuneRecipe.of_values(apply_overrides(values, options or []), out), out=out)
    show_result(result)
    return result.folder


def _of_head(teacher: str, task: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a student of a tuned model. Raises ConfigError for those of sentence encoders."""
    from mmbert.errors import ConfigError

    other = next((name for name, value in given.items() if value and name != "text"), None)
    if other is not None:
        raise ConfigError(f"--{other} is for sentence encoders, and {teacher} has a head (--task {task}): remove it")
    if len(given["text"]) != 1:
        raise ConfigError(f"name one file of texts for a student of a {task} model (given: {len(given['text'])})")
    return {
        "task": task, "teacher": {"model": teacher}, "trim": {"max_tokens": 8000},
        "data": {"train": {"path": given["text"][0]}, "dev_share": 0.1},
        "training": {"learning_rate": 1e-3, "epochs": 10, "batch": 64},
    }  # fmt: skip


def _student(teacher: str, student: str, keep: int | None) -> dict[str, Any]:
    """Return the recipe's ``model`` and ``student``."""
    from mmbert.errors import ConfigError

    shape = _SHAPE.fullmatch(student)
    if shape is None:
        return {"model": student, **({} if keep is None else {"student": {"keep": keep}})}
    if keep is not None:
        raise ConfigError("--keep takes layers of an mmBERT: name it with --student")
    return {"model": teacher, "student": {"num_layers": int(shape[1]), "hidden_size": int(shape[2])}}
