"""``mmbert merge``, ``trim``, ``extend`` and ``convert``: make a model from other models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbert.cli.options import LanguageField, Model, OutFolder, Overrides, RecipeFile, RunFolder, TextField
from mmbert.cli.push import pushes
from mmbert.data.corpus_texts import chosen_texts

if TYPE_CHECKING:
    from mmbert.surgery.compare_tokenizers import Comparison
    from mmbert.surgery.vocabulary import Size
    from mmbert.tokenizer.tokenizer import Tokenizer

_Languages = Annotated[
    str,
    typer.Option(help="Language codes, separated by commas: eng_Latn,fra_Latn. Default: all languages of the text."),
]
_TEXT = "File, folder or glob of JSONL, text or Parquet, or the folder of a run. May be repeated."


@pushes
def merge(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
) -> Path:
    """Merge the last checkpoints of a run's phases as the recipe says, and write the model to RUN/final."""
    from mmbert.errors import ConfigError
    from mmbert.pipeline import merge_phases
    from mmbert.recipe import Recipe

    wanted = Recipe.load(recipe, overrides or [])
    folder = out or Path("runs") / wanted.name
    if wanted.merge is None:
        raise ConfigError(f"{recipe} has no merge: name the phases under `merge`")
    merge_phases(wanted, folder, folder / "final")
    typer.echo(folder / "final")
    return folder / "final"


@pushes
def trim(
    model: Model,
    text: Annotated[list[str], typer.Option(help=f"Text of the languages to keep. {_TEXT}")],
    out: OutFolder,
    languages: _Languages = "",
    min_count: Annotated[int, typer.Option(min=1, help="Keep tokens with at least this many occurrences.")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many tokens, the most frequent ones.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help=f"Other text to check the new tokenizer on. Default: the same text. {_TEXT}"),
    ] = None,
    language_field: LanguageField = None,
    text_field: TextField = "text",
) -> Path:
    """Make a smaller model that keeps only the tokens of some languages, with the same output for their text."""
    from mmbert.log import progress
    from mmbert.surgery.compare_tokenizers import compare
    from mmbert.surgery.trim import trim as trim_model

    def texts(paths: list[str], what: str) -> Iterator[str]:
        found = chosen_texts(paths, _codes(languages), language_field=language_field, text_field=text_field)
        return (text for _, text in progress(found, desc=what, unit="doc"))

    report = trim_model(model, texts(text, "reading text"), out, min_count=min_count, max_tokens=max_tokens)
    before, after = _tokenizers(model, out)
    checked = compare(before, after, texts(check or text, "checking"))
    record = {"model": model, "languages": _codes(languages), **asdict(report), "check": asdict(checked)}
    _save(out, "trim.json", record)
    _print_sizes(report.before, report.after)
    _print_comparison("of the text to check" if check else "of the text", checked)
    return out


@pushes
def extend(
    model: Model,
    text: Annotated[list[str], typer.Option(help=f"Text of the new language. {_TEXT}")],
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")],
    out: OutFolder,
    languages: _Languages = "",
    keep: Annotated[
        list[str] | None, typer.Option(help=f"Text, in any language, whose tokens must not change. {_TEXT}")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help=f"Other text of the new language to measure on. Default: the same text. {_TEXT}"),
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Least number of occurrences of a new token.")] = 2,
    language_field: LanguageField = None,
    text_field: TextField = "text",
) -> Path:
    """Add tokens for a language or script that the tokenizer splits into bytes or short tokens."""
    from mmbert.log import progress
    from mmbert.surgery.compare_tokenizers import compare
    from mmbert.surgery.extend import extend as extend_model

    def texts(paths: list[str], what: str, codes: list[str]) -> Iterator[str]:
        found = chosen_texts(paths, codes, language_field=language_field, text_field=text_field)
        return (text for _, text in progress(found, desc=what, unit="doc"))

    codes = _codes(languages)
    kept = texts(keep, "reading text to keep", []) if keep else iter(())
    new = list(texts(text, "reading text", codes))
    report = extend_model(model, new, out, tokens=tokens, keep=kept, min_count=min_count)
    before, after = _tokenizers(model, out)
    checks = {"new": compare(before, after, texts(check, "checking", codes) if check else new)}
    if keep:
        checks["kept"] = compare(before, after, texts(keep, "checking", []))
    record = {"model": model, "languages": codes, **asdict(report)}
    _save(out, "extend.json", {**record, "check": {name: asdict(found) for name, found in checks.items()}})
    typer.echo(f"{'new tokens':<24}{len(report.characters)} characters, {len(report.merges)} merges")
    _print_sizes(report.before, report.after)
    _print_comparison("of the new language", checks["new"])
    if keep:
        _print_comparison("of the text to keep", checks["kept"])
    return out


