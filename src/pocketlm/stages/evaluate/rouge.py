"""ROUGE of written answers (Lin 2004), through the package rouge-score, without any download.

F measures of words (ROUGE-1), pairs of words (ROUGE-2) and the longest common subsequence
(ROUGE-L). rouge-score knows words of a-z and 0-9 alone and would drop Chinese altogether, so here
every Han, kana or Hangul character is a word of its own, as for the Chinese summaries of LCSTS
(Hu et al. 2015). No stemming: it is English, and both languages are to be measured alike.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from pocketlm.errors import UserError
from pocketlm.statistics import Floats

KINDS = ("rouge1", "rouge2", "rougeL")
# Han with its extensions and compatibility forms, kana, Hangul syllables; then ASCII words.
_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]"
    "|[a-z0-9]+"
)


class _Words:
    """What rouge-score takes for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-case ASCII words, and each CJK character."""
        return _WORD.findall(text.lower())


def rouge(answers: Sequence[tuple[str | None, str | None]]) -> Floats:
    """ROUGE-1, ROUGE-2 and ROUGE-L of (written, reference), [N] -> [N, 3], in 0 to 1.

    NaN where nothing was to be written (either is None); 0 for an empty answer. Raises `UserError`
    without rouge-score, unless nothing was written at all.
    """
    rouge_N3 = np.full((len(answers), len(KINDS)), np.nan)
    written = [n for n, answer in enumerate(answers) if None not in answer]
    if not written:
        return rouge_N3
    scorer = _scorer()
    for n in written:
        answer, reference = answers[n]
        scores = scorer.score(reference, answer)
        rouge_N3[n] = [scores[kind].fmeasure for kind in KINDS]
    return rouge_N3


def check_rouge() -> None:
    """Raise `UserError` where rouge-score is not installed."""
    if find_spec("rouge_score") is None:
        raise UserError("written answers need rouge-score: pip install 'pocketlm[eval]'")


def _scorer() -> Any:
    check_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=False, tokenizer=_Words())
