"""The VT modules with everything constant multiplied out: the same function in fewer, larger products.

A runtime pays for every node, and sixteen tokens are little work for one. What does not depend on the image is folded
into the weights for inference; the equations stay those of the paper.

Shape suffixes: B batch, L tokens, D channels of a token, C channels of the feature map, P pixels, h heads,
d = D/h or C/h channels of a head.
"""

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..projector import Projector
from ..tokenizers import FilterTokenizer, RecurrentTokenizer
from ..transformer import TokenTransformer
from ..visual_transformer import Lift, VTStage
from ..vt_resnet import VTResNet


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return what a batch norm, also a frozen one, does in inference: `scale x + shift`, per channel."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -scale * norm.running_mean
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return the layer of a matrix (out, in) and a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.detach())
    layer.bias = None if bias is None else nn.Parameter(bias.detach())  # type: ignore[assignment]
    return layer


def linear_and_norm(layer: nn.Module, norm: Any) -> nn.Linear:
    """Join a linear layer without bias, or none, and the norm of what it gives."""
    scale, shift = affine(norm)
    weight = layer.weight if isinstance(layer, nn.Linear) else torch.eye(len(scale)).to(scale)
    return linear(scale[:, None] * weight, shift)


class FoldedTransformer(nn.Module):
    """Eqs. 3 and 4 with `A = K Q^T / sqrt(k)` as one matrix per head: `T' = T + softmax_L(T A T^T) T`.

    Shapes: T (B, L, D) in and out, A (h, d, d).
    """

    def __init__(self, source: TokenTransformer) -> None:
        super().__init__()
        self.num_heads, self.f1, self.f2 = source.num_heads, source.f1, source.f2
        key_hdk, query_hdk = source.key_query.detach().chunk(2, dim=-1)
        # (h, d, k) x (h, k, d) -> (h, d, d)
        self.relation = nn.Parameter(torch.bmm(key_hdk, query_hdk.transpose(1, 2)) * source.scale)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        related_BLD = self.related(tokens_BLD)
        return related_BLD + self.f2(self.f1(related_BLD).relu())

    def related(self, tokens_BLD: Tensor) -> Tensor:
        """Return T' of eq. 3."""
        tokens_BhLd = tokens_BLD.unflatten(2, (self.num_heads, self.relation.shape[1])).transpose(1, 2)
        # (B, h, L, d) x ((h, d, d) x (B, h, d, L)) -> (B, h, L, L); this order rearranges less for the products
        attention_BhLL = (tokens_BhLd @ (self.relation @ tokens_BhLd.transpose(2, 3))).softmax(dim=-1)
        return tokens_BLD + (attention_BhLL @ tokens_BhLd).transpose(1, 2).flatten(2)


class FoldedProjector(nn.Module):
    """Eq. 5 with `W_K W_Q^T / sqrt(d)` as one map of the tokens, and the norm of the values inside W_V.

    Shapes: X (B, C, H, W) in and out, T (B, L, D).
    """

    def __init__(self, source: Projector) -> None:
        super().__init__()
        self.num_heads, self.head_dim = source.num_heads, source.head_dim
        key_hdD = source.key.weight.unflatten(0, (self.num_heads, self.head_dim))
        # (h, d, e) x (h, e, D) -> (h, d, D)
        self.key = linear((torch.bmm(source.query, key_hdD) * source.scale).flatten(0, 1))
        self.value = linear_and_norm(source.value, source.bn)

    def forward(self, feature_BCHW: Tensor, tokens_BLD: Tensor) -> Tensor:
        update_BCP = self.update(feature_BCHW.flatten(2), self.key(tokens_BLD), self.value(tokens_BLD))
        return feature_BCHW + update_BCP.reshape(feature_BCHW.shape)

    def update(self, feature_BCP: Tensor, key_BLC: Tensor, value_BLC: Tensor) -> Tensor:
        """Return what is added to the map, (B, C, P), from the tokens' keys and values."""
        heads = (self.num_heads, self.head_dim)
        key_BhdL = key_BLC.unflatten(2, heads).permute(0, 2, 3, 1)
        value_BhdL = value_BLC.unflatten(2, heads).permute(0, 2, 3, 1)
        # (B, h, P, d) x (B, h, d, L) -> (B, h, P, L): tokens last, since a runtime transposes around other softmaxes
        attention_BhPL = (feature_BCP.unflatten(1, heads).transpose(2, 3) @ key_BhdL).softmax(dim=3)
        # (B, h, d, L) x (B, h, L, P) -> (B, h, d, P)
        return (value_BhdL @ attention_BhPL.transpose(2, 3)).flatten(1, 2)


