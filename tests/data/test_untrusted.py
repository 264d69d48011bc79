"""JSON of strangers: one meaning or none, in linear time."""

import json
import time
from contextlib import suppress

import pytest

from clarep_ray.data.plain_json import json_line, plain_json
from clarep_ray.data.sealed import parse_sealed, sealed
from clarep_ray.data.untrusted import MAX_DEPTH, check_fields, parse_json

REFUSED = {
    "NaN": (b"[NaN]", "NaN is no number"),
    "infinity": (b"-Infinity", "-Infinity is no number"),
    "beyond floats": (b"[1e999]", "1e999 is no number"),
    "below floats": (b"-1e999", "-1e999 is no number"),
    "half a surrogate pair": (b'"\\ud800"', "half a surrogate pair"),
    "half a pair as a name": (b'{"\\uDFFF": 1}', "half a surrogate pair"),
    "twice": (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' comes twice"),
    "twice inside": (b'[{"x": {"a": 1, "\\u0061": 1}}]', "the key 'a' comes twice"),
    "deep arrays": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
    "deep objects": (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested too deeply"),
    "deep after a text": (b'["\\"[", ' + b"[" * 200 + b"]" * 201, "nested too deeply"),
    "digits": (b"9" * 100_000, "100000 digits"),
    "not UTF-8": (b'"\xff"', "not UTF-8"),
    "a mark of the byte order": (b"\xef\xbb\xbf{}", "BOM"),
    "two values": (b"1 2", "Extra data"),
    "nothing": (b"", "Expecting value"),
}
READ = {
    "a pair of surrogates": (b'"\\ud83d\\ude00"', "\U0001f600"),
    "brackets in a text": (b'"' + b"[" * 5000 + b'"', "[" * 5000),
    "as deep as may be": (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
    "many shallow ones": (b"[" + b"[]," * 5000 + b"[]]", [[]] * 5001),
    "three hundred digits": (b"9" * 300, int("9" * 300)),
    "nearly nothing": (b"1e-999", 0.0),
}
FLOODS = {
    "brackets": b"[" * 1_000_000,
    "empty arrays": b"[" + b"[]," * 300_000 + b"[]]",
    "a text without an end": b'["' + b'\\"' * 1_000_000 + b"[[" * 60,
    "the last key twice": b"{" + b",".join(b'"k%d":1' % number for number in range(200_000)) + b',"k199999":1}',
    "digits": b"1" * 4_000_000,
    "lines": b"[" + b"1,\n" * 1_000_000 + b"x",
}


@pytest.mark.parametrize("label", REFUSED)
def test_what_parsers_understand_differently_is_refused(label: str) -> None:
    data, message = REFUSED[label]
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(data)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("label", READ)
def test_plain_json_is_read(label: str) -> None:
    data, wanted = READ[label]
    assert parse_json(data) == (json.loads(data) if wanted is None else wanted)


def test_the_word_that_diffusers_writes_is_read_where_it_is_asked_for() -> None:
    assert parse_json(b'{"a": -Infinity}', infinite=True) == {"a": float("-inf")}
    for data in (b"Infinity", b"NaN", b"-1e999"):
        with pytest.raises(ValueError, match="no number"):
            parse_json(data, infinite=True)


@pytest.mark.parametrize("label", FLOODS)
def test_megabytes_take_linear_time(label: str) -> None:
    """Some tenths of a second each; a quadratic reader takes minutes."""
    began = time.process_time()
    with suppress(ValueError):
        parse_json(FLOODS[label])
    assert time.process_time() - began < 3


def test_what_we_write_is_what_we_read() -> None:
    record = {"a": float("nan"), "b": [float("inf"), 1.5], 3: (None, True)}
    wanted = {"a": None, "b": [None, 1.5], "3": [None, True]}
    assert parse_json(plain_json(record)) == parse_json(json_line(record)) == wanted
    assert parse_sealed(sealed(record, "seal"), "seal").items() >= wanted.items()


@pytest.mark.parametrize(
    "record", [[], None, "x", {}, {"a": True, "b": {"c": "x"}}, {"a": 1, "b": []}, {"a": 1, "b": {"c": 1}}, {"a": "1"}]
)
def test_fields_of_other_types_are_named(record: object) -> None:
    with pytest.raises(ValueError, match=r"^run\.json"):
        check_fields(record, {"a": float, "b.c": str}, "run.json")
    assert check_fields({"a": 1, "b": {"c": "x"}}, {"a": float, "b.c": str}, "run.json")
