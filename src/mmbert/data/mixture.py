"""The share of every (source, language) in a phase: annealed language learning.

A language with n tokens gets a share in proportion to n ** temperature (1: as it is found; towards 0: all languages
alike). The phases of a recipe lower the temperature while they add languages. A phase is either

- one pool: the temperature applies to a language's total over all sources, which is then divided by size; or
- a mixture of sources with fixed budgets (English, code, books, ...), and the temperature applies inside a source.

No language is to be repeated more than ``max_epochs`` times: what it cannot give is spread over the others, in
proportion, first inside its source. Sizes are tokens of text; the <bos> and <eos> of training sequences come on top,
so real epochs are a little fewer than those computed here.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmbert import languages
from mmbert.errors import ConfigError, DataError
from mmbert.recipe import Budget, Phase, PhaseData

log = logging.getLogger(__name__)

CODE = "code"
"""Program code: a stream like those of languages, but not counted as a language."""

Sizes = Mapping[tuple[str, str], float]
"""(source, language) -> tokens."""


@dataclass(frozen=True, slots=True)
class StreamShare:
    """What a phase draws from one stream."""

    source: str
    language: str
    tokens: int | None
    """Tokens there are; None if only relative sizes are known."""
    share: float
    """Part of the phase's tokens."""
    epochs: float | None
    """How often the stream is gone through; None if its size is not known."""
    capped: bool
    """Whether it would have been repeated more often than ``max_epochs``."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a phase draws from one language over all sources, or from one source over all languages."""

    name: str
    share: float
    """Part of the phase's tokens."""
    drawn: float
    """Tokens that the phase draws."""
    tokens: float | None
    """Tokens there are; None if the size of some stream is not known."""
    epochs: float | None
    """How often the phase goes through them; None if their size is not known."""
    capped: bool
    """Whether ``max_epochs`` holds back some stream."""


@dataclass(frozen=True)
class Mixture:
    """The shares of a phase; they add up to 1. Sorted by source and language."""

    streams: tuple[StreamShare, ...]
    tokens: int
    """Tokens of the phase."""

    def totals(self, key: Literal["source", "language"] = "language", sizes: Sizes | None = None) -> list[Share]:
        """Return the sums over the streams of each language (or source), the largest share first.

        sizes  tokens of each stream that one epoch goes through; default: the streams' own
        """
        groups: dict[str, list[StreamShare]] = defaultdict(list)
        for stream in self.streams:
            groups[getattr(stream, key)].append(stream)
        shares = []
        for name, streams in groups.items():
            share = sum(stream.share for stream in streams)
            known = [s.tokens if sizes is None else sizes.get((s.source, s.language)) for s in streams]
            tokens = None if None in known else sum(size or 0 for size in known)
            epochs = share * self.tokens / tokens if tokens else None
            held = any(stream.capped for stream in streams)
            shares.append(Share(name, share, share * self.tokens, tokens, epochs, held))
        return sorted(shares, key=lambda each: (-each.share, each.name))


