"""Conversion between messages and dataclasses. Owns the rules of the wire: unknown fields are ignored, absent values are not written."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from typing import Any, Literal, Mapping, TypeVar, Union

T = TypeVar("T", bound="Record")


class ContractError(ValueError):
    """A document that is not a message of the contract: names the field, its value and the expected type."""


class Record:
    """Base of the generated classes."""

    __slots__ = ()

    @classmethod
    def from_dict(cls: type[T], document: Mapping[str, Any]) -> T:
        """The record in `document`. Fields of newer minor versions are ignored."""
        return _read(cls, document, "")

    @classmethod
    def from_json(cls: type[T], text: str | bytes) -> T:
        """The record in a JSON document."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ContractError(f"a message is a JSON object: {error}") from error
        return cls.from_dict(document)

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary without absent values."""
        return _written(self)

    def to_json(self) -> bytes:
        """The record as a JSON document."""
        return json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":")).encode()


@functools.cache
def _fields(cls: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name, type and whether it is required, of each field."""
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)
    return tuple((field.name, hints[field.name], field.default is missing and field.default_factory is missing) for field in fields)


def _read(cls: type[T], document: Any, path: str) -> T:
    if not isinstance(document, Mapping):
        raise ContractError(f"field `{path or '.'}` = {document!r}, must be an object")
    values = {}
    for name, hint, required in _fields(cls):
        at = f"{path}.{name}" if path else name
        if name in document:
            values[name] = _value(hint, document[name], at)
        elif required:
            raise ContractError(f"field `{at}` is missing")
    return cls(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        present = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _value(present[0], value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ContractError(f"field `{path}` = {value!r}, must be a list")
        return tuple(_value(typing.get_args(hint)[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ContractError(f"field `{path}` = {value!r}, must be one of {', '.join(typing.get_args(hint))}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ContractError(f"field `{path}` = {value!r}, must be an object")
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return _read(hint, value, path)
    # In Python `True` is an integer; on the wire it is not.
    accepted = (int, float) if hint is float else (hint,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise ContractError(f"field `{path}` = {value!r}, must be of type {hint.__name__}")
    return value


def _written(value: Any) -> Any:
    if isinstance(value, Record):
        fields = ((name, getattr(value, name)) for name, _, _ in _fields(type(value)))
        return {name: _written(field) for name, field in fields if field is not None}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return value
