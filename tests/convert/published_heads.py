"""Names and shapes of published heads: mmsegmentation's, mmdet's Mask2Former, and the VSPW code's decoders.

See `published_layouts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from published_layouts import (
    Layout,
    batch_norm,
    conv_module,
    joined,
    layer,
    norm,
    resnet_stages,
    transformer_layers,
    under,
)

# -- mmsegmentation ---------------------------------------------------------------------------------------------------


def classes(width: int, count: int) -> Layout:
    return layer("conv_seg", count, width, 1, 1)


def fcn(source: int, width: int, count: int) -> Layout:
    """`FCNHead` as an auxiliary head: one convolution."""
    return conv_module("convs.0", width, source, 3) | classes(width, count)


def psp(source: int, width: int, count: int) -> Layout:
    """`PSPHead`."""
    levels = [conv_module(f"psp_modules.{i}.1", width, source) for i in range(4)]
    return joined(*levels, conv_module("bottleneck", width, source + 4 * width, 3), classes(width, count))


def uper(channels: Sequence[int], width: int, count: int) -> Layout:
    """`UPerHead`."""
    done = psp(channels[-1], width, count)
    for i, source in enumerate(channels[:-1]):
        done |= conv_module(f"lateral_convs.{i}", width, source) | conv_module(f"fpn_convs.{i}", width, width, 3)
    return done | conv_module("fpn_bottleneck", width, width * len(channels), 3)


def _separable(name: str, out: int, source: int) -> Layout:
    depthwise = conv_module(f"{name}.depthwise_conv", source, source, 3, groups=source)
    return depthwise | conv_module(f"{name}.pointwise_conv", out, source)


def deeplab(source: int, fine: int, width: int, squeezed: int, count: int) -> Layout:
    """`DepthwiseSeparableASPPHead`."""
    return joined(
        conv_module("image_pool.1", width, source), conv_module("aspp_modules.0", width, source),
        *(_separable(f"aspp_modules.{i}", width, source) for i in (1, 2, 3)),
        conv_module("bottleneck", width, 5 * width, 3), conv_module("c1_bottleneck", squeezed, fine),
        _separable("sep_bottleneck.0", width, width + squeezed), _separable("sep_bottleneck.1", width, width),
        classes(width, count),
    )  # fmt: skip


def segmenter(source: int, width: int, depth: int, count: int) -> Layout:
    """`SegmenterMaskTransformerHead`."""
    done = layer("dec_proj", width, source) | {"cls_emb": (1, count, width)} | transformer_layers(width, depth)
    done |= norm("decoder_norm", width) | norm("mask_norm", count)
    return done | layer("patch_proj", width, width, bias=False) | layer("classes_proj", width, width, bias=False)


# -- Mask2Former ------------------------------------------------------------------------------------------------------


def mask2former(
    channels: Sequence[int], width: int, queries: int, count: int, *, hidden: tuple[int, int], layers: tuple[int, int],
    heads: int, newer: bool,
) -> Layout:  # fmt: skip
    """`Mask2FormerHead` of mmdet 2.x, or of 3.x (`newer`); pairs are of the pixel decoder and of the queries."""
    sampled, cross, own = ("self_attn", "cross_attn", "self_attn") if newer else ("attentions.0", "attentions.0",
                                                                                 "attentions.1")  # fmt: skip
    mlp = "ffn" if newer else "ffns.0"
    done = layer("cls_embed", count + 1, width)
    for name, rows in (("query_embed", queries), ("query_feat", queries), ("level_embed", 3)):
        done[f"{name}.weight"] = (rows, width)
    for i in (0, 2, 4):
        done |= layer(f"mask_embed.{i}", width, width)
    done["pixel_decoder.level_encoding.weight"] = (3, width)
    for i, source in enumerate(channels[:0:-1]):
        done |= layer(f"pixel_decoder.input_convs.{i}.conv", width, source, 1, 1)
        done |= norm(f"pixel_decoder.input_convs.{i}.gn", width)
    done |= layer("pixel_decoder.lateral_convs.0.conv", width, channels[0], 1, 1, bias=False)
    done |= layer("pixel_decoder.output_convs.0.conv", width, width, 3, 3, bias=False)
    done |= norm("pixel_decoder.lateral_convs.0.gn", width) | norm("pixel_decoder.output_convs.0.gn", width)
    done |= layer("pixel_decoder.mask_feature", width, width, 1, 1)
    for i in range(layers[0]):
        block = f"pixel_decoder.encoder.layers.{i}"
        for name, out in (("sampling_offsets", 24 * heads), ("attention_weights", 12 * heads), ("value_proj", width),
                          ("output_proj", width)):  # fmt: skip
            done |= layer(f"{block}.{sampled}.{name}", out, width)
        done |= _perceptron(f"{block}.{mlp}", width, hidden[0])
        done |= norm(f"{block}.norms.0", width) | norm(f"{block}.norms.1", width)
    for i in range(layers[1]):
        block = f"transformer_decoder.layers.{i}"
        for name in (cross, own):
            attention = f"{block}.{name}.attn"
            done |= {f"{attention}.in_proj_weight": (3 * width, width), f"{attention}.in_proj_bias": (3 * width,)}
            done |= layer(f"{attention}.out_proj", width, width)
        done |= _perceptron(f"{block}.{mlp}", width, hidden[1])
        for k in range(3):
            done |= norm(f"{block}.norms.{k}", width)
    return done | norm("transformer_decoder.post_norm", width)


def _perceptron(name: str, width: int, hidden: int) -> Layout:
    return layer(f"{name}.layers.0.0", hidden, width) | layer(f"{name}.layers.1", width, hidden)


# -- the VSPW code ----------------------------------------------------------------------------------------------------


def vspw_encoder(
    depths: Sequence[int], bottleneck: bool = True, *, width: int = 64, stem: tuple[int, int] = (64, 128)
) -> Layout:
    """`Resnet` and `ResnetDilated`, CSAIL's: three convolutions of 64, 64 and 128 channels before the stages."""
    done: Layout = {}
    for i, (out, source) in enumerate(((stem[0], 3), (stem[0], stem[0]), (stem[1], stem[0])), 1):
        done |= layer(f"conv{i}", out, source, 3, 3, bias=False) | batch_norm(f"bn{i}", out)
    return done | resnet_stages(depths, width, stem[1], bottleneck)


