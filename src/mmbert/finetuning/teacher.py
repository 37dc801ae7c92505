"""The teacher of a student of ``distil``: a sentence encoder of any architecture, here or behind an endpoint."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import PreTrainedTokenizerBase
from yaml import YAMLError

from mmbert.errors import ConfigError, DataError, WeightsError, first_line
from mmbert.files import secret
from mmbert.finetuning.recipe_distil import Distil
from mmbert.finetuning.sentence_model import quiet
from mmbert.hub import HubFailed, hub_file
from mmbert.training.run_folder import choose_precision

_RETRIES = 4
"""Times that a request to an endpoint is made again, after 1, 2, 4 and 8 seconds."""


class SentenceTeacher(Protocol):
    """What gives vectors of texts.

    name    folder, hub name, or model of an endpoint
    digest  of whatever its vectors depend on
    """

    name: str
    digest: str

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        """Return the vectors of texts (n, d), fp32."""
        ...


@runtime_checkable
class TokenTeacher(SentenceTeacher, Protocol):
    """What may give vectors of tokens too."""

    @property
    def pools_tokens(self) -> bool:
        """Whether a text's vector is the mean of its tokens' vectors, perhaps made to unit length."""
        ...

    def encode_tokens(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], /
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the vectors of texts (n, d), and for each text those of its tokens (t, d), fp32.

        ids  the student's tokens of each text, with the special ones around them
        The mean of a text's token vectors, those of a prompt included, is the text's vector. NaN for the first tokens
        of a text where the teacher, behind its prompt, reads others.
        """
        ...


def open_teacher(options: Distil, device: str) -> SentenceTeacher:
    """Return the teacher of a recipe. Raises ConfigError or WeightsError where there is none."""
    if not options.teacher:
        raise ConfigError("distil.teacher is empty: name a folder or hub name of a sentence encoder")
    return Endpoint(options) if options.endpoint is not None else LocalTeacher(options, device)


class LocalTeacher:
    """A model that sentence-transformers runs, in bf16 where the device is fast in it."""

    def __init__(self, options: Distil, device: str) -> None:
        self.name, self._batch = options.teacher, options.batch
        try:
            with quiet():
                # No remote code is run, and pickled weights are read by transformers as weights only.
                self.model = SentenceTransformer(
                    options.teacher, revision=options.teacher_revision, device=device,
                    model_kwargs={"dtype": torch.float32},
                )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise WeightsError(f"teacher {options.teacher}: sentence-transformers: {first_line(error)}") from error
        self.prompt = choose_prompt(options.prompt, self.model.prompts, self.model.default_prompt_name, self.name)
        self.digest = _digest(self.model, self.prompt)
        if choose_precision(torch.device(device), self.model.get_embedding_dimension() or 0) == "bf16":
            self.model.bfloat16()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts (n, d), fp32."""
        return np.stack([vector.float().cpu().numpy() for vector in self._encode(texts, "sentence_embedding")])

    def encode_tokens(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the vectors of texts and of their tokens (``TokenTeacher``)."""
        found: list[np.ndarray] = []
        tokens: list[np.ndarray] = []
        for features, own in zip(self._encode(texts, None), ids, strict=True):
            there = features["attention_mask"].bool()
            read, vectors = features["input_ids"][there].tolist(), features["token_embeddings"][there].float()
            whole, mean = features["sentence_embedding"].float(), vectors.mean(0)
            # The text's vector is the mean made as long as the modules behind pooling made it.
            vectors = vectors * (whole.norm() / mean.norm().clamp(min=1e-12))
            same = _common_end(read, own)
            part = vectors.new_full((len(own), vectors.shape[1]), torch.nan)
            if same:
                part[-same:] = vectors[-same:]
            if read[0] == own[0]:
                part[0] = vectors[0]
            found.append(whole.cpu().numpy())
            tokens.append(part.cpu().numpy())
        return np.stack(found), tokens

    @property
    def pools_tokens(self) -> bool:
        """Whether pooling takes the mean, and nothing but normalising is behind it."""
        first, *rest = self.model.children()
        means = [isinstance(module, Pooling) and module.pooling_mode == "mean" for module in rest]
        ends = [isinstance(module, Normalize) for module in rest[1:]]
        return isinstance(first, Transformer) and means[:1] == [True] and all(ends)

    def _encode(self, texts: Sequence[str], value: Any) -> list[Any]:
        """Return what the library gives as ``output_value`` for each text, in their order."""
        # The library sorts by characters; scripts differ so much in characters a token that a third would be padding.
        order = np.argsort(self._lengths(texts), kind="stable")
        found: list[Any] = [None] * len(texts)
        with quiet(), torch.inference_mode():
            for start in range(0, len(order), self._batch):
                rows = order[start : start + self._batch]
                some = self.model.encode(
                    [texts[row] for row in rows], prompt=self.prompt, batch_size=self._batch, convert_to_tensor=True,
                    show_progress_bar=False, output_value=value,
                )  # fmt: skip
                for row, each in zip(rows, some, strict=True):
                    found[row] = each
        return found

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text; of characters where the tokenizer is none of transformers."""
        if isinstance(self.model.tokenizer, PreTrainedTokenizerBase):
            return [len(ids) for ids in self.model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
        return [len(text) for text in texts]


def _common_end(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many numbers at the end of both are the same."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def choose_prompt(asked: str | None, prompts: dict[str, Any], default: str | None, name: str) -> str:
    """Return the text before every text of the teacher.

    Without a wish: the default prompt or, where the model has none, the one called ``query``: sides of a symmetric task
    take it (as e5's card says). Raises ConfigError for an empty name.
    """
    if asked is None:
        asked = default if default is not None else "query"
        return str(prompts.get(asked) or "")
    return str(prompts[asked] or "") if asked in prompts else asked


def _digest(model: SentenceTransformer, prompt: str) -> str:
    found = hashlib.blake2b(prompt.encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    found.update(str(model.max_seq_length).encode())
    return found.hexdigest()


def stated_licence(options: Distil) -> str | None:
    """Return the teacher's licence as its model card states it; None where no card does."""
    if options.endpoint is not None or options.vectors is not None or not options.teacher:
        return None
    card = Path(options.teacher) / "README.md"
    try:
        if not Path(options.teacher).is_dir():
            card = hub_file(options.teacher, "README.md", revision=options.teacher_revision)
        found = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError, YAMLError, HubFailed):
        return None  # what is wrong with the teacher itself is said when it is loaded
    return str(found) if found else None


