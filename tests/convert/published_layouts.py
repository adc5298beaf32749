"""Names and shapes of published checkpoints, written down from their authors' modules and not from our tables.

Each function lists one class by its sizes: {name: shape}. `test_published_layouts.py` holds the lists against the
weights of the reference implementations (the golden cases, small) and the converters against the lists (at published
sizes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Layout = dict[str, tuple[int, ...]]


def layer(name: str, *weight: int, bias: bool = True) -> Layout:
    """A linear layer or a convolution, whose weight begins with its output channels."""
    return {f"{name}.weight": weight} | ({f"{name}.bias": weight[:1]} if bias else {})


def norm(name: str, channels: int) -> Layout:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name: str, channels: int) -> Layout:
    running = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return norm(name, channels) | running | {f"{name}.num_batches_tracked": ()}


def under(prefix: str, layout: Mapping[str, tuple[int, ...]]) -> Layout:
    return {prefix + name: shape for name, shape in layout.items()}


def joined(*layouts: Layout) -> Layout:
    """Join lists that have no name in common."""
    done: Layout = {}
    for layout in layouts:
        assert not done.keys() & layout.keys()
        done |= layout
    return done


def conv_module(name: str, out: int, source: int, kernel: int = 1, groups: int = 1) -> Layout:
    """mmcv's `ConvModule` with batch norm."""
    return layer(f"{name}.conv", out, source // groups, kernel, kernel, bias=False) | batch_norm(f"{name}.bn", out)


# -- mmsegmentation: backbones ----------------------------------------------------------------------------------------


def swin(width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> Layout:
    """`SwinTransformer`."""
    done = layer("patch_embed.projection", width, 3, 4, 4) | norm("patch_embed.norm", width)
    for i, depth in enumerate(depths):
        c = width << i
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            done |= norm(f"{block}.norm1", c) | norm(f"{block}.norm2", c)
            done[f"{block}.attn.w_msa.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[i])
            done[f"{block}.attn.w_msa.relative_position_index"] = (window**2, window**2)
            done |= layer(f"{block}.attn.w_msa.qkv", 3 * c, c) | layer(f"{block}.attn.w_msa.proj", c, c)
            done |= layer(f"{block}.ffn.layers.0.0", 4 * c, c) | layer(f"{block}.ffn.layers.1", c, 4 * c)
        if i + 1 < len(depths):
            done |= norm(f"stages.{i}.downsample.norm", 4 * c)
            done |= layer(f"stages.{i}.downsample.reduction", 2 * c, 4 * c, bias=False)
        done |= norm(f"norm{i}", c)
    return done


def original_swin(width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> Layout:
    """`SwinTransformer` of its authors, pretrained at 224 pixels, without its top."""
    done = layer("patch_embed.proj", width, 3, 4, 4) | norm("patch_embed.norm", width)
    for i, depth in enumerate(depths):
        c, side = width << i, 56 >> i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            done |= norm(f"{block}.norm1", c) | norm(f"{block}.norm2", c)
            done[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[i])
            done[f"{block}.attn.relative_position_index"] = (window**2, window**2)
            if j % 2 and side > window:
                done[f"{block}.attn_mask"] = ((side // window) ** 2, window**2, window**2)
            done |= layer(f"{block}.attn.qkv", 3 * c, c) | layer(f"{block}.attn.proj", c, c)
            done |= layer(f"{block}.mlp.fc1", 4 * c, c) | layer(f"{block}.mlp.fc2", c, 4 * c)
        if i + 1 < len(depths):
            done |= norm(f"layers.{i}.downsample.norm", 4 * c)
            done |= layer(f"layers.{i}.downsample.reduction", 2 * c, 4 * c, bias=False)
    return done


def _residual(block: str, source: int, planes: int, bottleneck: bool, shortcut: int | None) -> Layout:
    """`BasicBlock` or `Bottleneck`; `shortcut` is the place of the convolution in `downsample`, None without one."""
    shapes = [(planes, source, 1), (planes, planes, 3), (4 * planes, planes, 1)]
    if not bottleneck:
        shapes = [(planes, source, 3), (planes, planes, 3)]
    done: Layout = {}
    for i, (out, into, kernel) in enumerate(shapes, 1):
        done |= layer(f"{block}.conv{i}", out, into, kernel, kernel, bias=False) | batch_norm(f"{block}.bn{i}", out)
    if shortcut is not None:
        out = shapes[-1][0]
        done |= layer(f"{block}.downsample.{shortcut}", out, source, 1, 1, bias=False)
        done |= batch_norm(f"{block}.downsample.{shortcut + 1}", out)
    return done


def resnet_stages(
    depths: Sequence[int], width: int, stem: int, bottleneck: bool, average_first: bool = False
) -> Layout:
    """`layer1` to `layer4`; with `average_first` ("D") a pooling stands before each shortcut's convolution."""
    done: Layout = {}
    source = stem
    for i, depth in enumerate(depths):
        planes = width << i
        for j in range(depth):
            out = planes * (4 if bottleneck else 1)
            shortcut = int(average_first) if j == 0 and (i or source != out) else None
            done |= _residual(f"layer{i + 1}.{j}", source, planes, bottleneck, shortcut)
            source = out
    return done


def deep_stem(name: str, stem: int) -> Layout:
    """`stem` of `ResNetV1c` and `ResNetV1d`."""
    half = stem // 2
    done: Layout = {}
    for i, (out, source) in enumerate([(half, 3), (half, half), (stem, half)]):
        done |= layer(f"{name}.{3 * i}", out, source, 3, 3, bias=False) | batch_norm(f"{name}.{3 * i + 1}", out)
    return done


def resnet(depths: Sequence[int], kind: str = "c", width: int = 64, stem: int = 64, bottleneck: bool = True) -> Layout:
    """`ResNet` ("plain"), `ResNetV1c`, `ResNetV1d`."""
    if kind == "plain":
        first = layer("conv1", stem, 3, 7, 7, bias=False) | batch_norm("bn1", stem)
    else:
        first = deep_stem("stem", stem)
    return first | resnet_stages(depths, width, stem, bottleneck, kind == "d")


def vision_transformer(width: int, depth: int, patches: int, final_norm: bool = True) -> Layout:
    """`VisionTransformer` as Segmenter has it."""
    done: Layout = {"cls_token": (1, 1, width), "pos_embed": (1, patches + 1, width)}
    done |= layer("patch_embed.projection", width, 3, 16, 16, bias=False) | norm("ln1", width)
    return done | transformer_layers(width, depth)


def transformer_layers(width: int, depth: int) -> Layout:
    """`TransformerEncoderLayer`s."""
    done: Layout = {}
    for i in range(depth):
        block = f"layers.{i}"
        done |= norm(f"{block}.ln1", width) | norm(f"{block}.ln2", width)
        done |= {
            f"{block}.attn.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.attn.in_proj_bias": (3 * width,),
        }
        done |= layer(f"{block}.attn.attn.out_proj", width, width)
        done |= layer(f"{block}.ffn.layers.0.0", 4 * width, width) | layer(f"{block}.ffn.layers.1", width, 4 * width)
    return done


# -- ViT-Adapter, EVA -------------------------------------------------------------------------------------------------


def vit_blocks(
    width: int, depth: int, hidden: int, *, fused_bias: bool = False, scaled: bool = False,
    table: tuple[int, int] | None = None, index: int | None = None,
) -> Layout:  # fmt: skip
    """Blocks of BEiT (biases of queries and values) and of timm's ViT (`fused_bias`)."""
    done: Layout = {}
    for i in range(depth):
        block = f"blocks.{i}"
        done |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        done |= layer(f"{block}.attn.qkv", 3 * width, width, bias=fused_bias) | layer(
            f"{block}.attn.proj", width, width
        )
        if not fused_bias:
            done |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        if table is not None:
            done[f"{block}.attn.relative_position_bias_table"] = table
        if index is not None:
            done[f"{block}.attn.relative_position_index"] = (index, index)
        if scaled:
            done |= {f"{block}.gamma_1": (width,), f"{block}.gamma_2": (width,)}
        done |= layer(f"{block}.mlp.fc1", hidden, width) | layer(f"{block}.mlp.fc2", width, hidden)
    return done


def beit(
    width: int, depth: int, heads: int, grid: tuple[int, int], hidden: int, *, relative: bool = True,
    absolute: bool = False, scaled: bool = True, patch: int = 16, indexed: bool = True,
) -> Layout:  # fmt: skip
    """`BEiT` as a trunk of ViT-Adapter (relative positions, scaled) and of EVA-01 (absolute ones)."""
    rows, tokens = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, grid[0] * grid[1] + 1
    done: Layout = {"cls_token": (1, 1, width), **layer("patch_embed.proj", width, 3, patch, patch)}
    if absolute:
        done["pos_embed"] = (1, tokens, width)
    table = (rows, heads) if relative else None
    index = tokens if relative and indexed else None
    return done | vit_blocks(width, depth, hidden, scaled=scaled, table=table, index=index)


def plain_vit(width: int, depth: int, patches: int) -> Layout:
    """`TIMMVisionTransformer` of ViT-Adapter, without a class token."""
    done: Layout = {"pos_embed": (1, patches + 1, width), **layer("patch_embed.proj", width, 3, 16, 16)}
    return done | vit_blocks(width, depth, 4 * width, fused_bias=True)


def _deformable(name: str, width: int, value: int, samples: int) -> Layout:
    return joined(
        layer(f"{name}.sampling_offsets", 2 * samples, width), layer(f"{name}.attention_weights", samples, width),
        layer(f"{name}.value_proj", value, width), layer(f"{name}.output_proj", width, value),
    )  # fmt: skip


def _extractor(name: str, width: int, value: int, samples: int) -> Layout:
    hidden = width // 4
    return joined(
        norm(f"{name}.query_norm", width), norm(f"{name}.feat_norm", width), norm(f"{name}.ffn_norm", width),
        _deformable(f"{name}.attn", width, value, samples), layer(f"{name}.ffn.fc1", hidden, width),
        layer(f"{name}.ffn.dwconv.dwconv", hidden, 1, 3, 3), layer(f"{name}.ffn.fc2", width, hidden),
    )  # fmt: skip


def adapter(width: int, heads: int, ratio: float, inner: int = 64) -> Layout:
    """What `BEiTAdapter` and `ViTAdapter` add to their trunk: 4 interactions, 2 extra extractors, 4 points."""
    value, samples = int(ratio * width), 4 * heads
    done: Layout = {"level_embed": (3, width)}
    for i, source in enumerate((3, inner, inner)):
        done |= layer(f"spm.stem.{3 * i}", inner, source, 3, 3, bias=False) | batch_norm(f"spm.stem.{3 * i + 1}", inner)
    for i, (out, source) in enumerate(((2 * inner, inner), (4 * inner, 2 * inner), (4 * inner, 4 * inner)), 2):
        done |= layer(f"spm.conv{i}.0", out, source, 3, 3, bias=False) | batch_norm(f"spm.conv{i}.1", out)
    for i, source in enumerate((inner, 2 * inner, 4 * inner, 4 * inner), 1):
        done |= layer(f"spm.fc{i}", width, source, 1, 1) | batch_norm(f"norm{i}", width)
    for i in range(4):
        injector = f"interactions.{i}.injector"
        done |= {f"{injector}.gamma": (width,), **_deformable(f"{injector}.attn", width, value, 3 * samples)}
        done |= norm(f"{injector}.query_norm", width) | norm(f"{injector}.feat_norm", width)
        done |= _extractor(f"interactions.{i}.extractor", width, value, samples)
    for i in range(2):
        done |= _extractor(f"interactions.3.extra_extractors.{i}", width, value, samples)
    return done | {"up.weight": (width, width, 2, 2), "up.bias": (width,)}


def eva02(width: int, depth: int, heads: int, patches: int, hidden: int, trained: int = 16) -> Layout:
    """`EVA2` of the segmentation code; every block holds the one table of angles."""
    done: Layout = {"cls_token": (1, 1, width), "pos_embed": (1, patches + 1, width)}
    done |= layer("patch_embed.proj", width, 3, 16, 16)
    for place in ("", *(f"blocks.{i}.attn." for i in range(depth))):
        done |= {f"{place}rope.freqs_{part}": (patches, width // heads) for part in ("cos", "sin")}
    for i in range(depth):
        block = f"blocks.{i}"
        done |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width) | norm(f"{block}.mlp.ffn_ln", hidden)
        done |= {f"{block}.attn.{name}_proj.weight": (width, width) for name in "qkv"}
        done |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        done |= layer(f"{block}.attn.proj", width, width) | layer(f"{block}.mlp.w3", width, hidden)
        done |= layer(f"{block}.mlp.w1", hidden, width) | layer(f"{block}.mlp.w2", hidden, width)
    for place in ("fpn1.0", "fpn1.3", "fpn2.0"):
        done |= {f"{place}.weight": (width, width, 2, 2), f"{place}.bias": (width,)}
    return done | batch_norm("fpn1.1", width)


# -- InternImage, FocalNet --------------------------------------------------------------------------------------------


def intern_image(
    width: int, depths: Sequence[int], groups: Sequence[int], hidden: int, *, large: bool = False, extra_norms: int = 0
) -> Layout:
    """`InternImage`: norms behind the branches with a scale; or as in H (`large`): on both sides, 5x5 offsets."""
    half = width // 2
    done = layer("patch_embed.conv1", half, 3, 3, 3) | norm("patch_embed.norm1.1", half)
    done |= layer("patch_embed.conv2", width, half, 3, 3) | norm("patch_embed.norm2.1", width)
    for i, (depth, g) in enumerate(zip(depths, groups, strict=True)):
        c, kernel = width << i, 5 if large else 3
        for j in range(depth):
            block = f"levels.{i}.blocks.{j}"
            dcn = f"{block}.dcn"
            done |= layer(f"{dcn}.dw_conv.0", c, 1, kernel, kernel) | norm(f"{dcn}.dw_conv.1.1", c)
            done |= layer(f"{dcn}.offset", 18 * g, c) | layer(f"{dcn}.mask", 9 * g, c)
            done |= layer(f"{dcn}.input_proj", c, c) | layer(f"{dcn}.output_proj", c, c)
            done |= norm(f"{block}.norm1.0", c) | norm(f"{block}.norm2.0", c)
            done |= layer(f"{block}.mlp.fc1", hidden << i, c) | layer(f"{block}.mlp.fc2", c, hidden << i)
            if large:
                done |= norm(f"{block}.res_post_norm1.0", c) | norm(f"{block}.res_post_norm2.0", c)
                done |= {
                    f"{dcn}.center_feature_scale_proj_weight": (g, c),
                    f"{dcn}.center_feature_scale_proj_bias": (g,),
                }
            else:
                done |= {f"{block}.gamma1": (c,), f"{block}.gamma2": (c,)}
        if large:
            done |= norm(f"levels.{i}.norm.0", c)
        if i < 3:
            done |= layer(f"levels.{i}.downsample.conv", 2 * c, c, 3, 3, bias=False)
            done |= norm(f"levels.{i}.downsample.norm.1", 2 * c)
    for i in range(extra_norms):
        done |= norm(f"levels.2.post_norms.{i}.0", width << 2)
    return done


def focalnet(width: int, depths: Sequence[int], levels: int, window: int, *, large: bool = False) -> Layout:
    """`FocalNet` of the segmentation code; `large` has overlapping embeddings and layer scale."""
    done = layer("patch_embed.proj", width, 3, *((7, 7) if large else (4, 4))) | norm("patch_embed.norm", width)
    for i, depth in enumerate(depths):
        c, kernel = width << i, 3 if large else 2
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            done |= norm(f"{block}.norm1", c) | norm(f"{block}.norm2", c)
            done |= layer(f"{block}.modulation.f", 2 * c + levels + 1, c) | layer(f"{block}.modulation.h", c, c, 1, 1)
            done |= layer(f"{block}.modulation.proj", c, c)
            for k in range(levels):
                side = window + 2 * k
                done |= layer(f"{block}.modulation.focal_layers.{k}.0", c, 1, side, side, bias=False)
            done |= layer(f"{block}.mlp.fc1", 4 * c, c) | layer(f"{block}.mlp.fc2", c, 4 * c)
            if large:
                done |= {f"{block}.gamma_1": (c,), f"{block}.gamma_2": (c,)}
        if i < 3:
            done |= layer(f"layers.{i}.downsample.proj", 2 * c, c, kernel, kernel) | norm(
                f"layers.{i}.downsample.norm", 2 * c
            )
        done |= norm(f"norm{i}", c)
    return done
