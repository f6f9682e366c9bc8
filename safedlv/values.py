"""What all frozen values have in common: equality, hash and repr over their fields.

attrs would write these methods anew for every class and compile them at every start, which takes longer than a probe.
A value is ``@frozen(eq=False, repr=False) class Name(Value)``: attrs makes the rest.
"""

from __future__ import annotations

from typing import Any


class Value:
    """The base of a frozen attrs class. A field with ``eq=False`` counts neither for equality nor for the hash."""

    __slots__ = ()
    __attrs_attrs__: Any

    def _compared(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in self.__attrs_attrs__ if field.eq)

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, Value)
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((self.__class__, self._compared()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in self.__attrs_attrs__)
        return f"{self.__class__.__name__}({fields})"
