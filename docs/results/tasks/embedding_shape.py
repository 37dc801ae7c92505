"""How alike the vectors of different tokens are: the shape of a model's table of embeddings.

    python docs/results/tasks/embedding_shape.py MODEL [MODEL ...]

Mean cosine of pairs of tokens (0: they share nothing; 1: all are one), and the length of their mean beside their median
length. Words seen seldom are pushed along one direction by the softmax over a tied table, which Adam's step per element
enlarges (Gao et al. 1907.12009; Stollenwerk and Stollenwerk 2502.08441).
"""

from __future__ import annotations

import sys

import torch

from mmbert.model.encoder import Encoder

PAIRS, FIRST = 20_000, 300
"""Pairs of tokens that are compared; below FIRST are specials and bytes."""


def main(models: list[str]) -> None:
    for model in models:
        table = Encoder.load(model).embeddings.tok_embeddings.weight.detach()
        lengths = table.norm(dim=1)
        plain = table / lengths[:, None]
        draw = torch.Generator().manual_seed(0)
        one, two = torch.randint(FIRST, len(table), (2, PAIRS), generator=draw)
        cosine = (plain[one] * plain[two]).sum(1).mean().item()
        print(f"{model}: cosine {cosine:.2f}, mean {table.mean(0).norm().item():.2f} of {lengths.median().item():.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
