"""A table file: rows and columns of one of the papers' tables, and how each row is trained.

    title: Ablation of ASTN on MI3DOR
    source: astn                      # whose table
    table: 3
    kind: retrieval
    metrics: [NN, FT, ST, F, DCG, ANMRR, AUC]
    setting: photos                   # configs/tables/settings/photos.yaml, or its content
    columns: [mi3dor]
    rows:
      - {label: Only AFE, method: astn, published: only-afe, set: {method.dsa: false}}
      - {label: UCM-GCN, published_method: ucm-gcn, absent: not part of this project}

A setting says, for the built-in benchmark (``procedural``), for the furniture catalogue
(``catalogue``) and for the papers' data (``real``), which run description a method starts from and
which data each column stands for. In its values and in those of rows, ``{mi3dor}`` is the folder of
that name: ``folders`` of the site. Columns that stand for the same on a site are shown once there.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from dataio.names import nearest
from evalsuite.published import SOURCES, table_number
from evalsuite.scoring import HEADLINES
from trainer.config import ConfigError
from trainer.methods import METHODS
from trainer.sections import Section

DataChoice = Literal["procedural", "catalogue", "real"]
DATA_CHOICES: tuple[DataChoice, ...] = get_args(DataChoice)
Values = dict[str, Any]


class TableColumn(Section):
    """What a column stands for on one kind of data."""

    title: str = Field(description="Its head in the table.")
    note: str = Field(default="", description="What the reader must know of it.")
    set: Values = Field(default={}, description="Keys of the run description.")


class Quick(Section):
    """The same cells in seconds: they show that everything runs, their numbers mean nothing."""

    folders: dict[str, str] = Field(description="Instead of the site's.")
    set: Values = Field(default={}, description="Keys set in every cell.")
    methods: dict[str, Values] = Field(default={}, description="Further keys by method.")


class Site(Section):
    """The run descriptions and data of a table's cells on one kind of data."""

    config: str = Field(
        description="Run description below configs/; {method} is the name of the row's method."
    )
    otherwise: str | None = Field(
        default=None,
        description="Taken where `config` has no file for the row's method, which keeps its own "
        "settings.",
    )
    folders: dict[str, str] = Field(default={}, description="Name -> folder of a packed data set.")
    pack: dict[str, str] = Field(
        default={}, description="Name of a folder -> the command that packs it."
    )
    set: Values = Field(default={}, description="Keys set in every cell.")
    methods: dict[str, Values] = Field(
        default={}, description="Keys set in every cell of a method."
    )
    columns: dict[str, TableColumn] = Field(description="The columns by name.")
    quick: Quick | None = Field(default=None, description="None: there is no quick form.")

    @model_validator(mode="after")
    def _pack_known_folders(self) -> Site:
        unknown = next((name for name in self.pack if name not in self.folders), None)
        if unknown is not None:
            raise ValueError(f"pack: no folder '{unknown}'{nearest(unknown, self.folders)}")
        return self


class Setting(Section):
    """One setting of the papers on each kind of data; ``catalogue`` may be left out."""

    procedural: Site
    catalogue: Site | None = None
    real: Site

    @model_validator(mode="after")
    def _same_columns(self) -> Setting:
        for site in (self.procedural, self.catalogue):
            if site is not None and set(site.columns) != set(self.real.columns):
                name = "procedural" if site is self.procedural else "catalogue"
                raise ValueError(f"columns: {name} and real must name the same columns")
        return self


class Variant(Section):
    """How a row differs on one kind of data."""

    set: Values = Field(default={}, description="Keys set above the row's own.")
    note: str = Field(default="", description="What the row stands for.")
    absent: str | None = Field(default=None, description="Why there is no such run.")


class Start(Section):
    """The row whose trained networks this row's runs start from: pre-train, then fine-tune."""

    row: str = Field(description="Label of a row of this table; runs of one seed belong together.")
    columns: dict[str, str] = Field(description="Column of this row -> column of that row.")


class TableRow(Section):
    """One row: a method with options, and its figures in the paper."""

    label: str = Field(min_length=1, description="Shown; unique in the table.")
    method: str | None = Field(default=None, description="Method that is trained; null: absent.")
    set: Values = Field(default={}, description="Keys of the run description.")
    procedural: Variant = Variant()
    catalogue: Variant = Variant()
    real: Variant = Variant()
    absent: str | None = Field(default=None, description="Why this project has no such run.")
    published: str | dict[str, str] | None = Field(
        default="",
        description="Variant in the published figures, or one for each column; null: none.",
    )
    model: str | None = Field(
        default=None, description="Name in the published complexity figures, in such a table."
    )
    published_method: str | None = Field(
        default=None, description="Method there; null: the row's own."
    )
    published_backbone: str | None = Field(
        default=None, description="Backbone there, where that tells rows apart."
    )
    quoted: tuple[str | int, ...] = Field(
        default=(),
        description="Other tables of the paper whose figures this row repeats; empty: this one.",
    )
    start_from: Start | None = Field(default=None, description="None: the ready weights.")
    note: str = Field(default="", description="What the reader must know of it.")

    @model_validator(mode="after")
    def _trained_or_absent(self) -> TableRow:
        if (self.method is None) == (self.absent is None):
            raise ValueError(f"row '{self.label}': give either method, or absent with the reason")
        if self.method is not None and self.method not in METHODS:
            known = nearest(self.method, METHODS)
            raise ValueError(f"row '{self.label}': unknown method '{self.method}'{known}")
        return self

    def at(self, data: DataChoice) -> Variant:
        """How the row differs on that kind of data."""
        return getattr(self, data)


