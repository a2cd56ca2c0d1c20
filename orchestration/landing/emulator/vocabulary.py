"""The clock, the ids and the words of the sample world; all text is neutral everyday Japanese.

Belongs here: what gives a number its name. Does not belong here: what is drawn at random.
"""

from datetime import UTC, datetime

ANCHOR = datetime(2026, 6, 30, 15, tzinfo=UTC)
"""The world's "now" on day 0: the end of 30 June 2026 in Japan. Nobody acted later; later releases are pre-orders."""

DAY = 86_400
FIRST_GENRE, FIRST_SERIES, FIRST_MAKER = 900_001, 910_001, 920_001
FIRST_PERFORMER, FIRST_LABEL, FIRST_DIRECTOR = 930_001, 940_001, 950_001
FIRST_MANUFACTURE, FIRST_AUTHOR = 960_001, 970_001
NO_LABEL = 99_999

THEMES: tuple[tuple[str, str, str], ...] = (
    ("料理", "家庭の味", "台所"),
    ("旅行", "列車の旅", "島めぐり"),
    ("温泉", "湯けむり", "宿"),
    ("山歩き", "高原", "渓谷"),
    ("海辺", "港町", "灯台"),
    ("庭づくり", "花", "盆栽"),
    ("お菓子", "パン", "喫茶店"),
    ("猫", "犬", "小鳥"),
    ("音楽", "合唱", "ピアノ"),
    ("祭り", "花火", "太鼓"),
    ("手芸", "編み物", "着物"),
    ("陶芸", "木工", "和紙"),
    ("星空", "天文", "月"),
    ("野球", "卓球", "駅伝"),
    ("将棋", "囲碁", "パズル"),
    ("絵画", "書道", "写真"),
    ("農業", "市場", "果樹園"),
    ("歴史", "城", "古民家"),
    ("科学", "発明", "工場"),
    ("ドラマ", "朗読", "落語"),
)
_SEASONS = ("春", "初夏", "夏", "秋", "初冬", "冬", "早朝", "夕暮れ", "休日", "雨の日", "日曜", "昼下がり")
_FORMS = ("だより", "日和", "手帖", "散歩", "入門", "図鑑", "ノート", "ものがたり", "時間", "めぐり", "教室", "暮らし")
_FAMILY = (
    "青木",
    "石川",
    "上田",
    "大野",
    "加藤",
    "木村",
    "小林",
    "佐野",
    "清水",
    "高橋",
    "中村",
    "野口",
    "平田",
    "松本",
    "森",
    "和田",
)
_FAMILY_RUBY = (
    *("あおき", "いしかわ", "うえだ", "おおの", "かとう", "きむら", "こばやし", "さの"),
    *("しみず", "たかはし", "なかむら", "のぐち", "ひらた", "まつもと", "もり", "わだ"),
)
_GIVEN = ("明", "和", "花", "光", "歩", "葵", "薫", "翼", "渚", "忍", "操", "望")
_GIVEN_RUBY = (
    "あき",
    "かず",
    "はな",
    "ひかり",
    "あゆみ",
    "あおい",
    "かおる",
    "つばさ",
    "なぎさ",
    "しのぶ",
    "みさお",
    "のぞみ",
)


def title_of(index: int, theme: int) -> str:
    """Return an invented everyday title that hints at the item's theme."""
    words = THEMES[theme]
    number = index * 2_654_435_761 % 2**32  # a fixed scramble, so that neighbours differ
    season, form = _SEASONS[number % 12], _FORMS[number // 12 % 12]
    return f"{season}の{words[number // 144 % 3]}{form} 第{number // 432 % 300 + 1}回"


def entity_name(kind: str, index: int) -> tuple[str, str | None]:
    """Return name and reading (people only) of a genre, maker, manufacture, series, label or person."""
    if kind == "genre":
        return THEMES[index // 3][index % 3], None
    if kind in ("performer", "director", "author"):
        family, given = index % 16, index // 16
        tail = "" if given < 12 else f" {given // 12 + 1}"
        name = f"{_FAMILY[family]} {_GIVEN[given % 12]}{tail}"
        return name, f"{_FAMILY_RUBY[family]} {_GIVEN_RUBY[given % 12]}{tail}"
    word = {"maker": "工房", "manufacture": "出版", "series": "シリーズ", "label": "文庫"}[kind]
    return f"{_SEASONS[index % 12]}の{_FORMS[index // 12 % 12]}{word} {index + 1}", None
