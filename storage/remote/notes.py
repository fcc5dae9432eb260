"""The small JSON objects of a bucket, sealed and read back as data that is not trusted: records, and numbers fixed once."""

from __future__ import annotations

from storage.files import sealed, unsealed
from storage.records import FORMAT, Last, Record
from storage.store import as_record


def packed_record(record: Record, parts: dict) -> bytes:
    """parts: what the record's key was made from."""
    return sealed({"record": {**record.model_dump(mode="json"), "format": FORMAT}, "parts": parts})


def unpacked_record(name: str, data: bytes, stage: str, key: str) -> tuple[Record, dict]:
    """The record, and what its key was made from. ValueError where it cannot be believed; NewerError.

    name: of the object, for messages.
    """
    value, checked = unsealed(data)
    if not checked or not isinstance(value.get("record"), dict):
        raise ValueError("it is no record with a check")
    record = as_record(value["record"], checked, name)
    if (record.stage, record.key) != (stage, key):
        raise ValueError(f"it is that of {record.stage}/{record.key}")
    last = Last.model_validate({"key": key, "label": record.label, "parts": value.get("parts")})
    return record, last.model_dump(exclude_unset=True)["parts"]


def packed_number(name: str, value: int) -> bytes:
    return sealed({"name": name, "value": value})


def unpacked_number(name: str, data: bytes) -> int:
    """The number. ValueError where it cannot be believed."""
    found, checked = unsealed(data)
    number = found.get("value")
    if not checked or found.get("name") != name or type(number) is not int or number < 1:
        raise ValueError("it is no number with a check")
    return number
