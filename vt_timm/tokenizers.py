"""Tokenizers: a feature map pooled into L visual tokens (paper, section 3.1, Figures 2 and 3, and Appendix C).

Shape suffixes: B batch, C channels of the feature map, H W its height and width, P = H*W pixels,
L tokens, D channels of a token (the paper's C_T).
"""

import math

import torch
from timm.layers import _assert
from torch import Tensor, nn

LOGIT_SCALE = 2.0  # standard deviation of normalised logits at the start; at 1 every token is nearly the mean pixel


class SpatialAttention(nn.Module):
    """`A = softmax_HW(logits)`: where each token looks, one map per token. Each map sums to one over the pixels.

    It is a module of its own, so that `vt_timm.record_attention` reads the maps with a forward hook.

    Args:
        competition: whether the tokens compete for each pixel first: `A = softmax_HW(log softmax_L(logits))`, so that
            a pixel has the weight of one token to give, however long it is. The paper has no such thing; it is how
            slot attention weighs (Locatello et al., "Object-Centric Learning with Slot Attention", 2020).
    """

    def __init__(self, competition: bool = False) -> None:
        super().__init__()
        self.competition = competition

    def forward(self, logits_BLHW: Tensor) -> Tensor:
        if self.competition:
            logits_BLHW = logits_BLHW.log_softmax(dim=1)
        return logits_BLHW.flatten(2).softmax(dim=-1).view_as(logits_BLHW)


class TokenEmbedding(nn.Linear):
    """`T W_E`: pooled pixels to token channels where C != D. Ours: eq. 1 gives C channels, Table 11 C_T."""

    def __init__(self, feature_dim: int, token_dim: int, device=None, dtype=None) -> None:
        super().__init__(feature_dim, token_dim, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features))


def token_embedding(feature_dim: int, token_dim: int, device=None, dtype=None) -> nn.Module:
    if feature_dim == token_dim:
        return nn.Identity()
    return TokenEmbedding(feature_dim, token_dim, device=device, dtype=dtype)


def pool_pixels(attention_BLHW: Tensor, feature_BCHW: Tensor) -> Tensor:
    """Return `A^T X`: each token is the attention-weighted mean of the pixels, (B, L, C)."""
    # (B, L, P) x (B, P, C) -> (B, L, C)
    return attention_BLHW.flatten(2) @ feature_BCHW.flatten(2).transpose(1, 2)


def attention_logits(filters_BLC: Tensor, feature_BCHW: Tensor) -> Tensor:
    """Return `X W` for filters that differ from image to image, as (B, L, H, W)."""
    _, _, H, W = feature_BCHW.shape
    # (B, L, C) x (B, C, P) -> (B, L, P)
    return (filters_BLC @ feature_BCHW.flatten(2)).unflatten(2, (H, W))


