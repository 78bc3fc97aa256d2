import pytest

from fastdcgan.storage.strict_json import is_number, parse


def test_numbers_that_a_float_can_hold() -> None:
    assert all(is_number(value) for value in (0, -1, 1.5, 10**308))
    assert not any(is_number(value) for value in (10**400, -(10**400), float("nan"), float("inf"), True, None, "1"))


def test_plain_json_is_parsed() -> None:
    assert parse(b'{"a": [1, -2.5, true, null, "\xc3\xa9"], "b": {"a": 1}}') == {
        "a": [1, -2.5, True, None, "é"],
        "b": {"a": 1},
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "a": 2}}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"{}{}",
    ],
)
def test_ambiguous_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)