@pushes
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Composer checkpoint (.pt) of mmBERT-checkpoints.")],
    out: OutFolder,
    size: Annotated[str | None, typer.Option(help="base or small: fail if the checkpoint has another shape.")] = None,
    phase: Annotated[
        str | None,
        typer.Option(help="pretrain, ext or decay. Default: as stated in the file or the name of its folder."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub name of a tokenizer to write into the folder.")
    ] = None,
) -> Path:
    """Convert a Composer checkpoint of the mmBERT release into a Hugging Face folder."""
    from mmbert.model.count import parameters
    from mmbert.surgery.convert import convert as convert_checkpoint

    config = convert_checkpoint(checkpoint, out, size=size, phase=phase, tokenizer=tokenizer)
    typer.echo(f"model       {out}")
    typer.echo(f"parameters  {parameters(config).masked_lm:,}")
    typer.echo(f"RoPE bases  {config.rope_theta:g} global, {config.local_rope_theta:g} local")
    typer.echo(f"context     {config.max_context}")
    return out


def _codes(languages: str) -> list[str]:
    from mmbert.languages import normalise

    return [normalise(code.strip()) for code in languages.split(",") if code.strip()]


def _tokenizers(model: str, out: Path) -> tuple[Tokenizer, Tokenizer]:
    """Return the tokenizers before and after."""
    from mmbert.model.weights import model_folder
    from mmbert.surgery.vocabulary import ModelFolder
    from mmbert.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(ModelFolder(model_folder(model)).encoder), Tokenizer.load(ModelFolder(out).encoder)


def _save(out: Path, name: str, record: dict[str, object]) -> None:
    from mmbert.files import write_text

    write_text(out / name, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def _print_sizes(before: Size, after: Size) -> None:
    rows = [
        ("tokens", before.tokens, after.tokens, ""),
        ("parameters", before.parameters, after.parameters, ""),
        ("  of the embedding", before.embedding, after.embedding, ""),
        ("weights on disk", before.file_bytes / 1e6, after.file_bytes / 1e6, " MB"),
        ("in memory, float32", before.memory_bytes / 1e6, after.memory_bytes / 1e6, " MB"),
        ("logits of one token", before.logits_bytes / 1e3, after.logits_bytes / 1e3, " kB"),
    ]
    typer.echo(f"{'':<24}{'before':>14}{'after':>14}{'':>8}")
    for label, old, new, unit in rows:
        form = ",.0f" if not unit else ",.1f"
        typer.echo(f"{label:<24}{format(old, form) + unit:>14}{format(new, form) + unit:>14}{new / old:>8.1%}")


def _print_comparison(what: str, found: Comparison) -> None:
    before, after = found.bytes_per_token
    lost = f"; {1 - found.kept_share:.2%} of their tokens are gone" if found.kept < found.before else ""
    same = f"{found.same:,} of {found.documents:,} documents have the same tokens as before ({found.same_share:.1%})"
    typer.echo(f"{what}: {same}{lost}")
    typer.echo(f"{'bytes per token':<24}{before:>14.3f}{after:>14.3f}{after / before:>8.1%}")
