r"""The tokenizer: text to ids and back, for any ``tokenizer.json``.

A tokenizer knows three forms of text:

- :meth:`Tokenizer.encode_batch`, bare: what shards hold. ``<mask>`` in a corpus is six characters, not a mask;
- :meth:`Tokenizer.encode` and :meth:`Tokenizer.pack`: ``<bos> text <eos>``, what the model reads;
- with ``specials=True``, the same where special strings in the text are special tokens: ``"Paris is <mask>."``.

``<bos>``, ``<eos>`` and ``<mask>`` stand for whatever has these roles in a file (``specials.py``): ``<s> text </s>`` in
the Unigram tokenizers of XLM-R's family, ``[CLS] text [SEP]`` in the WordPiece tokenizers of BERT's.

What is lossless. Tokenizers trained here keep the space as a space, so that ``decode(encode(text)) == text`` for all
of Unicode. Gemma 2's own form and the Metaspace form of the released mmBERT write a space as U+2581 and therefore
read a U+2581 of the text as a space. Metaspace also puts a space before the text and behind every added token (tags,
runs of newlines): ``"a\nb"`` has the ids of ``"a\n b"``. Decoding takes the first of these spaces away, together with
one that was there, and keeps the others. This is in their files and stays as it is. Older tokenizers lose more: XLM-R's
family writes compatibility characters and runs of spaces in one way (NFKC), BERT's drops white space, and often case
and accents; what their vocabularies lack is ``<unk>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mmbert.cancellation import check_cancelled, count_tokens
from mmbert.errors import DataError, TokenizerError
from mmbert.files import write_text
from mmbert.io.stream import read_text
from mmbert.packed import Packed
from mmbert.tokenizer.folder import download, read_config, write_side_files
from mmbert.tokenizer.guard import no_panic, unreadable
from mmbert.tokenizer.json_form import as_special, fingerprint_of, read_json, sharing, spacing_of
from mmbert.tokenizer.load_bpe import load_bpe
from mmbert.tokenizer.long_texts import chunks, encode_all
from mmbert.tokenizer.specials import add_specials, around, find_specials, kept_apart
from mmbert.tokenizer.spelling import SPACE, continuing_prefix, falls_back_to_bytes, opens_word, spelled_bytes

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How byte fallback writes a byte."""


