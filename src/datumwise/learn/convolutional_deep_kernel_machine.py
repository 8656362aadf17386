"""Image classification by learned kernels: which images are alike, and how sure is the model of each?

Source: Milsom, Anson and Aitchison, Convolutional deep kernel machines, 2024, arXiv 2309.09814; stochastic kernel
regularisation and the Taylor objective: the same, 2024, arXiv 2410.06171.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.learn.deep_kernel.blocks import GramLayer, GramNorm, KernelMap, Output
from datumwise.learn.deep_kernel.cholesky import default_jitter, guarded_cholesky
from datumwise.learn.deep_kernel.class_output import normal_draws
from datumwise.learn.deep_kernel.convolution import (
    GlobalMixup,
    MixupConvolution,
    PatchesToGram,
    ResidualBlock,
    SpatialMean,
    ZCAWhitening,
    patches,
)
from datumwise.learn.deep_kernel.structmat import StructMat

__all__ = ["PUBLISHED", "ConvolutionalDeepKernelMachineClassifier", "ConvolutionalNetwork"]

PUBLISHED: dict[str, Any] = {  # 20 convolutions, 94.5 % on CIFAR-10 (arXiv 2410.06171); days on one GPU
    "n_inducing": (512, 1024, 2048),
    "blocks": 3,
    "strides": (2, 2, 2),
    "patch_stride": 1,
    "nu": 0.001,
    "kl": "taylor",
    "variant": "published",
    "skr_gamma": 4,
    "tempering": True,
    "edges": "published",
    "pooling": "mean",
    "zca_epsilon": 0.1,
    "start": "random",
    "epochs": 1200,
    "milestones": (800, 1100),
    "batch_size": 256,
    "lr": 0.01,
    "betas": (0.8, 0.9),
    "n_samples": 1000,
    "augment": "crop-flip",
}
BIAS = 0.1  # of every kernel at the start, learned: k <- w k + b
BLOCK = 1024  # datapoints whose draws are held at a time
CROP = 4, 7  # pixels of zeros around an image that is cropped at random, as published; at most a 7th of its side
FITTED = 2000  # images that the output layer is started from by least squares,
LOGIT = 6.0  # to this difference between the right class and the others,
NOISE = 1.0  # with this variance
PLACED = 256  # images whose pixels the inducing points start as
LARGEST_ZCA = 4096  # numbers an image that a full covariance is taken of
PREDICT_DRAWS = 256  # of the latent function, for class probabilities
CHOICES: dict[str, tuple[str | None, ...]] = {
    "whiten": ("zca", "standard"),
    "augment": (None, "crop", "crop-flip"),
    "pooling": ("mean", "mixup"),
    "start": ("data", "random"),
    "dtype": ("float32", "float64"),
}


class ConvolutionalDeepKernelMachineClassifier(ClassifierMixin, BaseEstimator):
    """Deep kernel machine of small images: learned Gram matrices instead of learned features, an uncertainty of each image.

    Patches around every pixel give a first Gram block; convolutions mix inducing points and neighbouring pixels; every Gram
    layer learns how far its Gram matrix departs from its kernel's, at a price of ``nu`` times a divergence; the mean over the
    pixels goes to a Gaussian process with a softmax.

    Parameters
    ----------
    n_inducing : sequence of int
        Inducing points of every stage; their number is that of the stages.
    blocks : int
        Residual blocks (two convolutions each) a stage.
    strides : int or sequence of int
        Of the first block of every stage.
    patch_stride : int or None
        Of the first layer; None is 1, and 2 for images of 16 pixels or more across.
    filter_size : int
        Side of patches and filters, odd.
    kernel : str
        Kernel of Gram matrices: "gaussian" (normalised), "arccos", "linear", "sqexp" or "heaviside".
    nu : float
        Price of departing from the kernel, 0 or more; ``numpy.inf`` learns no Gram matrix. It weighs a sum over the data set.
    kl, variant
        Divergence "exact" or "taylor", and ``variant="published"`` for the published Taylor form.
    skr_gamma : float
        Stochastic kernel regularisation: in training every Gram matrix is a Wishart draw with P / gamma degrees of freedom,
        plus 0.1 of its mean diagonal; 0 for none, 4 as published.
    tempering : bool
        Divide the divergence of the output by the number of classes.
    edges : {"neighbours", "published"}
        Of the convolutions, see `MixupConvolution`.
    pooling : {"mixup", "mean"}
        What leaves one pixel at the end: a convolution over the whole map, which knows places (`GlobalMixup`), or the mean, as
        published.
    start : {"data", "random"}
        "data": inducing points of every layer start as pixels of training images and the output by least squares; "random": the
        convolutions start as normal draws and the output as the prior, as published, which needs many more steps.
    whiten : {"zca", "standard"}
        "zca" decorrelates all pixels, "standard" standardises channels only; with few noisy images "zca" raises the noise to
        the level of the signal.
    zca_epsilon : float
        Share of the mean eigenvalue added to all; 0.1 is published for CIFAR-10.
    image_shape : tuple (H, W) or (C, H, W), optional
        For rows of H W (or C H W) numbers.
    epochs, batch_size, lr, betas
        Of Adam.
    milestones : sequence of int, optional
        Epochs after which the learning rate falls to a tenth; None lets it fall to 0 along a cosine.
    n_samples : int
        Draws of the latent function a datapoint in training.
    augment : {None, "crop", "crop-flip"}
        Random crops after a border of zeros (4 pixels, at most a 7th of the side), and mirroring, in training.
    keep_train : bool
        Keep the learned representation of the training images (n x last of ``n_inducing`` numbers), for `neighbours`.
    dtype : {"float32", "float64"}
    device : str
    random_state : int, Generator or None

    Attributes
    ----------
    classes_ : ndarray
    elbo_ : float
        Objective a datapoint, without regularising noise, at the end.
    kl_per_layer_ : ndarray (Gram layers,)
        Divergence of every Gram layer from its kernel: how much it learned; 0 where nu is infinite, NaN where it is 0.
    history_ : dict of str to list
        "objective", "log_likelihood" and "penalty" a datapoint, of every epoch.
    n_iter_ : int
        Steps taken.
    n_skipped_ : int
        Steps left out because their gradient was not finite.
    network_ : ConvolutionalNetwork
    ids_ : ndarray (n,)

    See Also
    --------
    DeepKernelMachineClassifier : the same of tables.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = 0.3 * rng.normal(size=(60, 6, 6))
    >>> X[y == 1, 2:4] += 1  # a bar across
    >>> X[y == 0, :, 2:4] += 1  # a bar upright
    >>> model = ConvolutionalDeepKernelMachineClassifier((8,), whiten="standard", epochs=10, batch_size=30, random_state=0)
    >>> model = model.fit(X, y)
    >>> bool(model.score(X, y) > 0.95), model.predict_proba(X[:3]).shape
    (True, (3, 2))
    """

    def __init__(
        self,
        n_inducing: Sequence[int] = (32, 64),
        *,
        blocks: int = 1,
        strides: int | Sequence[int] = 2,
        patch_stride: int | None = None,
        filter_size: int = 3,
        kernel: str = "gaussian",
        nu: float = 0.1,
        kl: str = "exact",
        variant: str | None = None,
        skr_gamma: float = 0,
        tempering: bool = False,
        edges: str = "neighbours",
        pooling: str = "mixup",
        start: str = "data",
        whiten: str = "zca",
        zca_epsilon: float = 1.0,
        image_shape: tuple[int, ...] | None = None,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 0.03,
        betas: tuple[float, float] = (0.9, 0.99),
        milestones: Sequence[int] | None = None,
        n_samples: int = 32,
        augment: str | None = None,
        keep_train: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self.n_inducing = n_inducing
        self.blocks = blocks
        self.strides = strides
        self.patch_stride = patch_stride
        self.filter_size = filter_size
        self.kernel = kernel
        self.nu = nu
        self.kl = kl
        self.variant = variant
        self.skr_gamma = skr_gamma
        self.tempering = tempering
        self.edges = edges
        self.pooling = pooling
        self.start = start
        self.whiten = whiten
        self.zca_epsilon = zca_epsilon
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.betas = betas
        self.milestones = milestones
        self.n_samples = n_samples
        self.augment = augment
        self.keep_train = keep_train
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        ids: Sequence[Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn from images.

        Parameters
        ----------
        X : array or Tensor (n, H, W), (n, C, H, W), or (n, d) with ``image_shape``
            Any finite numbers.
        y : array (n,)
            Labels, two classes or more.
        ids : sequence (n,), optional
            Names of the images for `neighbours`; row numbers by default.
        progress : callable (done, total), optional
            Steps of the optimiser.

        Raises
        ------
        SchemaMismatch, NotFinite, LabelError, EmptyData, UnknownName
        """
        images = _images(X, self.image_shape)
        labels = np.asarray(y)
        n = len(images)
        if n < 2:
            raise EmptyData(f"{n} images are too few to learn from")
        if labels.shape != (n,):
            raise SchemaMismatch(f"y must have one label an image, ({n:,},), not {labels.shape}")
        if ids is not None and len(ids) != n:
            raise SchemaMismatch(f"{len(ids):,} ids for {n:,} images")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise LabelError("all labels are the same class", remedy="give images of two classes or more")
        self._check_options(images.shape[1:])
        self.image_shape_ = images.shape[1:]
        self.ids_ = np.arange(n) if ids is None else np.asarray(ids)
        seed = int(np.random.default_rng(self.random_state).integers(2**31))
        generator = torch.Generator().manual_seed(seed)
        dtype = getattr(torch, self.dtype)
        data = torch.from_numpy(images).to(dtype)
        self.network_ = self._network(data, generator).to(self.device, dtype)
        target = torch.from_numpy(codes.astype(np.int64)).to(self.device)
        self._train(data.to(self.device), target, generator, progress)
        self._draws = normal_draws(PREDICT_DRAWS, len(self.classes_), seed)
        self._settle(data, target)
        return self

    def _check_options(self, shape: tuple[int, ...]) -> None:
        C, H, W = shape
        positive = {"blocks": self.blocks, "epochs": self.epochs, "batch_size": self.batch_size, "n_samples": self.n_samples}
        for name, value in positive.items():
            if value < 1:
                raise DatumwiseError(f"{name} must be 1 or more, not {value}")
        if not len(self.n_inducing) or min(self.n_inducing) < 1:
            raise DatumwiseError(f"n_inducing must be positive numbers, one a stage, not {tuple(self.n_inducing)}")
        if not self.lr > 0:
            raise DatumwiseError(f"lr must be positive, not {self.lr:g}")
        if not self.nu >= 0:
            raise DatumwiseError(f"nu must be 0 or more, not {self.nu:g}")
        if self.skr_gamma < 0:
            raise DatumwiseError(f"skr_gamma must be 0 or more, not {self.skr_gamma:g}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                choices = ", ".join(str(one) for one in known)
                raise UnknownName(f"there is no {name} {getattr(self, name)!r}", remedy=f"choose one of {choices}")
        if self.whiten == "zca" and C * H * W > LARGEST_ZCA:
            raise SchemaMismatch(
                f"ZCA whitening of {C * H * W:,} numbers an image would need a covariance of as many rows and columns",
                remedy="pass whiten='standard', or smaller images",
            )
        if min(self._strides()) < 1 or (self.patch_stride is not None and self.patch_stride < 1):
            raise DatumwiseError("a stride must be 1 or more", remedy="check strides and patch_stride")
        if len(self._strides()) != len(self.n_inducing):
            raise SchemaMismatch(f"{len(self._strides())} strides for {len(self.n_inducing)} stages of n_inducing")

    def _strides(self) -> tuple[int, ...]:
        one = self.strides
        return (one,) * len(self.n_inducing) if isinstance(one, int) else tuple(one)

    def _network(self, data: Tensor, generator: torch.Generator) -> ConvolutionalNetwork:
        whitening = ZCAWhitening(data, epsilon=self.zca_epsilon, pixels=self.whiten == "zca")
        some = torch.randperm(len(data), generator=generator)[: max(500, len(data) // 100)]
        Z = patches(whitening(data[some]), self.n_inducing[0], self.filter_size, generator=generator)
        patch_stride = self.patch_stride
        if patch_stride is None:
            patch_stride = 1 if min(data.shape[2:]) < 16 else 2
        return ConvolutionalNetwork(
            whitening,
            Z,
            len(self.classes_),
            self.n_inducing,
            blocks=self.blocks,
            strides=self._strides(),
            patch_stride=patch_stride,
            kernel=self.kernel,
            nu=self.nu,
            kl=self.kl,
            variant=self.variant,
            skr_gamma=self.skr_gamma,
            tempering=self.tempering,
            edges=self.edges,
            pooling=self.pooling,
            image_shape=(data.shape[2], data.shape[3]),
            generator=generator,
        )

    def _train(self, X: Tensor, y: Tensor, generator: torch.Generator, progress: Callable[[int, int], None] | None) -> None:
        """Adam on minibatches; a step with a gradient that is not finite is left out."""
        network, n = self.network_, len(X)
        network.train()
        if self.start == "data":
            network.place(X[torch.randperm(n, generator=generator)[:PLACED]], generator)
            some = torch.randperm(n, generator=generator)[:FITTED]
            _least_squares_start(network, X[some], y[some])
        optimiser = torch.optim.Adam(network.parameters(), lr=self.lr, betas=self.betas, fused=True)
        steps = math.ceil(n / self.batch_size)
        total = self.epochs * steps
        self.history_: dict[str, list[float]] = {"objective": [], "log_likelihood": [], "penalty": []}
        self.n_iter_ = self.n_skipped_ = 0
        for epoch in range(self.epochs):
            sums = np.zeros(2)
            for rows in torch.randperm(n, generator=generator).chunk(steps):
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * self._rate(epoch, self.n_iter_ / total)
                batch = _augmented(X[rows], self.augment, generator)
                log_likelihood = _expected_log_likelihood(network(batch), y[rows], self.n_samples, generator)
                penalty = network.penalty / n
                optimiser.zero_grad(set_to_none=True)
                (penalty - log_likelihood).backward()
                if _finite_gradients(network):
                    optimiser.step()
                else:
                    self.n_skipped_ += 1
                sums += len(rows) / n * np.array([log_likelihood.item(), penalty.item()])
                self.n_iter_ += 1
                if progress is not None:
                    progress(self.n_iter_, total)
            for name, value in (("objective", sums[0] - sums[1]), ("log_likelihood", sums[0]), ("penalty", sums[1])):
                self.history_[name].append(float(value))
        if self.n_skipped_:
            warnings.warn(
                f"{self.n_skipped_} of {total} steps had a gradient that was not finite and were left out: "
                "lower the learning rate or compute in float64",
                RuntimeWarning,
                stacklevel=3,
            )

    def _rate(self, epoch: int, share: float) -> float:
        """Learning rate at this epoch, or after this share of all steps, over that of the start."""
        if self.milestones is None:
            return 0.5 * (1 + math.cos(math.pi * share))
        return 0.1 ** sum(epoch >= milestone for milestone in self.milestones)

    @torch.no_grad()
    def _settle(self, X: Tensor, y: Tensor) -> None:
        """Norm statistics of the whole training set without noise; then the objective and what `neighbours` needs."""
        network = self.network_
        settle_norms(network, self._batches(X))
        total, kept = 0.0, []
        for batch, rows in zip(self._batches(X), y.split(self.batch_size), strict=True):
            K = network.kernel(batch)
            mean, variance = network.output(K)
            total += float(_log_probability(mean, variance, self._draws).gather(1, rows[:, None]).sum())
            if self.keep_train:
                kept.append(K.ti)
        self.elbo_ = (total - float(network.penalty)) / len(X)
        self.kl_per_layer_ = np.array([float(layer.penalty) for layer in network.gram_layers])
        if 0 < self.nu < math.inf:
            self.kl_per_layer_ /= self.nu
        elif self.nu == 0:
            self.kl_per_layer_ *= math.nan
        self._train_features = None
        if self.keep_train:
            features = _nystrom_features(K.ii, torch.cat(kept))
            self._train_centre = features.mean(0)
            self._train_features = functional.normalize(features - self._train_centre, dim=1)

    def _batches(self, X: Tensor) -> Iterator[Tensor]:
        dtype = getattr(torch, self.dtype)
        for rows in X.split(self.batch_size):
            yield rows.to(self.device, dtype)

    def _checked(self, X: Any) -> Tensor:
        check_is_fitted(self, "network_")
        images = _images(X, self.image_shape)
        if images.shape[1:] != self.image_shape_:
            raise SchemaMismatch(
                f"images have shape {images.shape[1:]} (channels, height, width), those of the fit {self.image_shape_}"
            )
        return torch.from_numpy(images)

    @torch.no_grad()
    def latent(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the latent function; the variance is large where an image is unlike what was learned.

        Parameters
        ----------
        X : array or Tensor
            Images, as in `fit`.

        Returns
        -------
        mean : ndarray (n, classes)
        variance : ndarray (n,)
            Of every class.
        """
        data = self._checked(X)
        found = [self.network_(batch) for batch in self._batches(data)]
        mean, variance = (torch.cat(parts).cpu().double().numpy() for parts in zip(*found, strict=True))
        return mean, variance

    def decision_function(self, X: Any) -> np.ndarray:
        """Latent means, (n, classes); of the second class against the first, (n,), where there are two."""
        mean, _ = self.latent(X)
        return mean[:, 1] - mean[:, 0] if mean.shape[1] == 2 else mean

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (n, classes): the mean softmax over fixed draws of the latent function.

        An image's probabilities do not depend on the images it is asked with.
        """
        mean, variance = (torch.from_numpy(part) for part in self.latent(X))
        return _log_probability(mean, variance, self._draws).exp().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class (n,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def gram(self, X: Any, X2: Any = None, layer: int = -1) -> np.ndarray:
        """How alike the model takes images to be, at any depth.

        Parameters
        ----------
        X : array or Tensor
            n images.
        X2 : array or Tensor, optional
            n2 images; X again by default.
        layer : int
            0 the patches, 1 the first convolution, then a residual block each, all as means over the pixels; -1 the last
            kernel, which is what the output sees.

        Returns
        -------
        ndarray (n, n2)
            As far as the inducing points tell it (Nystrom): positive semi-definite, and the same for the same image.
        """
        one = self._features(X, layer)
        two = one if X2 is None else self._features(X2, layer)
        return (one @ two.T).cpu().double().numpy()

    @torch.no_grad()
    def _features(self, X: Any, layer: int) -> Tensor:
        data = self._checked(X)
        network, depth = self.network_, self.network_.depth
        if not -1 <= layer < depth:
            raise UnknownName(
                f"there is no layer {layer}", remedy=f"choose one from 0 to {depth - 1}, or -1 for the last kernel"
            )
        batches = self._batches(data)
        found = [network.kernel(X) if layer == -1 else network.pool(network.maps(X, layer)) for X in batches]
        return _nystrom_features(found[0].ii, torch.cat([part.ti for part in found]))

    def neighbours(self, X: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Training images that the model takes to be most alike.

        Parameters
        ----------
        X : array or Tensor
            n images.
        k : int

        Returns
        -------
        ids : ndarray (n, k)
        similarity : ndarray (n, k)
            Correlation under the last kernel, centred on the training images, in [-1, 1], the largest first.

        Raises
        ------
        DatumwiseError
            ``keep_train`` was False.
        """
        found = self._features(X, -1)
        if self._train_features is None:
            raise DatumwiseError("the training images were not kept", remedy="fit with keep_train=True")
        if not 1 <= k <= len(self.ids_):
            raise DatumwiseError(f"k must lie between 1 and the {len(self.ids_):,} training images, not {k}")
        found = functional.normalize(found - self._train_centre, dim=1)
        best = [(block @ self._train_features.T).topk(k, dim=1) for block in found.split(self.batch_size)]
        rows = torch.cat([part.indices for part in best]).cpu().numpy()
        return self.ids_[rows], torch.cat([part.values for part in best]).cpu().double().numpy()


class ConvolutionalNetwork(nn.Module):
    """Whitening, patches, a convolution, residual blocks, the mean over pixels, and a Gaussian process for every class.

    Parameters
    ----------
    whitening : Module
        Images -> images.
    Z : Tensor (P, C, k, k)
        Inducing patches of the first layer, P = ``n_inducing[0]``.
    n_classes : int
    n_inducing, blocks, strides, patch_stride, kernel, nu, kl, variant, skr_gamma, tempering, edges, pooling
        As in `ConvolutionalDeepKernelMachineClassifier`.
    image_shape : tuple (H, W)
    generator : torch.Generator
        Draws the convolutions and the seeds of what is drawn in training.
    """

    def __init__(
        self,
        whitening: nn.Module,
        Z: Tensor,
        n_classes: int,
        n_inducing: Sequence[int],
        *,
        blocks: int,
        strides: Sequence[int],
        patch_stride: int,
        kernel: str,
        nu: float,
        kl: str,
        variant: str | None,
        skr_gamma: float,
        tempering: bool,
        edges: str,
        pooling: str,
        image_shape: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        k, jitter = Z.shape[2], default_jitter(Z.dtype)

        def drawn() -> int:
            return int(torch.randint(2**31, (), generator=generator))

        def mapped(width: int, wider: int, stride: int) -> list[nn.Module]:
            return [
                KernelMap(kernel, bias=BIAS, jitter=jitter, variant=variant),
                MixupConvolution(width, wider, k, stride=stride, edges=edges, jitter=jitter, generator=generator),
                GramLayer(wider, nu, kl, variant, skr_gamma=skr_gamma, seed=drawn()),
                GramNorm(),
            ]

        self.whitening = whitening
        self.first = PatchesToGram(Z, stride=patch_stride, edges=edges)
        width = n_inducing[0]
        H, W = (math.ceil(side / patch_stride) for side in image_shape)
        layers: list[nn.Module] = [nn.Sequential(*mapped(width, width, 1))]
        for wider, first_stride in zip(n_inducing, strides, strict=True):
            H, W = math.ceil(H / first_stride), math.ceil(W / first_stride)
            for stride in [first_stride] + [1] * (blocks - 1):
                shortcut = None
                if stride != 1 or wider != width:
                    mix = MixupConvolution(width, wider, 1, stride=stride, edges=edges, jitter=jitter, generator=generator)
                    shortcut = nn.Sequential(mix, GramNorm())
                branch = nn.Sequential(*mapped(width, wider, stride), *mapped(wider, wider, 1))
                layers.append(ResidualBlock(branch, shortcut))
                width = wider
        self.layers = nn.ModuleList(layers)
        self.pool = SpatialMean()
        before = (
            [GlobalMixup(width, width, (H, W), jitter=jitter, generator=generator)] if pooling == "mixup" else [SpatialMean()]
        )
        self.last = nn.Sequential(*before, KernelMap(kernel, bias=BIAS, jitter=jitter, variant=variant), GramNorm())
        self.output = Output(width, n_classes, kl, variant, tempering, seed=drawn())

    @property
    def depth(self) -> int:
        """Layers that `maps` can stop at."""
        return len(self.layers) + 1

    @property
    def gram_layers(self) -> list[GramLayer]:
        return [module for module in self.modules() if isinstance(module, GramLayer)]

    @property
    def penalty(self) -> Tensor:
        """Divergences of the last forward pass, 0-d."""
        return sum((layer.penalty for layer in self.gram_layers), self.output.penalty)

    def maps(self, X: Tensor, layer: int = -1) -> StructMat:
        """Gram block of images (T, C, H, W) after a layer, 0 the patches: ti (T, H', W', P), t (T, H', W')."""
        mat = self.first(self.whitening(X))
        for block in self.layers[: layer % self.depth]:
            mat = block(mat)
        return mat

    @torch.no_grad()
    def place(self, X: Tensor, generator: torch.Generator) -> None:
        """Start the convolutions so that inducing points are pixels of these images, drawn at random.

        Shortcut and branch of a residual block, and blocks of the same size, take the same pixels.
        """
        mat = self.maps(X, 0)
        spots = None
        for block in self.layers:
            out = block(mat)
            if spots is None or out.ti.shape != mat.ti.shape:
                T, H, W, P = out.ti.shape
                image = _cycled(T, P, generator)
                spots = image, *(torch.randint(side, (P,), generator=generator).to(image) for side in (H, W))
            for path in [block.shortcut, block.branch] if isinstance(block, ResidualBlock) else [block]:
                now = mat
                for module in path if isinstance(path, nn.Sequential) else []:
                    if isinstance(module, MixupConvolution):
                        module.place(now, *spots)
                    now = module(now)
            mat = block(mat)
        if isinstance(self.last[0], GlobalMixup):
            self.last[0].place(mat, _cycled(len(X), len(mat.ii), generator))

    def kernel(self, X: Tensor) -> StructMat:
        """Last kernel of images: ti (T, P), t (T,)."""
        return self.last(self.maps(X))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        return self.output(self.kernel(X))


def _images(X: Any, image_shape: tuple[int, ...] | None) -> np.ndarray:
    """As (n, C, H, W) float64, finite."""
    array = X.detach().cpu().numpy() if isinstance(X, Tensor) else np.asarray(X)
    if array.dtype.kind not in "biuf":
        raise SchemaMismatch(f"images must be numbers, not {array.dtype}")
    if array.ndim == 2:
        array = _from_rows(array, image_shape)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise SchemaMismatch(
            f"images must be (n, height, width) or (n, channels, height, width), not {array.shape}",
            remedy="or rows of numbers with image_shape",
        )
    if 0 in array.shape:
        raise EmptyData(f"there are no images in an array of shape {array.shape}")
    images = np.ascontiguousarray(array, dtype=np.float32 if array.dtype != np.float64 else np.float64)
    wrong = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
    if len(wrong):
        raise NotFinite(f"X contains NaN or infinity at rows {name_some(wrong)}", ids=wrong.tolist())
    return images


def _from_rows(rows: np.ndarray, image_shape: tuple[int, ...] | None) -> np.ndarray:
    if image_shape is None:
        raise SchemaMismatch(
            f"rows of {rows.shape[1]:,} numbers do not say how wide an image is", remedy="pass image_shape=(height, width)"
        )
    if len(image_shape) not in (2, 3) or math.prod(image_shape) != rows.shape[1]:
        raise SchemaMismatch(f"rows of {rows.shape[1]:,} numbers are no images of shape {tuple(image_shape)}")
    return rows.reshape(len(rows), *image_shape)


def _augmented(X: Tensor, augment: str | None, generator: torch.Generator) -> Tensor:
    """Every image shifted by some pixels, zeros coming in, and mirrored half of the time."""
    if augment is None:
        return X
    n, _, H, W = X.shape
    width = min(CROP[0], min(H, W) // CROP[1])
    border = functional.pad(X, (width,) * 4)
    down, right = (torch.randint(2 * width + 1, (n,), generator=generator).to(X.device) for _ in range(2))
    rows = down[:, None] + torch.arange(H, device=X.device)
    columns = right[:, None] + torch.arange(W, device=X.device)
    if augment == "crop-flip":
        mirrored = torch.rand(n, generator=generator).to(X.device) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    image = torch.arange(n, device=X.device)[:, None, None]
    return border[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cycled(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Numbers below n in random order, each once before any comes twice, (count,)."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(count / n))])[:count]


def _expected_log_likelihood(latent: tuple[Tensor, Tensor], y: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Mean over datapoints of E log softmax(f)_y, by pairs of opposite draws, 0-d."""
    mean, variance = latent
    half = torch.randn((draws + 1) // 2, *mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
    eps = torch.cat([half, -half])
    log_p = (mean + variance.sqrt()[:, None] * eps).log_softmax(-1)
    return log_p.mean(0).gather(1, y[:, None]).mean()


def _log_probability(mean: Tensor, variance: Tensor, draws: Tensor) -> Tensor:
    """Log of the mean softmax over the same draws for every datapoint, (T, classes)."""
    eps = draws.to(mean)[:, None]
    found = []
    for m, v in zip(mean.split(BLOCK), variance.split(BLOCK), strict=True):
        log_p = (m + v.sqrt()[:, None] * eps).log_softmax(-1)
        found.append(log_p.logsumexp(0) - math.log(len(eps)))
    return torch.cat(found)


def _nystrom_features(ii: Tensor, ti: Tensor) -> Tensor:
    """(T, P) whose inner products are ti ii^-1 it."""
    L = guarded_cholesky(ii, jitter=default_jitter(ii.dtype))
    return torch.linalg.solve_triangular(L, ti.mT, upper=False).mT


def _finite_gradients(network: nn.Module) -> bool:
    norms = [p.grad.abs().sum() for p in network.parameters() if p.grad is not None]
    return bool(torch.stack(norms).sum().isfinite())


@torch.no_grad()
def _least_squares_start(network: ConvolutionalNetwork, X: Tensor, y: Tensor) -> None:
    """Output posterior that is exact for one Gaussian target a class."""
    K = network.kernel(X)
    L = guarded_cholesky(K.ii)
    A = torch.linalg.solve_triangular(L, K.ti.mT, upper=False)  # (P, T)
    target = LOGIT * (functional.one_hot(y, network.output.C).to(A) - 1 / network.output.C)
    precision = A @ A.mT / NOISE + torch.eye(len(A), dtype=A.dtype, device=A.device)
    m = torch.linalg.solve(precision, A @ target / NOISE)
    network.output.set_posterior(L @ m, L @ torch.linalg.solve(precision, L.mT))


@torch.no_grad()
def settle_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Put the mean over all batches, taken without noise, into every `GramNorm`; the network is left in evaluation mode."""
    network.eval()
    norms = [(module, module.momentum) for module in network.modules() if isinstance(module, GramNorm)]
    for norm, _ in norms:
        norm.reset()
        norm.train()
        norm.momentum = None
    for batch in batches:
        network(batch)
    for norm, momentum in norms:
        norm.momentum = momentum
        norm.eval()
