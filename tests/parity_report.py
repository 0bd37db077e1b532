"""Print the table of docs/parity.md: `make parity`. test_parity_tf_slim.py tests the bounds."""

import torch
from test_parity_tf_slim import CASES, Case, as_tf, nhwc, state_name

from conftest import relative, tf_slim_cases
from inception_v3.training.losses import classification_loss

COLUMNS = {
    "inference, float64": ("eval/", "float64"),
    "inference, float32": ("eval/", "float32"),
    "batch statistics, float64": ("train/", "float64"),
    "gradients, float64": ("grad/", "float64"),
    "batch statistics, float32": ("train/", "float32"),
}


def largest_differences(case: Case) -> list[float]:
    """The largest relative difference of each column, and that of TensorFlow's two precisions."""
    differences: dict[tuple[str, str], float] = {}
    for dtype in ("float64", "float32"):
        for mode in ("eval/", "train/"):
            model = case.load(dtype).train(mode == "train/")
            logits, ours = model(case.images(dtype))
            theirs = case.tf(dtype, mode)
            differences[mode, dtype] = max(relative(nhwc(ours[name]), value) for name, value in theirs.items())
        gradients = case.tf(dtype, "grad/")
        if gradients:
            labels = torch.from_numpy(case.recorded["labels"])
            classification_loss(logits, labels, ours.get("AuxLogits")).backward()
            pairs = [(as_tf(name, model.get_parameter(state_name(name)).grad), g) for name, g in gradients.items()]
            differences["grad/", dtype] = max(relative(mine, theirs) for mine, theirs in pairs)
    tensorflow = max(case.noise(f"train/{name}") for name in case.tf("float32", "train/"))
    return [*(differences.get(key, float("nan")) for key in COLUMNS.values()), tensorflow]


def main() -> None:
    print("| height x width, depth multiplier, batch |", " | ".join([*COLUMNS, "TensorFlow's own, float32"]), "|")
    print("| --- |" + " ---: |" * (len(COLUMNS) + 1))
    for folder in tf_slim_cases(CASES).values():
        case = Case(folder)
        height, width, factor, batch = (case.options[key] for key in ("height", "width", "depth_multiplier", "batch"))
        cells = [f"{value:.0e}" if value == value else "–" for value in largest_differences(case)]
        print(f"| {height}x{width}, {factor:g}, {batch} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
