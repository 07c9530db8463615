"""Guess in which scripts and languages texts are.

A guess about a short text is often a rare language that looks like a common one. So a language counts only if several
texts are guessed to be in it; every other text is in that one of these languages that fits it best.
Limits: a text in two languages counts for one; kana, in any share, means Japanese.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache
from typing import Any

SCRIPT_CHARACTERS = 2000  # at the start of a text that its script is decided by
# A language counts if so many texts of a script are guessed to be in it, and such a share of them.
_KNOWN_LEAST = (2, 0.05)
_RARE_LEAST = (10, 0.3)  # a language that is not in `_NAMES`
_NAMES = (
    "af Afrikaans,am Amharic,ar Arabic,as Assamese,az Azerbaijani,be Belarusian,bg Bulgarian,bn Bengali,bs Bosnian,"
    "ca Catalan,cs Czech,cy Welsh,da Danish,de German,el Greek,en English,eo Esperanto,es Spanish,et Estonian,"
    "eu Basque,fa Persian,fi Finnish,fr French,ga Irish,gl Galician,gu Gujarati,ha Hausa,he Hebrew,hi Hindi,"
    "hr Croatian,hu Hungarian,hy Armenian,id Indonesian,ig Igbo,is Icelandic,it Italian,ja Japanese,jv Javanese,"
    "ka Georgian,kk Kazakh,km Khmer,kn Kannada,ko Korean,ku Kurdish,ky Kyrgyz,la Latin,lo Lao,lt Lithuanian,lv Latvian,"
    "mg Malagasy,mk Macedonian,ml Malayalam,mn Mongolian,mr Marathi,ms Malay,mt Maltese,my Burmese,ne Nepali,nl Dutch,"
    "no Norwegian,or Odia,pa Punjabi,pl Polish,ps Pashto,pt Portuguese,ro Romanian,ru Russian,sa Sanskrit,si Sinhala,"
    "sk Slovak,sl Slovenian,so Somali,sq Albanian,sr Serbian,sv Swedish,sw Swahili,ta Tamil,te Telugu,th Thai,"
    "tl Tagalog,tr Turkish,tt Tatar,ug Uyghur,uk Ukrainian,ur Urdu,uz Uzbek,vi Vietnamese,yo Yoruba,zh Chinese,zu Zulu"
)
_KNOWN = dict(one.split(" ", 1) for one in _NAMES.split(","))  # ISO 639-1 code -> name
_OTHER = "other languages"
_ONE_LANGUAGE = {"Japanese": "Japanese", "Hangul": "Korean"}  # script -> the language that is written in it


def languages_of(texts: list[str]) -> dict[str, int]:
    """Name of the guessed language -> number of texts, the most frequent first."""
    return dict(Counter(filter(None, language_of_each(texts))).most_common())


def language_of_each(texts: list[str]) -> list[str]:
    """The name of the guessed language of each text; empty for a text without letters."""
    by_script: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        by_script[script_of(text)].append(number)
    found = [""] * len(texts)
    for script, some in by_script.items():
        if script == "none":
            continue
        one = _ONE_LANGUAGE.get(script)
        names = [one] * len(some) if one else _guessed([texts[number] for number in some])
        for number, name in zip(some, names, strict=True):
            found[number] = name
    return found


def _guessed(texts: list[str]) -> list[str]:
    """The languages of texts in one script."""
    import py3langid.langid as langid  # imported late: it loads its model

    ranks: list[list[tuple[str, Any]]] = [langid.rank(text) for text in texts]
    first = Counter(rank[0][0] for rank in ranks)
    known, rare = (max(fewest, share * len(texts)) for fewest, share in (_KNOWN_LEAST, _RARE_LEAST))
    candidates = {code for code, count in first.items() if count >= (known if code in _KNOWN else rare)}
    if not candidates:  # few texts, or many languages: what fits all of them together best
        together: Counter[str] = Counter()
        for rank in ranks:
            together.update({code: float(score) for code, score in rank if code in _KNOWN})
        candidates = {together.most_common(1)[0][0]}
    chosen = (next(code for code, _ in rank if code in candidates) for rank in ranks)
    return [_KNOWN.get(code, _OTHER) for code in chosen]


def script_of(text: str) -> str:
    """The script of most letters of a text, such as "Latin", by the first word of their Unicode names; else "none".

    A text with kana is "Japanese", however many ideographs it has.
    """
    scripts = Counter(_script(letter) for letter in text[:SCRIPT_CHARACTERS] if letter.isalpha())
    if not scripts:
        return "none"
    kana = scripts.pop("Hiragana", 0) + scripts.pop("Katakana", 0)
    if kana and kana + scripts["CJK"] >= sum(scripts.values()) - scripts["CJK"]:
        return "Japanese"
    return scripts.most_common(1)[0][0] if any(scripts.values()) else "none"


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    words = unicodedata.name(letter, "unnamed").replace("-", " ").split(" ")
    name = words[1] if words[0] in ("HALFWIDTH", "FULLWIDTH") and len(words) > 1 else words[0]
    return name.capitalize() if name != "CJK" else name
