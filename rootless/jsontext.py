"""JSON by the interpreter's own C parser and encoder, without the `json` package around them.

Importing `json` brings `re`, `enum` and `functools`: 5 ms of a start that takes 40. Its speed and
its correctness come from the C module `_json`, which is used here as `json` uses it. Where an
interpreter has none, or another form of it, `json` itself does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Strict:
    """What json.JSONDecoder() tells its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_scan: Any = None
_encode: Any = None
try:
    import _json

    _scan = _json.make_scanner(_Strict)  # type: ignore[arg-type]
    _encode = _json.make_encoder({}, _refuse, _json.encode_basestring_ascii, None, ": ", ", ",
                                 False, False, False)
except (ImportError, AttributeError, TypeError):
    pass

_SPACE = " \t\n\r"


def loads(data: bytes | str) -> Any:
    """One JSON value in UTF-8. Raises ValueError."""
    text = data.decode() if isinstance(data, bytes) else data
    if _scan is None:
        import json

        return json.loads(text)
    at, length = 0, len(text)
    while at < length and text[at] in _SPACE:
        at += 1
    try:
        try:
            value, at = _scan(text, at)
        except SystemError:
            # The scanner found a fault, and no json.decoder loaded to raise its exception.
            import json.decoder

            value, at = _scan(text, at)
    except StopIteration:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text[at:].strip(_SPACE):
        raise ValueError("more than one value")
    return value


def dumps(value: Any) -> str:
    """One line of ASCII. Raises TypeError, ValueError for what JSON cannot say."""
    if _encode is None:
        import json

        return json.dumps(value, allow_nan=False)
    if isinstance(value, str):
        return str(_json.encode_basestring_ascii(value))
    return "".join(_encode(value, 0))
