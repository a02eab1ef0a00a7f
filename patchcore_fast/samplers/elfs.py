"""Selection that knows more than distance: signals prune and weigh, then exact k-center covers all that is left."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import KCenterResult, k_center_greedy
from ..scores import Layout, difficulty, noise_instability, representativeness, support
from .composite import Composite
from .composite_options import CompositeOptions, asked_for
from .elfs_options import plain_options
from .elfs_signals import rarity_over_ranks, views_over_ranks, weight_of
from .given import check_scores
from .greedy import GreedyCoresetSampler
from .measures import mean_distance
from .parts import Parts
from .pruning import SupportRule, by_share
from .settling import settled
from .shards import Shards, count_of

_WIDE = 256  # columns up to which signals look at the features themselves, not at their projection
_SETTLE, _SMALL = 0.15, 0.005  # share of the picks that settle, in banks of at most this share of the rows
SUSPECTS = 20  # images that "ask" names


class ELFSCoresetSampler(GreedyCoresetSampler):
    """PatchCore's coreset by more than distance, after ELFS (label-free coreset selection with proxy dynamics).

    Exact k-center greedy covers all rows that are not pruned, and of a small bank the latest picks settle at the middle
    of what they cover. By default nothing is pruned, so that a bank of more than 0.5 % of the rows is greedy's, index
    for index. `prune_support` looks for training images that show what no other image shows: "ask" names them, "rule"
    prunes. docs/elfs.md has the evidence, for and against.

    Parameters
    ----------
    percentage, device, dimension_to_project_features_to (or reduce_dim), seed, backend : as `GreedyCoresetSampler`.
    mode : "feature" (default): signals of geometry. "pseudo": a small network is trained on k-means pseudo-labels, and
        `prune_hard` and `prune_easy` go by its training dynamics (area under the margin), not by rarity.
    prune_support : False (default): nobody looks. "ask": nothing is pruned, and a UserWarning names the images that the
        others support least, for a person to look at (`suspects_`). "rule": where more than 5.5 % of the images stand
        out by 3 robust standard deviations, the set is taken to be contaminated, and patches that nothing supports are
        pruned, with their surroundings, as far as the other images do not miss them; on sets that it was not made on
        this decision fails. A share of images in (0, 1): their unsupported patches are pruned anyway. All need to know
        the images: from `image_ids` or `positions`, else from the order of the rows where that shows them. "auto" and
        True, of earlier versions, are "rule", with a FutureWarning.
    prune_hard, prune_easy : share of rows, in [0, 0.5), pruned at the hard end (difficulty, or rarity) and at the easy
        end. None: 0, but 0.1 at the hard end in mode "pseudo".
    w_repr, w_density, w_unc : weigh distances by exp(w * s), s the robustly normalised representativeness, density
        (minus rarity), or uncertainty (difficulty, or instability where there are views), within +-3. 0 by default: no
        weight did better than none on every set that we have.
    k_density, anchors : of rarity, at most one less than there are rows.  n_clusters, epochs : of k-means and the
        training, whose outcome (mode "pseudo") is reproducible on one device and thread count only.
    topk_pool_multiplier : only the m * k rows of largest weight may be selected; None (default): all.
    settle : share of the picks, the latest, that give way to the row in the middle of their cell: the early picks are
        the border of what is normal, the late ones fill, and fill better from the middle. None (default): 0.15, and
        none of banks above 0.5 % of the rows, where cells are small. 0: the picks of `GreedyCoresetSampler`, index for
        index, unless something is pruned or weighed.
    approximate_starting_points : start from the mean distance to so many random rows, as
        `ApproximateGreedyCoresetSampler`; None: from the row farthest from the mean.
    instability : "views" (of `select`'s views), or "noise", the old form, with noise_std and noise_T draws.
    preset : None, or "composite": a weighted sum of three normalised signals makes a pool, and greedy covers the pool,
        the selection that many texts describe; docs/elfs.md has it in formulas. What it alone takes means it, too:
        repr, density, density_subsample, batch_size_instability, proxy_steps, difficulty, pool, min_pool, alpha, beta,
        clean, dim_reduce, instability="proxy" or "difficulty", noise_T=0. Its w_* are 1 by default, of any size and
        sign; percentage may be 1; pruning, mode and settle have no part in it. See `CompositeOptions`.

    Attributes
    ----------
    scores_ : signal -> [N] float32; "support" is minus the distance to the other images. Of the composite preset
        "representativeness", "density", "instability" or "difficulty", as measured, and "composite".
    pool_ : [N] bool, rows that could be picked.
    kept_ : [N] bool, rows that were not pruned; others are selected, with a warning, only where these are too few.
        pruned_ : "support", "hard", "easy", "pool" -> [N] bool.
    suspects_ : with "ask" the images that the others support least, at most 20, as (the caller's number, deviation),
        the least supported first; else empty. Deviations are robust standard deviations after concentration.
    radii_ : as in every sampler, of the traversal before picks settle.
    report_ : settings, what was found and decided, counts, seconds and peak memory (bytes) by part, as JSON types.

    With a group `select` takes this rank's part of everything; settings and the number of views are the same on all
    ranks. Cuts between ranks may go through images. Masks, scores and positions are then those of all rows, on every
    rank; rows themselves stay where they are, but for the representatives of images, images that are cut, and what
    settles. What goes through k-means (mode "pseudo", w_repr) or noise, and the preset, select in one process only.

    References
    ----------
    Zheng et al., ELFS, ICLR 2025. Pleiss et al., Identifying mislabeled data using the area under the margin ranking,
    NeurIPS 2020. Roth et al., Towards total recall in industrial anomaly detection, CVPR 2022.
    """

    uses_positions = True
    composer: Callable[..., Composite] = Composite  # what makes the composite preset's choice; set it to share signals
    mode: str
    instability: str | None
    rule: SupportRule
    prune_hard: float
    prune_easy: float
    w_repr: float
    weights: dict[str, float]
    k_density: int
    anchors: int
    n_clusters: int
    epochs: int
    topk_pool_multiplier: float | None
    settle: float | None
    approximate_starting_points: int | None
    noise_std: float
    noise_draws: int

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | None = None,
        dimension_to_project_features_to: int | None = 128,
        *,
        preset: str | None = None,
        mode: str = "feature",
        prune_support: str | float | bool = False,
        prune_hard: float | None = None,
        prune_easy: float | None = None,
        w_repr: float | None = None,
        w_density: float | None = None,
        w_unc: float | None = None,
        k_density: int = 4,
        anchors: int = 1024,
        n_clusters: int = 64,
        epochs: int = 4,
        topk_pool_multiplier: float | None = None,
        settle: float | None = None,
        approximate_starting_points: int | None = None,
        instability: str | None = None,
        noise_std: float | None = None,
        noise_T: int | None = None,
        reduce_dim: int | None = None,
        repr: str | None = None,
        density: str | None = None,
        density_subsample: int | None = None,
        batch_size_instability: int | None = None,
        proxy_steps: int | None = None,
        difficulty: str | None = None,
        pool: str | None = None,
        min_pool: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        clean: float | None = None,
        dim_reduce: int | None = None,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}  # all arguments
        self.takes_all = asked_for(preset, given)
        width = dimension_to_project_features_to if reduce_dim is None else reduce_dim
        super().__init__(percentage, device, width if dim_reduce is None else dim_reduce, seed=seed, backend=backend)
        self.preset = "composite" if self.takes_all else None
        self.composite = CompositeOptions.of(given) if self.takes_all else None
        options = plain_options(type(self).__name__, given) if self.composite is None else self.composite.attributes()
        for name, value in options.items():
            setattr(self, name, value)
        self.scores_: dict[str, Tensor] = {}
        self.pruned_: dict[str, Tensor] = {}
        self.suspects_: list[tuple[int, float]] = []
        self.kept_ = self.pool_ = torch.empty(0, dtype=torch.bool)
        self.report_: dict[str, Any] = {}

    def select(
        self,
        features: Features,
        image_ids: Any = None,
        views: Features | Sequence[Features] | None = None,
        positions: Any = None,
        pseudo_labels: Any = None,
        image_embeddings: Features | None = None,
        scores: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Row numbers of the selection.

        Parameters
        ----------
        features : [N, D] floating ndarray or tensor.
        image_ids : [N] integers, the image of each row.
        views : [N, D], or several, features of the same patches in augmented images, for instability="views".
        positions : [N, 3] integers, (image, row, column) of each row on its image's patch grid.
        pseudo_labels : [N] integers >= 0, classes of rows, or [I] of images, for the composite preset's proxy.
        image_embeddings : [I, E], global embeddings of the images, to be clustered for the same purpose.
        scores : signal -> [N] numbers, of `patchcore-fast score`, that the composite preset takes in place of its own.

        Returns and raises as `Sampler.select`; ValueError also where these do not fit the features, or `radius` is set:
        rows that are pruned and picks that settle would not keep to it.
        """
        where = {"image_ids": image_ids, "views": views, "positions": positions}
        return self._choose(features, **where, pseudo_labels=pseudo_labels, image_embeddings=image_embeddings,
                            scores=scores)  # fmt: skip

    @property
    def takes_scores(self) -> bool:
        """Whether `select` takes scores."""
        return self.composite is not None

    def _select(
        self, features: Tensor, image_ids: Any = None, views: Any = None, positions: Any = None,
        pseudo_labels: Any = None, image_embeddings: Any = None, scores: Any = None,
    ) -> Tensor:  # fmt: skip
        n = self._total(features)
        self.scores_, self.pruned_, self.kept_ = {}, {}, torch.ones(n, dtype=torch.bool)
        self.suspects_ = []
        self.report_ = self._settings() | {
            "rows": n, "selected": 0, "kept": n, "pruned": {}, "refilled": 0, "settled": 0,
        }  # fmt: skip
        self.pool_ = torch.zeros(n, dtype=torch.bool)
        self.parts = Parts(self.report_, self.device or features.device)
        name = type(self).__name__
        self._agree(views)
        self._check_group(name)
        if self.radius is not None:
            raise ValueError(f"{name}: radius goes with the greedy samplers alone, got {self.radius!r}")
        signals = check_scores(name, scores, n, self.composite)
        layout = Layout.of(name, features.shape[0], image_ids, positions, self.ranks)
        if (views is not None) != (self.instability == "views"):
            raise ValueError(
                f'{name}: views and instability="views" go together; instability is {self.instability!r}, views are '
                + ("not given" if views is None else "given")
            )
        learns = self.composite is not None and self.composite.instability in ("proxy", "difficulty")
        if not learns and (pseudo_labels is not None or image_embeddings is not None):
            raise ValueError(f'{name}: pseudo_labels and image_embeddings go with instability="proxy" or "difficulty"')
        if (count := int(n * self.percentage)) == 0:
            return torch.empty(0, dtype=torch.int64)
        with self.parts("projection"):
            reduced = self._reduce(features)
        if self.composite is not None:
            return self._compose(features, reduced, count, layout, views, pseudo_labels, image_embeddings, signals)
        seen = features if features.shape[1] <= _WIDE else reduced
        if self.rule.active:
            with self.parts("support"):
                self._prune_unsupported(seen, features, layout)
        with self.parts("signals"):
            self._signals(seen, views, features)
        weight = weight_of(self.scores_, self.weights, n)
        if weight is not None:
            self.scores_["weight"] = weight.float()
        self._prune_ends()
        if self.topk_pool_multiplier is not None and weight is not None:
            ranked = weight.masked_fill(~self.kept_, -1.0)
            pool = min(int(self.kept_.sum()), int(np.ceil(count * self.topk_pool_multiplier)))
            self._prune("pool", self.kept_ & ~by_share(ranked, pool / n))
        self.pool_ = self.kept_
        if not bool(self.kept_.any()):
            raise ValueError(f"{name}: all {n} rows are pruned; prune less")
        shards = Shards(self.ranks, reduced)
        with self.parts("cover"):
            result = self._cover(shards, count, weight)
        self.radii_ = result.radii.cpu()
        share = (_SETTLE if count <= _SMALL * n else 0.0) if self.settle is None else self.settle
        with self.parts("settle"):
            indices, moved = settled(shards, result.indices.cpu(), share, self.kept_, self.seed)
        self.report_ |= {
            "settled": moved,
            "selected": count,
            "kept": int(self.kept_.sum()),
            "pruned": {end: int(rows.sum()) for end, rows in self.pruned_.items()},
        }
        return indices

    def _compose(self, features: Tensor, reduced: Tensor, count: int, *given: Any) -> Tensor:
        """The composite preset's picks; given is the layout, views, pseudo_labels, image_embeddings and scores."""
        assert self.composite is not None
        chosen = self.composer(
            type(self).__name__, self.composite, reduced, self.parts, self.seed, self.backend, self.show_progress,
            self.progress,
        )  # fmt: skip
        chosen.signals(features, self.projection_, *given)
        self.scores_ = chosen.scores
        picks, self.radii_ = chosen.choose(count)
        self.pool_ = chosen.pool
        self.report_ |= {"selected": count, "pool_rows": int(chosen.pool.sum()), "cleaned": chosen.cleaned}
        return picks

    def _agree(self, views: Any) -> None:
        """ValueError on all ranks: settings, radius or the number of views are not those of the others.

        What is refused after it is then refused by all alike, and no rank waits for another.
        """
        if self.ranks is not None:
            self.ranks.same(**self._settings(), radius=self.radius, views=count_of(views))

    def _check_group(self, name: str) -> None:
        for what, asked in (
            ('preset="composite"', self.composite is not None),
            ('mode="pseudo"', self.mode == "pseudo"),
            ("w_repr", bool(self.w_repr)),
            ('instability="noise"', self.instability == "noise"),
        ):
            if asked and self.ranks is not None:
                raise ValueError(f"{name}: {what} selects in one process only; leave it out, or the group")

    def _settings(self) -> dict[str, Any]:
        if self.composite is not None:
            return {"percentage": self.percentage, "seed": self.seed, "preset": "composite", **self.composite.facts()}
        return {
            "percentage": self.percentage, "seed": self.seed, "mode": self.mode, "prune_support": self.rule.said,
            "prune_hard": self.prune_hard, "prune_easy": self.prune_easy, "weights": dict(self.weights),
            "settle": self.settle, "instability": self.instability, "topk_pool_multiplier": self.topk_pool_multiplier,
        }  # fmt: skip

    def _prune_unsupported(self, seen: Tensor, features: Tensor, layout: Layout | None) -> None:
        layout = layout or Layout.inferred(features, self.ranks)
        told = self.rule.refusal(layout)
        if told and self.rule.share is not None:
            raise ValueError(f"{type(self).__name__}: prune_support={self.rule.share:g} cannot be done: {told}")
        if layout is not None and not told:
            held = Shards(self.ranks, seen)
            given: dict[str, Any] = {what: held.own(values) for what, values in layout.given().items()}
            found = support(
                seen, **given, seed=self.seed, device=self.device, progress=self.show_progress, group=self.group
            )
            self.scores_["support"] = -found.distance
            order, names = found.deviation.argsort(descending=True), layout.names
            if self.rule.asks:
                self.suspects_ = [(int(names[i]), float(found.deviation[i])) for i in order[:SUSPECTS]]
                facts: dict[str, Any] = {"suspects": [list(pair) for pair in self.suspects_]}
            else:
                rows, facts = self.rule.judge(found)
                self._prune("support", rows)
                facts["most_isolated"] = [int(names[i]) for i in order[:10]]
        else:
            facts = {"skipped": told}
        source = None if layout is None else layout.source
        self.report_["support"] = {"layout": source, "images": layout.images if layout else None, **facts}
        if self.suspects_:
            said = ", ".join(f"{number} ({deviation:.1f})" for number, deviation in self.suspects_)
            told = f"nothing was pruned; images that the others support least, by number (deviation): {said}"
            message = f"{type(self).__name__}: {told}. `patchcore-fast audit DIR` shows them"
            warnings.warn(message, UserWarning, stacklevel=7)

    def _signals(self, seen: Tensor, views: Any, features: Tensor) -> None:
        """What the weights and the ends ask for; nothing else is computed."""
        ends = bool(self.prune_hard or self.prune_easy)
        common: dict[str, Any] = {"seed": self.seed, "device": self.device, "progress": self.show_progress}
        if self.instability == "views":
            self.scores_["instability"] = views_over_ranks(
                self.ranks, features, views, device=self.device, progress=self.show_progress
            )
        elif self.instability == "noise":
            noise = (self.noise_std, self.noise_draws, self.seed)
            self.scores_["instability"] = noise_instability(features, *noise, progress=self.show_progress)
        if self.weights["representativeness"]:
            self.scores_["representativeness"] = representativeness(seen, clusters=self.n_clusters, **common)
        if self.weights["density"] or (ends and self.mode == "feature"):
            self.scores_["rarity"] = rarity_over_ranks(
                self.ranks, seen, self.report_["rows"], self.k_density, self.anchors, self.group, **common
            )
        uncertain = bool(self.weights["uncertainty"]) and "instability" not in self.scores_
        if self.mode == "pseudo" and (ends or uncertain):
            found = difficulty(seen, clusters=self.n_clusters, epochs=self.epochs, **common)
            self.scores_ |= {"difficulty": found.score, "forgetting": found.forgetting, "el2n": found.el2n}

    def _prune_ends(self) -> None:
        hard = self.scores_.get("difficulty") if self.mode == "pseudo" else self.scores_.get("rarity")
        if hard is None:
            return
        if self.prune_hard:
            self._prune("hard", by_share(hard, self.prune_hard))
        if self.prune_easy:
            self._prune("easy", by_share(-hard, self.prune_easy))

    def _prune(self, end: str, rows: Tensor) -> None:
        self.pruned_[end] = rows
        self.kept_ = self.kept_ & ~rows

    def _cover(self, shards: Shards, count: int, weight: Tensor | None) -> KCenterResult:
        """k-center over the kept rows; where they are too few, over the pruned ones after them."""
        reduced, own = shards.x, shards.own(self.kept_)
        rows = self.kept_.nonzero()[:, 0]
        left = Shards(self.ranks, reduced if bool(own.all()) else reduced[own.to(reduced.device)])
        options: dict[str, Any] = {"backend": self.backend, "progress": self.progress, "group": self.group}
        if self.approximate_starting_points is not None:
            points = min(self.approximate_starting_points, left.total)
            drawn = np.random.RandomState(self.seed).choice(left.total, points, replace=False)
            options["initial_min_dist"] = mean_distance(left.x, left.rows(torch.from_numpy(drawn)))
        else:
            options["start"] = left.farthest_from_mean()
        if weight is not None:
            options["weights"] = shards.own(weight)[own].to(reduced.device)
        result = k_center_greedy(left.x, min(count, left.total), **options)
        picks, radii = rows[result.indices.cpu()], result.radii
        if short := count - picks.shape[0]:
            told = f"{count} rows are wanted, pruning left {picks.shape[0]}; {short} pruned ones follow"
            warnings.warn(f"{type(self).__name__}: {told}", UserWarning, stacklevel=6)
            more = k_center_greedy(reduced, short, selected=picks.to(reduced.device), backend=self.backend,
                                   group=self.group)  # fmt: skip
            picks, radii = torch.cat([picks, more.indices.cpu()]), torch.cat([radii, more.radii])
        self.report_["refilled"] = short
        return KCenterResult(picks, radii, result.passes, result.distances)
