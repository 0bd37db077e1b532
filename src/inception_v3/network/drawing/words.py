"""The words of the drawings, in each language. Names of the network stay as they are."""

from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

# (English, Chinese)
WORDS: dict[str, tuple[str, str]] = {
    "architecture": ("Architecture of Inception V3", "Inception V3 网络结构"),
    "part": ("Part of Inception V3", "Inception V3 的一部分"),
    "description": (
        "The layers of the network in the order of computation, from left to right and from top to bottom. Each "
        "module is a card with its branches side by side; they are joined along the channels at its bottom.",
        "按计算顺序从左到右、从上到下排列网络各层。每个模块是一张卡片，各分支并列，最后在底部沿通道维拼接。",
    ),
    "image": ("image", "输入图像"),
    "classes": ("classes", "个类别"),
    "parameters": ("parameters", "参数量"),
    "macs": ("multiply-accumulates", "乘加运算"),
    "stem": ("Stem", "起始卷积层"),
    "group": ("Inception modules on maps of", "Inception 模块，特征图尺寸"),
    "auxiliary": ("training only", "仅用于训练"),
    "main_head": ("Main head", "主分类头"),
    "shares": ("Share of each part", "各部分所占比例"),
    "aux_head": ("aux", "辅助"),
    "end": ("ends at", "终止于"),
    "dropout": ("dropout", "随机失活"),
    "softmax": ("softmax", "softmax"),
    "sigmoid": ("sigmoid", "sigmoid"),
    "none": ("no activation", "无激活函数"),
    "max": ("max", "最大"),
    "avg": ("avg", "平均"),
    "output": ("output HxWxC", "输出（高x宽x通道）"),
    "field": ("receptive field", "感受野"),
    "field_short": ("field", "感受野"),
    "comma": (", ", "，"),
    "colon": (": ", "："),
    "input": ("input", "输入"),
    "joined": ("joined along the channels", "沿通道维拼接"),
    "legend_one": ("1x1 convolution", "1x1 卷积"),
    "legend_square": ("3x3 or 5x5 convolution", "3x3 或 5x5 卷积"),
    "legend_line": ("1xn or nx1 convolution", "1xn 或 nx1 卷积"),
    "legend_max": ("max pool", "最大池化"),
    "legend_avg": ("average pool", "平均池化"),
    "legend_head": ("layer of a head", "分类头的层"),
    "legend_notation": (
        "3x3/2 V: kernel / stride; V: VALID padding, else SAME. Below it: the number of channels.",
        "3x3/2 V：卷积核 / 步长；V 表示 VALID 填充，否则为 SAME。下方数字为通道数。",
    ),
    "legend_notation_line": (
        "3x3/2 V  384: kernel / stride, V: VALID padding, else SAME; number of channels.",
        "3x3/2 V  384：卷积核 / 步长；V 表示 VALID 填充，否则为 SAME；通道数。",
    ),
    "legend_join": (
        "The bar below the branches: their outputs joined along the channels, to scale.",
        "分支下方的横条：各分支输出沿通道维拼接，宽度按通道数比例绘制。",
    ),
    "legend_map": (
        "feature map: its length is the number of channels, its height √ of the map's",
        "特征图：长度表示通道数，高度按特征图高度的平方根绘制",
    ),
    "legend_bars": ("to scale; the full bar is", "按比例绘制，满格为"),
    "legend_norm": (
        "BatchNorm and ReLU follow every convolution but that of logits. Parameters include BatchNorm's statistics.",
        "除输出 logits 的卷积外，每个卷积之后都有 BatchNorm 与 ReLU。参数量含 BatchNorm 的滑动统计量。",
    ),
}


def translate(text: str, language: Language) -> str:
    """Replace the keys between braces by the words of a language."""
    index = LANGUAGES.index(language)
    return text.format_map({key: words[index] for key, words in WORDS.items()})
