"""The words of the simulated market, Chinese and English: product names, searches and reviews."""

from __future__ import annotations

from itertools import product
from typing import Final

__all__ = ["BRANDS", "LANGUAGES", "NOUNS", "RATINGS", "item_name", "review_pool", "search_pool"]

LANGUAGES: Final = ("en", "zh")
RATINGS: Final = (1, 2, 3, 4, 5)
BRANDS: Final = ("Aster", "Borea", "Cirrus", "Dalia", "Eibe", "青木", "云杉", "海棠")

NOUNS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "grocery": {
        "en": ("ground coffee", "green tea", "olive oil", "oat milk"),
        "zh": ("咖啡粉", "绿茶", "橄榄油", "燕麦奶"),
    },
    "shoes": {
        "en": ("running shoes", "leather boots", "sandals", "sneakers"),
        "zh": ("跑步鞋", "皮靴", "凉鞋", "运动鞋"),
    },
    "electronics": {
        "en": ("wireless earbuds", "phone case", "power bank", "smart watch"),
        "zh": ("无线耳机", "手机壳", "充电宝", "智能手表"),
    },
    "beauty": {
        "en": ("face cream", "shampoo", "sunscreen", "lip balm"),
        "zh": ("面霜", "洗发水", "防晒霜", "润唇膏"),
    },
    "home": {
        "en": ("desk lamp", "bed sheets", "frying pan", "storage box"),
        "zh": ("台灯", "床单", "平底锅", "收纳盒"),
    },
    "toys": {
        "en": ("building blocks", "puzzle", "plush bear", "toy train"),
        "zh": ("积木", "拼图", "毛绒熊", "玩具火车"),
    },
    "pets": {
        "en": ("cat food", "dog treats", "cat litter", "pet shampoo"),
        "zh": ("猫粮", "狗零食", "猫砂", "宠物香波"),
    },
    "books": {
        "en": ("detective novel", "cookbook", "travel guide", "picture book"),
        "zh": ("侦探小说", "菜谱", "旅行指南", "绘本"),
    },
}
"""Categories of the market and what is sold in them."""

_SEARCH: Final = {
    "en": ("{}", "best {}", "cheap {}", "{} sale", "{} reviews", "{} gift"),
    "zh": ("{}", "{}推荐", "便宜{}", "{}打折", "{}哪个好", "{}送礼"),
}

_OPENINGS: Final[dict[str, dict[int, tuple[str, ...]]]] = {
    "en": {
        1: ("Terrible {}, broken on arrival.", "Awful {}, a waste of money.", "I hate this {}."),
        2: ("Disappointing {}.", "The {} is worse than described.", "Poor {}, not worth it."),
        3: ("The {} is okay.", "Average {}, does the job.", "The {} is neither good nor bad."),
        4: ("Good {}.", "I like this {}.", "Nice {}, works well."),
        5: ("Excellent {}, love it!", "Perfect {}!", "The best {} I ever bought."),
    },
    "zh": {
        1: ("{}太差了，收到就是坏的。", "垃圾{}，浪费钱。", "非常讨厌这个{}。"),
        2: ("{}让人失望。", "{}比描述的差。", "{}不好，不值这个价。"),
        3: ("{}一般般。", "{}还行，能用。", "{}中规中矩。"),
        4: ("{}不错。", "喜欢这个{}。", "{}挺好用的。"),
        5: ("{}太棒了，非常喜欢！", "完美的{}！", "买过最好的{}。"),
    },
}
_CLOSINGS: Final[dict[str, dict[int, tuple[str, ...]]]] = {
    "en": {
        1: ("Never again.", "I want a refund.", "Support did not answer."),
        2: ("Would not buy again.", "Delivery was slow too.", "Quality should be better."),
        3: ("Price is fair.", "Nothing special.", "Delivery took a week."),
        4: ("Would buy again.", "Fast delivery.", "Good value."),
        5: ("Highly recommended!", "Will order more.", "Arrived the next day."),
    },
    "zh": {
        1: ("再也不买了。", "我要退款。", "客服不理人。"),
        2: ("不会再买。", "物流也慢。", "质量有待提高。"),
        3: ("价格公道。", "没什么特别的。", "物流一周才到。"),
        4: ("会回购。", "物流很快。", "性价比高。"),
        5: ("强烈推荐！", "还会再来。", "第二天就到了。"),
    },
}


def item_name(category: str, number: int, brand: int) -> str:
    """Return the English product name of item ``number`` of a category.

    >>> item_name("shoes", 5, 1)
    'Borea leather boots 5'
    """
    nouns = NOUNS[category]["en"]
    return f"{BRANDS[brand]} {nouns[number % len(nouns)]} {number}"


def search_pool(category: str, language: str) -> list[str]:
    """Return every search query of a category in a language.

    >>> search_pool("pets", "zh")[:3]
    ['猫粮', '狗零食', '猫砂']
    """
    return [
        form.format(noun) for form, noun in product(_SEARCH[language], NOUNS[category][language])
    ]


def review_pool(category: str, language: str, rating: int) -> list[str]:
    """Return every review of a category in a language whose sentiment is ``rating`` (1 to 5).

    >>> review_pool("pets", "en", 5)[0]
    'Excellent cat food, love it! Highly recommended!'
    """
    gap = " " if language == "en" else ""
    return [
        opening.format(noun) + gap + closing
        for opening, closing, noun in product(
            _OPENINGS[language][rating], _CLOSINGS[language][rating], NOUNS[category][language]
        )
    ]