class FoldedStage(nn.Module):
    """A VT stage with filter and recurrent tokenizers, on a map whose pixels are one row from start to end.

    What is linear in the tokens of a module is one product: the keys and values of its projector and the filters of the
    next module's tokenizer.

    Args:
        source: what to fold.
        averaged: return, in place of the tokens, the means over them of what eq. 4 adds up, T' and `relu(T' F1)`, side
            by side: (B, 2 D). A mean commutes with F2, which then belongs into the classifier.
        rows: compute the lift as `RowsOfMap` does, for AOTInductor.

    Shapes: (B, in_chans, H, W) -> feature map (B, C, H, W), tokens (B, L, D).
    """

    def __init__(self, source: VTStage, averaged: bool = False, rows: bool = False) -> None:
        super().__init__()
        self.pool = source.pool
        self.lift: nn.Module = source.lift
        if isinstance(source.lift, Lift):
            self.lift = RowsOfMap(*_folded_lift(source.lift)) if rows else _folded_lift(source.lift)
        first: FilterTokenizer = source.blocks[0].tokenizer  # type: ignore[assignment]
        self.competition = first.attention.competition
        filters_LC = first.filters.weight.flatten(1)
        if not isinstance(first.norm, nn.Identity):  # its shift cancels in the softmax over the pixels
            filters_LC = affine(first.norm)[0][:, None] * filters_LC
        self.filters = nn.Parameter(filters_LC.detach().clone())
        # The mean over tokens as a product, which takes ONNX Runtime less time than its ReduceMean.
        mean_1L = filters_LC.new_full((1, len(filters_LC)), 1 / len(filters_LC))
        self.mean = nn.Parameter(mean_1L, requires_grad=False) if averaged else None
        self.embed, self.transformers, self.projectors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.products, self.widths = nn.ModuleList(), []
        blocks: list[Any] = list(source.blocks)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            embed = block.tokenizer.embed
            # A plain nn.Linear: torchao finds the layers that it computes in 8 bits by their class itself.
            self.embed.append(_side_by_side([embed]) if isinstance(embed, nn.Linear) else embed)
            relate = block.transformer
            self.transformers.append(FoldedTransformer(relate) if isinstance(relate, TokenTransformer) else relate)
            projector = None if block.projector is None else FoldedProjector(block.projector)
            layers = [] if projector is None else [projector.key, projector.value]
            if following is not None:
                layers.append(_folded_filters(following.tokenizer))
            self.projectors.append(projector or nn.Identity())
            self.products.append(_side_by_side(layers) if layers else nn.Identity())
            self.widths.append([layer.out_features for layer in layers])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature_BCHW = self.lift(x)
        # A second ReLU changes nothing; in 8 bits it is the one reader of the map, which is converted for it once.
        feature_BCP = (
            feature_BCHW.flatten(2).relu() if isinstance(self.lift, nn.Sequential) else feature_BCHW.flatten(2)
        )
        filters_BLC = self.filters
        for i, embed in enumerate(self.embed):
            logits_BLP = filters_BLC @ feature_BCP
            attention_BLP = (logits_BLP.log_softmax(dim=1) if self.competition else logits_BLP).softmax(dim=-1)
            # (B, L, P) x (B, P, C) -> (B, L, C)
            tokens_BLD = embed(attention_BLP @ feature_BCP.transpose(1, 2))
            if self.mean is not None and i == len(self.embed) - 1:
                return feature_BCHW, _averages(self.mean, self.transformers[i], tokens_BLD)  # type: ignore[arg-type]
            tokens_BLD = self.transformers[i](tokens_BLD)
            read = list(self.products[i](tokens_BLD).split(self.widths[i], dim=2)) if self.widths[i] else []
            projector = self.projectors[i]
            if isinstance(projector, FoldedProjector):
                feature_BCP = feature_BCP + projector.update(feature_BCP, read.pop(0), read.pop(0))
            if read:
                filters_BLC = read.pop()
        return self.pool(feature_BCP.reshape(feature_BCHW.shape)), tokens_BLD


class RowsOfMap(nn.Module):
    """A 1x1 convolution of a map (B, C, H, W), and what follows it, as one product of B H W rows.

    In 8 bits oneDNN orders the weights of a 1x1 convolution for the batch that it will see. Where that is free,
    AOTInductor guesses, and orders them again at every call: for the lift of R18 this took longer than all else.
    """

    def __init__(self, convolution: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.layer, self.act = linear(convolution.weight.flatten(1), convolution.bias), act

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        rows_NC = self.act(self.layer(x.permute(0, 2, 3, 1).reshape(B * H * W, C)))
        return rows_NC.reshape(B, H, W, self.layer.out_features).permute(0, 3, 1, 2)


def _averages(mean_1L: Tensor, transformer: FoldedTransformer, tokens_BLD: Tensor) -> Tensor:
    """Return the means of T' and `relu(T' F1)` over the tokens, side by side: (B, 2 D)."""
    related_BLD = transformer.related(tokens_BLD)
    # Not relu(): behind a product in 8 bits whose result stays in float32, ONNX Runtime would compute in float32.
    hidden_BLD = transformer.f1(related_BLD).clamp(min=0)
    return torch.cat([mean_1L @ related_BLD, mean_1L @ hidden_BLD], dim=2).squeeze(1)


def _folded_filters(tokenizer: RecurrentTokenizer) -> nn.Linear:
    layer = copy.deepcopy(tokenizer.to_filters)
    with torch.no_grad():
        layer.weight.mul_(tokenizer.scale)
    return layer


def _side_by_side(layers: list[nn.Linear]) -> nn.Linear:
    """Join linear layers that read the same tokens."""
    weights, biases = tuple(layer.weight for layer in layers), [layer.bias for layer in layers]
    if any(bias is not None for bias in biases):
        zeros: list[Tensor] = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]
        return linear(torch.cat(weights), torch.cat(zeros))
    return linear(torch.cat(weights))


