"""Answers in many scripts and forms, and long contexts around them."""

from __future__ import annotations

# Name -> (text before the answer, answer, text after it). Tokens end where the answer ends.
WORDS = {
    "spaces": ("Anna lives in   ", "Oslo", "  and works."),
    "tabs": ("Anna\tlives\t", "Oslo", "\tBen\t"),
    "Windows line ends": ("Anna lives in\r\n", "Oslo", "\r\nBen in Rome\r\n"),
    "over Windows line ends": ("Anna lives ", "in\r\nOslo", " \r\n\r\n now"),
    "no-break spaces": ("in\u00a0", "Oslo", "\u00a0and\u202fRome"),
    "wide spaces": ("in\u3000", "Oslo", "\u3000and\u2003Rome"),
    "between byte-order marks": ("\ufeffin ", "Oslo", " \ufeff and"),
    "one letter": ("vitamin ", "C", " is"),
    "digits": ("in ", "1999", " at"),
    "composed accents (NFC)": ("le ", "café", " noir"),
    "decomposed accents (NFD)": ("les ", "cafe\u0301s", " noirs"),
    "two marks on a letter": ("in ", "Vie\u0323\u0302t Nam", " in"),
    "emoji": ("she sent ", "😀", " to Ben"),
    "emoji of several": ("the family ", "👩‍👩‍👧", " lives in"),
    "emoji with a skin tone": ("she sent ", "👍🏽", " to Ben"),
    "flag": ("the flag ", "🇫🇷", " of"),
    "beyond the first plane": ("the rune ", "𐍈𐌰", " is"),
    "Arabic": ("تقع مدينة ", "القاهرة", " في مصر "),
    "Arabic with vowels": ("في ", "مَدِينة", " مصر "),
    "Hebrew": ("העיר ", "ירושלים", " נמצאת בישראל "),
    "Hebrew with points": ("העיר ", "יְרוּשָׁלַיִם", " נמצאת "),
    "Hindi": ("शहर ", "दिल्ली", " भारत में "),
    "Thai between spaces": ("อยู่ ", "ที่นี่", " ครับ "),
    "ends in an accent (NFD)": ("le ", "cafe\u0301", " noir"),
    "Korean": ("수도는 ", "서울", " 이다 "),
    "ligature, full width, fraction": ("of ", "ﬁne １２½", " more"),
    "both directions": ("the city القاهرة is ", "in מצר now", " or"),
}
# The same, but tokens may extend beyond the answer.
PARTS = {
    "Chinese": ("北京是", "中国", "的首都。"),
    "Japanese": ("東京は", "日本", "の首都です。"),
    "Thai": ("กรุงเทพเป็น", "เมืองหลวง", "ของประเทศไทย"),
    "within a word": ("Anna lives in Os", "lo", "slo and"),
    "before punctuation": ("it costs £", "20,980", ".50 (now)."),
    "one of several emoji": ("👩‍👩‍", "👧", " lives"),
}
FILLER = "Ben works in Rome. "


def placed(parts: tuple[str, str, str]) -> tuple[str, tuple[int, int]]:
    """A context of many windows with the answer in the middle, and the answer's span in character offsets."""
    before, answer, after = parts
    before = FILLER * 15 + before
    return before + answer + after + " " + FILLER * 15, (len(before), len(before) + len(answer))
