"""Examples of sentence tasks: a query and its documents, out of rows of whatever fields a data set has.

Rows come from ``examples``; here they are checked and become groups, and groups become columns of equal length, which
is what sentence-transformers' trainers read. Faults are DataErrors with the place of the row.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.examples import read_examples, want_text
from mmbert.finetuning.labels import Examples, Fields, number_in
from mmbert.finetuning.recipe_sentence import Lookup
from mmbert.io.row_errors import Row, as_name

PAIR_LOSSES = ("cosent", "angle")
TEACHER_LOSSES = ("margin_mse", "kl", "mse")


@dataclass(frozen=True)
class Group:
    """One example.

    documents  the first is the right one, the rest are not; for scored pairs the second text alone
    scores     a teacher's, one a document; of scored pairs and labelled pairs the one there is; None without
    margin     ``scores`` is one number: by how much the first document is better than the second
    labelled   whether it is known which documents are right; else only a teacher tells
    """

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None
    language: str
    place: str
    margin: bool = False
    labelled: bool = True


def fields_of(task: str, loss: str, texts: Texts | None = None, *, taught: bool = False) -> Fields:
    """Return what the reader looks for in a row; with ``texts`` also its check of a row.

    taught  a teacher scores the documents: rows need no label
    """
    if loss in PAIR_LOSSES:
        return Fields(required=("text", "text_pair", "score"), gold="score", kind="number", check=_scored_pair)
    check = None if texts is None else partial(_group, texts=texts)
    optional = ["positive", "negative", "documents", "scores", "score"]
    if task == "rerank":
        optional += ["document", "label"]
        kind: Literal["class", "number"] = "class" if loss == "bce" else "number"
        return Fields(("query",), tuple(optional), gold="label", kind=kind, check=check, unlabelled=taught)
    return Fields(required=("query",), optional=tuple(optional), check=check)


def make_groups(examples: Examples, texts: Texts, loss: str) -> list[Group]:
    """Return rows as groups. Raises DataError with a row's place for what is missing or malformed."""
    if loss in PAIR_LOSSES:
        return [_scored_pair(row) for row in examples.rows]
    groups = [_group(row, texts) for row in examples.rows]
    for group in groups:
        if loss in TEACHER_LOSSES and group.scores is None:
            raise DataError(
                f"{group.place}: the loss {loss} learns from a teacher's scores, and there is neither 'scores' (of "
                "'documents') nor 'score' (how much better 'positive' is than 'negative'): name the column"
            )
        if loss == "margin_mse" and len(group.documents) < 2:
            raise DataError(f"{group.place}: margin_mse compares two documents, and there is one")
        if loss == "kl" and (group.margin or len(group.documents) < 2):
            raise DataError(f"{group.place}: kl needs 'scores' of at least two documents")
    return groups


def columns(groups: Sequence[Group], loss: str, negatives: int | None) -> dict[str, list[Any]]:
    """Return columns for a trainer: query, positive, negative_1, ..., and label where the loss has one.

    ``negatives``: of each example that are used; None: as many as all have. Raises DataError where a row has fewer.
    """
    if loss in PAIR_LOSSES:
        return {
            "query": [group.query for group in groups],
            "positive": [group.documents[0] for group in groups],
            "label": [_single(group) for group in groups],
        }
    counts = [len(group.documents) - 1 for group in groups]
    wanted = min(counts) if negatives is None else negatives
    short = next((group for group, count in zip(groups, counts, strict=True) if count < wanted), None)
    if short is not None:
        raise DataError(
            f"{short.place}: {len(short.documents) - 1} negatives, and the recipe asks for {wanted}: lower negatives"
        )
    found: dict[str, list[Any]] = {"query": [group.query for group in groups]}
    for number in range(wanted + 1):
        name = "positive" if number == 0 else f"negative_{number}"
        found[name] = [group.documents[number] for group in groups]
    if loss in ("margin_mse", "kl"):
        found["label"] = [list((group.scores or ())[: 1 if group.margin else wanted + 1]) for group in groups]
        if all(group.margin for group in groups):
            found["label"] = [label[0] for label in found["label"]]
        elif any(group.margin for group in groups):
            raise DataError("some examples have 'scores' and others 'score': the loss needs the same of all")
    return found


def labelled_pairs(groups: Sequence[Group], loss: str, negatives: int | None) -> dict[str, list[Any]]:
    """Return columns for a reranker that learns from single pairs: query, document, label and language."""
    found: dict[str, list[Any]] = {"query": [], "document": [], "label": [], "language": []}
    for group in groups:
        judged = len(group.documents) == 1 and group.scores is not None
        taken = group.documents if negatives is None else group.documents[: negatives + 1]
        if loss == "mse" and (group.margin or group.scores is None):
            raise DataError(f"{group.place}: mse needs a score for each document: 'scores', or 'document' and 'label'")
        for number, document in enumerate(taken):
            scored = (judged or loss == "mse") and group.scores is not None
            label = group.scores[number] if scored and group.scores is not None else float(number == 0)
            if loss == "bce" and not 0 <= label <= 1:
                raise DataError(
                    f"{group.place}: label {label:g} is not between 0 and 1: write 0 for a wrong document, or use "
                    "the loss mse"
                )
            found["query"].append(group.query)
            found["document"].append(document)
            found["label"].append(label)
            found["language"].append(group.language)
    return found


