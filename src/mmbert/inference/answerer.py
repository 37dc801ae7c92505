"""The Answerer: answers to questions as spans of a text, by a model that scores where they start and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.checks import check_texts, kind_of, many_texts, one_text, whole
from mmbert.inference.chunking import Window, plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.inference.load import Loaded
from mmbert.inference.pairs import Template, read_template
from mmbert.inference.predictor import Predictor
from mmbert.inference.windows import Place, Rows, run_rows
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
    """A context in one or several windows."""

    context: str
    spans: np.ndarray
    """(n, 2) characters of the context's tokens, without the space around them."""
    windows: list[Window]
    """The context's tokens in each row, and those among them at which an answer may start."""
    first: int
    """Position of the context's first token in a row."""


@dataclass(frozen=True)
class Decoding:
    """Which spans of a text may be answers; as the options of :meth:`Answerer.__call__`."""

    top_k: int
    longest: int
    no_answer: bool
    threshold: float


class Answerer(Predictor):
    """Answers in a text, by a folder with a ModernBertForQuestionAnswering.

    The probabilities of all spans up to ``longest`` tokens, and of no answer if allowed, sum to one. A text that does
    not fit beside its question is read in windows that overlap, and the spans of all windows compete.
    """

    kinds = ("span",)
    recipe = "qa"

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
        """Return the ``top_k`` answers of a text to a question, best first; a list of such lists for two lists.

        no_answer  the text may not contain the answer: Answer("", 0, 0, p) is one of the results
        threshold  by how much the logit of no answer must exceed that of the best answer (SQuAD 2.0)
        longest    tokens of an answer at most
        window     tokens of question and text that are read together; default: as many as the model reads
        overlap    tokens of the text that two windows share; default: twice ``longest``, so that no answer is cut
        progress   a bar on stderr; default: for thousands of questions
        """
        one_question, one_context = one_text(question), one_text(context)
        single = one_question is not None
        if single != (one_context is not None):
            kinds = f"question is {kind_of(question)}, context {kind_of(context)}"
            raise ConfigError(f"{kinds}: expected both a str, or both a list of str")
        questions = [one_question] if single else list(many_texts(question, "questions", "a str or a list of str"))
        contexts = [one_context] if single else list(many_texts(context, "contexts", "a str or a list of str"))
        if len(questions) != len(contexts):
            raise ConfigError(f"{len(questions)} questions, {len(contexts)} contexts: give one for each")
        pairs: list[Any] = list(zip(questions, contexts, strict=True))
        answers = self.stream(
            pairs, top_k=top_k, no_answer=no_answer, threshold=threshold, longest=longest, window=window,
            overlap=overlap, progress=progress,
        )  # fmt: skip
        return next(answers) if single else list(answers)

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
        """Yield the answers to each (question, context), in order; ``pairs`` may be endless. Options as for a call."""
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
            for passage in run_rows(self.loaded, rows, self.logits_of, progress=progress, what="answering"):
                yield best_answers(passage.metadata, passage.results, options)

        return answers()

    def logits(self, question: str, context: str) -> np.ndarray:
        """Return the start and end logits of all tokens, of special tokens and question too: (T, 2) fp32.

        Raises TooLong for what does not fit in one pass.
        """
        (row,) = self.rows([(question, context)], self.loaded.max_tokens, None, 1)
        if len(row.rows) > 1:
            raise TooLong(f"question and context do not fit in the {self.loaded.max_tokens} tokens of one pass")
        (found,) = run_rows(self.loaded, [row], self.logits_of)
        return np.asarray(found.results[0])

    def logits_of(self, packed: Packed, places: Sequence[Place] = (), states: Tensor | None = None) -> list[np.ndarray]:
        """Return (tokens, 2) fp32 for each row of a batch on the model's device, on the host."""
        return packed.unpack(self._model(packed, states).float().cpu().numpy())

    def rows(
        self, pairs: Iterable[tuple[str, str]], window: int, overlap: int | None, longest: int
    ) -> Iterator[Rows[Passage]]:
        """Yield each question and its text as the model reads them."""
        tokenizer, template = self.loaded.tokenizer, self._template
        stream, number = iter(pairs), 0
        while chunk := list(islice(stream, _TOKENISED)):
            for at, pair in enumerate(chunk, number):
                _check(pair, at)
            heads = encode_ends(tokenizer.encode_batch, [question for question, _ in chunk], window, first=number)
            texts = tokenizer.encode_spans([context for _, context in chunk], specials=True, first=number)
            for (question, context), head, (ids, spans) in zip(chunk, heads, texts, strict=True):
                room = window - template.size - len(head)
                if room < 1:
                    raise TooLong(
                        f"question {number} has {len(head):,} tokens: a window of {window:,} has no more room"
                    )
                # an overlap of twice the longest answer: each answer is whole in a window, away from its edge
                shared = min(2 * longest, room // 2) if overlap is None else overlap
                places = plan_windows(len(ids), room, shared if len(ids) > room else 0)
                rows = [template.join(head, ids[place.start : place.end]) for place in places]
                first = len(template.before) + len(head) + len(template.between)
                metadata = Passage(context, trim_spans(context, spans), places, first)
                yield Rows(rows, metadata, number=number, text=(question, context))
                number += 1


def best_answers(metadata: Passage, rows: list[np.ndarray], options: Decoding) -> list[Answer]:
    """Return the most probable spans of a text, from the logits (T, 2) of its windows.

    The logit of a span is the start logit of its first token plus the end logit of its last one, both from the window
    in which the first token is farther from the edge. The logit of no answer is that of <bos> for both, the smallest of
    all windows. Both are as in the baselines of SQuAD (Rajpurkar et al. 1806.03822).
    """
    logit_of: dict[tuple[int, int], float] = {}
    total = -np.inf
    for window, logits in zip(metadata.windows, rows, strict=True):
        # Only the context's rows: tokens of the question are no answer. In fp64, so that the sum over all spans of a
        # long
        # text loses no digits.
        inner = logits[metadata.first : metadata.first + window.end - window.start].astype(np.float64)
        sums = _span_logits(inner, metadata.spans[window.start : window.end], options.longest)
        sums = sums[window.first - window.start : window.last - window.start]  # each start counts in one window only
        total = np.logaddexp(total, _log_sum(sums))  # the softmax runs over the spans of all windows together
        for first, extra in _largest(sums, options.top_k + _SPARE):
            span = int(metadata.spans[window.first + first, 0]), int(metadata.spans[window.first + first + extra, 1])
            # tokens of one character have the same characters: the best of them stands for the text
            logit_of[span] = max(logit_of.get(span, -np.inf), float(sums[first, extra]))
    ranked = list(logit_of.items())
    # A text without a token that may start an answer has no answer, whatever the options say.
    if options.no_answer or not ranked:
        # the text has no answer if no window has one, so the smallest logit counts
        none = min(float(logits[0].sum()) for logits in rows) - options.threshold
        total = np.logaddexp(total, none)
        ranked.append(((0, 0), none))
    ranked.sort(key=lambda item: (-item[1], item[0]))  # ties by position: argpartition has no order
    return [
        Answer(metadata.context[start:end], start, end, float(np.exp(logit - total)))
        for (start, end), logit in ranked[: options.top_k]
    ]


_SPARE = 32
"""Spans that are ranked beside ``top_k``: several can be the same text, where a character is several tokens."""


def _span_logits(logits: np.ndarray, spans: np.ndarray, longest: int) -> np.ndarray:
    """Return (n, longest) logits of the spans from token i to token i + d; minus infinity where there is no span."""
    count = len(logits)
    if not count:
        return np.zeros((0, 0))
    # A view of ``longest`` columns needs at least as many tokens.
    wide = min(longest, count)
    solid = spans[:, 0] < spans[:, 1]  # a token of white space alone neither starts nor ends an answer
    # sums[i, d] = start[i] + end[i + d]: a sliding view of the padded end logits, so n x longest instead of n x n
    begins = np.where(solid, logits[:, 0], -np.inf)
    ends = np.concatenate([np.where(solid, logits[:, 1], -np.inf), np.full(wide - 1, -np.inf)])
    return np.asarray(begins[:, None] + np.lib.stride_tricks.sliding_window_view(ends, wide))


def _largest(sums: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return (row, column) of the ``count`` largest numbers that are finite, in no order."""
    count = min(count, sums.size)
    if not count:
        return []
    places = (divmod(int(flat), sums.shape[1]) for flat in np.argpartition(-sums, count - 1, axis=None)[:count])
    return [place for place in places if np.isfinite(sums[place])]


def _log_sum(values: np.ndarray) -> float:
    """Return log(sum(exp(values))), minus infinity for none; the largest is taken out first against overflow."""
    top = values.max(initial=-np.inf)
    return float(top + np.log(np.exp(values - top).sum())) if np.isfinite(top) else -np.inf


def _check(pair: Any, number: int) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"question {number} is {kind_of(pair)}: expected a pair of question and context")
    for what, text in zip(("question", "context"), pair, strict=True):
        check_texts([text], number, what)
        if not text.strip():
            raise DataError(f"{what} {number} is empty")
