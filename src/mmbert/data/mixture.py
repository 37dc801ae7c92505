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
    """The share of one stream in a phase."""

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


@dataclass(frozen=True)
class Mixture:
    """The shares of a phase, sorted by source and language. They sum to 1."""

    streams: tuple[StreamShare, ...]
    tokens: int
    """Tokens of the phase."""


def mixture(phase: Phase, sizes: Sizes, *, relative: Collection[str] = ()) -> Mixture:
    """Return the shares of a phase over streams of the given sizes.

    relative  sources whose sizes are known up to a factor only: they have no epochs and no cap
    Raises ConfigError if the phase names languages or sources without text, or asks for more than max_epochs allows.
    """
    sizes = {stream: size for stream, size in sizes.items() if size > 0}
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
    per_token = most / phase.tokens if phase.tokens else math.inf  # the largest share a token of text may take
    if budgets is None:
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
    """Return shares in proportion to size ** temperature (sizes > 0) that sum to 1."""
    logs = np.log(np.asarray(sizes, dtype=np.float64)) * temperature
    weights = np.exp(logs - logs.max())  # in logs: sizes of 1e12 to powers of 0.3 and below stay exact
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
    while free.any():
        # Each round holds at least one more part at its limit, so there are at most as many rounds as parts.
        rest = total - parts[~free].sum()
        parts[free] = rest * weights[free] / weights[free].sum()
        over = free & (parts > limits)
        if not over.any():
            break
        parts[over] = limits[over]
        free &= ~over
    return parts


def _pool(sizes: Sizes, data: PhaseData, per_token: float) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Return shares and capped streams when all sources form one pool."""
    totals = _by_language(sizes)
    # The temperature applies to the total of a language; its sources divide the share by size.
    tokens = np.array(list(totals.values()), dtype=np.float64)
    if tokens.sum() * per_token < 1 - 1e-9:
        raise _too_long("all data", 1 / per_token, tokens.sum())
    weights = _with_fixed(list(totals), annealed(tokens, data.temperature), data.fixed)
    parts = dict(zip(totals, fill(weights, tokens * per_token, 1.0).tolist(), strict=True))
    held = {code for code, size in totals.items() if _is_held(parts[code], size * per_token)}
    shares = {stream: parts[stream[1]] * size / totals[stream[1]] for stream, size in sizes.items()}
    return shares, {stream for stream in sizes if stream[1] in held}


def _with_fixed(codes: Sequence[str], weights: NDArray[np.float64], fixed: Mapping[str, float]) -> NDArray[np.float64]:
    """Return weights that sum to 1: the ``fixed`` languages have their share, the others keep their proportions."""
    weights = weights.copy()
    free = np.ones(len(codes), dtype=bool)
    for code, share in fixed.items():
        own = np.array([languages.matches(language, (code,)) for language in codes])
        if not own.any():
            raise ConfigError(
                f"data.fixed.{code}: no text in this language in the phase; remove it or change data.languages"
            )
        weights[own] *= share / weights[own].sum()
        free &= ~own
    if free.any():
        weights[free] *= (1.0 - sum(fixed.values())) / weights[free].sum()
    return weights


def _budgets(
    sizes: Sizes, budgets: Mapping[str, Budget], temperature: float, per_token: float, relative: Collection[str]
) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Return shares and capped streams when every source has a budget: first over the sources, then inside each."""
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
    limits = np.array([sum(limit[stream] for stream in streams) for streams in members.values()])
    if limits.sum() < 1 - 1e-9:
        raise _too_long("all data of its sources", 1 / per_token, limits.sum() / per_token)
    budget_tokens = np.array([budgets[source].tokens for source in members], dtype=np.float64)
    # First the sources by budget, each limited by all its text; then the languages of each source by temperature.
    parts = fill(budget_tokens / budget_tokens.sum(), limits, 1.0)
    shares = dict.fromkeys(sizes, 0.0)
    for (source, streams), part in zip(members.items(), parts.tolist(), strict=True):
        own = budgets[source].temperature
        weights = annealed([sizes[stream] for stream in streams], temperature if own is None else own)
        filled = fill(weights, np.array([limit[stream] for stream in streams]), part)
        shares.update(zip(streams, filled.tolist(), strict=True))
    return shares, {stream for stream in limit if _is_held(shares[stream], limit[stream])}


def _is_held(share: float, limit: float) -> bool:
    return share >= limit * (1 - 1e-9)  # fill() sets parts to their limits exactly, up to rounding


def _too_long(what: str, allowed: float, tokens: float) -> ConfigError:
    """Return the error for a phase that needs ``allowed`` tokens at the cap when there are only ``tokens``."""
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
    """Return the languages of ``totals`` (language -> tokens) that a phase admits.

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
    chosen, found = set(), set()
    for have in totals:
        language = languages.normalise(have).partition("_")[0]
        group = [*codes.get(language, []), *codes.get(languages.macrolanguage(language) or "", [])]
        admitting = [code for code in group if languages.matches(have, [code])]
        found.update(admitting)
        if admitting:
            chosen.add(have)
    missing = [code for group in codes.values() for code in group if code not in found]
    if missing:
        some = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        log.warning("%d of the phase's languages have no text: %s", len(missing), some)
    return chosen