class FilterTokenizer(nn.Module):
    """Filter-based tokenizer, eq. 1: `T = softmax_HW(X W_A)^T X`, then `T W_E` where C != D.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.
        num_tokens: L.
        norm_logits: whether a batch norm sets the scale of X W_A, so that tokens differ from the start. In inference
            this is still eq. 1: the norm's shift cancels in the softmax over the pixels, and its scale belongs to W_A.
        competition: whether tokens compete for pixels, as `SpatialAttention` says. It needs logits without a norm,
            whose shift would not cancel.

    Shapes: X (B, C, H, W), W_A (C, L), W_E (C, D), T (B, L, D).

    Raises:
        ValueError: for a norm and competition at once.
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        norm_logits: bool = False,
        competition: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if norm_logits and competition:
            raise ValueError("norm_logits=True and competition=True: a norm's shift cancels over the pixels alone")
        # No bias: the softmax over pixels cancels it, so it would never receive a gradient.
        self.filters = nn.Conv2d(feature_dim, num_tokens, kernel_size=1, bias=False, **dd)
        self.norm = nn.BatchNorm2d(num_tokens, **dd) if norm_logits else nn.Identity()
        self.attention = SpatialAttention(competition)
        self.embed = token_embedding(feature_dim, token_dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.filters.weight, std=1 / math.sqrt(self.filters.in_channels))
        if isinstance(self.norm, nn.BatchNorm2d):
            nn.init.constant_(self.norm.weight, LOGIT_SCALE)

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        """Leave `previous_BLD` unused: a filter tokenizer looks for the same things in every image."""
        attention_BLHW = self.attention(self.norm(self.filters(feature_BCHW)))
        return self.embed(pool_pixels(attention_BLHW, feature_BCHW))


class RecurrentTokenizer(nn.Module):
    """Recurrent tokenizer, eq. 2: `W_R = T_in W_T->R`, `T = softmax_HW(X W_R / sqrt(C))^T X`; `T W_E` where C != D.

    The tokens of the module before say what this one looks for. The paper writes no 1/sqrt(C); a token and a pixel
    are both long vectors here, and unscaled logits saturate the softmax at once.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.
        competition: whether tokens compete for pixels, as `SpatialAttention` says.

    Shapes: X (B, C, H, W), T_in and T (B, L, D), W_T->R (D, C), W_R (B, L, C), W_E (C, D).
    """

    def __init__(self, feature_dim: int, token_dim: int, competition: bool = False, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.scale = 1 / math.sqrt(feature_dim)
        self.to_filters = nn.Linear(token_dim, feature_dim, bias=False, **dd)
        self.attention = SpatialAttention(competition)
        self.embed = token_embedding(feature_dim, token_dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.to_filters.weight, std=1 / math.sqrt(self.to_filters.in_features))

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        assert previous_BLD is not None, "a recurrent tokenizer needs the tokens of the module before it"
        filters_BLC = self.to_filters(previous_BLD) * self.scale
        attention_BLHW = self.attention(attention_logits(filters_BLC, feature_BCHW))
        return self.embed(pool_pixels(attention_BLHW, feature_BCHW))


class GridAttention(nn.Module):
    """`A` of average pooling over a grid: where each token of a pooling tokenizer looks, the same in every image."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.rows, self.columns = token_grid(num_tokens)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return grid_attention(feature_BCHW, self.rows, self.columns)


