"""Answers to questions as spans of a text, by a model that scores where they begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.checks import check_texts, kind_of, many_texts, one_text, whole
from mmbert.inference.chunking import Window, plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.inference.load import Loaded
from mmbert.inference.pairs import Template, read_template
from mmbert.inference.predictor import Facade
from mmbert.inference.windows import Rows, run_rows
from mmbert.model.tasks import SpanClassifier, TaskHead
from mmbert.packed import Packed
from mmbert.tokenizer.long_texts import encode_ends

_TOKENISED = 64
"""Questions tokenised at once."""


@dataclass(frozen=True)
class Answer:
    """``context[start:end]`` answers the question with probability ``score``; no answer is "" at (0, 0)."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Passage:
    """A text on its way through the model, in one or several windows."""

    context: str
    spans: np.ndarray
    """Characters of the context's tokens, without the space around them."""
    windows: list[Window]
    """Tokens of the context in each row, and those of them at which an answer may begin."""
    first: int
    """Where the context begins in a row."""


@dataclass(frozen=True)
class Decoding:
    """Which spans of a text may be answers."""

    top_k: int
    longest: int
    no_answer: bool
    threshold: float


class Answerer(Facade):
    """Answers in a text, by a folder with a ModernBertForQuestionAnswering.

    Among all spans of the text, up to a length, one is the answer, or, if wanted, none is: their probabilities sum to
    one. A text that does not fit beside its question goes in windows that overlap, and spans of all are compared.
    """

    kinds = ("span",)
    recipe = "qa.yaml"

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        assert isinstance(loaded.head, TaskHead)
        self._model = SpanClassifier.around(loaded.encoder, loaded.head).eval()
        self._template: Template = read_template(loaded)

    def __call__(
        self,
        question: Any,
        context: Any,
        *,
        top_k: int = 1,
        no_answer: bool = False,
        threshold: float = 0.0,
        longest: int = 64,
        window: int | None = None,
        overlap: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """A question and a text -> its ``top_k`` answers, best first; two lists of one length -> a list of such lists.

        no_answer  the text may not hold the answer: Answer("", 0, 0, p) stands among the others
        threshold  by how much the logit of no answer must be above that of the best answer (SQuAD 2.0's)
        longest    tokens of an answer at most
        window     tokens of question and text that are read together; default: as many as the model reads
        overlap    tokens of the text that two windows share; default: twice ``longest``, so that no answer is cut
        progress   a bar on stderr; default: where there are thousands of questions
        """
        asked, read = one_text(question), one_text(context)
        single = asked is not None
        if single != (read is not None):
            kinds = f"question is {kind_of(question)}, context {kind_of(context)}"
            raise ConfigError(f"{kinds}: expected both a str, or both a list of str")
        questions = [asked] if single else list(many_texts(question, "questions", "a str or a list of str"))
        contexts = [read] if single else list(many_texts(context, "contexts", "a str or a list of str"))
        if len(questions) != len(contexts):
            raise ConfigError(f"{len(questions)} questions, {len(contexts)} contexts: give one for each")
        pairs: list[Any] = list(zip(questions, contexts, strict=True))
        found = self.stream(
            pairs, top_k=top_k, no_answer=no_answer, threshold=threshold, longest=longest, window=window,
            overlap=overlap, progress=progress,
        )  # fmt: skip
        return next(found) if single else list(found)

    def stream(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        top_k: int = 1,
        no_answer: bool = False,
        threshold: float = 0.0,
        longest: int = 64,
        window: int | None = None,
        overlap: int | None = None,
        progress: bool | None = None,
    ) -> Iterator[list[Answer]]:
        """The answers to each (question, context), in order; ``pairs`` may be endless. Options as for a call."""
        top_k, longest = whole("top_k", top_k), whole("longest", longest)
        most = self.loaded.max_tokens
        window = whole(
            "window", most if window is None else window, self._template.size + 2, most, "the tokens of one pass"
        )
        if overlap is not None:
            overlap = whole("overlap", overlap, 0)
        options = Decoding(top_k, longest, no_answer, threshold)
        rows = self.rows(pairs, window, overlap, longest)

        def answers() -> Iterator[list[Answer]]:
            for found in run_rows(self.loaded, rows, self.logits_of, progress=progress, what="answering"):
                yield best_answers(found.metadata, found.results, options)

        return answers()

    def logits(self, question: str, context: str) -> np.ndarray:
        """Scores of every token to begin and to end the answer, special tokens and question included: (T, 2) fp32.

        Raises TooLong for what does not fit in one pass.
        """
        (row,) = self.rows([(question, context)], self.loaded.max_tokens, None, 1)
        if len(row.rows) > 1:
            raise TooLong(f"question and context do not fit in the {self.loaded.max_tokens} tokens of one pass")
        (found,) = run_rows(self.loaded, [row], self.logits_of)
        return np.asarray(found.results[0])

    def logits_of(self, packed: Packed) -> list[np.ndarray]:
        """(tokens, 2) fp32 of each row of a batch on the model's device, on the host."""
        return packed.unpack(self._model(packed).float().cpu().numpy())

    def rows(
        self, pairs: Iterable[tuple[str, str]], window: int, overlap: int | None, longest: int
    ) -> Iterator[Rows[Passage]]:
        """Each question and its text as the model reads them."""
        tokenizer, template = self.loaded.tokenizer, self._template
        stream, number = iter(pairs), 0
        while chunk := list(islice(stream, _TOKENISED)):
            for at, pair in enumerate(chunk, number):
                _check(pair, at)
            asked = encode_ends(tokenizer.encode_batch, [question for question, _ in chunk], window, first=number)
            texts = tokenizer.encode_spans([context for _, context in chunk], specials=True, first=number)
            for (question, context), head, (ids, spans) in zip(chunk, asked, texts, strict=True):
                room = window - template.size - len(head)
                if room < 1:
                    raise TooLong(
                        f"question {number} has {len(head):,} tokens: a window of {window:,} has no more room"
                    )
                shared = min(2 * longest, room // 2) if overlap is None else overlap
                places = plan_windows(len(ids), room, shared if len(ids) > room else 0)
                rows = [template.join(head, ids[place.start : place.end]) for place in places]
                first = len(template.before) + len(head) + len(template.between)
                metadata = Passage(context, trim_spans(context, spans), places, first)
                yield Rows(rows, metadata, number=number, text=(question, context))
                number += 1


def best_answers(metadata: Passage, rows: list[np.ndarray], options: Decoding) -> list[Answer]:
    """The most probable spans of a text, from the logits (T, 2) of its windows.

    A span's logit is that of its first token to begin plus that of its last to end, both from the window in which the
    first stands farther from the edge; no answer's is that of <bos> for both, the least of all windows (both as in
    SQuAD's baselines).
    """
    found: dict[tuple[int, int], float] = {}
    total = -np.inf
    for window, logits in zip(metadata.windows, rows, strict=True):
        inner = logits[metadata.first : metadata.first + window.end - window.start].astype(np.float64)
        sums = _span_logits(inner, metadata.spans[window.start : window.end], options.longest)
        sums = sums[window.first - window.start : window.last - window.start]
        total = np.logaddexp(total, _log_sum(sums))
        for first, extra in _largest(sums, options.top_k + _SPARE):
            span = int(metadata.spans[window.first + first, 0]), int(metadata.spans[window.first + first + extra, 1])
            found[span] = max(found.get(span, -np.inf), float(sums[first, extra]))
    ranked = list(found.items())
    if options.no_answer or not ranked:
        none = min(float(logits[0].sum()) for logits in rows) - options.threshold
        total = np.logaddexp(total, none)
        ranked.append(((0, 0), none))
    ranked.sort(key=lambda item: (-item[1], item[0]))
    return [
        Answer(metadata.context[start:end], start, end, float(np.exp(logit - total)))
        for (start, end), logit in ranked[: options.top_k]
    ]


_SPARE = 32
"""More spans are looked at than are asked for: those of a character that is several tokens are the same text."""


def _span_logits(logits: np.ndarray, spans: np.ndarray, longest: int) -> np.ndarray:
    """(n, longest): begin at token i, end at token i + d; minus infinity where that is no span."""
    count = len(logits)
    if not count:
        return np.zeros((0, 0))
    wide = min(longest, count)
    solid = spans[:, 0] < spans[:, 1]  # a token of nothing but space neither begins nor ends an answer
    begins = np.where(solid, logits[:, 0], -np.inf)
    ends = np.concatenate([np.where(solid, logits[:, 1], -np.inf), np.full(wide - 1, -np.inf)])
    return np.asarray(begins[:, None] + np.lib.stride_tricks.sliding_window_view(ends, wide))


def _largest(sums: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Where the largest finite numbers stand, (row, column), in no order."""
    count = min(count, sums.size)
    if not count:
        return []
    places = (divmod(int(flat), sums.shape[1]) for flat in np.argpartition(-sums, count - 1, axis=None)[:count])
    return [place for place in places if np.isfinite(sums[place])]


def _log_sum(values: np.ndarray) -> float:
    top = values.max(initial=-np.inf)
    return float(top + np.log(np.exp(values - top).sum())) if np.isfinite(top) else -np.inf


def _check(pair: Any, number: int) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"question {number} is {kind_of(pair)}: expected a pair of question and context")
    for what, text in zip(("question", "context"), pair, strict=True):
        check_texts([text], number, what)
        if not text.strip():
            raise DataError(f"{what} {number} is empty")
