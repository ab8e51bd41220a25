"""Bodies as they arrive: whole addresses go, whatever they stand under; no body takes long to judge."""

from __future__ import annotations

import base64
import gzip
import ipaddress
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.serve.bodies import TooLarge, cut_ips, depth_fault, inflate
from propend.serve.dialects import BY_NAME
from propend.serve.dialects.port import BadBody, Request

NAMES = ("ip", "$ip", "IP", "client_ip", "clientIp", "clientIP", "ip_override", "ip_address", "ipAddress", "user_ipaddress", "remoteAddr", "REMOTE_ADDR",
         "x-forwarded-for", "context.ip", "ipv6")  # fmt: skip
V4, V6 = "203.0.113.77", "2001:db8:85a3:8d3:1319:8a2e:370:7348"


@pytest.mark.parametrize("name", NAMES)
def test_an_address_is_cut_under_every_name_for_one(name: str) -> None:
    for said, cut in ((V4, "203.0.113.0"), (V6, "2001:db8:85a3::"), ("2001:db8:1:2::5", "2001:db8:1::"), (f"{V4}:8080", "203.0.113.0:8080")):  # fmt: skip
        for shape in (lambda a: a, lambda a: [a, a], lambda a: {"list": 1, name: f"{a}, {a}"}, lambda a: {"deep": [{name: [a]}]}):  # fmt: skip
            value = {name: shape(said), "then": "1.2.3"}
            for data in (value, {"co": json.dumps(value)}):  # also JSON within a text
                for body in (json.dumps(data).encode(), msgspec.json.encode(data)):
                    assert cut_ips(body).decode() == body.decode().replace(said, cut)


@pytest.mark.parametrize("body", [
    {"version": "1.2.3.4", "ip": "none", "url": "http://10.1.2.3/a", "zip": "10115", "time": "10:11:12", "shipping": "1.2.3.4"}, {"text": "std::ip: 1.2.3.4"},
    ["1.2.3.4"], {"ip": 7}, {}, "::",
])  # fmt: skip
def test_nothing_else_is_touched(body: object) -> None:
    raw = json.dumps(body).encode()
    assert cut_ips(raw) == raw


def slow(value: object, named: bool = False) -> object:
    """Cut the addresses under ``ip`` of a JSON value, one by one."""
    if isinstance(value, dict):
        return {k: slow(v, k == "ip") for k, v in value.items()}
    if isinstance(value, list):
        return [slow(v, named) for v in value]
    try:
        keep = 24 if ipaddress.ip_address(str(value)).version == 4 else 48
    except ValueError:
        return value
    if not named or not isinstance(value, str):
        return value
    return str(ipaddress.ip_network((value, keep), strict=False).network_address)


LEAF = st.one_of(st.ip_addresses().map(str), st.text(max_size=4), st.integers(), st.sampled_from(["1.2.3", "::", ":", ".1.1.1"]))  # fmt: skip
FLAT = st.one_of(LEAF, st.lists(LEAF, max_size=3))
TREE = st.recursive(FLAT, lambda c: st.dictionaries(st.sampled_from(["ip", "name", "zip"]), c, max_size=3), max_leaves=10)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tree=st.dictionaries(st.sampled_from(["ip", "x"]), TREE))
def test_cutting_is_the_slow_one(tree: dict[str, object]) -> None:
    assert json.loads(cut_ips(json.dumps(tree).encode())) == slow(tree)


def test_more_addresses_than_anybody_has_are_all_cut() -> None:
    body = b'{"list":[' + b",".join([b'"203.0.113.77"'] * 100_001) + b"]}"
    assert re.search(rb"113\.77", cut_ips(body)) is None


def test_addresses_in_base64_are_cut() -> None:
    said = json.dumps({"data": {"schema": "iglu:a/b/jsonschema/1-0-0", "data": {"ip": V4}}}).encode()  # fmt: skip
    wrapped = base64.urlsafe_b64encode(said).decode().rstrip("=")
    body = msgspec.json.encode({"data": [{"e": "ue", "uid": "u", "ue_px": wrapped, "cx": wrapped}]})
    accepted = BY_NAME["snowplow"].accept(Request("/", {}, {}, body))
    assert b"113.0" in cut_ips(accepted.body)
    assert b"113.77" not in cut_ips(accepted.body)
    assert wrapped.encode() not in accepted.body


def test_depth_is_counted_outside_of_texts() -> None:
    assert depth_fault(b"[" * 201 + b"]" * 201)
    assert depth_fault((b'{"a":' * 250) + b"1")
    for fine in (b"[[]," + b"[{}]," * 5_000, b'["' + b"[" * 5_000 + b'"]', b'["\\"' + b"[{" * 5_000, b"[" * 199):  # fmt: skip
        assert not depth_fault(fine), fine[:10]
    hostile = (b"[]" * 150 + (b"[" + b"x" * 40) * 190 + b"]") * 40
    assert depth_fault(hostile) == "the body is nested too deep"  # took half a second


def test_every_member_of_a_gzip_body_is_read() -> None:
    lines = [b'{"a":%d}\n' % n for n in range(3)]
    assert inflate(b"".join(map(gzip.compress, lines)), "gzip", 100) == b"".join(lines)
    assert inflate(gzip.compress(lines[0]) + b"\0\0", "gzip", 100) == lines[0]
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"x" * 60) * 2, "", 100)
    with pytest.raises(BadBody, match="too early"):
        inflate(gzip.compress(b"x") + gzip.compress(b"y")[:-3], "", 100)
    with pytest.raises(BadBody, match="members"):
        inflate(gzip.compress(b"") * 1_001, "", 100)