class PaperPart(Section):
    """What tables and figures of the papers have in common: the trainings that fill them."""

    name: str = Field(description="Of the file, without .yaml.")
    title: str
    source: str | None = Field(
        default=None, description="Paper whose figures stand beside ours; null: none."
    )
    metrics: tuple[str, ...] = Field(default=(), description="Metrics of `img2shape eval`.")
    seeds: int = Field(default=3, ge=1, description="Trainings of each row and column.")
    setting: Setting
    columns: tuple[str, ...] = Field(min_length=1, description="Columns of the setting.")
    rows: tuple[TableRow, ...] = Field(min_length=1)

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str | None) -> str | None:
        if source is not None and source not in SOURCES:
            raise ValueError(f"no published figures of '{source}'{nearest(source, SOURCES)}")
        return source

    @model_validator(mode="after")
    def _metrics_that_exist(self) -> PaperPart:
        unknown = next((m for m in self.metrics if m not in HEADLINES), None)
        if unknown is not None:
            raise ValueError(f"metrics: no metric '{unknown}'{nearest(unknown, HEADLINES)}")
        return self

    @model_validator(mode="after")
    def _columns_that_exist(self) -> PaperPart:
        known = self.setting.real.columns
        unknown = next((c for c in self.columns if c not in known), None)
        if unknown is not None:
            raise ValueError(f"columns: no column '{unknown}'{nearest(unknown, known)}")
        return self

    @model_validator(mode="after")
    def _rows_that_hold_together(self) -> PaperPart:
        labels = [row.label for row in self.rows]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"rows: two are labelled '{twice}'; a label names one row")
        for row in self.rows:
            if row.start_from is not None:
                self._require_start(row.label, row.start_from)
        return self

    def _require_start(self, label: str, start: Start) -> None:
        where = f"rows: '{label}' starts from"
        other = next((row for row in self.rows if row.label == start.row), None)
        if other is None:
            labels = [row.label for row in self.rows]
            raise ValueError(f"{where} no row '{start.row}'{nearest(start.row, labels)}")
        if other.method is None or other.start_from is not None:
            raise ValueError(f"{where} '{start.row}', which must be trained from ready weights")
        for column in [*start.columns, *start.columns.values()]:
            if column not in self.columns:
                raise ValueError(f"{where} column '{column}'{nearest(column, self.columns)}")
        lacking = next((column for column in self.columns if column not in start.columns), None)
        if lacking is not None:
            raise ValueError(f"{where} nothing in column '{lacking}'; add it to start_from.columns")

    @property
    def own_tables(self) -> tuple[str | int, ...]:
        """Tables of the paper in which the figures of a row stand that quotes none."""
        return ()

    @property
    def is_trained(self) -> bool:
        """Whether there are trainings at all."""
        return True

    @property
    def trained_rows(self) -> tuple[TableRow, ...]:
        """The rows that have trainings, one for each of the columns on a kind of data."""
        return self.rows

    def site(self, data: DataChoice) -> Site:
        """The setting on that kind of data.

        Raises:
            ConfigError: the setting leaves it out.
        """
        site = getattr(self.setting, data)
        if site is None:
            raise ConfigError(f"{self.name}: its setting has no {data} data; add it, or take real")
        return site

    def columns_on(self, data: DataChoice) -> tuple[str, ...]:
        """The columns on that kind of data; of those that stand for the same there, the first."""
        shown: dict[str, TableColumn] = {}
        for name in self.columns:
            about = self.site(data).columns[name]
            if about not in shown.values():
                shown[name] = about
        return tuple(shown)


class PaperTable(PaperPart):
    """A table file."""

    table: str | int | None = Field(default=None, description="Its number in the paper: 3 or III.")
    kind: Literal["retrieval", "complexity"] = Field(
        default="retrieval",
        description="complexity: parameters and multiply-adds, and the metrics of trainings if "
        "any are named.",
    )
    full: str | None = Field(
        default=None,
        description="Label of the row of the full method: the differences of the other rows to it "
        "are compared with the published ones. null: no such comparison.",
    )

    @property
    def own_tables(self) -> tuple[str | int, ...]:
        """The table itself."""
        return () if self.table is None else (self.table,)

    @property
    def is_trained(self) -> bool:
        """Networks whose size alone is asked for are counted, not trained."""
        return bool(self.metrics)

    @model_validator(mode="after")
    def _published_somewhere(self) -> PaperTable:
        if (self.source is None) != (self.table is None):
            raise ValueError("table: source and table belong together; give both or neither")
        for number in [self.table, *(n for row in self.rows for n in row.quoted)]:
            if number is not None and table_number(number) is None:
                raise ValueError(f"table: '{number}' is no number; write 3 or III")
        return self

    @model_validator(mode="after")
    def _metrics_of_its_kind(self) -> PaperTable:
        if self.kind == "retrieval" and not self.metrics:
            raise ValueError("metrics: a retrieval table needs some")
        return self

    @model_validator(mode="after")
    def _full_method(self) -> PaperTable:
        trained = [row.label for row in self.rows if row.method is not None]
        if self.full is not None and self.full not in trained:
            raise ValueError(f"full: no trained row '{self.full}'{nearest(self.full, trained)}")
        return self
