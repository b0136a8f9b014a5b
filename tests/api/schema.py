"""A validator for the part of JSON Schema that the OpenAPI document uses, and no more."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}
ANNOTATIONS = {"description", "default", "format"}


def faults(
    value: Any, schema: dict[str, Any], components: dict[str, Any], at: str = "$"
) -> list[str]:
    """Return what is wrong with a value, each with its place; nothing when the schema holds."""
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword in ANNOTATIONS or keyword in ("required", "additionalProperties"):
            continue
        if keyword == "$ref":
            found += faults(value, components[wanted.rpartition("/")[2]], components, at)
        elif keyword == "anyOf":
            tried = [faults(value, one, components, at) for one in wanted]
            if all(tried):
                found.append(f"{at}: none of {len(tried)}: {min(tried, key=len)}")
        elif keyword == "type":
            if not is_type(value, wanted):
                found.append(f"{at}: {value!r} is no {wanted}")
        elif keyword == "enum":
            if value not in wanted:
                found.append(f"{at}: {value!r} is not one of {wanted}")
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                found.append(f"{at}: {value!r} does not match {wanted}")
        elif keyword == "maxLength":
            if isinstance(value, str) and len(value) > wanted:
                found.append(f"{at}: {value!r} is longer than {wanted}")
        elif keyword in ("minimum", "maximum"):
            if is_type(value, "integer") and (
                value < wanted if keyword == "minimum" else value > wanted
            ):
                found.append(f"{at}: {value} is beyond {wanted}")
        elif keyword in ("minItems", "maxItems"):
            if isinstance(value, list) and (
                len(value) < wanted if keyword == "minItems" else len(value) > wanted
            ):
                found.append(f"{at}: {len(value)} items")
        elif keyword == "uniqueItems":
            if isinstance(value, list) and len(set(map(repr, value))) != len(value):
                found.append(f"{at}: an item repeats")
        elif keyword == "items":
            if isinstance(value, list):
                for index, item in enumerate(value):
                    found += faults(item, wanted, components, f"{at}[{index}]")
        elif keyword == "properties":
            if isinstance(value, dict):
                found += object_faults(value, schema, components, at)
        else:
            found.append(f"{at}: the validator does not know {keyword}")
    return found


def object_faults(
    value: dict[str, Any], schema: dict[str, Any], components: dict[str, Any], at: str
) -> list[str]:
    found = [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, member in value.items():
        if name in schema["properties"]:
            found += faults(member, schema["properties"][name], components, f"{at}.{name}")
        elif schema.get("additionalProperties") is False:
            found.append(f"{at}.{name} is not declared")
    return found


def is_type(value: Any, name: str) -> bool:
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])
