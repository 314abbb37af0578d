"""Frozen records without the start-up cost of `dataclasses`.

`dataclasses` pulls in `inspect`, `re` and `ast`: 17 ms on a machine where a whole container
start takes 40. Type checkers see the real decorator; at run time this one builds the same
keyword `__init__`, `__eq__`, `__hash__` and `__repr__` from the annotations.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import replace
else:

    def record(cls=None, *, frozen=True, kw_only=False):
        """Class decorator; subset of `dataclasses.dataclass` (no field(), no inheritance)."""
        if cls is None:
            return lambda c: record(c, frozen=frozen)
        names = tuple(cls.__annotations__)
        defaults = {n: cls.__dict__[n] for n in names if n in cls.__dict__}

        def __init__(self, *args, **kwargs):
            values = dict(defaults)
            values.update(zip(names, args))
            values.update(kwargs)
            if len(values) != len(names) or len(args) > len(names):
                wrong = sorted(set(names) ^ set(values))
                raise TypeError(f"{cls.__name__}: wrong or missing fields: {', '.join(wrong)}")
            self.__dict__.update({n: values[n] for n in names})

        def __eq__(self, other):
            return self.__dict__ == other.__dict__ if type(other) is cls else NotImplemented

        def __hash__(self):
            return hash(tuple(self.__dict__.values()))

        def __repr__(self):
            inner = ", ".join(f"{n}={self.__dict__[n]!r}" for n in names)
            return f"{cls.__name__}({inner})"

        def __setattr__(self, name, value):
            raise AttributeError(f"{cls.__name__} is frozen")

        cls.__init__, cls.__eq__, cls.__hash__, cls.__repr__ = __init__, __eq__, __hash__, __repr__
        if frozen:
            cls.__setattr__ = __setattr__
        cls.__record_fields__ = names
        return cls

    def replace(obj, **changes):
        """A copy of a record with some fields changed."""
        return type(obj)(**{**obj.__dict__, **changes})


__all__ = ["record", "replace"]