class Tokenizer:
    """A tokenizer with tokens for padding, for both ends of a text, for what is unknown and, but for some, for masks.

    Made by :meth:`load` or ``train_tokenizer``.
    """

    def __init__(
        self, content: str | tokenizers.Tokenizer, origin: str, *, config: Mapping[str, Any] | None = None
    ) -> None:
        """Read the text of a ``tokenizer.json``, or take what it holds.

        origin  names it in errors
        config  the ``tokenizer_config.json`` beside it, which names special tokens
        Raises TokenizerError.
        """
        self.origin = origin
        self._marked = read_json(content, origin) if isinstance(content, str) else content
        self._marked.no_truncation()
        self._marked.no_padding()
        self.specials = find_specials(self._marked, config or {}, origin)
        """Role (``pad eos bos unk mask``) -> content of the special tokens; without ``mask`` if there is none."""
        add_specials(self._marked, self.specials)
        self._added: dict[int, tokenizers.AddedToken] = self._marked.get_added_tokens_decoder()
        ids = ((role, self._marked.token_to_id(token)) for role, token in self.specials.items())
        self.role_ids: dict[str, int] = {role: index for role, index in ids if index is not None}
        """Role -> id of the same tokens."""
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = (
            self.role_ids[role] for role in ("pad", "eos", "bos", "unk")
        )
        self._template = self._marked.post_processor
        self._marked.post_processor = around(self.specials, self.role_ids, origin)

    @classmethod
    def load(cls, name: str | Path, revision: str | None = None) -> Tokenizer:
        """Load a folder with a ``tokenizer.json``, such a file, or a repository of the hub at ``revision``.

        The ``tokenizer_config.json`` beside it, if there is one, names special tokens. Raises TokenizerError if there
        is no tokenizer, it cannot be read, or it lacks a special token.
        """
        path = Path(name)
        if path.is_dir():
            path = path / "tokenizer.json"
        if not path.is_file():
            path = download(str(name), revision)
        try:
            return cls(load_bpe(path, str(path)) or read_text(path), str(path), config=read_config(path))
        except DataError as error:
            raise TokenizerError(str(error)) from error

    @cached_property
    def vocab_size(self) -> int:
        """Return the number of ids, added tokens included: one more than the largest."""
        model, added = self._marked.model, max(self._added, default=-1) + 1
        size = self._marked.get_vocab_size(with_added_tokens=False)
        # as many tokens as ids from 0 on: then no id is larger, and a table of all tokens need not be made
        if None not in map(model.id_to_token, range(size)):
            return max(size, added)
        return max(self._marked.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def has_mask(self) -> bool:
        """Return whether there is a token for masks."""
        return "mask" in self.role_ids

    @property
    def mask_id(self) -> int:
        """Return the id of the mask. Raises TokenizerError if the tokenizer has none."""
        if not self.has_mask:
            raise TokenizerError(f"{self.origin} has no mask token: masked language modelling needs one")
        return self.role_ids["mask"]

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Return the ids that stand for no text, ascending: those with a role, and all that the file marks special."""
        return tuple(
            sorted({*self.role_ids.values(), *(index for index, token in self._added.items() if token.special)})
        )

    @cached_property
    def byte_tokens(self) -> dict[int, int]:
        """Return id -> byte of the existing tokens <0x00> .. <0xFF>; empty without byte fallback."""
        if not falls_back_to_bytes(self._marked.model):
            return {}
        ids = {self._marked.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        return {index: byte for index, byte in ids.items() if index is not None}

    @cached_property
    def byte_ids(self) -> tuple[int, ...]:
        """Return the ids of the tokens for the bytes 0x00 .. 0xFF, in this order; empty without byte fallback.

        A byte without a <0xNN> has the token of its character, as the tab of Gemma 2, or else <unk>.
        """
        if not self.byte_tokens:
            return ()
        ids = {byte: index for index, byte in self.byte_tokens.items()}
        for byte in range(256):
            literal = self._marked.token_to_id(chr(byte)) if byte < 0x80 else None
            ids.setdefault(byte, self.unk_id if literal is None else literal)
        return tuple(ids[byte] for byte in range(256))

    @cached_property
    def puts_space(self) -> bool:
        """Return whether the tokenizer puts a space before a text that begins with a letter."""
        (ids,) = self.encode_batch(["a"])
        return len(ids) > 0 and (self.id_to_token(ids[0]) or "").startswith((SPACE, " ", "\u0120"))

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of all that affects ids: model, normaliser, splitting, added tokens.

        False and null count as absent, so that the same tokenizer written by a newer library keeps its fingerprint.
        """
        return fingerprint_of(self._marked)

    @cached_property
    def written(self) -> Any:
        """Return the ``tokenizers.Tokenizer`` of the file, with the special tokens that the file puts around texts."""
        written = sharing(self._marked, self._added)
        if self._template is not None:
            written.post_processor = self._template
        return written

    def encode_written(self, *texts: str) -> Any:
        """Return what the file makes of a text, or of two, with its special tokens: an ``Encoding`` of tokenizers."""
        with no_panic(self.origin):
            return self.written.encode(*texts)

    @cached_property
    def _plain(self) -> Any:
        """Return the tokenizer that ignores special strings in text (Gemma's file does not mark <mask> as special)."""
        roles = {*self.specials.values()}
        added = {index: as_special(token) if token.content in roles else token for index, token in self._added.items()}
        plain = sharing(self._marked, added)
        plain.encode_special_tokens = True
        kept_apart(plain, [token.content for token in added.values() if token.special])
        return plain

    def encode_batch(self, texts: Sequence[str], *, specials: bool = False, first: int = 0) -> list[np.ndarray]:
        """Encode texts: the ids of each, uint32, without <bos> and <eos>. Uses all cores and releases the GIL.

        specials  read special strings in the text as special tokens
        first     number of the first text, for messages

        Raises TokenizerError, naming the place in the list, for what is not text or holds a lone surrogate.
        """
        rust = self._marked if specials else self._plain
        found = self._encode(rust.encode_batch_fast, texts, first)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in found]

    def encode_spans(
        self, texts: Sequence[str], *, specials: bool = False, first: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode texts as :meth:`encode_batch`, and return with the ids their characters: (n, 2) int64, [start, end).

        A space before a word is part of its token. The tokens of a character that is spelled in bytes all have that
        character; a token that is only the space which the tokenizer puts before a text has none: start == end.
        """
        return encode_all(lambda some, number: self._spans(some, specials, number), texts, first)

    def _spans(self, texts: Sequence[str], specials: bool, first: int) -> list[tuple[np.ndarray, np.ndarray]]:
        rust = self._marked if specials else self._plain
        found = []
        for text, encoding in zip(texts, self._encode(rust.encode_batch, texts, first), strict=True):
            ids, spans = np.array(encoding.ids, np.uint32), np.array(encoding.offsets, np.int64).reshape(-1, 2)
            for place in np.flatnonzero(ids == self._space_put):
                start, end = spans[place].tolist()
                # a space of the text has characters of its own; one that was put shares them with the next token
                follows = place + 1 < len(spans) and spans[place + 1, 0] == start
                if text[start:end] != SPACE and (follows or not text[start:end].isspace()):
                    spans[place, 1] = start
            count_tokens(len(ids))
            found.append((ids, spans))
        return found

    @cached_property
    def _space_put(self) -> int:
        """Return the id of the token that is a lone space if the tokenizer puts spaces before texts; else -1."""
        index = self._marked.token_to_id(SPACE if SPACE in spacing_of(self._marked) else " ")
        return -1 if index is None or not self.puts_space else int(index)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], first: int) -> Iterator[Any]:
        for start, chunk in chunks(texts):
            check_cancelled()
            if not all(isinstance(text, str) for text in chunk):  # the library takes a list of two texts for a pair
                raise unreadable(chunk, first + start, TypeError())
            try:
                with no_panic(self.origin):
                    found = encode(chunk, add_special_tokens=False)
            except TokenizerError:
                raise
            except Exception as error:
                raise unreadable(chunk, first + start, error) from error
            yield from found

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Return the ids of ``<bos> text <eos>``. Raises TokenizerError as :meth:`encode_batch` does."""
        return [self.bos_id, *self.encode_batch([text], specials=specials)[0].tolist(), self.eos_id]

    def pack(self, texts: Sequence[str], max_tokens: int | None = None, *, specials: bool = False) -> Packed:
        """Encode texts into one batch, each as ``<bos> text <eos>``.

        max_tokens  longest sequence, ends included; longer texts are cut
        Raises TokenizerError for no texts, or as :meth:`encode_batch` does.
        """
        if isinstance(texts, str) or not texts:
            raise TokenizerError("pack needs a list of at least one text")
        if max_tokens is not None and max_tokens < 2:
            raise TokenizerError(f"max_tokens is {max_tokens}: <bos> and <eos> alone are 2")
        rows = self.encode_batch(texts, specials=specials)
        longest = None if max_tokens is None else max_tokens - 2
        bos, eos = np.array([self.bos_id], np.uint32), np.array([self.eos_id], np.uint32)
        return Packed.from_lists([np.concatenate([bos, row[:longest], eos]) for row in rows])

    def decode(self, ids: Iterable[int], *, specials: bool = False) -> str:
        """Return the text of ids; ``specials`` keeps special tokens in it. Broken characters become U+FFFD.

        Raises TokenizerError for an id that is not in the vocabulary.
        """
        numbers = [int(index) for index in ids]
        wrong = next((index for index in numbers if not 0 <= index < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(f"id {wrong} is not in the vocabulary of {self.origin} (0 to {self.vocab_size - 1})")
        if not specials:
            hidden = set(self.role_ids.values())
            numbers = [index for index in numbers if index not in hidden]
        with no_panic(self.origin):
            text: str = self._marked.decode(numbers, skip_special_tokens=not specials)
        return text.removeprefix(" ") if self._leaves_space else text

    @cached_property
    def _leaves_space(self) -> bool:
        """Return whether the file's decoder leaves the space that was put before a text."""
        return self.puts_space and bool(self._marked.decode(self.encode_batch(["a"])[0].tolist()).startswith(" "))

    def id_to_token(self, index: int) -> str | None:
        """Return the token as the file writes it (``▁Paris``, ``<0xE2>``); None for an id without one."""
        token: str | None = self._marked.id_to_token(int(index))
        return token

    def shown(self, index: int) -> str:
        """Return a token with the space before it written as ``▁``, whatever form the file has: ``▁Paris``, ``ing``."""
        name = self.id_to_token(index) or ""
        prefix = self.continuing_prefix
        if not prefix or index in self.special_ids:
            return name.replace(" ", SPACE)
        return name[len(prefix) :] if name.startswith(prefix) else SPACE * opens_word(name) + name

    @cached_property
    def continuing_prefix(self) -> str:
        """Return what WordPiece writes before a token that goes on with a word (``##``); empty for other models."""
        return continuing_prefix(self._marked.model)

    def token_texts(self) -> list[str]:
        """Return the text of each token (V,): empty for a special token, U+FFFD for a part of a character.

        WordPiece drops white space: a token that begins a word of letters or digits has one space before it here.
        """
        return [spelled.decode(errors="replace") for spelled in self._spelled()]

    def token_bytes(self) -> np.ndarray:
        """Return the UTF-8 bytes of each token's text (V,) int64: 1 for a byte token, 0 for a special token.

        Summed over a text's tokens this is the text's length in bytes; one more where the file puts a space before it.
        Where the file changes a text (NFKC, lower case, white space), it is about the length of what it makes of it;
        <unk> counts as nothing.
        """
        return np.array([len(spelled) for spelled in self._spelled()], dtype=np.int64)

    def _spelled(self) -> list[bytes]:
        return spelled_bytes(
            self._marked.get_vocab(with_added_tokens=True), specials={*self.special_ids}, added=self._added,
            byte_tokens=self.byte_tokens, spacing=spacing_of(self._marked), continuing=self.continuing_prefix,
        )  # fmt: skip

    def normalise(self, text: str) -> str:
        """Return the text as the model of the tokenizer sees it, before it is split."""
        normalizer = self._marked.normalizer
        with no_panic(self.origin):
            return text if normalizer is None else str(normalizer.normalize_str(text))

    def split_words(self, text: str) -> list[str]:
        """Return the words of a text that the model cuts, each by itself; special strings are text."""
        normalised, splitter = self.normalise(text), self._plain.pre_tokenizer
        with no_panic(self.origin):
            return [normalised] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normalised)]

    def save(self, folder: Path, *, max_tokens: int = 8192, as_written: bool = False) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json`` for Hugging Face readers.

        The class is named PreTrainedTokenizerFast, which transformers 4 and 5 both know, and loads the same ids as
        :meth:`encode` gives.

        max_tokens  the model's longest sequence
        as_written  pairs of texts are joined as the file that was read joins them, not as ``<bos> a <eos> b <eos>``
        """
        folder = Path(folder)
        rust = self.written if as_written else self._marked
        write_text(folder / "tokenizer.json", rust.to_str(pretty=True) + "\n")
        write_side_files(folder, self.specials, self.role_ids, self._added, max_tokens)
