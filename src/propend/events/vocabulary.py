# ruff: noqa: SIM905
"""The words people give to columns, event types, countries and currencies, as tables.

A table of words reads best as lines of words, hence the two rules of style set aside above.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = [
    "ATTRIBUTES",
    "COUNTRIES",
    "CURRENCY_SIGNS",
    "CURRENCY_WORDS",
    "EVENT_WORDS",
    "FUNNEL",
    "LABELS",
    "ROLE_WORDS",
    "STRENGTH",
    "attribute",
    "event_type",
    "match",
    "plain",
]

# fmt: off
ROLE_WORDS: Final[dict[str, tuple[Sequence[str], str]]] = {
    "time": (
        (
            "eventtime eventtimestamp timestamp datetime occurredat happenedat eventdate ts time date createdat "
            "invoicedate orderdate purchasedate transactiondate transactiontime transactiontimestamp ordertime "
            "clienttime eventts orderdatetime created visittime ratedat reviewtime unixtime day"
        ).split(),
        r".*(时间|日期|时刻)(戳)?|时间戳",
    ),
    "arrival": (
        "arrivaltime arrival arrivedon receivedat ingestedat arrivedat loadedat servertimestamp serverreceivedat insertedat processedat "
        "knownat collectortimestamp".split(),
        r"(入库|接收|上报|采集|到达|落库)(时间|日期)",
    ),
    "message_id": (
        "messageid eventid uuid insertid msgid logid eventuuid recordid requestid dedupeid id".split(),
        r"(事件|消息|日志|记录)(id|编号|号|流水号)",
    ),
    "user": (
        (
            "userid customerid visitorid memberid clientid uid user customer member visitor client householdid "
            "buyerid buyer accountid account personid subscriberid shopperid custid customerno customernumber "
            "usercode membercode distinctid userpseudoid fullvisitorid contactid guestid openid unionid playerid "
            "reviewerid patientid email emailaddress useremail customeremail phone mobile msisdn anonymousid "
            "cookieid cookie username customername deviceid"
        ).split(),
        r"(注册|下单)?(用户|会员|客户|顾客|买家|访客|账户|账号|消费者|下单人|收货人|粉丝|患者)"
        r"(id|编号|编码|号|号码|昵称|名|姓名|名称|账号|账户|标识|代码|卡号|手机号?)?|手机号码?|电子?邮箱|openid",
    ),
    "item": (
        (
            "itemid productid sku stockcode asin productcode articleid contentid movieid goodsid skuid spuid "
            "songid trackid videoid bookid isbn newsid courseid listingid offerid businessid product item article "
            "upc ean barcode artistid pageid productsku itemcode goods movie song page productname itemname pageurl"
        ).split(),
        r"(商品|产品|货品|宝贝|物品|菜品|课程|文章|视频|内容|sku|spu)(id|编号|编码|号|代码|货号|条码)?|货号|条形?码"
        r"|(商品|产品|货品|宝贝|物品|菜品)(名|名称|标题)",
    ),
    "session": (
        (
            "sessionid session orderid invoiceno invoiceid basketid orderno ordernumber invoice transactionid "
            "receiptid receiptno visitid cartid checkoutid tripid usersession ticketid order basket invoicenumber"
        ).split(),
        r"(订单|会话|交易|小票|流水|购物车|发票|单据)(id|编号|编码|号|号码|流水号)?|单号",
    ),
    "type": (
        (
            "eventtype eventname event behaviortype behaviourtype behavior behaviour action actiontype activity "
            "activitytype interaction interactiontype transactiontype eventaction verb type"
        ).split(),
        r"(用户)?(行为|事件|操作|动作|互动|交易)(类型|名称|名|种类)?|类型",
    ),
    "quantity": (
        "quantity qty units numberof numitems itemcount pieces pcs unitssold num count".split(),
        r"(购买|商品|下单|销售|成交)?(数量|件数|份数|销量)",
    ),
    "price": (
        "unitprice price itemprice productprice sellingprice saleprice listprice avgprice priceperunit".split(),
        r"(商品|销售|成交|产品)?(单价|价格|售价)",
    ),
    "value": (
        (
            "salesvalue totalamount totalprice ordervalue ordertotal linetotal amount revenue total sales spend "
            "gmv dollarvalue amountpaid grandtotal subtotal netamount purchaseamount paymentamount transactionamount "
            "turnover payment value"
        ).split(),
        r"(实付|支付|订单|付款|成交|消费|交易|销售|总|应付|实收|购买|退款)?(金额|总价|总额|货款)|实付(款)?|销售额|成交额|消费额",
    ),
    "rating": (
        "rating stars score starrating overall ratings ratingvalue bewertung wertung sterne sternebewertung".split(),
        r"(用户|商品|电影|总|综合)?(评分|星级|星数|打分|得分|分数|评价分数?)|\w*(bewertung|sterne)",
    ),
    "channel": (
        "channel utmsource utmmedium medium trafficsource source acquisitionchannel saleschannel".split(),
        r"(来源|销售|推广|下单|获客|投放)?渠道(名称|来源)?|(流量|订单|用户)?来源",
    ),
    "text": (
        (
            "review reviewtext comment query searchterm searchquery message text feedback reviewbody content note "
            "keyword searchkeyword"
        ).split(),
        r"(用户|商品|买家)?(评论|评价|留言|反馈|搜索词|关键词|内容)(内容|文本)?",
    ),
}
"""Role → (English words without separators, best first; pattern of Chinese names)."""

NOT_THE_TIME: Final = re.compile(
    r"birth|dob|expir|regist|signup|joined|deliver|shipp|updated|valid|end_?date|start_?date|"
    r"出生|生日|注册|发货|到货|收货|更新|结束|截止|有效|开始"
)
"""Dates that are about something else than the moment of the event."""

MAY_LEAD: Final = frozenset({"numberof", "num"})
"""Words that count when they open a name (``number_of_cds``)."""

ATTRIBUTES: Final[dict[str, tuple[str, Sequence[str], str]]] = {
    "name": (
        "item",
        "description name title productname itemname movietitle producttitle productdescription".split(),
        r"(商品|产品|货品|宝贝|物品|菜品)?(名称|标题|名)",
    ),
    "category": (
        "item",
        "category categoryid categorycode productcategory itemcategory department genre class".split(),
        r"(商品|产品|一级|所属)?(类目|品类|分类|类别)(id|编号|名称)?",
    ),
    "brand": ("item", "brand brandid brandname manufacturer manufacturerid vendor".split(), r"品牌.*"),
    "color": ("item", "color colour".split(), r"颜色"),
    "size": ("item", "size packagesize".split(), r"尺码|规格"),
    "country": ("user", "country countrycode nation".split(), r"国家"),
    "region": ("user", "region state province".split(), r"省份?|地区|区域"),
    "city": ("user", "city town".split(), r".*城市"),
    "zip_code": ("user", "zipcode zip postcode postalcode".split(), r"邮编|邮政编码"),
    "gender": ("user", "gender sex".split(), r".*性别"),
    "age": ("user", "age agegroup agerange".split(), r".*年龄.*"),
    "occupation": ("user", "occupation job profession".split(), r"职业"),
    "income": ("user", "income incomegroup".split(), r".*收入"),
    "level": ("user", "level tier membership loyaltytier segment".split(), r"(会员|用户)(等级|级别|类型)"),
}
"""Standard attribute → (whose it is, English words, pattern of Chinese names)."""

OF_THE_EVENT: Final = re.compile(
    r"device|platform|browser|^os$|^ip$|url|referr|page|store|discount|disc$|coupon|week|month|hour|position|rank|"
    r"设备|平台|浏览器|页面|门店|优惠|折扣"
)
"""Names of columns that belong to the event even where each user has mostly one value."""

EVENT_WORDS: Final[dict[str, str]] = {
    "view": "pv view views click clicks pageview productview detailview viewitem viewproduct browse impression "
    "pagevisit visit viewcontent productviewed 浏览 点击 查看 曝光 访问 浏览商品 商品浏览",
    "search": "search searched sitesearch 搜索 检索",
    "cart": "cart addtocart addcart atc addedtocart productadded basket carting 加购 加购物车 加入购物车 添加购物车",
    "remove_from_cart": "removefromcart removecart 移出购物车 删除购物车",
    "favourite": "fav favourite favorite like wishlist addtowishlist collect addfav 收藏 喜欢 点赞 关注",
    "checkout": "checkout begincheckout initiatecheckout checkoutstarted 结算 提交订单",
    "purchase": "buy purchase order transaction bought purchased ordercompleted paid pay sale checkoutcompleted "
    "ecommercepurchase placeorder orderplaced 购买 下单 支付 付款 成交 买 订单 消费",
    "return": "return refund returned refunded cancel cancelled cancellation ordercancelled 退货 退款 取消 退单",
    "review": "review comment reviewed 评论 评价",
    "rating": "rating rate rated 评分",
    "share": "share shared 分享 转发",
    "login": "login signin loggedin 登录 登陆",
    "signup": "signup register registration registered 注册",
    "open": "open emailopen opened emailopened",
}
"""Standard event type → words that mean it."""

TAOBAO_CODES: Final = {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"}
"""Codes of ``behavior_type`` in the public Tmall and Taobao logs."""

CONSTANT_TYPES: Final[tuple[tuple[str, str], ...]] = (
    (r"redem|redeem|核销", "redemption"),
    (r"refund|return|退", "return"),
    (r"click|view|pageview|browse|浏览|点击", "view"),
    (r"review|comment|评论|评价", "review"),
    (r"search|query|搜索", "search"),
    (r"order|purchase|transaction|invoice|sale|receipt|下单|订单|购买|支付|成交|销售", "purchase"),
    (r"visit|session|访问", "visit"),
    (r"login|登录", "login"),
)
"""What a file whose lines are all of one type is called, by the words in its name and its time column."""

STRENGTH: Final = ("purchase", "checkout", "redemption", "cart", "favourite", "rating", "review", "search", "view")
"""Event types from the strongest sign of interest to the weakest."""

FUNNEL: Final = ("view", "cart", "checkout", "purchase")
"""Steps of the default funnel, in order."""

LABELS: Final[Sequence[str]] = (
    "churn churned label target y outcome converted conversion response responded fraud fraudfound default revenue "
    "class visit purchased subscribed deposit income clicked click"
).split()
"""Names of columns that a table without time is usually about, the likeliest first."""

CURRENCY_SIGNS: Final = {"£": "GBP", "€": "EUR", "$": "USD", "₹": "INR", "₩": "KRW", "₽": "RUB", "元": "CNY"}
"""Signs that say the currency by themselves; ¥ needs the language."""

CURRENCY_WORDS: Final = {
    "dollar": "USD", "usd": "USD", "eur": "EUR", "euro": "EUR", "gbp": "GBP", "pound": "GBP", "rmb": "CNY",
    "cny": "CNY", "yen": "JPY", "jpy": "JPY", "inr": "INR", "brl": "BRL", "chf": "CHF", "元": "CNY",
}
"""Words in column names that say the currency."""

COUNTRIES: Final[dict[str, tuple[str | None, str]]] = {
    "united kingdom": ("Europe/London", "GBP"), "uk": ("Europe/London", "GBP"), "gb": ("Europe/London", "GBP"),
    "germany": ("Europe/Berlin", "EUR"), "de": ("Europe/Berlin", "EUR"), "deutschland": ("Europe/Berlin", "EUR"),
    "france": ("Europe/Paris", "EUR"), "fr": ("Europe/Paris", "EUR"), "spain": ("Europe/Madrid", "EUR"),
    "es": ("Europe/Madrid", "EUR"), "italy": ("Europe/Rome", "EUR"), "it": ("Europe/Rome", "EUR"),
    "netherlands": ("Europe/Amsterdam", "EUR"), "nl": ("Europe/Amsterdam", "EUR"),
    "belgium": ("Europe/Brussels", "EUR"), "austria": ("Europe/Vienna", "EUR"), "ireland": ("Europe/Dublin", "EUR"),
    "eire": ("Europe/Dublin", "EUR"), "switzerland": ("Europe/Zurich", "CHF"), "poland": ("Europe/Warsaw", "PLN"),
    "sweden": ("Europe/Stockholm", "SEK"), "norway": ("Europe/Oslo", "NOK"), "denmark": ("Europe/Copenhagen", "DKK"),
    "china": ("Asia/Shanghai", "CNY"), "cn": ("Asia/Shanghai", "CNY"), "中国": ("Asia/Shanghai", "CNY"),
    "japan": ("Asia/Tokyo", "JPY"), "jp": ("Asia/Tokyo", "JPY"), "日本": ("Asia/Tokyo", "JPY"),
    "south korea": ("Asia/Seoul", "KRW"), "india": ("Asia/Kolkata", "INR"), "in": ("Asia/Kolkata", "INR"),
    "singapore": ("Asia/Singapore", "SGD"), "united states": (None, "USD"), "us": (None, "USD"), "usa": (None, "USD"),
    "canada": (None, "CAD"), "australia": (None, "AUD"), "brazil": (None, "BRL"),
}
"""Country (lower case) → (its time zone where it has one, currency)."""

# fmt: on

_RECBOLE: Final = re.compile(r":(token|float|token_seq|float_seq)$")
_UNIT: Final = re.compile(r"[(（\[].*?[)）\]]\s*$")


def plain(name: str) -> str:
    """Return a column's name as a plain word of the expression language.

    >>> plain("CustomerID"), plain("user_id:token"), plain("properties.Unit price"), plain("金额(元)")
    ('customer_id', 'user_id', 'unit_price', '金额')
    """
    bare = _UNIT.sub("", _RECBOLE.sub("", name.strip()))
    bare = bare.rsplit(".", 1)[-1] if re.fullmatch(r"[^\W\d]\w*(\.\w[\w ]*)+", bare) else bare
    bare = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", bare)
    bare = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", bare)
    word = re.sub(r"[^\w]+", "_", bare).strip("_").lower() or "column"
    word = re.sub(r"__+", "_", word)
    return word if not word[0].isdigit() else f"n{word}"


def match(name: str, words: Sequence[str], pattern: str = "(?!)") -> float:
    """Say how well a column's name fits a vocabulary: 1 is the best word itself, 0 is no fit.

    >>> words, pattern = ROLE_WORDS["user"]
    >>> match("userid", words, pattern), match("买家昵称", words, pattern), match("colour", words, pattern)
    (1.0, 1.0, 0.0)
    >>> match("shop_customer_id", words) > 0.6
    True
    """
    word = plain(name)
    compact = word.replace("_", "")
    if compact in words:
        return 1.0 - 0.005 * words.index(compact)
    if re.fullmatch(pattern, compact):
        return 1.0
    parts = word.split("_")
    for start in range(1, len(parts)):
        tail = "".join(parts[start:])
        if tail in words:
            return 0.75 - 0.002 * words.index(tail)
    for end in range(len(parts) - 1, 0, -1):
        lead = "".join(parts[:end])
        if lead in MAY_LEAD and lead in words:
            return 0.7
    return 0.0


def attribute(name: str) -> tuple[str, str] | None:
    """Return (standard attribute, whose it is) for a column's name, or ``None``.

    >>> attribute("Description"), attribute("商品类目"), attribute("InvoiceNo")
    (('name', 'item'), ('category', 'item'), None)
    """
    best: tuple[float, tuple[str, str] | None] = (0.6, None)
    for standard, (owner, words, pattern) in ATTRIBUTES.items():
        score = match(name, words, pattern)
        if score > best[0]:
            best = (score, (standard, owner))
    return best[1]


def event_type(value: str) -> str | None:
    """Return the standard event type a value means, or ``None``.

    >>> event_type("addtocart"), event_type("Add to Cart"), event_type("退货"), event_type("lorem")
    ('cart', 'cart', 'return', None)
    """
    return _TYPE_OF.get(re.sub(r"[\W_]+", "", value).lower())


_TYPE_OF: Final = {word: kind for kind, words in EVENT_WORDS.items() for word in words.split()}