def mixture(phase: Phase, sizes: Sizes, *, relative: Collection[str] = ()) -> Mixture:
    """The shares of ``phase`` over streams of the given sizes.

    relative  sources whose sizes are known up to a factor only: they have no epochs and no cap
    Raises ConfigError if the phase names languages or sources without text, or asks for more than max_epochs allows.
    """
    sizes = {stream: size for stream, size in sizes.items() if size > 0}
    # Streams without text would divide by 0 and can draw nothing.
    budgets = phase.data.mixture
    if budgets is not None:
        sizes = {
            (source, language): size
            for (source, language), size in sizes.items()
            if source in budgets and not languages.matches(language, budgets[source].without)
        }
    chosen = choose_languages(phase.data.languages, _by_language(sizes))
    sizes = {stream: sizes[stream] for stream in sorted(sizes) if stream[1] in chosen}
    if not sizes:
        raise DataError("no text for any language of the phase: prepare data for them or change data.languages")
    most = math.inf if phase.data.max_epochs is None else phase.data.max_epochs
    # epochs = share * phase.tokens / size <= max_epochs  <=>  share <= size * (max_epochs / phase.tokens)
    per_token = most / phase.tokens if phase.tokens else math.inf  # the largest share a token of text may take
    if budgets is None:
        # In one pool every share depends on every size: one that is known up to a factor only makes all caps
        # meaningless.
        shares, capped = _pool(sizes, phase.data, math.inf if relative else per_token)
    else:
        shares, capped = _budgets(sizes, budgets, phase.data.temperature, per_token, relative)
    streams = []
    for (source, language), size in sizes.items():
        share, known = shares[source, language], source not in relative
        epochs = share * phase.tokens / size if known else None
        held = (source, language) in capped
        streams.append(StreamShare(source, language, int(size) if known else None, share, epochs, held))
    return Mixture(tuple(streams), phase.tokens)


