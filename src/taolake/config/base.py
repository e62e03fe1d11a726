"""How a section of the project file behaves, and the types several sections share."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]

Share = Annotated[float, Field(ge=0, le=1)]

ImportPath = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]


class Section(BaseModel):
    """Frozen, and strict about keys: a typo must not silently become a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def sections_in(annotation: Any) -> list[type[Section]]:
    """The config sections inside a field's annotation, through tuples, unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]
