"""What the URL of a server says."""

import pytest

from leaseq._valkey.url import ValkeyUrl

SECRET = "geheim"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("valkey://localhost", ValkeyUrl((("localhost", 6379),))),
        ("redis://localhost/", ValkeyUrl((("localhost", 6379),))),
        ("VALKEY://localhost:7000/3", ValkeyUrl((("localhost", 7000),), database=3)),
        ("valkeys://h", ValkeyUrl((("h", 6379),), tls=True)),
        ("rediss://h", ValkeyUrl((("h", 6379),), tls=True)),
        ("valkey://[::1]", ValkeyUrl((("::1", 6379),))),
        ("valkey://[::1]:7000", ValkeyUrl((("::1", 7000),))),
        ("valkey://a:1,b:2,c", ValkeyUrl((("a", 1), ("b", 2), ("c", 6379)))),
        ("valkey://ada:pw@h", ValkeyUrl((("h", 6379),), username="ada", password="pw")),
        ("valkey://:p[w@h", ValkeyUrl((("h", 6379),), password="p[w")),
        ("valkey://a,[::1]:1", ValkeyUrl((("a", 6379), ("::1", 1)))),
        ("valkey://:pw@h", ValkeyUrl((("h", 6379),), password="pw")),
        ("valkey://:p%40%2F%3Aw@h", ValkeyUrl((("h", 6379),), password="p@/:w")),
        ("valkey://:p@w:x@h", ValkeyUrl((("h", 6379),), password="p@w:x")),
        (
            "valkey://h?connect_timeout=0.5&request_timeout=10",
            ValkeyUrl((("h", 6379),), connect_timeout=0.5, request_timeout=10.0),
        ),
        ("unix:///run/valkey.sock", ValkeyUrl((("/run/valkey.sock", 0),))),
        ("valkey+unix:///run/valkey.sock?db=3", ValkeyUrl((("/run/valkey.sock", 0),), database=3)),
        (
            "redis+unix://ada:p%40w@/run/our%20s.sock?request_timeout=2",
            ValkeyUrl(
                (("/run/our s.sock", 0),), username="ada", password="p@w", request_timeout=2.0
            ),
        ),
        ("valkey://h?groups=30", ValkeyUrl((("h", 6379),), groups=30)),
        ("valkey://a,b?wait_replicas=1", ValkeyUrl((("a", 6379), ("b", 6379)), wait_replicas=1)),
        (
            "valkeys://h?cacert=/etc/our%20ca.pem&cert=c.pem&key=k.pem",
            ValkeyUrl(
                (("h", 6379),), tls=True, cacert="/etc/our ca.pem", cert="c.pem", key="k.pem"
            ),
        ),
    ],
)
def test_a_url_is_read(url: str, expected: ValkeyUrl) -> None:
    assert ValkeyUrl.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "starts with one of valkey://, valkeys://"),
        ("amqp://:geheim@h", "starts with one of valkey://, valkeys://"),
        ("valkey:h", "starts with"),
        ("valkey://", "names its host"),
        ("valkey://:geheim@", "names its host"),
        ("valkey://a,,b", "names its host"),
        ("valkey://:geheim@h:port", "port .* from 1 to 65535"),
        ("valkey://h:0", "port .* from 1 to 65535"),
        ("valkey://h:65536", "port .* from 1 to 65535"),
        ("valkey://h:", "port .* from 1 to 65535"),
        ("valkey://h:²", "port .* from 1 to 65535"),
        ("valkey://:geheim@[::1", "IPv6"),
        ("valkey://a,[::1]7000", "IPv6"),
        ("valkey://h/jobs", "number of a database"),
        ("valkey://h/-1", "number of a database"),
        ("valkey://h/0/1", "number of a database"),
        ("valkey://h?colour=1", "unknown option 'colour' in the URL: there are"),
        ("valkey://u:geheim@h?colour=1", "unknown option 'colour' in the URL: there are"),
        ("valkey://h:1?gruops=geheim", r"option 'gruops' in the URL \(did you mean groups\?\)"),
        ("valkey://ada:1?geheim=2", "unknown option in the URL: there are"),
        ("valkey://h?groups=3&groups=4", "groups is in the URL twice"),
        ("valkeys://h?cacert=a&cacert=b", "cacert is in the URL twice"),
        ("unix:///run/s?db=1&db=2", "db is in the URL twice"),
        ("valkey://h?timeout=1", "unknown option .* connect_timeout, request_timeout, prefix"),
        ("valkey://h?prefix=", "prefix in the URL has 1 to 64 characters"),
        ("valkey://h?prefix=a{b}", "prefix in the URL has 1 to 64 characters"),
        ("valkey://h?wait_replicas=one", "wait_replicas .* number from 0 to 100"),
        ("valkey://h?wait_replicas=-1", "wait_replicas .* number from 0 to 100"),
        ("valkey://h?wait_replicas=101", "wait_replicas .* number from 0 to 100"),
        ("valkey://h?groups=-1", "groups .* number from 0 to 1000"),
        ("valkey://h?groups=1001", "groups .* number from 0 to 1000"),
        ("valkey://h/1?db=2", "db= in the URL is for sockets: valkey://host/0"),
        ("unix://", "whole path, and no host: unix:///run/valkey/valkey.sock"),
        ("unix:///", "whole path, and no host"),
        ("unix://run/valkey.sock", "whole path, and no host"),
        ("unix:///a%00b", "whole path, and no host"),
        ("unix:///run/valkey.sock?db=one", "db .* number of a database"),
        ("unix:///run/valkey.sock?cacert=ca.pem", "cacert .* is of TLS"),
        ("unix:///run/valkey.sock?password=geheim", "unknown option .* prefix"),
        ("unix://:geheim@run/valkey.sock", "whole path, and no host"),
        ("valkeys://h?cacert=", "cacert .* path of a file"),
        ("valkey://h?cacert=ca.pem", "cacert .* is of TLS: .* valkeys://"),
        ("redis://h?cert=a.pem&key=b.pem", "cert .* is of TLS"),
        ("valkeys://h?cert=a.pem", "cert and key in the URL go together"),
        ("valkeys://h?key=a.pem", "cert and key in the URL go together"),
        ("valkey://h?connect_timeout=soon", "connect_timeout .* number of seconds"),
        ("valkey://h?request_timeout=0", "request_timeout .* number of seconds"),
        ("valkey://h?request_timeout=nan", "request_timeout .* number of seconds"),
        ("valkey://h#geheim", "fragment"),
        ("valkey://:gehe/im@h", "%2F"),
        ("valkey://:geheim?@h", "%3F"),
        ("valkey://:1#geheim@h", "%23"),
        ("valkey://:geheim[@h:", "port"),
    ],
)
def test_what_is_no_such_url_is_refused_without_a_word_of_the_password(
    url: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        ValkeyUrl.parse(url)
    assert SECRET not in str(caught.value)
    assert "gehe" not in str(caught.value)


def test_the_text_of_a_url_hides_the_password() -> None:
    url = ValkeyUrl.parse(f"rediss://ada:{SECRET}@a,[::1]:7000/2")
    assert str(url) == "valkeys://ada:***@a:6379,[::1]:7000/2"
    assert SECRET not in repr(url)
    assert str(ValkeyUrl.parse("valkey://h")) == "valkey://h:6379/0"
    url = ValkeyUrl.parse(f"valkey+unix://ada:{SECRET}@/run/our%20s.sock?db=2")
    assert str(url) == "unix://ada:***@/run/our%20s.sock?db=2"
    assert SECRET not in repr(url)


def test_several_hosts_are_a_cluster() -> None:
    assert ValkeyUrl.parse("valkey://a,b").is_cluster
    assert not ValkeyUrl.parse("valkey://a").is_cluster
