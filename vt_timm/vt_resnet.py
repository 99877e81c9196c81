"""trial version"""
import math
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, make_blocks
from timm.layers import ConvNormAct
from torch import Tensor, nn
from .tokenizers import FilterTokenizer, RecurrentTokenizer
from .transformer import TokenTransformer
from .projector import Projector


class VTModule(nn.Module):
    def __init__(self, C, D, L, heads, first, last, dpr, scale, norm, bn, softmax_heads):
        super().__init__()
        self.tokenizer = FilterTokenizer(C, D, L) if first else RecurrentTokenizer(C, D, scale)
        self.transformer = TokenTransformer(D, heads, dpr, scale, norm)
        self.projector = None if last else Projector(C, D, heads, softmax_heads, dpr, scale, bn)

    def forward(self, x, t):
        t = self.transformer(self.tokenizer(x, t))
        if self.projector is not None:
            x = self.projector(x, t)
        return x, t


class VTResNet(nn.Module):
    def __init__(self, block="basic", layers=(2, 2, 2, 2), channels=(64, 128, 256), vt_channels=512, token_dim=1024,
                 num_tokens=16, num_heads=16, num_classes=1000, in_chans=3, drop_rate=0.0, drop_path_rate=0.0,
                 scale=True, norm=False, bn=False, softmax_heads=16, zero_init=False, lift_act=True, token_norm_out=False):
        super().__init__()
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        fn = BasicBlock if block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, _ = make_blocks((fn,) * 3, channels, layers[:3], 64, norm_layer=nn.BatchNorm2d, act_layer=nn.ReLU)
        for s in stages:
            self.add_module(*s)
        C = channels[-1] * fn.expansion
        self.lift = ConvNormAct(C, vt_channels, 1, apply_act=lift_act) if C != vt_channels else nn.Identity()
        n = layers[3]
        self.vt = nn.ModuleList(VTModule(vt_channels, token_dim, num_tokens, num_heads, i == 0, i == n - 1, 0.0, scale, norm, bn, softmax_heads) for i in range(n))
        self.norm = nn.LayerNorm(token_dim) if token_norm_out or norm else nn.Identity()
        self.num_features = self.head_hidden_size = token_dim
        self.fc = nn.Linear(token_dim, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=m.in_features ** -0.5)
                if m.bias is not None: nn.init.zeros_(m.bias)
            elif isinstance(m, FilterTokenizer):
                pass
            if hasattr(m, "zero_init_last"):
                m.zero_init_last()
        for m in self.modules():
            if isinstance(m, FilterTokenizer):
                nn.init.normal_(m.filters.weight, std=m.filters.in_channels ** -0.5)
            if isinstance(m, TokenTransformer):
                nn.init.normal_(m.qk, std=m.qk.shape[1] ** -0.5)
                if zero_init: nn.init.zeros_(m.f2.weight)
            if isinstance(m, Projector):
                nn.init.normal_(m.query, std=m.query.shape[1] ** -0.5)
                if bn: nn.init.zeros_(m.bn.weight)
        nn.init.normal_(self.fc.weight, std=0.01)

    def get_classifier(self): return self.fc

    def forward(self, x):
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.lift(x)
        t = None
        for m in self.vt:
            x, t = m(x, t)
        return self.fc(self.norm(t).mean(1))


def _cfg(**kwargs):
    return {"num_classes": 1000, "input_size": (3, 224, 224), "pool_size": None, "crop_pct": 0.875,
            "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv1", "classifier": "fc", **kwargs}

default_cfgs = generate_default_cfgs({"vt_resnet18.untrained": _cfg(), "vt_resnet50.untrained": _cfg()})

@register_model
def vt_resnet18(pretrained=False, **kwargs):
    return build_model_with_cfg(VTResNet, "vt_resnet18", pretrained, **dict(dict(block="basic"), **kwargs))

@register_model
def vt_resnet50(pretrained=False, **kwargs):
    return build_model_with_cfg(VTResNet, "vt_resnet50", pretrained, **dict(dict(block="bottleneck", layers=(3,4,6,3), vt_channels=1024), **kwargs))
