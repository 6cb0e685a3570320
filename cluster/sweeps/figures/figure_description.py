"""A figure file: what one of the papers' figures shows, and how each row of it is trained.

    title: Metrics over theta and alpha
    source: astn
    figure: 3
    kind: lines
    metrics: [NN, FT]
    setting: photos                   # configs/tables/settings/photos.yaml, as a table's
    columns: [mi3dor]
    rows: [{label: ASTN, method: astn, quoted: [1]}]
    parameters:
      - {name: alpha, key: method.alpha, values: [0.1, 0.3, 0.5], published_at: 0.3}

Settings, columns and rows are those of :mod:`cluster.sweeps.tables.table_description`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.sweeps.tables import PaperPart, TableRow
from evalsuite.scoring import CurveName
from trainer.sections import Section

Kind = Literal["lines", "bars", "precision-recall", "t-sne", "strips"]
Colour = Literal["blue", "red", "orange", "green", "gray"]


class Parameter(Section):
    """What lines are drawn over: a key of the run description, and its values."""

    name: str = Field(min_length=1, description="Written at the axis.")
    key: str = Field(min_length=1, description="Key of the run description.")
    values: tuple[float, ...] = Field(min_length=2, description="Ascending.")
    published_at: float | None = Field(
        default=None,
        description="The value that the figures of the paper's tables belong to; null: none.",
    )

    @model_validator(mode="after")
    def _ascending(self) -> Parameter:
        if list(self.values) != sorted(set(self.values)):
            raise ValueError(f"values: {list(self.values)} do not ascend")
        if self.published_at is not None and self.published_at not in self.values:
            raise ValueError(f"published_at: {self.published_at} is none of the values")
        return self


class PaperFigure(PaperPart):
    """A figure file."""

    figure: int = Field(ge=1, description="Its number in the paper.")
    kind: Kind
    parameters: tuple[Parameter, ...] = Field(default=(), description="Of kind lines.")
    curve: CurveName = Field(
        default="pooled",
        description="Of kind precision-recall: pooled over the queries, or the mean over the "
        "queries at SHREC's 20 recall levels.",
    )
    colouring: Literal["images blue", "images red", "classes"] = Field(
        default="images blue", description="Of kind t-sne; the shapes are red or blue."
    )
    shown: int = Field(default=8, ge=1, description="Of kind strips: nearest shapes of a query.")
    queries: int = Field(default=6, ge=1, description="Of kind strips: queries of a panel.")
    right: Colour = Field(default="blue", description="Of kind strips: shapes of the class.")
    wrong: Colour = Field(default="orange", description="Of kind strips: the other shapes.")
    notes: tuple[str, ...] = Field(default=(), description="Written below the figure.")

    @model_validator(mode="after")
    def _parts_of_its_kind(self) -> PaperFigure:
        if (self.kind == "lines") != bool(self.parameters):
            raise ValueError("parameters: kind lines needs some, the other kinds have none")
        if (self.kind == "lines") != bool(self.metrics):
            raise ValueError("metrics: kind lines needs some, the other kinds have none")
        return self

    @model_validator(mode="after")
    def _of_a_paper(self) -> PaperFigure:
        if self.source is None:
            raise ValueError("source: name the paper")
        return self

    @property
    def trained_rows(self) -> tuple[TableRow, ...]:
        """Of kind lines one for each row, parameter and value, else the rows."""
        if self.kind != "lines":
            return self.rows
        return tuple(
            row.model_copy(
                update={
                    "label": value_label(row, parameter, value),
                    "set": {**row.set, parameter.key: value},
                }
            )
            for row in self.rows
            for parameter in self.parameters
            for value in parameter.values
        )


def value_label(row: TableRow, parameter: Parameter, value: Any) -> str:
    """``ASTN, alpha = 0.3``: the label of a row's training with a value of a parameter."""
    return f"{row.label}, {parameter.name} = {value:g}"