def training_columns(task: str, loss: str, groups: Sequence[Group], negatives: int | None) -> dict[str, list[Any]]:
    """Return the columns that a task's trainer reads: of rerankers, unless they compare two documents, single pairs."""
    single = task == "rerank" and loss != "margin_mse"
    return (labelled_pairs if single else columns)(groups, loss, negatives)


def group_splits(
    splits: Mapping[str, Examples], texts: Texts, loss: str, *, taught: bool = False
) -> dict[str, list[Group]]:
    """Return the groups of every split; those of dev and test need no teacher's scores.

    taught  a teacher is asked, so the training rows need none either
    """
    scored = loss in PAIR_LOSSES or not taught
    own = {role: loss if (role == "train" and scored) or loss in PAIR_LOSSES else "contrastive" for role in splits}
    return {role: make_groups(examples, texts, own[role]) for role, examples in splits.items()}


class Texts:
    """Texts by id, where the recipe has tables of them; held in memory."""

    def __init__(self, lookup: Lookup) -> None:
        self._tables = {
            role: None if spec is None else _read_table(spec, role)
            for role, spec in (("queries", lookup.queries), ("documents", lookup.documents))
        }

    def get(self, row: Row, field: str, value: Any, role: str) -> str:
        """Return the text itself, or the one that ``value`` is the id of."""
        table = self._tables[role]
        if table is None:
            return want_text({**row, field: value}, field)
        text = table.get(as_name(value))
        if text is None:
            raise DataError(f"{row['place']}: {field} {value!r} is no id of lookup.{role}: take both of one revision")
        return text


def _read_table(spec: Any, role: str) -> dict[str, str]:
    if not spec.named:
        raise ConfigError(f"lookup.{role} says neither path nor hub")
    rows = read_examples(spec, "train", Fields(required=("id", "text"))).rows
    return {as_name(row["id"]): row["text"] for row in rows}


def _group(row: Row, texts: Texts) -> Group:
    query = texts.get(row, "query", row["query"], "queries")
    if "documents" in row:
        listed = _listed(row, "documents")
    elif "positive" in row:
        listed = [row["positive"], *(_listed(row, "negative") if "negative" in row else [])]
    elif "document" in row:
        listed = [row["document"]]
    else:
        raise DataError(f"{row['place']}: neither 'positive' nor 'documents': name the columns in data.columns")
    documents = tuple(texts.get(row, "documents", value, "documents") for value in listed)
    scores: tuple[float, ...] | None = None
    margin = False
    if "scores" in row:
        scores = tuple(number_in(row, "scores", value) for value in _listed(row, "scores"))
        if len(scores) != len(documents):
            raise DataError(f"{row['place']}: {len(documents)} documents and {len(scores)} scores")
        ranked = sorted(zip(scores, range(len(documents)), strict=True), key=lambda pair: -pair[0])
        order = [index for _, index in ranked]  # the best is the right one
        if "documents" in row:
            documents, scores = tuple(documents[i] for i in order), tuple(sorted(scores, reverse=True))
    elif "label" in row and "document" in row:
        scores = (number_in(row, "label", row["label"]),)
    elif "score" in row:
        scores, margin = (number_in(row, "score", row["score"]),), len(documents) > 1
        if len(documents) > 2:
            raise DataError(f"{row['place']}: one score for {len(documents)} documents: give 'scores'")
    labelled = scores is not None or "document" not in row or "positive" in row or "documents" in row
    return Group(query, documents, scores, row["language"] or "", row["place"], margin, labelled)


def _scored_pair(row: Row) -> Group:
    score = number_in(row, "score", row["score"])
    return Group(want_text(row, "text"), (want_text(row, "text_pair"),), (score,), row["language"] or "", row["place"])


def _single(group: Group) -> float:
    assert group.scores is not None, "scored pairs have one"
    return group.scores[0]


def _listed(row: Row, field: str) -> list[Any]:
    """Return a list: as it is, of one value, or written as text."""
    value = row[field]
    if isinstance(value, str) and value.startswith("[") and field in ("documents", "scores"):
        try:
            value = ast.literal_eval(value)  # ms-marco-en-bge writes lists as text
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{row['place']}: {field} begins as a list and is none: fix the row") from error
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found:
        raise DataError(f"{row['place']}: {field} is an empty list: fix or remove the row")
    return found