def _averages_first(model: VTResNet) -> bool:
    """True if the classifier alone reads the last tokens, their mean, and has fewer classes than F2 has rows."""
    stage = model.vt_stage
    return (
        stage is not None
        and _in_rows(stage)
        and isinstance(stage.blocks[-1].transformer, TokenTransformer)
        and stage.blocks[-1].projector is None
        and model.global_pool == "avg"
        and 0 < model.num_classes < model.num_features
    )


def _classifier_behind(f2: nn.Linear, classifier: nn.Linear) -> nn.Linear:
    """Return `classifier(T' + hidden F2)` as one layer of (T', hidden) side by side."""
    return linear(torch.cat([classifier.weight, classifier.weight @ f2.weight], dim=1), classifier.bias)


def _in_rows(stage: VTStage) -> bool:
    """True if `FoldedStage` can express a stage: a filter tokenizer and, after it, recurrent ones."""
    first, *others = (block.tokenizer for block in stage.blocks)
    return isinstance(first, FilterTokenizer) and all(isinstance(t, RecurrentTokenizer) for t in others)


def _folded_lift(lift: Lift) -> nn.Sequential:
    """Join convolution and norm: an exporter sees the map's size asked for between them and leaves them apart."""
    convolution = nn.Conv2d(lift.conv.in_channels, lift.conv.out_channels, kernel_size=1)
    convolution.weight, convolution.bias = lift.conv.weight, lift.conv.bias
    _fold(convolution, lift.bn)
    return nn.Sequential(convolution, copy.deepcopy(lift.act))


def folded(model: nn.Module, rows: bool = False) -> nn.Module:
    """Return a copy of a model for inference in which every VT module is folded; other modules stay as they are.

    Args:
        model: any model.
        rows: as `FoldedStage` takes it.
    """
    model = copy.deepcopy(model).eval()
    if isinstance(model, VTResNet) and _averages_first(model):
        f2 = model.vt_stage.blocks[-1].transformer.f2  # type: ignore[union-attr]
        model.vt_stage = FoldedStage(model.vt_stage, True, rows)  # type: ignore[arg-type,assignment]
        model.fc, model.global_pool = _classifier_behind(f2, model.fc), ""  # type: ignore[arg-type]
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, VTStage) and _in_rows(child):
                setattr(module, name, FoldedStage(child, rows=rows))
            elif isinstance(child, TokenTransformer):
                setattr(module, name, FoldedTransformer(child))
            elif isinstance(child, Projector):
                setattr(module, name, FoldedProjector(child))
            elif isinstance(child, Lift):
                setattr(module, name, _folded_lift(child))
        if isinstance(module, RecurrentTokenizer):
            module.to_filters, module.scale = _folded_filters(module), 1.0
    return model


def fold_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """Multiply each norm that alone reads a convolution's output into that convolution, in place.

    Which one reads which is seen while the model runs, so that it holds for every model of timm's.

    Args:
        model: a model in eval mode.
        example: a batch that it takes.
    """
    calls: Counter[nn.Module] = Counter()
    readers: Counter[int] = Counter()
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept, so that no other gets their ids
    pairs: dict[nn.Module, Any] = {}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] += 1
        for x in inputs:
            readers[id(x)] += 1
            if type(module) in (nn.BatchNorm2d, BatchNormAct2d) and id(x) in made:
                pairs[module] = made[id(x)]

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        if type(module) in (nn.Conv2d, Conv2dSame):
            made[id(output)], readers[id(output)] = (module, output), 0  # a tensor that is gone may have had this id

    leaves = [module for module in model.modules() if not list(module.children()) or isinstance(module, BatchNormAct2d)]
    hooks = [m.register_forward_pre_hook(before) for m in leaves] + [m.register_forward_hook(after) for m in leaves]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    replaced: dict[nn.Module, nn.Module] = {}
    for norm, (convolution, output) in pairs.items():
        if readers[id(output)] == 1 and calls[norm] == calls[convolution] == 1:
            replaced[norm] = _fold(convolution, norm)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in replaced:
                setattr(module, name, replaced[child])
    return model


def _fold(convolution: Any, norm: Any) -> nn.Module:
    """Fold the norm into the convolution, and return what is left of it."""
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
