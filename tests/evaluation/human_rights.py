"""A sentence in four languages of three scripts (Universal Declaration of Human Rights, article 1)."""

from __future__ import annotations

TEXTS = {
    "eng_Latn": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "fra_Latn": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "ell_Grek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hin_Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
