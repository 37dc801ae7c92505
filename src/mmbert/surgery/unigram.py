"""The Unigram model of a ``tokenizer.json`` (XLM-R and the sentence encoders that came from it) with fewer tokens.

It cuts a word into those tokens whose scores (log probabilities) have the largest sum; a character that is no token by
itself may be <unk>, whose score is 10 below the smallest of all. Three facts follow, on which trimming rests:

1. A token that the best way does not use can go: no other way gets a better sum by that, and ways of the same sum are
   compared in the same order as before.
2. If a single character goes, <unk> may take its place in other ways; its score is lower than that of any token, so
   these ways lose as before.
3. The score of <unk> depends on the smallest score. The token that has it is kept, so it stays the same.

So a text whose tokens are all kept is cut as before, <unk> included.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmbert.surgery.tokenizer_json import Json, TokenizerJson


class Unigram(TokenizerJson):
    """The tokens of a Unigram model. Random sampling of ways (``alpha``, ``nbest_size``) is refused."""

    kind = "Unigram"
    refused = ("alpha", "nbest_size")

    def _vocabulary(self) -> dict[str, int]:
        return {token: index for index, (token, _) in enumerate(self._content["model"]["vocab"])}

    def always(self) -> list[str]:
        """Return the tokens that are kept whatever the text, with that of the smallest score."""
        vocab = self._content["model"]["vocab"]
        lowest = min(score for _, score in vocab)
        return [*super().always(), next(token for token, score in reversed(vocab) if score == lowest)]

    def _restricted_model(self, new: Mapping[int, int]) -> Json:
        old = self._content["model"]
        model = self._model_without("vocab")
        # A list: places are ids. Added tokens that stand behind it in the numbering are not in it.
        model["vocab"] = [old["vocab"][index] for index in new if index < len(old["vocab"])]
        if old.get("unk_id") is not None:
            model["unk_id"] = new[old["unk_id"]]
        return model