def _conv_bn(name: str, out: int, source: int, kernel: int = 1, at: int = 0, bias: bool = False) -> Layout:
    """A convolution and its norm in a plain `Sequential`."""
    return layer(f"{name}.{at}", out, source, kernel, kernel, bias=bias) | batch_norm(f"{name}.{at + 1}", out)


def _last(name: str, width: int, source: int, count: int) -> Layout:
    return _conv_bn(name, width, source, 3) | layer(f"{name}.4", count, width, 1, 1)


def vspw_psp(source: int, width: int, count: int, *, classifies: bool = True) -> Layout:
    """`PPMDeepsup`, and `PPMDeepsup_clip`, which does not classify."""
    pooled = source + 4 * width
    return joined(
        *(_conv_bn(f"ppm.{i}", width, source, at=1) for i in range(4)),
        _last("conv_last_", width, pooled, count) if classifies else _conv_bn("conv_last_", width, pooled, 3),
        _conv_bn("cbr_deepsup", source // 4, source // 2, 3),
        layer("conv_last_deepsup_", count, source // 4, 1, 1),
    )  # fmt: skip


def vspw_ocr(source: int, width: int, key: int, count: int, *, classifies: bool = True) -> Layout:
    """`SpatialOCRNet`, and `SpatialOCRNetasDec`, which does not classify; its convolutions have biases."""
    block = "spatial_ocr_head.object_context_block"
    pairs = (
        (f"{block}.f_pixel", 0, key, width), (f"{block}.f_pixel", 3, key, key), (f"{block}.f_object", 0, key, width),
        (f"{block}.f_object", 3, key, key), (f"{block}.f_down", 0, key, width), (f"{block}.f_up", 0, width, key),
        ("spatial_ocr_head.conv_bn_dropout", 0, width, 2 * width),
    )  # fmt: skip
    return joined(
        _conv_bn("conv_3x3", width, source, 3, bias=True), _conv_bn("dsn_head", width, source // 2, 3, bias=True),
        layer("dsn_head.4", count, width, 1, 1),
        *(_conv_bn(name, out, into, at=at, bias=True) for name, at, out, into in pairs),
        layer("head", count, width, 1, 1) if classifies else {},
    )  # fmt: skip


def vspw_uper(channels: Sequence[int], width: int, count: int, *, pooled: int = 512) -> Layout:
    """`UPerNet`."""
    source = channels[-1]
    return joined(
        *(_conv_bn(f"ppm_conv.{i}", pooled, source) for i in range(4)),
        _conv_bn("ppm_last_conv", width, source + 4 * pooled, 3),
        *(_conv_bn(f"fpn_in.{i}", width, c) for i, c in enumerate(channels[:-1])),
        *(_conv_bn(f"fpn_out.{i}.0", width, width, 3) for i in range(len(channels) - 1)),
        _conv_bn("conv_last_.0", width, width * len(channels), 3), layer("conv_last_.1", count, width, 1, 1),
    )  # fmt: skip


def vspw_deeplab(source: int, fine: int, count: int, *, width: int = 256, squeezed: int = 48) -> Layout:
    """`DeepLab`: `ASPP` and `Decoder`."""
    branches = [
        layer(f"aspp.aspp{i}.atrous_conv", width, source, k, k, bias=False) | batch_norm(f"aspp.aspp{i}.bn", width)
        for i, k in enumerate((1, 3, 3, 3), 1)
    ]
    return joined(
        *branches, _conv_bn("aspp.global_avg_pool", width, source, at=1),
        layer("aspp.conv1", width, 5 * width, 1, 1, bias=False), batch_norm("aspp.bn1", width),
        layer("decoder.conv1", squeezed, fine, 1, 1, bias=False), batch_norm("decoder.bn1", squeezed),
        _conv_bn("decoder.last_conv", width, width + squeezed, 3), _conv_bn("decoder.last_conv", width, width, 3, at=4),
        layer("decoder.lastlast_conv.1", count, width, 1, 1),
    )  # fmt: skip


def flow_cnn(source: int, late: int) -> Layout:
    """NetWarp's `FlowCNN`, and its factors of the present and the previous frame at both places."""
    sizes = ((16, 11), (32, 16), (2, 32), (2, 4))
    factors: Layout = {f"w{place}_{i}": (channels,) for place, channels in ((0, source), (1, late)) for i in (0, 1)}
    return joined(*(_conv_bn(f"flowcnn.conv{i}", out, into, 3) for i, (out, into) in enumerate(sizes, 1)), factors)


def vspw_methods(source: int, width: int, key: int, count: int) -> dict[str, Layout]:
    """What each method has beside its encoder and RAFT."""
    pooled = source + 4 * width
    psp_decoder = under("decoder.", vspw_psp(source, width, count, classifies=False))
    ocr_decoder = under("decoder.", vspw_ocr(source, width, key, count, classifies=False))
    pyramid = joined(*(_conv_bn(f"ppm_conv.ppm.{i}", width, source) for i in range(4)))
    deep = _conv_bn("deepsup", source // 4, source // 2, 3) | layer("deepsup.4", count, source // 4, 1, 1)
    return {
        "PSPNet": under("decoder.", vspw_psp(source, width, count)),
        "OCRNet": under("decoder.", vspw_ocr(source, width, key, count)),
        "ETC on PSPNet": joined(psp_decoder, _last("conv_last_", width, pooled, count)),
        "ETC on OCRNet": joined(ocr_decoder, layer("conv_last_", count, width, 1, 1)),
        "NetWarp on PSPNet": joined(psp_decoder, _last("conv_last_", width, pooled, count), flow_cnn(source, pooled)),
        "NetWarp on OCRNet": joined(ocr_decoder, layer("head", count, width, 1, 1), flow_cnn(source, width)),
        "TCB-PPM": joined(pyramid, _last("ppm_conv.conv_last_", width, pooled, count), deep),
        "TCB-OCR": vspw_ocr(source, width, key, count),
    }
