"""Every equation of the paper, written out in plain loops over float64 numbers, against the module that computes it."""

import math

import pytest
import torch

from vt_timm.projector import Projector
from vt_timm.tokenizers import FilterTokenizer, RecurrentTokenizer
from vt_timm.transformer import TokenTransformer

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
    """X of the paper: one row a pixel, (P, C)."""
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


def test_channels_last_changes_nothing():
    projector, tokenizer = randomize(Projector(C, 8, HEADS)), randomize(FilterTokenizer(C, 8, L))
    feature, tokens = inputs(8)
    feature_last = feature.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(projector(feature_last, tokens), projector(feature, tokens))
    torch.testing.assert_close(tokenizer(feature_last), tokenizer(feature))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TokenTransformer(20, 8), "token_dim=20 must be a multiple of 2 \\* num_heads = 16"),
        (lambda: Projector(20, 32, 8), "feature_dim=20 must be a multiple of num_heads=8"),
    ],
)
def test_channels_that_heads_do_not_divide_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
