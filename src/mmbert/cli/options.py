"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def complete_recipe(command: str | None = None) -> Callable[[str], list[tuple[str, str]]]:
    """Return what completes the name of a recipe of the package in a shell: (name, summary) pairs.

    command  only recipes that this command reads
    """

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from mmbert.recipe_names import shipped

        found = [recipe for recipe in shipped().values() if command in (None, recipe.command)]
        return [(recipe.name, recipe.summary) for recipe in found if recipe.name.startswith(incomplete)]

    return complete


def recipe_argument(command: str, what: str, example: str) -> Any:
    """Return the argument of a command that reads a recipe: a name of the package's, or a file."""
    return typer.Argument(
        help=f"{what} of the package by name, such as {example} (`mmbert recipes` lists them), or a YAML file. "
        "A file of that very name in the working folder comes first.",
        autocompletion=complete_recipe(command),
    )


Model = Annotated[str, typer.Argument(help="Model folder or hub name.", show_default=False)]
Source = Annotated[
    str, typer.Argument(help="File of text lines or JSON lines, may be compressed (.gz, .zst); - for standard input.")
]
Texts = Annotated[
    list[str] | None, typer.Option("--text", "-t", help="Text to use instead of a file. May be repeated.")
]
TextField = Annotated[str, typer.Option(help="Field of JSON lines that holds the text.")]
IdField = Annotated[str, typer.Option(help="Field of JSON lines that holds the id. Lines without it get FILE:LINE.")]
LanguageField = Annotated[
    str | None, typer.Option(help="Field that names the language of each text. Default: the file name tells it.")
]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Skip and count rows that cannot be read. Default: stop at the first.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON lines on a terminal too. Pipes and files always get JSON lines.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Precision = Annotated[str, typer.Option(help="Precision of the weight matrices: auto, fp32, bf16, fp16 or int8.")]
Layers = Annotated[
    int | None, typer.Option(help="Read and compute only the first layers (2D Matryoshka models). Default: all.")
]
Dimensions = Annotated[int | None, typer.Option(help="Keep only the first dimensions (Matryoshka). Default: all.")]
RecipeFile = Annotated[Path, recipe_argument("run", "A recipe", "nano")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Options to change in the recipe: phases.extend.tokens=3M cleaning.min_characters=32 ..."),
]
RunFolder = Annotated[Path | None, typer.Option("--out", help="Folder of the run. Default: runs/NAME.")]
DataFolder = Annotated[
    Path | None, typer.Option(help="Data folder. Default: the recipe's `shards`, else runs/NAME/data.")
]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]