def grid_attention(feature_BCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Return the averaging weights (B, L, H, W) of L = rows * columns cells, row by row; 0 outside the cell.

    The cells are those of adaptive average pooling: they overlap by a pixel where the grid does not divide the map, and
    repeat pixels where the map has fewer. Unlike `adaptive_avg_pool2d`, these weights let an exported model take other
    sizes.
    """
    B, _, H, W = feature_BCHW.shape
    rows_rH = cell_weights(H, rows, feature_BCHW)
    columns_cW = cell_weights(W, columns, feature_BCHW)
    attention_rcHW = rows_rH[:, None, :, None] * columns_cW[None, :, None, :]
    return attention_rcHW.flatten(0, 1).expand(B, -1, -1, -1)


def cell_weights(size: int, cells: int, like: Tensor) -> Tensor:
    """Return the averaging weights (cells, size): cell i spans floor(i size / cells) to ceil((i + 1) size / cells)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + cells - 1, cells, rounding_mode="floor")
    pixel = torch.arange(size, device=like.device)
    inside = (pixel >= start) & (pixel < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def token_grid(num_tokens: int) -> tuple[int, int]:
    """Return rows and columns to lay num_tokens cells out in: the most nearly square, at least as wide as high.

    16 -> (4, 4), 32 -> (4, 8), 7 -> (1, 7).
    """
    rows = math.isqrt(num_tokens)
    while num_tokens % rows:
        rows -= 1
    return rows, num_tokens // rows


class PoolingTokenizer(nn.Module):
    """Pooling-based tokenizer of Table 3: the map averaged over a grid of L cells, then `T W_E` where C != D.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.
        num_tokens: L, laid out by `token_grid`.

    Shapes: X (B, C, H, W), W_E (C, D), T (B, L, D).
    """

    def __init__(self, feature_dim: int, token_dim: int, num_tokens: int, device=None, dtype=None) -> None:
        super().__init__()
        self.attention = GridAttention(num_tokens)
        self.embed = token_embedding(feature_dim, token_dim, device=device, dtype=dtype)

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        """Leave `previous_BLD` unused: the grid is the same in every image."""
        return self.embed(pool_pixels(self.attention(feature_BCHW), feature_BCHW))


class ClusteringTokenizer(nn.Module):
    """Clustering-based tokenizer, Appendix C and eq. 6: `T = softmax_HW(X W_K)^T X`, `W_K = kmeans(X)`; `T W_E`.

    K-means runs on unit-norm pixels from a map averaged down to `token_grid(L)`. Its centroids are constants to the
    gradient, which reaches X through the attention and the pooled pixels only.

    Args:
        feature_dim: C, channels of the feature map.
        token_dim: D, channels of a token. The embedding `W_E` exists only if it differs from C.
        num_tokens: L, the number of clusters.
        iterations: iterations of Lloyd's algorithm. The paper gives no number; 6 cost the 19 M MACs by which Table
            3's clustering R34 exceeds its filter R34.
        competition: whether tokens compete for pixels, as `SpatialAttention` says.

    Shapes: X (B, C, H, W), W_K (B, L, C), W_E (C, D), T (B, L, D).

    Raises:
        AssertionError: in forward, for a feature map with fewer pixels than tokens.
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        num_tokens: int,
        iterations: int = 6,
        competition: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.iterations = iterations
        self.rows, self.columns = token_grid(num_tokens)
        self.attention = SpatialAttention(competition)
        self.embed = token_embedding(feature_dim, token_dim, device=device, dtype=dtype)

    def forward(self, feature_BCHW: Tensor, previous_BLD: Tensor | None = None) -> Tensor:
        """Leave `previous_BLD` unused: the clusters come from the image alone."""
        if not torch.jit.is_tracing():  # a trace keeps no assertion, and warns of each
            _assert(
                feature_BCHW.shape[2] * feature_BCHW.shape[3] >= self.num_tokens,
                "the feature map has fewer pixels than tokens: a clustering tokenizer needs a larger image or fewer "
                "tokens",
            )
        constant_BCHW = feature_BCHW.detach()
        seeds_BLC = pool_pixels(grid_attention(constant_BCHW, self.rows, self.columns), constant_BCHW)
        centroids_BLC = kmeans(constant_BCHW.flatten(2), seeds_BLC, self.iterations)
        attention_BLHW = self.attention(attention_logits(centroids_BLC, feature_BCHW))
        return self.embed(pool_pixels(attention_BLHW, feature_BCHW))


def kmeans(pixels_BCP: Tensor, seeds_BLC: Tensor, iterations: int) -> Tensor:
    """Run k-means on each image's pixels as unit vectors (Listing 1): unit-norm centroids (B, L, C).

    Between unit vectors the nearest centroid is the one with the largest dot product, so that one batched product
    replaces Listing 1's (B, C, P, L) tensor of differences, and a second one sums each cluster. A pixel's length does
    not change which centroid is nearest, and is divided out of the sums alone. A pixel at equal distances joins the
    first of the clusters; a cluster without pixels keeps its centroid.

    Args:
        pixels_BCP: pixels, of any length.
        seeds_BLC: the centroids to start from, of any length.
        iterations: iterations of Lloyd's algorithm.
    """
    one_over_length_B1P = 1 / nonzero_length(pixels_BCP, dim=1)
    centroids_BLC = seeds_BLC / nonzero_length(seeds_BLC, dim=2)
    for _ in range(iterations):
        # (B, L, C) x (B, C, P) -> (B, L, P)
        similarity_BLP = centroids_BLC @ pixels_BCP
        nearest_B1P = similarity_BLP.argmax(dim=1, keepdim=True)
        weights_BLP = torch.zeros_like(similarity_BLP).scatter(1, nearest_B1P, one_over_length_B1P)
        # (B, L, P) x (B, P, C) -> (B, L, C); a sum points where the mean points
        sums_BLC = weights_BLP @ pixels_BCP.transpose(1, 2)
        is_empty_BL1 = (sums_BLC == 0).all(dim=2, keepdim=True)
        centroids_BLC = torch.where(is_empty_BL1, centroids_BLC, sums_BLC / nonzero_length(sums_BLC, dim=2))
    return centroids_BLC


def nonzero_length(vectors: Tensor, dim: int) -> Tensor:
    """Return the Euclidean length along a dimension; 1 for a vector of zeros, so that one can divide by it."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return torch.where(length > 0, length, torch.ones_like(length))
