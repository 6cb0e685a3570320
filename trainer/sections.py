"""The sections of a run description: every field typed, validated and documented."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataio.loading import AugmentConfig
from dataio.names import nearest, one_form
from evalsuite.scoring import HEADLINES, FeaturesName, MetricName, Options, ProtocolName
from trainer.schedules import Schedule

STREAM_NAMES = ("source_images", "source_shapes", "target_images", "target_shapes")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selection(Section):
    """One stream of one data set."""

    stream: Literal["image", "sketch", "shape"] = Field(description="Kind of samples.")
    split: Literal["train", "val", "test", "all"] = Field(
        description="Split of the data set; all: every split (sets without one for that stream, "
        "transductive protocols)."
    )
    root: str | tuple[str, ...] | None = Field(
        default=None,
        description="Folder of the packed data set; null: data.root. Several folders: their union, "
        "classes merged by name (joint training).",
    )


class DataConfig(Section):
    """Which packed data set feeds which stream."""

    root: str = Field(
        default="data/procedural-small",
        description="Folder of a packed data set (manifest.parquet).",
    )
    dataset: str | None = Field(
        default=None, description="Name shown in tables and reports; null: the data set's own."
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="The label space; null takes the classes of the data set."
    )
    restrict: bool = Field(
        default=False,
        description="Leave out the samples of all classes but data.classes (null: those that all "
        "data sets of the run have), in every stream, queries and gallery included: the closed-set "
        "protocol of transfer pairs. Which samples an unlabelled stream has then follows from "
        "labels, as in the papers; training sees none.",
    )
    mapping: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Class -> names that stand for it in some data set, besides its own and "
        "well-known synonyms (sofa: couch); used with data.classes or data.restrict.",
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        description="Class count for `img2shape model` while the data are absent; null: only the "
        "data say it.",
    )
    source_images: Selection | None = Field(
        default=None,
        description="Labelled source images or sketches; {stream: image, split: train} for methods "
        "that need them, null for others. So with the next three.",
    )
    source_shapes: Selection | None = Field(
        default=None, description="Labelled source shapes; {stream: shape, split: train}."
    )
    target_images: Selection | None = Field(
        default=None,
        description="Unlabelled target images or sketches, labels never read in training; {stream: "
        "image, split: train}.",
    )
    target_shapes: Selection | None = Field(
        default=None,
        description="Unlabelled target shapes, labels never read in training; {stream: shape, "
        "split: train}.",
    )
    queries: Selection = Field(
        default=Selection(stream="image", split="test"), description="Queries of the evaluation."
    )
    gallery: Selection = Field(
        default=Selection(stream="shape", split="test"), description="Gallery of the evaluation."
    )
    train_views: int | None = Field(
        default=None,
        ge=1,
        description="Views drawn per shape and pass in training; null: all of them.",
    )
    block_shards: int = Field(
        default=4,
        ge=1,
        description="Shards shuffled together: randomness against locality of reads.",
    )
    augment: AugmentConfig | None = Field(
        default=AugmentConfig(), description="Augmentation of training samples; null: none."
    )

    @field_validator("classes")
    @classmethod
    def _classes_in_one_form(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(map(one_form, value))


class OptimizerConfig(Section):
    """Optimiser and learning-rate schedule."""

    kind: Literal["sgd", "adam"] = Field(default="sgd", description="Optimiser.")
    learning_rate: float = Field(
        default=0.01, gt=0, description="μ0, the rate of the trunk at p = 0."
    )
    schedule: Schedule = Field(
        default="inverse",
        description="inverse: μ0·(1 + 10p)^-0.75; exponential: constant for a third of the run, "
        "then exponentially to μ0/1000; constant; cosine.",
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="Share of training with a linear rise of the rate."
    )
    hold_steps: int = Field(
        default=0,
        ge=0,
        description="First steps at the full rate, before the schedule starts: as many as a "
        "pre-training takes that is not counted in it (DCA).",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Not given in the papers.")
    new_layer_multiplier: float = Field(
        default=10.0,
        gt=0,
        description="Rate of bottleneck, classifier and discriminator relative to a pre-trained "
        "trunk; without effect when network.weights is none. Not given in the papers.",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest global gradient norm; null: no clipping."
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Batches whose gradients are averaged into one optimiser step; each has "
        "statistics of its own. strategy.micro_batch saves memory without that.",
    )

    @model_validator(mode="after")
    def _rises_or_holds(self) -> OptimizerConfig:
        if self.warmup > 0 and self.hold_steps > 0:
            raise ValueError(
                f"hold_steps: {self.hold_steps} steps at the full rate come before warmup "
                f"({self.warmup:g}), which starts at 0; set one of them to 0"
            )
        return self

    def rates(self, *, pretrained: bool) -> dict[str, float]:
        """Base learning rates at p = 0: of a trunk, and of the new layers on it."""
        new = self.learning_rate * (self.new_layer_multiplier if pretrained else 1.0)
        return {"trunk": self.learning_rate, "new layers": new}


class TrainingConfig(Section):
    """The loop."""

    steps: int = Field(
        default=1000,
        ge=0,
        description="Batches to train on; 0 with init_from fits only what a method fits last.",
    )
    batch: int = Field(
        default=64,
        ge=1,
        description="Global batch per stream, over all workers. Methods with P x K batches set it "
        "to classes_per_batch x samples_per_class.",
    )
    init_from: str | None = Field(
        default=None,
        description="Run or checkpoint whose network this run starts from (pre-train, then "
        "fine-tune); rows of the classifier are taken by class name.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of weights, order, augmentation and dropout."
    )
    precision: Literal["float32", "float64", "bf16"] = Field(
        default="float32", description="Arithmetic of the trunk; losses are never below float32."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between two lines of log.jsonl.")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between two checkpoints.")
    keep_last: int = Field(default=2, ge=1, description="Newest checkpoints kept.")
    keep_best: int = Field(
        default=1,
        ge=0,
        description="Checkpoints kept besides for their score by validation.metric, and as many "
        "for that by validation.criterion; there are scores with validation.every.",
    )
    async_checkpoints: bool = Field(
        default=True,
        description="Write checkpoints while training goes on, from a copy of the state in memory.",
    )
    loader_workers: int = Field(default=0, ge=0, description="Loader processes per worker.")
    cache: Literal["none", "ram", "device"] = Field(
        default="none",
        description="ram: keep decoded samples, once for all loader processes of a worker; device: "
        "decode all streams first and hold them on the training device. The batches are the same.",
    )
    cache_bytes: int = Field(
        default=4 << 30, ge=1, description="Limit of the ram cache of each worker."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per worker; null: OMP_NUM_THREADS (Ray and torchrun set it to 1), "
        "else cores / workers.",
    )
    feature_copies: int = Field(
        default=0,
        ge=0,
        description="Where stages are frozen (network.train): augmented copies of every training "
        "sample whose outputs are kept, read in turn, one a pass; 0: the pictures as they are.",
    )
    feature_store: str | None = Field(
        default=None,
        description="Folder that keeps the outputs of frozen stages for all runs; null: "
        "IMG2SHAPE_FEATURES, else ~/.cache/img2shape/features.",
    )
    timeout_seconds: float = Field(default=600.0, gt=0, description="Longest wait in a collective.")
    watchdog_seconds: float | None = Field(
        default=300.0,
        gt=0,
        description="Longest time without any progress before a worker writes the stacks of its "
        "threads into the run folder (hangs/) and ends, so that the group starts again; below "
        "timeout_seconds; null: no watchdog.",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="Times that Ray workers are started again, at the newest checkpoint, after a "
        "worker or its node died.",
    )

    @model_validator(mode="after")
    def _watchdog_before_timeout(self) -> TrainingConfig:
        watchdog, timeout = self.watchdog_seconds, self.timeout_seconds
        if watchdog is not None and watchdog >= timeout:
            raise ValueError(
                f"watchdog_seconds: {watchdog:g} is not below timeout_seconds ({timeout:g}), at "
                "which the waiting workers end before they can tell for whom; lower it, or null"
            )
        return self


class StrategyConfig(Section):
    """The engine that averages gradients and steps; none of it changes what is trained."""

    name: Literal["ddp", "deepspeed"] = Field(
        default="ddp",
        description="ddp: every worker holds everything; deepspeed: optimiser state, gradients and "
        "weights spread over the workers as zero_stage says (needs the extra of that name).",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="What deepspeed spreads: 0 nothing, 1 optimiser state, 2 and gradients, 3 and "
        "weights.",
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Pictures (views count singly) that a worker passes through the trunk at once, "
        "computed again in the backward pass: less memory, the same losses and gradients, since "
        "statistics still see the whole batch. null: all of them.",
    )
    compile: bool = Field(default=False, description="Compile the trunk with torch.compile.")
    channels_last: bool | None = Field(
        default=None, description="Memory layout of the trunk's maps; null: on a GPU."
    )


class ValidationConfig(Section):
    """Scores of a run on its way; they choose the best checkpoint and train nothing."""

    every: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two validations, a multiple of training.checkpoint_every; null: "
        "none.",
    )
    metric: str | None = Field(
        default="mAP",
        description="What is compared, a metric of `img2shape eval`. Labels of the split are read: "
        "a checkpoint chosen by it was chosen by an oracle, and a table must say so. null: no such "
        "scores, and no label of queries or gallery is read.",
    )
    criterion: Literal["entropy", "im", "snd", "source-val"] | None = Field(
        default=None,
        description="What is compared without a label of the target. On the unlabelled streams of "
        "training (source-only: split train of the gallery): the predictions' mean entropy; im: "
        "information maximisation, sure and spread over the classes; snd: soft neighbourhood "
        "density. source-val: accuracy on split val of the labelled streams. null: none.",
    )
    split: Literal["train", "val", "test", "all", "evaluated"] = Field(
        default="val",
        description="Split of data.queries and data.gallery that is scored; evaluated: their own, "
        "which `img2shape eval` scores too.",
    )

    @model_validator(mode="after")
    def _metric_that_exists(self) -> ValidationConfig:
        if self.metric is not None and self.metric not in HEADLINES:
            raise ValueError(f"metric: no metric '{self.metric}'{nearest(self.metric, HEADLINES)}")
        return self

    @model_validator(mode="after")
    def _something_to_score(self) -> ValidationConfig:
        if self.criterion is not None and self.every is None:
            raise ValueError(
                f"criterion: '{self.criterion}' is computed every validation.every steps, which is "
                "null; set it to a multiple of training.checkpoint_every, or criterion to null"
            )
        if self.every is not None and self.metric is None and self.criterion is None:
            raise ValueError(
                "every: neither metric nor criterion is set; set one, or every to null"
            )
        return self


class EvaluationConfig(Section):
    """How embeddings are scored."""

    protocol: ProtocolName = Field(default=Options.protocol, description="Metric definitions.")
    features: FeaturesName = Field(
        default=Options.features, description="Post-processing; clamp-l2 is the MI3DOR script's."
    )
    metric: MetricName = Field(default=Options.metric, description="Distance.")
    map_cut: int | None = Field(
        default=Options.map_cut,
        ge=1,
        description="mAP over the first so many shapes retrieved; null: over the whole list.",
    )
    batch: int = Field(default=64, ge=1, description="Samples per forward pass of the extraction.")

    def options(self) -> dict[str, Any]:
        """Fields of ``evalsuite.scoring.Options``."""
        return self.model_dump(exclude={"batch"})


class MonitoringConfig(Section):
    """The Prometheus endpoint of a run, open while `img2shape train` lasts."""

    enabled: bool = Field(default=True, description="Export metrics.")
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. 0.0.0.0 shows the metrics to the network, which a pod "
        "needs to be scraped.",
    )
    port: int = Field(
        default=9400,
        ge=0,
        le=65535,
        description="First port to try; the next free one of 100 is taken, and said. 0: any.",
    )