class Endpoint:
    """A model behind ``/embeddings`` of a server that speaks OpenAI's form."""

    def __init__(self, options: Distil) -> None:
        assert options.endpoint is not None, "the caller asked for one"
        self.name, self._batch = options.teacher, options.batch
        self._url = f"{options.endpoint.rstrip('/')}/embeddings"
        if not self._url.startswith(("http://", "https://")):
            raise ConfigError(f"distil.endpoint {options.endpoint} is no URL: write http://HOST:PORT/v1")
        self._prompt = options.prompt or ""
        self.digest = hashlib.blake2b(
            "\0".join((self._url, self.name, self._prompt)).encode(), digest_size=16
        ).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts (n, d), fp32. Raises DataError where the server does not give them."""
        rows: list[Any] = []
        for start in range(0, len(texts), self._batch):
            some = [f"{self._prompt}{text}" for text in texts[start : start + self._batch]]
            answer = self._ask({"model": self.name, "input": some, "encoding_format": "float"})
            try:
                found = sorted(answer["data"], key=lambda row: row["index"])
                rows += [row["embedding"] for row in found]
                complete = len(found) == len(some)
            except (KeyError, TypeError) as error:
                raise DataError(f"{self._url} answers in another form than OpenAI's: {first_line(error)}") from error
            if not complete:
                raise DataError(f"{self._url} gave {len(found)} vectors for {len(some)} texts")
        try:
            return np.array(rows, dtype=np.float32)
        except ValueError as error:
            raise DataError(f"{self._url} gives vectors of several widths: {first_line(error)}") from error

    def _ask(self, content: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := secret("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(content).encode(), headers)
        for turn in range(_RETRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=120) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                # Overload passes; whatever else a server refuses, it will refuse again.
                if error.code not in (429, 500, 502, 503) or turn == _RETRIES:
                    raise DataError(f"{self._url} answers {error.code} {error.reason}: {_said(error)}") from error
            except (OSError, ValueError) as error:
                if turn == _RETRIES:
                    raise DataError(f"{self._url} cannot be reached: {first_line(error)}") from error
            time.sleep(2**turn)
        raise AssertionError("the last turn raises")


def _said(error: urllib.error.HTTPError) -> str:
    return " ".join(error.read(300).decode(errors="replace").split())
