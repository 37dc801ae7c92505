"""Pages of the reference that are written when the site is built: the command line, and the public names of Python."""

from __future__ import annotations

from pathlib import Path

import mmbert

PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "predictors": (
        "Python: predictors and search",
        "Each class loads a model folder or a name on the hub, and is called with texts.",
        (
            "mmbert.Embedder", "mmbert.SearchIndex", "mmbert.Classifier", "mmbert.Tagger", "mmbert.Answerer",
            "mmbert.Reranker", "mmbert.MultipleChoice", "mmbert.FillMask",
        ),
    ),
    "models": (
        "Python: models and tokenizers",
        "The modules of PyTorch behind the predictors, and the batches that they read.",
        ("mmbert.MaskedLM", "mmbert.Encoder", "mmbert.ModelConfig", "mmbert.Tokenizer", "mmbert.Packed"),
    ),
    "pipeline": (
        "Python: from text to a served model",
        "Each function does what the command of its name does.",
        (
            "mmbert.run", "mmbert.prepare_data", "mmbert.train_tokenizer", "mmbert.pretrain", "mmbert.merge",
            "mmbert.finetune", "mmbert.evaluate", "mmbert.export", "mmbert.convert", "mmbert.trim", "mmbert.extend",
            "mmbert.serve",
        ),
    ),
    "recipes": (
        "Options of recipes",
        "A recipe is a YAML file for `mmbert run`. Its keys are the attributes below.",
        ("mmbert.recipe", "mmbert.recipe_phases", "mmbert.recipe_text"),
    ),
    "finetune-recipes": (
        "Options of fine-tuning and evaluation",
        "The keys of recipes for `mmbert finetune`, `mmbert distill` and `mmbert evaluate` are the attributes below.",
        (
            "mmbert.finetuning.recipe", "mmbert.finetuning.recipe_data", "mmbert.finetuning.recipe_heads",
            "mmbert.finetuning.recipe_sentence", "mmbert.finetuning.recipe_distil", "mmbert.finetuning.recipe_teacher",
            "mmbert.finetuning.recipe_trim", "mmbert.evaluation.suite",
        ),
    ),
    "errors": (
        "Python: errors",
        "All errors for what a user can mend are `MMBertError`s. Their text says what is wrong, where, and what to do.",
        ("mmbert.errors",),
    ),
}  # fmt: skip
"""Page -> title, first sentence, and the names that it documents."""


def undocumented() -> set[str]:
    """Return the public names of the package that are on no page, by themselves or with their module."""
    documented = {name for _, _, names in PAGES.values() for name in names}
    return {name for name in mmbert.__all__ if not documented & {f"mmbert.{name}", getattr(mmbert, name).__module__}}


def write_reference(folder: Path) -> None:
    """Write the pages of the reference into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, (title, first, names) in PAGES.items():
        blocks = "\n".join(f"::: {name}\n" for name in names)
        (folder / f"{page}.md").write_text(f"# {title}\n\n{first}\n\n{blocks}", encoding="utf-8")
    (folder / "command-line.md").write_text(command_line(), encoding="utf-8")


def command_line() -> str:
    """Return the help of all commands as Markdown, made by Typer from the commands themselves."""
    import typer
    from typer.cli import get_docs_for_click

    from mmbert.cli.main import app

    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="mmbert", title="All commands")
