"""Sentences by which an export is compared with its model: many scripts, a mask, one token, none, and a long text."""

from __future__ import annotations

_ARTICLES = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood. Everyone is entitled to all the rights and "
    "freedoms set forth in this Declaration, without distinction of any kind, such as race, colour, sex, language, "
    "religion, political or other opinion, national or social origin, property, birth or other status. Furthermore, "
    "no distinction shall be made on the basis of the political, jurisdictional or international status of the "
    "country or territory to which a person belongs, whether it be independent, trust, non-self-governing or under "
    "any other limitation of sovereignty. Everyone has the right to life, liberty and security of person. No one "
    "shall be held in slavery or servitude; slavery and the slave trade shall be prohibited in all their forms. No "
    "one shall be subjected to torture or to cruel, inhuman or degrading treatment or punishment. Everyone has the "
    "right to recognition everywhere as a person before the law. All are equal before the law and are entitled "
    "without any discrimination to equal protection of the law. All are entitled to equal protection against any "
    "discrimination in violation of this Declaration and against any incitement to such discrimination. Everyone "
    "has the right to an effective remedy by the competent national tribunals for acts violating the fundamental "
    "rights granted him by the constitution or by law."
)

TEXTS = (
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Paris is <mask>.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "人人生而自由,在尊严和权利上一律平等。",
    "x",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "",
    _ARTICLES,
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ሰው፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
    "எல்லா மனிதப் பிறவிகளும் சுதந்திரமாகவே பிறக்கின்றன.",
)
"""The first articles of the Universal Declaration of Human Rights, mostly. Neighbours differ in length: batches pad."""
