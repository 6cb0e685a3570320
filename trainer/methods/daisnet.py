"""DAIS-NET: domain and modality alignment for image-based shape retrieval, from labelled images
and shapes of one domain to unlabelled ones of another (equations are the paper's).

    L = λ_2D L_MMD2D + λ_3D L_MMD3D + λ_c (L_CEq + L_CEr) + λ_tri L_triplet + λ_E (L_Eq + L_Er)
                                                                                      (eq. 12)

G_q embeds images (or sketches), G_r shapes; one classifier serves both, since section 3.6 speaks of
"a shared classifier at domain level for the two modalities", or each has its own, as figure 2's C_q
and C_r suggest. Only the shared one brings images and shapes together when the triplets are left
out, a row for which table 3 prints 0.47, well above chance. The MMDs bring the domains of
one modality together (eq. 3-4), the triplets the modalities of the source (eq. 5); the entropies
sharpen the predictions on the target (eq. 10-11). Equation 11 prints p_q log p_r, here it is
p_r log p_r; the paper prints sums over samples, all terms here are means.

The paper trains for 30 epochs at a batch size that it does not give: for other data, set
``training.steps`` to 30 · samples / batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from trainer.losses import (
    Draw,
    cross_entropy,
    cross_modal_triplet,
    entropy,
    mmd,
    nearest_mean_accuracy,
    paired_squared_distance,
)
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.networks import Backbone, NetworkConfig, RetrievalNetwork, pool_views
from trainer.synchronised import full_precision

# Positions of shapes and images never overlap, so the two trunks drop different units.
_SHAPES = 1 << 42


class DaisNetConfig(MethodConfig):
    """Domain and modality alignment. ``forward`` concerns source and target of one modality."""

    mmd_2d_weight: float = Field(
        default=1.0, ge=0, description="λ_2D of L_MMD2D; 0 leaves it out, as with every weight."
    )
    mmd_3d_weight: float = Field(default=1.0, ge=0, description="λ_3D of L_MMD3D.")
    classification_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the cross-entropies of source images and source shapes. With 0, and "
        "no entropy either, the classifiers learn on embeddings cut off from the trunks: they "
        "measure and do not steer.",
    )
    alignment_weight: float = Field(
        default=1.0, ge=0, description="Weight of what brings images and shapes together."
    )
    entropy_weight: float = Field(
        default=0.1, ge=0, description="Weight of the entropies of both target modalities."
    )
    classifier: Literal["shared", "separate"] = Field(
        default="shared", description="One classifier of both modalities, or one of each."
    )
    kernel_scales: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="Factors of the MMDs' bandwidth, the mean squared distance: one Gaussian, as "
        "in the paper; (0.25, 0.5, 1, 2, 4) is DAN's sum of five, whose gradient is about 3 times "
        "larger.",
    )
    mse: Literal["mean", "sum"] = Field(
        default="mean",
        description="Of alignment mse over the D coordinates. mean: the usual meaning of the name; "
        "sum: the squared distance of eq. 5, D times larger.",
    )
    alignment: Literal["triplet", "mse"] = Field(
        default="triplet",
        description="Triplets of eq. 5, or their anchor-positive half alone (tables 1-2, MSE).",
    )
    margin: float = Field(
        default=1.0, ge=0, description="α of eq. 5, in squared distance; not given in the paper."
    )
    mining: Literal["random", "hard"] = Field(
        default="random",
        description="One positive and one negative per image drawn from the global batch, or the "
        "farthest and the nearest; not given in the paper.",
    )

    @model_validator(mode="after")
    def _every_trunk_learns(self) -> DaisNetConfig:
        if self.classification_weight + self.alignment_weight + self.entropy_weight > 0:
            return self
        for key, trunk in (("mmd_2d_weight", "image"), ("mmd_3d_weight", "shape")):
            if getattr(self, key) == 0:
                raise ValueError(
                    "classification_weight, alignment_weight, entropy_weight and "
                    f"{key} are 0, so nothing trains the {trunk} trunk; raise one of them"
                )
        return self


class DaisNet(Method):
    name = "daisnet"
    paper = "Pal et al., Domain Adaptive 3D Shape Retrieval from Monocular Images (DAIS-NET)"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "source_shapes": StreamNeed("shape", labelled=True),
        "target_images": StreamNeed("image", labelled=False),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    Config = DaisNetConfig
    two_trunks = True
    defaults = {  # noqa: RUF012
        # One learning rate for all parameters, as printed; the paper gives no weight decay.
        "optimizer": {
            "kind": "adam",
            "learning_rate": 1e-4,
            "schedule": "constant",
            "weight_decay": 0.0,
            "new_layer_multiplier": 1.0,
        },
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self._pretrained = network.pretrained
        self.network = RetrievalNetwork(network.of("image"), num_classes)  # G_q and C_q
        # G_r, and C_r unless C_q serves both.
        own = None if config.classifier == "shared" else num_classes
        self.shape_network = RetrievalNetwork(network.of("shape"), own)

    @property
    def pretrained(self) -> bool:
        return self._pretrained

    def trunk_of(self, modality: Literal["image", "shape"]) -> Backbone:
        return (self.network if modality == "image" else self.shape_network).trunk

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {}
        for name, network in (("image", self.network), ("shape", self.shape_network)):
            trunk = list(network.trunk_parameters())
            inside = {id(p) for p in trunk}
            groups[f"{name}.trunk"] = trunk
            groups[f"{name}.new"] = [p for p in network.parameters() if id(p) not in inside]
        return groups

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        images, shapes = batch["source_images"], batch["source_shapes"]
        losses, weights = Losses(), self.config
        q_s, q_t = self._embed_domains(self.network, images, batch["target_images"])  # eq. 1
        r_s, r_t = self._embed_domains(self.shape_network, shapes, batch["target_shapes"])  # eq. 2
        p_s, p_t = self._predict("2d", self.network, (q_s, images.labels), q_t, losses)
        self._predict("3d", self.shape_network, (r_s, shapes.labels), r_t, losses)
        if weights.mmd_2d_weight > 0:
            value = mmd(q_s, q_t, scales=weights.kernel_scales)  # eq. 3
            losses.add("mmd_2d", value, weight=weights.mmd_2d_weight)
        if weights.mmd_3d_weight > 0:
            value = mmd(r_s, r_t, scales=weights.kernel_scales)  # eq. 4
            losses.add("mmd_3d", value, weight=weights.mmd_3d_weight)
        if weights.alignment_weight > 0:
            draw = Draw(self.seed, now.step, images.offset)
            aligned = self._align((q_s, images.labels), (r_s, shapes.labels), draw)
            losses.add(weights.alignment, aligned, weight=weights.alignment_weight)

        target = batch["target_images"]
        self.observe(losses, now, source=(q_s, p_s, images), target=(q_t, p_t, target))
        if now.logged:
            losses.health["cross_modal_accuracy"] = nearest_mean_accuracy(
                q_s, images.labels, r_s, shapes.labels, num_classes=self.num_classes
            )
        return losses

    def _embed_domains(
        self, network: RetrievalNetwork, source: Domain, target: Domain
    ) -> tuple[Tensor, Tensor]:
        """Embeddings ``[n, D]`` and ``[m, D]`` of one modality's source and target rows."""
        # The network takes a stream of images and one of shapes. Here an image is a shape of one
        # view, and the source's views go in as images.
        x_s, x_t = (
            d.pixels if d.pixels.dim() == 5 else d.pixels[:, None] for d in (source, target)
        )
        base = _SHAPES if network is self.shape_network else 0
        with self.autocast(x_s.device):
            f, g = network.encode(
                x_s.flatten(0, 1),
                x_t,
                joint=self.config.forward == "joint",
                offsets=(base + source.offset * x_s.shape[1], base + target.offset),
            )
            assert f is not None
            assert g is not None
            pooled = pool_views(f.embedding.unflatten(0, x_s.shape[:2]), network.config.pool)
        return full_precision(pooled), full_precision(g.embedding)

    def _predict(
        self,
        name: str,
        network: RetrievalNetwork,
        source: tuple[Tensor, Tensor],
        target: Tensor,
        losses: Losses,
    ) -> tuple[Tensor, Tensor]:
        """Add L_CE (eq. 8-9) and L_E (eq. 10-11) of one modality; returns both domains' logits."""
        (f, labels), weights = source, self.config
        measured = weights.classification_weight == 0 and weights.entropy_weight == 0
        classify = self._classify(network)
        p_s, p_t = classify(f.detach() if measured else f), classify(target)
        if measured:
            losses.add(f"classification_{name}", cross_entropy(p_s, labels))
        elif weights.classification_weight > 0:
            value = cross_entropy(p_s, labels)
            losses.add(f"classification_{name}", value, weight=weights.classification_weight)
        if weights.entropy_weight > 0:
            losses.add(f"entropy_{name}", entropy(p_t), weight=weights.entropy_weight)
        return p_s, p_t

    def _classify(self, network: RetrievalNetwork) -> Callable[[Tensor], Tensor]:
        """Class logits of one modality's embeddings."""
        return self.network.classify if network.classifier is None else network.classify

    def _align(
        self, images: tuple[Tensor, Tensor], shapes: tuple[Tensor, Tensor], draw: Draw
    ) -> Tensor:
        """Images to shapes of the source, both as embeddings and labels (eq. 5)."""
        mining = self.config.mining
        if self.config.alignment == "mse":
            value = paired_squared_distance(*images, *shapes, draw=draw, mining=mining)
            return value / images[0].shape[1] if self.config.mse == "mean" else value
        margin = self.config.margin
        return cross_modal_triplet(*images, *shapes, draw=draw, margin=margin, mining=mining)

    def trace(self, image: Tensor, view: Tensor) -> None:
        self.network.trace(image)
        self.shape_network.trace(view)

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        return full_precision(self.shape_network.embed_shapes(pixels))

    def class_logits(self, pixels: Tensor) -> Tensor:
        if pixels.dim() != 5:
            return super().class_logits(pixels)
        classify = self._classify(self.shape_network)
        return full_precision(classify(self.embed_gallery(pixels)))
