"""Deep kernel machines of images: patches, mixup convolutions, residual blocks, pooling.

A Gram block of images carries a kernel value for every pixel: ``ii`` (P, P) between inducing points, ``ti`` (T, H, W, P)
between a pixel of a datapoint and an inducing point, ``t`` (T, H, W) of a pixel with itself, so that kernels, Gram layers and
norms take a pixel for a datapoint. Inducing points have no pixels: they live in another domain, and convolutions mix them.

Source: Milsom, Anson and Aitchison, Convolutional deep kernel machines, 2024, arXiv 2309.09814, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.learn.deep_kernel.cholesky import default_jitter, guarded_cholesky
from datumwise.learn.deep_kernel.structmat import StructMat

__all__ = [
    "EDGES",
    "GlobalMixup",
    "MixupConvolution",
    "PatchesToGram",
    "ResidualBlock",
    "SpatialMean",
    "ZCAWhitening",
    "patches",
]

EDGES = ("neighbours", "published")
BLOCK = 4096  # images whitened at a time
VARIANCE_FLOOR = 1e-12  # of a pixel's variance over the training images, against division by zero


class PatchesToGram(nn.Module):
    """First layer: linear kernel between the k x k patch around every pixel and learned inducing patches.

    With x_p the patch around pixel p (zeros outside the image) and z_i an inducing patch, both of d = C k^2 numbers:
    ``ii`` = z_i . z_j / d, ``ti`` = x_p . z_i / d, ``t`` = x_p . x_p / d.

    Parameters
    ----------
    Z : Tensor (P, C, k, k)
        Inducing patches, k odd; learned.
    stride : int
        Only every so many pixels, along both axes.
    edges : {"neighbours", "published"}
        As in `MixupConvolution`.

    Examples
    --------
    >>> X = torch.ones(1, 1, 4, 4)
    >>> block = PatchesToGram(torch.ones(2, 1, 3, 3))(X)
    >>> block.ti.shape, block.t[0].tolist() == [[1.0] * 4] * 4
    (torch.Size([1, 4, 4, 2]), True)
    """

    def __init__(self, Z: Tensor, *, stride: int = 1, edges: str = "neighbours") -> None:
        super().__init__()
        if Z.ndim != 4 or Z.shape[2] != Z.shape[3]:
            raise SchemaMismatch(f"inducing patches must be (P, C, k, k), not {tuple(Z.shape)}")
        _check(Z.shape[2], stride, edges)
        self.Z = nn.Parameter(Z.clone())
        self.stride, self.edges = stride, edges

    def forward(self, X: Tensor) -> StructMat:
        """X (T, C, H, W) of the dtype of Z -> maps with ceil(H / stride) x ceil(W / stride) pixels."""
        k, d = self.Z.shape[2], self.Z[0].numel()
        flat = self.Z.flatten(1)
        ti = _convolution(X, self.Z / d, self.stride, self.edges)
        return StructMat(flat @ flat.T / d, ti, _mean_of_neighbours(X.square().mean(1), k, self.stride))


class MixupConvolution(nn.Module):
    """Convolution of Gram blocks: every pixel hears its k x k neighbours, inducing points are mixed by a learned C.

    The features of pixel p are those of its neighbours p + o side by side; those of an inducing point i are, at offset o,
    sum_j C_oij (features of inducing point j). With the mean over the k^2 offsets

        ii = mean_o C_o K_ii C_o^T,   it(p) = sum_o C_o K_it(p + o) / k^2,   t(p) = mean_o K_t(p + o).

    Parameters
    ----------
    n_in, n_out : int
        Inducing points before and after.
    kernel_size : int
        k, odd; 1 only mixes.
    stride : int
    edges : {"neighbours", "published"}
        At the edge a pixel has m < k^2 neighbours. "neighbours": mean over those it has, in ``it`` (divided by k sqrt(m)) as in
        ``t`` (by m), which is the Gram matrix of real features. "published" divides ``it`` by k^2 and ``t`` by m: a pixel at
        the edge then keeps a part (5/9 in a corner) that no inducing point can explain.
    jitter : float
        Added to the diagonal of ``ii``, relative to its mean: inducing points may be mixed alike.
    generator : torch.Generator, optional
        Draws C, N(0, 1) / sqrt(n_in).

    Attributes
    ----------
    weight : Parameter (n_out, n_in, k, k)
        sqrt(n_in) C.

    Examples
    --------
    A linear convolution of explicit features has the Gram matrix that comes out:

    >>> rng = torch.Generator().manual_seed(0)
    >>> F, U = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((1, 5, 4, 4), (3, 5)))
    >>> layer = MixupConvolution(3, 2, kernel_size=1, generator=rng).double()
    >>> out = layer(StructMat(U @ U.T, torch.einsum("tfhw,pf->thwp", F, U), F.square().sum(1)))
    >>> mixed = layer.C[:, :, 0, 0] @ U
    >>> bool(torch.allclose(out.ii, mixed @ mixed.T)), bool(torch.allclose(out.t, F.square().sum(1)))
    (True, True)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        edges: str = "neighbours",
        jitter: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(kernel_size, stride, edges)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel_size, kernel_size, generator=generator))
        self.kernel_size, self.stride, self.edges, self.jitter = kernel_size, stride, edges, jitter

    @property
    def C(self) -> Tensor:
        """(n_out, n_in, k, k)."""
        return self.weight / self.weight.shape[1] ** 0.5

    def forward(self, mat: StructMat) -> StructMat:
        C, k = self.C, self.kernel_size
        ti = _convolution(mat.ti.permute(0, 3, 1, 2), C / k**2, self.stride, self.edges)
        offsets = C.permute(2, 3, 0, 1).flatten(0, 1)  # (k^2, n_out, n_in)
        ii = (offsets @ mat.ii @ offsets.mT).mean(0)
        return StructMat(_jittered(ii, self.jitter), ti, _mean_of_neighbours(mat.t, k, self.stride))

    @torch.no_grad()
    def place(self, mat: StructMat, image: Tensor, row: Tensor, column: Tensor) -> None:
        """Set C so that inducing points are pixels of datapoints, as far as the inducing points below can tell them.

        Parameters
        ----------
        mat : StructMat
            What comes in.
        image, row, column : Tensor of int64 (n_out,)
            Datapoint and pixel, of the map that comes out, for every inducing point.
        """
        k, s = self.kernel_size, self.stride
        around = torch.arange(k, device=image.device)
        padded = functional.pad(mat.ti, (0, 0, k // 2, k // 2, k // 2, k // 2))
        inside = functional.pad(torch.ones_like(mat.t), (k // 2,) * 4)
        where = image[:, None, None], (s * row)[:, None, None] + around[:, None], (s * column)[:, None, None] + around
        near, m = padded[where], inside[where].sum((1, 2))  # (n_out, k, k, n_in), neighbours within the image
        solved = torch.cholesky_solve(near.flatten(0, 2).mT, _factor(mat.ii)).mT.reshape(near.shape)
        C = (solved * (k / m.sqrt())[:, None, None, None]).permute(0, 3, 1, 2)
        self.weight.copy_(C * self.weight.shape[1] ** 0.5)

    def extra_repr(self) -> str:
        n_out, n_in = self.weight.shape[:2]
        return f"{n_in}, {n_out}, kernel_size={self.kernel_size}, stride={self.stride}, edges={self.edges!r}"


class ResidualBlock(nn.Module):
    """w_1 shortcut + w_2 branch, a learned convex combination of two Gram blocks that starts at one half each.

    Parameters
    ----------
    branch : Module
        StructMat -> StructMat.
    shortcut : Module, optional
        The identity by default; needed where the branch changes the number of inducing points or pixels.

    Examples
    --------
    >>> mat = StructMat(torch.eye(2), torch.zeros(1, 3, 3, 2), torch.ones(1, 3, 3))
    >>> half = ResidualBlock(nn.Identity())(mat)
    >>> bool(torch.equal(half.ii, mat.ii))
    True
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, mat: StructMat) -> StructMat:
        w = self.logits.softmax(0)
        pairs = zip(self.shortcut(mat), self.branch(mat), strict=True)
        return StructMat(*(w[0] * a + w[1] * b for a, b in pairs))


class SpatialMean(nn.Module):
    """Mean over the pixels of ``ti`` and of ``t``: an additive model over patches; ``ii`` stays.

    The mean of ``t`` is the variance of a sum whose parts outside the span of the inducing points are taken as one: it is never
    below that of the mean of the features, so the block stays positive semi-definite.

    Examples
    --------
    >>> SpatialMean()(StructMat(torch.eye(2), torch.ones(1, 3, 3, 2), torch.ones(1, 3, 3))).ti.tolist()
    [[1.0, 1.0]]
    """

    def forward(self, mat: StructMat) -> StructMat:
        return StructMat(mat.ii, mat.ti.mean((1, 2)), mat.t.mean((1, 2)))


class GlobalMixup(nn.Module):
    """One convolution over the whole map, which leaves a single pixel: place is kept, where `SpatialMean` forgets it.

    With C (H W, n_out, n_in): ``ii`` = mean_p C_p K_ii C_p^T, ``it`` = mean_p C_p K_it(p), ``t`` = mean_p K_t(p), the Gram
    matrix of the features of all pixels side by side.

    Parameters
    ----------
    n_in, n_out : int
        Inducing points before and after.
    shape : tuple (H, W)
    jitter : float
        As in `MixupConvolution`.
    generator : torch.Generator, optional
        Draws C, N(0, 1) / sqrt(n_in).

    Examples
    --------
    >>> mat = StructMat(torch.eye(2), torch.zeros(1, 3, 3, 2), torch.ones(1, 3, 3))
    >>> out = GlobalMixup(2, 5, (3, 3))(mat)
    >>> out.ii.shape, out.ti.shape, out.t.tolist()
    (torch.Size([5, 5]), torch.Size([1, 5]), [1.0])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        shape: tuple[int, int],
        *,
        jitter: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.jitter = jitter
        self.weight = nn.Parameter(torch.randn(shape[0] * shape[1], n_out, n_in, generator=generator))

    @property
    def C(self) -> Tensor:
        """(H W, n_out, n_in)."""
        return self.weight / self.weight.shape[2] ** 0.5

    @torch.no_grad()
    def place(self, mat: StructMat, image: Tensor) -> None:
        """Set C so that inducing points are datapoints ``image`` (n_out,), as `MixupConvolution.place`."""
        near = mat.ti[image].flatten(1, 2)  # (n_out, H W, n_in)
        solved = torch.cholesky_solve(near.flatten(0, 1).mT, _factor(mat.ii)).mT.reshape(near.shape)
        self.weight.copy_(solved.transpose(0, 1) * self.weight.shape[2] ** 0.5)

    def forward(self, mat: StructMat) -> StructMat:
        C = self.C
        ti = torch.einsum("tpi,poi->to", mat.ti.flatten(1, 2), C) / len(C)
        return StructMat(_jittered((C @ mat.ii @ C.mT).mean(0), self.jitter), ti, mat.t.mean((1, 2)))


class ZCAWhitening(nn.Module):
    """Standardise every channel, then decorrelate all pixels: x -> V (D + eps mean(D))^(-1/2) V^T x.

    Parameters
    ----------
    X : Tensor (n, C, H, W)
        Training images: means, standard deviations and covariance V D V^T come from them.
    epsilon : float
        Share of the mean eigenvalue that is added to all of them: directions with less variance are not blown up.
    pixels : bool
        False: only standardise every channel.

    Examples
    --------
    >>> X = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0)).cumsum(3)
    >>> before, after = (torch.corrcoef(Z.flatten(1).T) for Z in (X, ZCAWhitening(X, epsilon=1e-6)(X)))
    >>> round(float(before[0, 1]), 1), bool(after[0, 1].abs() < 0.02)
    (0.7, True)
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor | None
    centre: Tensor
    spread: Tensor

    def __init__(self, X: Tensor, *, epsilon: float = 0.1, pixels: bool = True) -> None:
        super().__init__()
        if not epsilon > 0:
            raise DatumwiseError(f"epsilon must be positive, not {epsilon:g}")
        mean, scale = _channels(X)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("rotation", None)
        if not pixels:
            return
        covariance = torch.zeros(X[0].numel(), X[0].numel(), dtype=torch.float64)
        for block in X.split(BLOCK):
            flat = ((block - mean) / scale).flatten(1).double()
            covariance += flat.T @ flat / len(X)
        values, V = torch.linalg.eigh(covariance)
        share = epsilon * values.mean().clamp_min(VARIANCE_FLOOR)  # constant images have no variance at all
        rotation = (V / (values.clamp_min(0) + share).sqrt()) @ V.T
        self.register_buffer("rotation", rotation.to(X.dtype))
        centre, spread = _channels(torch.cat([self._rotated(block) for block in X.split(BLOCK)]))
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def forward(self, X: Tensor) -> Tensor:
        if self.rotation is None:
            return (X - self.mean) / self.scale
        return (self._rotated(X) - self.centre) / self.spread

    def _rotated(self, X: Tensor) -> Tensor:
        assert self.rotation is not None
        return (((X - self.mean) / self.scale).flatten(1) @ self.rotation).reshape(X.shape)


def patches(X: Tensor, count: int, size: int, *, generator: torch.Generator) -> Tensor:
    """Random patches of random images, whole ones only.

    Parameters
    ----------
    X : Tensor (n, C, H, W)
    count, size : int
        How many, and their side.
    generator : torch.Generator

    Returns
    -------
    Tensor (count, C, size, size)

    Raises
    ------
    SchemaMismatch
        An image is smaller than a patch.

    Examples
    --------
    >>> patches(torch.zeros(5, 3, 8, 8), 4, 3, generator=torch.Generator()).shape
    torch.Size([4, 3, 3, 3])
    """
    n, _, H, W = X.shape
    if min(H, W) < size:
        raise SchemaMismatch(f"images of {H} x {W} pixels are smaller than a patch of {size} x {size}")
    which, top, left = (torch.randint(high, (count,), generator=generator) for high in (n, H - size + 1, W - size + 1))
    rows = top[:, None] + torch.arange(size)
    columns = left[:, None] + torch.arange(size)
    return X[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _mean_of_neighbours(t: Tensor, k: int, stride: int) -> Tensor:
    """(T, H, W) -> mean over the k x k neighbours that lie within the image."""
    pooled = functional.avg_pool2d(t[:, None], k, stride=stride, padding=k // 2, count_include_pad=False)
    return pooled[:, 0]


def _convolution(maps: Tensor, weight: Tensor, stride: int, edges: str) -> Tensor:
    """(T, P, H, W) by (P', P, k, k), zeros around -> (T, H', W', P'), scaled at the edges as `MixupConvolution` says."""
    k = weight.shape[2]
    out = functional.conv2d(maps, weight, stride=stride, padding=k // 2).permute(0, 2, 3, 1)
    if k == 1 or edges == "published":
        return out
    inside = torch.ones(1, 1, *maps.shape[2:], dtype=out.dtype, device=out.device)
    share = functional.avg_pool2d(inside, k, stride=stride, padding=k // 2, count_include_pad=True)  # m / k^2
    return out * share[0, 0, :, :, None].rsqrt()


def _jittered(ii: Tensor, jitter: float) -> Tensor:
    return ii + torch.diag((jitter * ii.diagonal().mean()).expand(len(ii))) if jitter else ii


def _factor(ii: Tensor) -> Tensor:
    return guarded_cholesky(ii, jitter=default_jitter(ii.dtype))


def _channels(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, (1, C, 1, 1); a constant channel keeps its scale."""
    variance, mean = torch.var_mean(X, (0, 2, 3), correction=0, keepdim=True)
    return mean, torch.where(variance > VARIANCE_FLOOR, variance, torch.ones_like(variance)).sqrt()


def _check(kernel_size: int, stride: int, edges: str) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise DatumwiseError(f"the size of a filter must be odd, not {kernel_size}")
    if stride < 1:
        raise DatumwiseError(f"a stride must be 1 or more, not {stride}")
    if edges not in EDGES:
        raise UnknownName(f"there are no edges {edges!r}", remedy=f"choose one of {', '.join(EDGES)}")
