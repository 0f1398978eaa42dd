#!/usr/bin/env python3
"""Writes python/qscale/contract.py, the typed messages, from common/schemas. `--check` only compares. Needs the standard library alone."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SCHEMAS = ROOT.parent.parent / "common" / "schemas"
TARGET = ROOT / "python" / "qscale" / "contract.py"
MESSAGES = ("state", "action")
SCALARS = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}
EMPTY = {"integer": "0", "number": "0.0", "string": '""', "boolean": "False"}
HEADER = '''"""Messages of the contract as dataclasses, generated from common/schemas by contract_from_schemas.py.

A value that was not measured is `None`, never zero. Read `State.from_json(text)`, write `Action(...).to_json()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ._record import Record
'''


class Schema:
    """A schema and the classes for its objects."""

    def __init__(self, document):
        self.document = document
        self.definitions = document.get("definitions", {})
        self.classes = {}

    def generate(self):
        """Text of each class by name, dependencies first."""
        self.add(self.document["title"], self.document)
        return self.classes

    def add(self, name, schema):
        if name in self.classes:
            return
        required = schema.get("required", [])
        names = sorted(schema["properties"], key=lambda key: (key not in required, list(schema["properties"]).index(key)))
        lines = [f"    {key}: {self.field(schema['properties'][key], key in required)}\n{doc(schema['properties'][key], '    ')}" for key in names]
        head = f"@dataclass(frozen=True, slots=True, kw_only=True)\nclass {name}(Record):\n{doc(schema, '    ')}\n"
        self.classes[name] = head + "".join(lines)

    def field(self, schema, required):
        kind = self.type(schema)
        if required:
            return kind
        default = self.default(schema, kind)
        return f"{kind} = {default}"

    def default(self, schema, kind):
        if "default" in schema:
            return self.literal(schema["default"], kind)
        if kind.endswith("| None"):
            return "None"
        if kind.startswith("tuple"):
            return "()"
        if kind in self.classes:
            return f"field(default_factory=lambda: {kind}())"
        return {SCALARS[scalar]: empty for scalar, empty in EMPTY.items()}[kind]

    def literal(self, value, kind):
        if isinstance(value, dict):
            arguments = ", ".join(f"{key}={item!r}" for key, item in sorted(value.items()))
            return f"field(default_factory=lambda: {kind}({arguments}))"
        return json.dumps(value) if isinstance(value, str) else repr(value)

    def type(self, schema):
        for key in ("allOf", "anyOf"):
            if key in schema:
                options = [self.type(option) for option in schema[key]]
                return " | ".join(options)
        if "$ref" in schema:
            return self.referenced(schema["$ref"].rsplit("/", 1)[1])
        if schema.get("type") == "array":
            return f"tuple[{self.type(schema['items'])}, ...]"
        if isinstance(schema.get("type"), list):
            scalar, null = schema["type"]
            assert null == "null", schema
            return f"{SCALARS[scalar]} | None"
        if schema.get("type") == "null":
            return "None"
        return SCALARS[schema["type"]]

    def referenced(self, name):
        schema = self.definitions[name]
        if "properties" in schema:
            self.add(name, schema)
            return name
        if "oneOf" in schema:
            constants = [option.get("const") for option in schema["oneOf"]]
            return f"Literal[{', '.join(json.dumps(constant) for constant in constants)}]" if all(constants) else "dict[str, Any]"
        return self.type(schema)


def doc(schema, indent):
    text = schema.get("description", "").replace("\\", "\\\\").replace('"""', "'''").replace("\n\n", "\n").replace("\n", f"\n{indent}")
    return f'{indent}"""{text}"""\n' if text else ""


def generated():
    """The text of contract.py."""
    classes = {}
    for message in MESSAGES:
        document = json.loads((SCHEMAS / f"{message}.schema.json").read_text())
        for name, text in Schema(document).generate().items():
            assert classes.setdefault(name, text) == text, f"{name} differs between schemas"
    names = ", ".join(f'"{name}"' for name in sorted(classes))
    return HEADER + f"\n__all__ = [{names}]\n" + "".join(f"\n\n{text}" for text in classes.values())


def main():
    text = generated()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text)
    elif TARGET.read_text() != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} does not match common/schemas; run {Path(__file__).name}")


if __name__ == "__main__":
    main()
