"""Every equation of the paper, written out in plain loops over float64 numbers, against the module that computes it."""

import math

import pytest
import torch

from vt_timm.projector import Projector
from vt_timm.tokenizers import (
    ClusteringTokenizer,
    FilterTokenizer,
    PoolingTokenizer,
    RecurrentTokenizer,
    SpatialAttention,
    kmeans,
    token_grid,
)
from vt_timm.transformer import GraphConvolution, TokenTransformer
from vt_timm.visual_transformer import Lift, VTStage

B, C, H, W, L, HEADS = 2, 6, 2, 3, 5, 2
P = H * W


def softmax(values):
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def matmul(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for i in range(len(a))]


def transpose(a):
    return [list(column) for column in zip(*a, strict=True)]


def randomize(module):
    """Random weights everywhere, also where initialisation puts zeros, so that every term of the equation counts."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *(b for n, b in module.named_buffers() if "running" in n)):
        tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + (tensor.ndim == 1) * 0.5
        if tensor.ndim > 1:
            tensor.data -= 0.5
    return module.double().eval()


def inputs(token_dim):
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(B, C, H, W, generator=generator, dtype=torch.float64)
    tokens = torch.randn(B, L, token_dim, generator=generator, dtype=torch.float64)
    return feature, tokens


def pixels(feature, b):
    """X of the paper: one row per pixel, (P, C)."""
    return [[feature[b, c, p // W, p % W].item() for c in range(C)] for p in range(P)]


def attention_over_pixels(logits_PL):
    return transpose([softmax(column) for column in transpose(logits_PL)])


def embed(tokens, tokenizer):
    return matmul(tokens, transpose(tokenizer.embed.weight.tolist())) if hasattr(tokenizer.embed, "weight") else tokens


def heads_of(matrix, head, dim):
    return [row[head * dim : (head + 1) * dim] for row in matrix]


@pytest.mark.parametrize("token_dim", [C, 8])
def test_filter_tokenizer_is_equation_1(token_dim):
    tokenizer = randomize(FilterTokenizer(C, token_dim, L))
    feature, _ = inputs(token_dim)
    actual = tokenizer(feature)
    w_a = transpose(tokenizer.filters.weight[:, :, 0, 0].tolist())  # (C, L)
    for b in range(B):
        x = pixels(feature, b)
        a = attention_over_pixels(matmul(x, w_a))
        expected = embed(matmul(transpose(a), x), tokenizer)
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("token_dim", [C, 8])
def test_recurrent_tokenizer_is_equation_2(token_dim):
    tokenizer = randomize(RecurrentTokenizer(C, token_dim))
    feature, tokens = inputs(token_dim)
    actual = tokenizer(feature, tokens)
    w_tr = transpose(tokenizer.to_filters.weight.tolist())  # (D, C)
    for b in range(B):
        x = pixels(feature, b)
        w_r = transpose(matmul(tokens[b].tolist(), w_tr))  # (C, L)
        logits = [[value / math.sqrt(C) for value in row] for row in matmul(x, w_r)]
        expected = embed(matmul(transpose(attention_over_pixels(logits)), x), tokenizer)
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


def test_competing_tokens_share_each_pixel_before_each_spreads_over_the_pixels():
    logits = torch.randn(B, L, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    logits[0, :, 1, 2] *= 100  # a long pixel, which wins every softmax over the pixels without competition
    actual = SpatialAttention(competition=True)(logits)
    for b in range(B):
        shares_PL = [softmax([logits[b, token, p // W, p % W].item() for token in range(L)]) for p in range(P)]
        for token in range(L):
            given = [shares[token] for shares in shares_PL]
            expected = torch.tensor([share / sum(given) for share in given], dtype=torch.float64)
            torch.testing.assert_close(actual[b, token].flatten(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokenizer", ["filter", "cluster"])
def test_tokens_of_every_module_compete_where_the_option_says_so(tokenizer):
    stage = VTStage(C, C, 4, L, HEADS, depth=2, tokenizer=tokenizer, relation="none", competition=True)
    plain = VTStage(C, C, 4, L, HEADS, depth=2, tokenizer=tokenizer, relation="none")
    plain.load_state_dict(stage.state_dict())
    assert [block.tokenizer.attention.competition for block in (*stage.blocks, *plain.blocks)] == [True] * 2 + [
        False
    ] * 2
    feature = torch.randn(1, C, 3, 4)
    for one, other in zip(stage.blocks, plain.blocks, strict=True):
        before = torch.randn(1, L, 4)
        assert not torch.allclose(one.tokenizer(feature, before), other.tokenizer(feature, before))


def test_a_norms_shift_and_competition_exclude_each_other():
    with pytest.raises(ValueError, match="norm_logits=True and competition=True"):
        FilterTokenizer(C, 8, L, norm_logits=True, competition=True)


def cell(index, size, cells):
    """Pixels of a cell when `size` pixels are cut into `cells`: from floor(i n / c) to ceil((i + 1) n / c)."""
    return range(index * size // cells, -(-(index + 1) * size // cells))


def pooled(feature, b, num_tokens, grid):
    """The mean pixel of each cell, (L, C)."""
    rows, columns = grid
    _, channels, height, width = feature.shape
    means = []
    for token in range(num_tokens):
        members = [(i, j) for i in cell(token // columns, height, rows) for j in cell(token % columns, width, columns)]
        means.append([sum(feature[b, c, i, j].item() for i, j in members) / len(members) for c in range(channels)])
    return means


GRIDS = [(1, (1, 1)), (4, (2, 2)), (5, (1, 5)), (6, (2, 3)), (8, (2, 4)), (16, (4, 4)), (32, (4, 8)), (64, (8, 8))]


@pytest.mark.parametrize(("num_tokens", "grid"), GRIDS)
def test_tokens_are_laid_out_as_square_as_can_be(num_tokens, grid):
    assert token_grid(num_tokens) == grid


@pytest.mark.parametrize("token_dim", [C, 8])
@pytest.mark.parametrize(("num_tokens", "grid"), GRIDS[:6])
def test_pooling_tokenizer_averages_cells(token_dim, num_tokens, grid):
    tokenizer = randomize(PoolingTokenizer(C, token_dim, num_tokens))
    feature = torch.randn(B, C, 5, 7, dtype=torch.float64)
    actual = tokenizer(feature)
    for b in range(B):
        expected = embed(pooled(feature, b, num_tokens, grid), tokenizer)
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


def unit(vector):
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def lloyd(points, centroids, iterations):
    """K-means by Euclidean distance on unit vectors; the first of equally near clusters wins, an empty one stays."""
    points, centroids = [unit(p) for p in points], [unit(c) for c in centroids]
    for _ in range(iterations):
        members = [[] for _ in centroids]
        for point in points:
            distances = [math.dist(point, centroid) for centroid in centroids]
            members[distances.index(min(distances))].append(point)
        centroids = [
            unit([sum(column) / len(cluster) for column in zip(*cluster, strict=True)]) if cluster else centroid
            for cluster, centroid in zip(members, centroids, strict=True)
        ]
    return centroids, [len(cluster) for cluster in members]


@pytest.mark.parametrize("token_dim", [C, 8])
@pytest.mark.parametrize(("size", "num_tokens"), [((4, 4), 4), ((5, 7), 6), ((3, 8), 7), ((2, 4), 8)])
def test_clustering_tokenizer_is_appendix_c(token_dim, size, num_tokens):
    """k-means in plain loops, then eq. 6; also where the pixels are not a multiple of the tokens."""
    tokenizer = randomize(ClusteringTokenizer(C, token_dim, num_tokens))
    feature = torch.randn(B, C, *size, dtype=torch.float64)
    actual = tokenizer(feature)
    for b in range(B):
        x = feature[b].flatten(1).T.tolist()
        centroids, _ = lloyd(x, pooled(feature, b, num_tokens, token_grid(num_tokens)), tokenizer.iterations)
        a = attention_over_pixels(matmul(x, transpose(centroids)))
        expected = embed(matmul(transpose(a), x), tokenizer)
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [0, 1, 2, 10])
def test_kmeans_is_lloyds_algorithm(iterations):
    pixels = torch.randn(B, C, 50, dtype=torch.float64)
    seeds = pixels[:, :, :L].transpose(1, 2)
    actual = kmeans(pixels, seeds, iterations)
    for b in range(B):
        expected = [unit(s) for s in seeds[b].tolist()]
        if iterations:
            expected, _ = lloyd(pixels[b].T.tolist(), seeds[b].tolist(), iterations)
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


def test_an_empty_cluster_keeps_its_centroid():
    pixels = torch.tensor([[[1.0, 0.9, 0.0, 0.1], [0.0, 0.1, 1.0, 0.9]]]).double()  # near the two axes
    seeds = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-2.0, -2.0]]]).double()
    centroids, sizes = lloyd(pixels[0].T.tolist(), seeds[0].tolist(), 3)
    assert sizes == [2, 2, 0]
    actual = kmeans(pixels, seeds, 3)
    torch.testing.assert_close(actual[0], torch.tensor(centroids, dtype=torch.float64))
    assert actual[0, 2].tolist() == pytest.approx([-math.sqrt(0.5)] * 2)


@pytest.mark.parametrize("feature", [torch.zeros(1, C, 4, 4), torch.ones(1, C, 4, 4)], ids=["zeros", "all alike"])
def test_clustering_stays_finite_where_pixels_tell_nothing(feature):
    feature.requires_grad_()
    tokens = ClusteringTokenizer(C, 8, 9)(feature)
    tokens.sum().backward()
    assert tokens.isfinite().all() and feature.grad.isfinite().all()


def test_clustering_is_deterministic_and_constant_to_the_gradient():
    tokenizer = ClusteringTokenizer(C, C, 4)
    feature = torch.randn(B, C, 5, 5, dtype=torch.float64, requires_grad=True)
    tokens = tokenizer(feature)
    assert torch.equal(tokens, tokenizer(feature))
    (gradient,) = torch.autograd.grad(tokens.square().sum(), feature)
    # The same tokens from centroids that are plain numbers have the same gradient.
    seeds = torch.nn.functional.adaptive_avg_pool2d(feature, (2, 2)).flatten(2).transpose(1, 2)
    centroids = torch.tensor(kmeans(feature.flatten(2), seeds, tokenizer.iterations).tolist(), dtype=torch.float64)
    attention = (centroids @ feature.flatten(2)).softmax(dim=2)
    (expected,) = torch.autograd.grad((attention @ feature.flatten(2).transpose(1, 2)).square().sum(), feature)
    torch.testing.assert_close(gradient, expected)


def test_clustering_says_that_the_map_is_too_small():
    with pytest.raises(AssertionError, match="fewer pixels than tokens"):
        ClusteringTokenizer(C, C, 16)(torch.randn(1, C, 3, 5))


def test_graph_convolution_adds_neighbours():
    graph = randomize(GraphConvolution(L))
    _, tokens = inputs(8)
    actual = graph(tokens)
    for b in range(B):
        t = tokens[b].tolist()
        mixed = matmul(graph.adjacency.tolist(), t)
        expected = [[u + v for u, v in zip(*rows, strict=True)] for rows in zip(t, mixed, strict=True)]
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


def test_transformer_is_equations_3_and_4():
    token_dim, d, k = 8, 4, 2
    transformer = randomize(TokenTransformer(token_dim, HEADS))
    _, tokens = inputs(token_dim)
    actual = transformer(tokens)
    f1, f2 = (transpose(f.weight.tolist()) for f in (transformer.f1, transformer.f2))
    for b in range(B):
        t_in = tokens[b].tolist()
        related = [[] for _ in range(L)]
        for head in range(HEADS):
            t = heads_of(t_in, head, d)
            weights = transformer.key_query[head].tolist()
            keys, queries = (matmul(t, [row[i * k : (i + 1) * k] for row in weights]) for i in (0, 1))
            scores = matmul(keys, transpose(queries))
            mix = [softmax([s / math.sqrt(k) for s in row]) for row in scores]
            related = [row + more for row, more in zip(related, matmul(mix, t), strict=True)]
        t_out = [[u + v for u, v in zip(*rows, strict=True)] for rows in zip(t_in, related, strict=True)]
        hidden = [[max(value, 0.0) for value in row] for row in matmul(t_out, f1)]
        expected = [[u + v for u, v in zip(*r, strict=True)] for r in zip(t_out, matmul(hidden, f2), strict=True)]
        torch.testing.assert_close(actual[b], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("token_dim", [C, 8])
def test_projector_is_equation_5(token_dim):
    projector = randomize(Projector(C, token_dim, HEADS))
    feature, tokens = inputs(token_dim)
    actual = projector(feature, tokens)
    d = C // HEADS
    bn = projector.bn
    for b in range(B):
        x, t = pixels(feature, b), tokens[b].tolist()
        keys = matmul(t, transpose(projector.key.weight.tolist()))
        values = matmul(t, transpose(projector.value.weight.tolist())) if token_dim != C else t
        gain = [bn.weight[c].item() / math.sqrt(bn.running_var[c].item() + bn.eps) for c in range(C)]
        mean, bias = bn.running_mean.tolist(), bn.bias.tolist()
        values = [[(row[c] - mean[c]) * gain[c] + bias[c] for c in range(C)] for row in values]
        update = [[] for _ in range(P)]
        for head in range(HEADS):
            queries = matmul(heads_of(x, head, d), projector.query[head].tolist())
            scores = matmul(queries, transpose(heads_of(keys, head, d)))
            mix = [softmax([s / math.sqrt(d) for s in row]) for row in scores]
            update = [row + m for row, m in zip(update, matmul(mix, heads_of(values, head, d)), strict=True)]
        for p in range(P):
            for c in range(C):
                assert actual[b, c, p // W, p % W].item() == pytest.approx(x[p][c] + update[p][c], abs=1e-9)


def test_the_projectors_drop_path_drops_whole_updates_and_scales_the_others():
    projector = randomize(Projector(C, 8, HEADS, drop_path=0.75))
    feature, tokens = (x.repeat(16, *[1] * (x.dim() - 1)) for x in inputs(8))
    kept = feature + (projector(feature, tokens) - feature) / 0.25
    projector.drop_path.train()
    torch.manual_seed(0)
    actual = projector(feature, tokens)
    dropped = [torch.equal(image, before) for image, before in zip(actual, feature, strict=True)]
    assert 0 < sum(dropped) < len(dropped)
    for image, was_dropped, before, update in zip(actual, dropped, feature, kept, strict=True):
        torch.testing.assert_close(image, before if was_dropped else update)


def test_channels_last_changes_nothing():
    projector, tokenizer = randomize(Projector(C, 8, HEADS)), randomize(FilterTokenizer(C, 8, L))
    feature, tokens = inputs(8)
    feature_last = feature.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(projector(feature_last, tokens), projector(feature, tokens))
    torch.testing.assert_close(tokenizer(feature_last), tokenizer(feature))


@pytest.mark.parametrize("train", [False, True])
def test_the_lift_of_a_channels_last_map_is_its_convolution_and_contiguous(train):
    lift = randomize(Lift(C, 3 * C)).train(train)
    feature, _ = inputs(8)
    expected = lift.bn(lift.conv(feature)).relu()
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), lift.conv.weight)
    actual = lift(feature.contiguous(memory_format=torch.channels_last))
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected)
    (gradient,) = torch.autograd.grad(actual.square().sum(), lift.conv.weight)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_symbolic_trace_of_the_lift_takes_both_layouts():
    """timm's and torchvision's feature extraction trace without a map, so that no layout is known."""
    lift = randomize(Lift(C, 3 * C))
    traced = torch.fx.symbolic_trace(lift)
    feature, _ = inputs(8)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(traced(feature.contiguous(memory_format=layout)), lift(feature))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TokenTransformer(20, 8), "token_dim=20 must be a multiple of 2 \\* num_heads = 16, such as 16 or 32"),
        (lambda: TokenTransformer(8, 8), "token_dim=8 must be a multiple of 2 \\* num_heads = 16, such as 16$"),
        (lambda: Projector(20, 32, 8), "feature_dim=20, must be a multiple of num_heads=8"),
    ],
)
def test_channels_that_heads_do_not_divide_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
