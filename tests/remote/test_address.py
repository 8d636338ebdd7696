"""What an address means and whether it may be asked, from its text alone."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.errors import BadInput, NotPublic
from managed_models.manager.remote.address import (
    is_address,
    is_public,
    parse_address,
    plain_name,
    shown,
    sibling,
)
from managed_models.manager.remote.reach import Reach
from managed_models.manager.remote.tokens import TOKENS, token_for, token_headers

HF = "https://huggingface.co"


@pytest.mark.parametrize(
    ("given_text", "url"),
    [
        ("hf:a/b/c.safetensors", f"{HF}/a/b/resolve/main/c.safetensors"),
        ("hf:a/b/split files/c.safetensors@v1.0", f"{HF}/a/b/resolve/v1.0/split%20files/c.safetensors"),
        ("hf:a/b/c.safetensors@refs/pr/1", f"{HF}/a/b/resolve/refs%2Fpr%2F1/c.safetensors"),
        ("hf:a/b/c?d#e.safetensors", f"{HF}/a/b/resolve/main/c%3Fd%23e.safetensors"),
        (f"{HF}/a/b/blob/main/c.safetensors", f"{HF}/a/b/resolve/main/c.safetensors"),
        (f" {HF}/a/b/resolve/main/c.safetensors ", f"{HF}/a/b/resolve/main/c.safetensors"),
        ("HTTPS://example.com/x", "HTTPS://example.com/x"),
    ],
)
def test_where_an_address_leads(given_text: str, url: str) -> None:
    assert parse_address(given_text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model.safetensors",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "hf:a/b",
        "hf:a/b/../../c",
        "hf:a//b/c",
        "hf:a/b/c@",
        "https://",
        "https:///path",
        "https://example.com:port/",
        "https://example.com:99999/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com\\@evil.com/",
        "https://example.com/\n",
        "https://example.com/a\tb",
        "https://user:secret@example.com/x",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    if text == "https://example.com/\n":
        assert parse_address(text).url == "https://example.com/"
        return
    with pytest.raises(BadInput) as caught:
        parse_address(text)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "https://localhost/a",
        "https://printer.local/a",
        "https://127.0.0.1/a",
        "https://[::1]/a",
        "https://[::ffff:10.0.0.1]/a",
        "https://[fe80::1%25eth0]/a",
        "https://10.1.2.3:8443/a",
        "https://169.254.169.254/latest/meta-data",
        "https://0.0.0.0/",
    ],
)
def test_what_is_not_public_is_asked_only_when_that_is_allowed(url: str) -> None:
    with pytest.raises(NotPublic, match="--allow-local-network"):
        parse_address(url)
    assert parse_address(url, allow_local=True).url == url


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "0.0.0.0", "192.0.2.1", "198.18.0.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:192.168.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::",
        "2002:c0a8:101::1",
    ],
)  # fmt: skip
def test_inner_addresses(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize(
    "ip", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_outer_addresses(ip: str) -> None:
    assert is_public(ip)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_counts_the_same_however_ipv6_carries_it(ip: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(0xFFFF00000000 | int(ip))
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(ip))
    assert is_public(str(mapped)) == is_public(str(nat64)) == is_public(str(ip))
    if is_public(str(ip)):
        inner = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast)
        assert not any(inner)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = parse_address(text)
    except (BadInput, NotPublic):
        return
    assert found.url.lower().startswith("https://")
    assert "?" not in found.shown
    assert found.name.isprintable()


@given(st.text(), st.text())
def test_a_redirect_never_leaves_https_or_names_an_inner_host(location: str, tail: str) -> None:
    for target in (location, f"//{location}", f"http://{location}", f"https://127.0.0.1/{tail}"):
        try:
            found = Reach().next_url("https://example.com/a/b", target)
        except (BadInput, NotPublic):
            continue
        assert found.lower().startswith("https://")
        assert "127.0.0.1/" not in found[:18]


def test_what_is_shown_has_no_secret() -> None:
    assert shown("https://u:pw@example.com/a?token=secret#frag") == "https://example.com/a"
    assert shown("https://exa\x1bmple.com/a") == "https://exa mple.com/a"


@given(st.text())
def test_a_name_has_no_folder(text: str) -> None:
    name = plain_name(text)
    assert name
    assert "/" not in name
    assert "\\" not in name


def test_the_other_parts_lie_in_the_same_folder() -> None:
    assert sibling("https://h/a/b.json?x=1", "c d.safetensors") == "https://h/a/c%20d.safetensors?x=1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("https://a", True), ("HF:a/b/c", True), ("http://a", True), ("hf", False), ("a.safetensors", False)],
)
def test_what_counts_as_an_address(text: str, expected: bool) -> None:
    assert is_address(text) is expected


ENVIRON = {"HF_TOKEN": "hf_secret", "CIVITAI_API_TOKEN": "cv_secret"}


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("https://huggingface.co/a", "hf_secret"),
        ("https://HuggingFace.co:443/a", "hf_secret"),
        ("https://civitai.com/api/download/models/1", "cv_secret"),
        ("http://huggingface.co/a", None),
        ("https://huggingface.co.evil.com/a", None),
        ("https://evil.com/huggingface.co", None),
        ("https://cdn-lfs.huggingface.co/a", None),
        ("https://evilhuggingface.co/a", None),
        ("https://example.com/?https://huggingface.co/", None),
    ],
)
def test_a_token_goes_to_its_own_host_alone(url: str, value: str | None) -> None:
    headers = token_headers(url, ENVIRON)
    assert headers == ({"Authorization": f"Bearer {value}"} if value else {})
    assert token_headers(url, {}) == {}


@given(st.text(), st.sampled_from(["https", "http", "ftp"]))
def test_no_other_host_gets_one(host: str, scheme: str) -> None:
    try:
        found = token_for(f"{scheme}://{host}/a")
    except ValueError:
        return
    assert found is None or found in TOKENS


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\r\nX-Evil: 1", "tökén"])
def test_a_token_that_cannot_go_into_a_header_stays_home(value: str) -> None:
    assert token_headers("https://huggingface.co/a", {"HF_TOKEN": value}) == {}
