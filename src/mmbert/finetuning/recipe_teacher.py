"""The options of a recipe about a teacher: a tuned model whose logits a smaller one learns (``classify``, ``tag``,
``rerank``).

Rows need no labels then: those without one learn from the teacher alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmbert.recipe_file import Spec

TAUGHT = ("classify", "tag", "rerank")
"""Tasks that a teacher's logits can be learnt in."""

UNREAD_OPTIONS = (
    ("teacher", "temperature", ("rerank",), "its one logit is compared as it is"),
    ("teacher", "doc_stride", ("tag", "rerank"), "only texts of classify are read in windows of this kind"),
    ("teacher", "outside", ("tag", "rerank"), "its windows have no labels of their own"),
)
"""As ``_UNREAD`` of :mod:`mmbert.finetuning.recipe`: (block, option, tasks that do not read it, why)."""


class Teacher(Spec):
    """A tuned model whose logits are learnt beside the labels (Hinton et al. 1503.02531).

    The student's labels are the teacher's, in its order. The loss of an example is, for the teacher's logits t, the
    student's z and a temperature T:

        classes, words    T^2 KL(softmax(t / T) || softmax(z / T))
        several classes   T^2 BCE(sigmoid(t / T), sigmoid(z / T)) of each class
        numbers, rerank   (t - z)^2: both are on the teacher's scale, and a sigmoid would make documents alike whose
                          order the teacher knows; this is the limit of the first line for a high temperature (section
                          2.1), and what sentence-transformers' examples distil rerankers with
    """

    model: str
    """Folder or hub name of a tuned classifier, tagger or reranker: of this package, or any of transformers that has
    safetensors."""
    revision: str | None = None
    """Commit of ``model`` to read, if that is a hub name."""
    temperature: float = Field(2.0, gt=0)
    """Both distributions are softened by it (DistilBERT's script: 2; the paper tries 1 to 20: smaller students want
    lower ones)."""
    weight: float = Field(0.9, gt=0, le=1)
    """Weight of the teacher's loss; the labels' has the rest. The paper found "a considerably lower weight" of the
    labels best. An example without a label learns from the teacher alone, with weight 1, and so does every one for
    ``rerank.loss`` mse and margin_mse."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Precision of the teacher's matrices, as in ``Classifier.load``; its logits are kept in float16 (numbers and
    rerankers' scores: in float32)."""
    doc_stride: int | None = Field(None, ge=1)
    """``classify``: read texts longer than ``training.max_tokens`` in windows that share so many tokens, each an
    example with its own logits of the teacher. null: such texts are truncated, and the teacher reads what is left."""
    outside: str | None = None
    """``classify``, with ``doc_stride``: rows may say where in the text their label lies (``start``, ``end``, in
    characters). Windows that touch the span have the label; the others have this one (``benign``), or with null none,
    and learn from the teacher alone. All windows of a row without a span have its label."""
    cache: str | None = None
    """Folder for the teacher's logits, computed once before training; runs of one teacher on the same texts may share
    it. null: ``teacher`` in the run's folder."""
