"""Reading and writing recipe files: YAML 1.2, ``extends``, overrides, and errors that name the place and the fix.

Also the conventions that all parts of a recipe share (``Spec``) and how counts of tokens are written (``Tokens``).
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mmbert.errors import ConfigError, DataError
from mmbert.files import write_text
from mmbert.io.delimited import read_tsv
from mmbert.io.stream import read_text, text_lines
from mmbert.recipe_hints import suggest

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}

COUNT = r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmbgtKMBGT]?)\s*$"
"""A count of tokens as text."""


def parse_count(value: Any) -> Any:
    """``2.3T``, ``500k``, ``4_718_592`` -> int; anything else is left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.match(COUNT, value)
    if match is None:
        raise ValueError(f"not a count: {value!r} (write 4096, 500k, 3B or 2.3T)")
    count = Decimal(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()]
    if count != int(count):
        raise ValueError(f"not a whole count: {value!r} is {count} tokens")
    return int(count)


Tokens = Annotated[
    int,
    BeforeValidator(parse_count),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": COUNT}]}),
]
"""A count of tokens: 4096, 1_000, 500k, 3B, 2.3T."""


class Spec(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs, which pydantic would read as 1 and 0."""
        field = cls.model_fields[info.field_name or ""]
        if _flags(value) and not _takes_flags(field.annotation):
            raise ValueError("should be a number or text, not true or false")
        return value

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """Null takes back what a recipe inherits: a member of a map, or a field's value where null is none."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for key, value in values.items():
            field = cls.model_fields.get(key)
            forms = () if field is None else (field.annotation, *get_args(field.annotation))
            if value is None and forms and type(None) not in forms:
                continue
            is_map = isinstance(value, dict) and any(get_origin(form) is dict for form in forms)
            kept[key] = {k: v for k, v in value.items() if v is not None} if is_map else value
        return kept


def _flags(value: Any) -> bool:
    """Whether a value, or one in a list or map of plain values, is true or false."""
    if isinstance(value, dict | list | tuple):
        return any(map(_flags, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _takes_flags(annotation: Any) -> bool:
    """Whether true and false may stand somewhere in a value of this type; those of an inner Spec are its own matter."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(isinstance(argument, bool) for argument in arguments)
    return any(map(_takes_flags, arguments))


class SpecFile(Spec):
    """Options that stand in a file of their own."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a file with ``key.path=value`` overrides. Raises ConfigError with the dotted path of what is wrong."""
        return cls.of_values(read_recipe(Path(path), list(overrides)), Path(path))

    @classmethod
    def of_values(cls, values: dict[str, Any], path: Path) -> Self:
        """Check plain values. Raises ConfigError, which names ``path``."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, path)) from error

    def save(self, path: Path) -> None:
        """Write all of it, every default included."""
        write_recipe(path, self.model_dump(mode="json"))


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The file's values with ``extends``, ``a.b=c`` overrides and the lists of languages it names resolved."""
    values = _read_extended(path, seen=())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not of the form key.path=value")
        _assign(values, key.split("."), _yaml(text, f"override {override!r}"))
    _read_lists(values, path.parent)  # those named by overrides
    return values


def read_languages(folder: Path, reference: str) -> list[str]:
    """Codes from a list (one a line, ``#`` comments) or from ``table.tsv#column=value,value``."""
    name, _, condition = reference.partition("#")
    path = folder / name if (folder / name).is_file() else Path(name)
    if not path.is_file():
        raise ConfigError(f"no such list of languages: {name} (looked in {folder.resolve()} and {Path.cwd()})")
    if condition:
        column, _, wanted = condition.partition("=")
        rows = [row for _, row in read_tsv(path)]
        if not rows or column not in rows[0] or not wanted:
            columns = ", ".join(rows[0]) if rows else "(none: it is empty)"
            raise ConfigError(f"{reference}: expected table.tsv#column=value with one of the columns {columns}")
        codes = [row.get("code") or row.get("language") or "" for row in rows if row[column] in wanted.split(",")]
    else:
        codes = [word for line in text_lines(path) for word in line.split("#")[0].split()]
    if not codes or not all(codes):
        raise ConfigError(f"{reference} names no language")
    return codes


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # leaves on one line, so that 1833 languages are not 1833 lines
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(values, stream)
    write_text(path, stream.getvalue())


def explain(error: ValidationError, model: type[BaseModel], path: Path) -> str:
    """Return the first fault as one line: file, dotted path, what is wrong, and the nearest valid name.

    Where a value may have several forms (a tokenizer: text or a map), pydantic reports every form's complaint. Told is
    the one that got furthest into the value: it is the form that was meant.
    """
    faults = [(*_walk(model, fault["loc"]), fault) for fault in error.errors()]
    places = [place for place, _, _ in faults]
    faults = [entry for entry in faults if not any(_inside(other, entry[0]) for other in places)]
    faults.sort(key=lambda entry: entry[2]["type"] != "extra_forbidden")  # a misspelt key also leaves another missing
    place, parent, fault = faults[0]
    others = len({entry[0] for entry in faults} - {place})
    more = f" (and {others} more)" if others else ""
    dotted = ".".join(place)
    if fault["type"] == "extra_forbidden":
        hint = suggest(model, place, list(parent.model_fields), fault["input"])
        return f"{path}: unknown key {dotted}: {hint}{more}"
    if fault["type"] == "missing" or (fault["input"] is None and fault["type"] != "value_error"):
        return f"{path}: {dotted} is missing{more}"
    said = _joined([entry[2]["msg"] for entry in faults if entry[0] == place])
    given = "" if isinstance(fault["input"], dict) else f" (given: {str(fault['input'])[:60]})"
    return f"{path}: {dotted + ': ' if dotted else ''}{said}{given}{more}"


_PLAIN_WORDS = {
    "a valid tuple": "a list",
    "a valid dictionary": "a map",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def _joined(messages: list[str]) -> str:
    """One sentence from the complaints about one value, in a user's words."""
    said = list(dict.fromkeys(message.removeprefix("Value error, ") for message in messages))
    if said[0].startswith("Input should be "):
        noise = r"^Input should be |, (unable|got) .*| or instance of \w+"
        text = "should be " + " or ".join(re.sub(noise, "", message) for message in said)
        for formal, plain in _PLAIN_WORDS.items():
            text = text.replace(formal, plain)
        return text
    return said[0][0].lower() + said[0][1:]


def _inside(place: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _walk(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The keys of the file in pydantic's location, without the names it adds, and the model that holds the last one.

    Added are the form of a value with several forms (``TokenizerTraining``, ``int``) and ``[key]``.
    """
    annotation: Any = model
    parent, place = model, []
    for part in loc:
        forms = _forms(annotation)
        if len(forms) > 1:
            annotation = next((form for form in forms if str(part).startswith(_form_name(form))), None)
            continue
        annotation = forms[0] if forms else annotation
        if part == "[key]":
            continue
        place.append(str(part))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            parent = annotation
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
        else:  # dict[str, X], tuple[X, ...]
            arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
            annotation = arguments[-1] if arguments else None
    return tuple(place), parent


def _forms(annotation: Any) -> list[Any]:
    """The members of a union, without None; of anything else itself."""
    if get_origin(annotation) is Annotated:
        return _forms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [form for form in get_args(annotation) if form is not type(None)]
    return [annotation]


def _form_name(form: Any) -> str:
    """How pydantic's name of a form begins: ``TokenizerTraining``, ``int``, ``tuple[str, ...]``, ``literal['all']``."""
    origin = get_origin(form)
    return "literal" if origin is Literal else str(getattr(origin or form, "__name__", form))


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values on top of those of the file it extends; lists and tables it names belong to its own folder."""
    if path.resolve() in seen:
        chain = " -> ".join(each.name for each in (*seen, path))
        raise ConfigError(f"{path} extends itself: {chain}")
    if not path.is_file():
        raise ConfigError(f"no such recipe: {path}{f' (extended by {seen[-1]})' if seen else ''}{_elsewhere(path)}")
    try:
        values = _yaml(read_text(path), str(path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a map of options")
    _read_lists(values, path.parent)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends should be the path of one recipe (given: {parent})")
    inherited = _read_extended(path.parent / parent, (*seen, path.resolve()))
    _move_tables(inherited, (path.parent / parent).parent, path.parent)
    return _merge(inherited, values)


def _elsewhere(path: Path) -> str:
    """Where the recipe that is not at ``path`` may be: under a similar name, in its folder, or in the repository."""
    if path.is_dir():
        return f": that is a folder, name one of {', '.join(_recipes(path)) or 'its files'}"
    near = difflib.get_close_matches(path.name, _recipes(path.parent), n=2, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    there = ", ".join(_recipes(path.parent))
    if there:
        return f": {path.parent} holds {there}"
    return (
        ": recipes are in the folder recipes of mmbert's repository, which pip does not install: run from a clone of "
        "it, or give the path of a file of your own"
    )


def _recipes(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.yaml")) if folder.is_dir() else []


def _read_lists(values: dict[str, Any], folder: Path) -> None:
    """Put the codes where a phase names a list of languages."""
    for phase in _maps(values.get("phases")):
        data = phase.get("data")
        if isinstance(data, dict) and isinstance(data.get("languages"), str) and data["languages"] != "all":
            data["languages"] = read_languages(folder, data["languages"])


def _move_tables(values: dict[str, Any], old: Path, new: Path) -> None:
    """Tables of counts, and a suite's ``tune``, are relative to the file that is loaded: rewrite those of an extended
    one elsewhere."""
    if old.resolve() == new.resolve():
        return
    if isinstance(values.get("tune"), str):
        values["tune"] = str((old / values["tune"]).resolve())
    tables = set()  # YAML aliases make several phases share one map
    for phase in _maps(values.get("phases")):
        data = phase.get("data")
        for budget in _maps(data.get("mixture") if isinstance(data, dict) else None):
            counts = budget.get("counts")
            if isinstance(counts, dict) and isinstance(counts.get("file"), str) and id(counts) not in tables:
                tables.add(id(counts))
                counts["file"] = str((old / counts["file"]).resolve())


def _maps(value: Any) -> list[dict[str, Any]]:
    return [each for each in value.values() if isinstance(each, dict)] if isinstance(value, dict) else []


def _yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, dict) else {}  # a copy: a YAML alias shares it with another key
        values = values[key]
    values[keys[-1]] = value
