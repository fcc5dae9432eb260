"""Nested values with the names on the way."""

from pydantic import BaseModel

from tasks.nested import leaves


class Inner(BaseModel):
    table: dict[str, str] = {"a": "b"}


class Outer(BaseModel):
    seed: int = 3
    inner: Inner = Inner()


def test_only_groups_of_the_kind_asked_for_are_opened():
    assert dict(leaves(Outer(), BaseModel)) == {("seed",): 3, ("inner", "table"): {"a": "b"}}
    figures = {"loss": 1.0, "by": {"length": [1, 2], "none": {}}}
    assert dict(leaves(figures, dict)) == {("loss",): 1.0, ("by", "length"): [1, 2]}
    assert list(leaves([1], dict)) == [((), [1])]
