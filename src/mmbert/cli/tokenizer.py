"""``mmbert tokenizer``: train a tokenizer or measure one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbert.cli.options import LanguageField, OutFolder, TextField
from mmbert.data.corpus_texts import file_texts

if TYPE_CHECKING:
    from mmbert.recipe import TokenizerTraining
    from mmbert.tokenizer.measure import Fertility

app = typer.Typer(no_args_is_help=True)

_Language = Annotated[
    str | None, typer.Option(help="Language of all files. Default: by the file name, such as fao_Latn.jsonl.gz.")
]


@app.command()
def train(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_TEXT...",
            help="A recipe (a YAML file, or a name of the package's), or files and folders of text.",
        ),
    ],
    out: OutFolder,
    vocab_size: Annotated[int | None, typer.Option(min=512, max=262_144, help="Size of the vocabulary.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Balance of the sample: 1 keeps the sizes of the languages, 0 takes the same amount of each.",
        ),
    ] = None,
    sample_characters: Annotated[int | None, typer.Option(min=1, help="Size of the sample in characters.")] = None,
    prefix_space: Annotated[bool | None, typer.Option(help="Put a space before every text.")] = None,
    language: _Language = None,
    language_field: LanguageField = None,
    text_field: TextField = "text",
) -> None:
    """Train a byte-fallback BPE on JSONL, text or Parquet, or on the cleaned sources of a recipe."""
    from mmbert.errors import ConfigError
    from mmbert.log import progress
    from mmbert.recipe import TokenizerTraining
    from mmbert.recipe_names import is_recipe
    from mmbert.tokenizer.train import train_tokenizer

    spec = TokenizerTraining()
    pairs: Iterator[tuple[str, str]]
    recipes = [text for text in texts if is_recipe(text)]
    if recipes and len(texts) > 1:
        raise ConfigError(f"train on one recipe or on files, not on {' and '.join(texts)}")
    if recipes:
        pairs, spec = _recipe_texts(recipes[0], spec)
    else:
        pairs = file_texts(texts, language, language_field, text_field)
    given: dict[str, Any] = {
        "vocab_size": vocab_size,
        "temperature": temperature,
        "sample_characters": sample_characters,
        "prefix_space": prefix_space,
    }
    spec = spec.model_copy(update={key: value for key, value in given.items() if value is not None})
    tokenizer = train_tokenizer(progress(pairs, desc="reading text", unit="doc"), spec)
    tokenizer.save(out)
    typer.echo(f"tokenizer    {out}")
    typer.echo(f"tokens       {tokenizer.vocab_size}")
    typer.echo(f"fingerprint  {tokenizer.fingerprint}")


@app.command()
def measure(
    tokenizer: Annotated[str, typer.Argument(help="Tokenizer folder, tokenizer.json or hub name.")],
    files: Annotated[list[str], typer.Argument(help="Files and folders of text.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    max_characters: Annotated[int, typer.Option(min=1, help="Most characters of each language to measure.")] = 200_000,
    language: _Language = None,
    language_field: LanguageField = None,
    text_field: TextField = "text",
) -> None:
    """Measure bytes per token, tokens per word, byte fallback and unknown tokens of each language, worst first."""
    from dataclasses import asdict

    from mmbert.errors import DataError
    from mmbert.log import progress
    from mmbert.tokenizer.measure import measure as measure_texts
    from mmbert.tokenizer.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    pairs = file_texts(files, language, language_field, text_field)
    found = measure_texts(loaded, progress(pairs, desc="measuring", unit="doc"), max_characters=max_characters)
    if not found:
        raise DataError(f"no text in {', '.join(files)}")
    if as_json:
        for fertility in found:
            typer.echo(json.dumps(asdict(fertility), ensure_ascii=False))
    else:
        _print_table(found)


def _recipe_texts(path: str, default: TokenizerTraining) -> tuple[Iterator[tuple[str, str]], TokenizerTraining]:
    """Return the prepared training text of a recipe, in the data folder that ``mmbert run`` uses, and its options."""
    from mmbert.data.prepare import iterate_text, prepare_text
    from mmbert.recipe import Recipe

    recipe = Recipe.load(path)
    folder = Path(recipe.shards) if recipe.shards else Path("runs") / recipe.name / "data"
    prepare_text(recipe, folder)
    spec = default if isinstance(recipe.vocabulary, str) else recipe.vocabulary
    return ((language, text) for _, language, text in iterate_text(folder)), spec


def _print_table(found: list[Fertility]) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmbert.languages import name

    table = Table(caption=f"{len(found)} languages, fewest bytes per token first", box=None)
    table.add_column("language")
    table.add_column("name")
    for column in ("bytes/token", "characters/token", "tokens/word", "byte fallback", "unknown", "tokens"):
        table.add_column(column, justify="right")
    for row in found:
        table.add_row(
            row.language,
            name(row.language),
            f"{row.bytes_per_token:.2f}",
            f"{row.characters_per_token:.2f}",
            f"{row.tokens_per_word:.2f}",
            f"{row.byte_fallback_rate:.1%}",
            f"{row.unknown_rate:.1%}",
            f"{row.tokens:,}",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a pipe has no width, and rich would wrap at 80
    console.print(table)