def annealed(sizes: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Shares in proportion to size ** temperature (sizes > 0), which add up to 1."""
    # size ** t through logarithms, with the largest taken out: no overflow for trillions of tokens.
    logs = np.log(np.asarray(sizes, dtype=np.float64)) * temperature
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def fill(weights: NDArray[np.float64], limits: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Divide ``total`` in proportion to ``weights`` with no part above its limit.

    Whatever passes its limit is held there and the surplus goes to the rest in proportion, until nothing passes.
    Raises ValueError if the limits do not hold the total.
    """
    if limits.sum() < total * (1 - 1e-12):
        raise ValueError("the limits hold less than the total")
    parts = np.zeros_like(weights)
    free = weights > 0
    # Each round fixes at least one part, so there are at most as many rounds as parts.
    while free.any():
        rest = total - parts[~free].sum()
        parts[free] = rest * weights[free] / weights[free].sum()
        over = free & (parts > limits)
        if not over.any():
            break
        parts[over] = limits[over]
        free &= ~over
    return parts


def _pool(sizes: Sizes, data: PhaseData, per_token: float) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Shares and capped streams when all sources are one pool."""
    totals = _by_language(sizes)
    tokens = np.array(list(totals.values()), dtype=np.float64)
    if tokens.sum() * per_token < 1 - 1e-9:
        raise _too_long("all data", 1 / per_token, tokens.sum())
    # The temperature acts on a language's total, so that a language in ten sources is not boosted ten times.
    weights = _with_fixed(list(totals), annealed(tokens, data.temperature), data.fixed)
    parts = dict(zip(totals, fill(weights, tokens * per_token, 1.0).tolist(), strict=True))
    held = {code for code, size in totals.items() if _is_held(parts[code], size * per_token)}
    # Within a language its sources are drawn by size: each of its texts is repeated equally often.
    shares = {stream: parts[stream[1]] * size / totals[stream[1]] for stream, size in sizes.items()}
    return shares, {stream for stream in sizes if stream[1] in held}


def _with_fixed(codes: Sequence[str], weights: NDArray[np.float64], fixed: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights that add up to 1: the ``fixed`` languages have their share, the others keep their proportions."""
    weights = weights.copy()
    free = np.ones(len(codes), dtype=bool)
    for code, share in fixed.items():
        own = np.array([languages.matches(language, (code,)) for language in codes])
        if not own.any():
            raise ConfigError(
                f"data.fixed.{code}: no text in this language in the phase; remove it or change data.languages"
            )
        # One code may stand for several streams of languages (fra for fra_Latn): they divide its share by their
        # weights.
        weights[own] *= share / weights[own].sum()
        free &= ~own
    if free.any():
        weights[free] *= (1.0 - sum(fixed.values())) / weights[free].sum()
    return weights


def _budgets(
    sizes: Sizes, budgets: Mapping[str, Budget], temperature: float, per_token: float, relative: Collection[str]
) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Shares and capped streams when every source has a budget: first over the sources, then inside each."""
    members: dict[str, list[tuple[str, str]]] = {source: [] for source, budget in budgets.items() if budget.tokens}
    for stream in sizes:
        if stream[0] in members:
            members[stream[0]].append(stream)
    for source, streams in members.items():
        if not streams:
            raise ConfigError(
                f"data.mixture.{source}: no text in the languages of the phase; remove it or change data.languages"
            )
    if not members:
        raise ConfigError("data.mixture gives every source 0 tokens")
    limit = {
        stream: math.inf if stream[0] in relative else sizes[stream] * per_token
        for streams in members.values() for stream in streams
    }  # fmt: skip
    # Caps first between sources, then inside each: what a source cannot give goes to the other sources in proportion.
    limits = np.array([sum(limit[stream] for stream in streams) for streams in members.values()])
    if limits.sum() < 1 - 1e-9:
        raise _too_long("all data of its sources", 1 / per_token, limits.sum() / per_token)
    budget_tokens = np.array([budgets[source].tokens for source in members], dtype=np.float64)
    parts = fill(budget_tokens / budget_tokens.sum(), limits, 1.0)
    shares = dict.fromkeys(sizes, 0.0)
    for (source, streams), part in zip(members.items(), parts.tolist(), strict=True):
        own = budgets[source].temperature
        weights = annealed([sizes[stream] for stream in streams], temperature if own is None else own)
        filled = fill(weights, np.array([limit[stream] for stream in streams]), part)
        shares.update(zip(streams, filled.tolist(), strict=True))
    return shares, {stream for stream in limit if _is_held(shares[stream], limit[stream])}


def _is_held(share: float, limit: float) -> bool:
    return share >= limit * (1 - 1e-9)


def _too_long(what: str, allowed: float, tokens: float) -> ConfigError:
    """The error for a phase that cannot be filled. ``allowed``: the tokens it needs; ``tokens``: those there are."""
    return ConfigError(
        f"the phase's tokens exceed data.max_epochs times {what}: there are {tokens:,.0f} tokens of text and the phase "
        f"needs {allowed:,.0f} at that cap; lower the phase's tokens, raise data.max_epochs (null: no cap) or add text"
    )


def _by_language(sizes: Sizes) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for (_, language), size in sizes.items():
        totals[language] += size
    return dict(totals)


def choose_languages(wanted: str | int | Sequence[str], totals: Mapping[str, float]) -> set[str]:
    """The languages of ``totals`` (language -> tokens) that a phase admits.

    ``all``; the so many largest, with program code on top; or codes (``fra`` admits ``fra_Latn``). Raises ConfigError
    for a code that is no language; languages without text are named in a warning.
    """
    if wanted == "all":
        return set(totals)
    if isinstance(wanted, int):
        if wanted < 1:
            raise ConfigError(f"data.languages is {wanted}: it must admit at least one language")
        by_size = sorted(set(totals) - {CODE}, key=lambda code: (-totals[code], code))
        return {*by_size[:wanted], *({CODE} & set(totals))}
    codes: dict[str, list[str]] = defaultdict(list)  # by language without script: lists are long
    for code in [wanted] if isinstance(wanted, str) else wanted:
        normal = languages.normalise(code)
        codes[normal.partition("_")[0]].append(normal)
    chosen, matched = set(), set()
    for have in totals:
        language = languages.normalise(have).partition("_")[0]
        group = [*codes.get(language, []), *codes.get(languages.macrolanguage(language) or "", [])]
        admitting = [code for code in group if languages.matches(have, [code])]
        matched.update(admitting)
        if admitting:
            chosen.add(have)
    missing = [code for group in codes.values() for code in group if code not in matched]
    if missing:
        some = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        log.warning("%d of the phase's languages have no text: %s", len(missing), some)
    return chosen
