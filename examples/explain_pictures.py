"""Draw the pictures of docs/explain.md and print its tables.

    inception-v3 finetune model.json pictures --out runs/photos
    python examples/explain_pictures.py runs/photos --out docs/pictures

The two photos are samples of scikit-learn (sklearn.datasets.load_sample_images): china.jpg by danielbuechele and
flower.jpg by vultilion, both of Flickr, under CC BY 2.0. The pictures show parts of them with heat maps drawn over.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

import inception_v3
from inception_v3.explain.ablation import ablate
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.checks import curves, randomisation
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.views import View
from inception_v3.reports.plots import lines

# By the name of the picture: scikit-learn's file, and the class that is explained.
PHOTOS = {"flower": ("flower.jpg", "flower"), "house": ("china.jpg", "house")}
SHEET: tuple[AttributionOptions, ...] = (
    AttributionOptions("grad-cam"),
    AttributionOptions("layer-cam", end_point="Mixed_6e"),
    AttributionOptions("occlusion", window=60, stride=30),
    AttributionOptions("integrated-gradients", steps=20),
    AttributionOptions("smooth-grad", samples=15),
    AttributionOptions("guided-backprop"),
)
CHECKED = ("grad-cam", "gradient", "guided-backprop")
WIDTH = 320  # of one heat map, in pixels
QUALITY = 70  # of the WebP files


def sheet(results: list[Attribution]) -> Image.Image:
    """The pictures of several results in rows of three."""
    shown = [result.plot() for result in results]
    shown = [each.resize((WIDTH, round(each.height * WIDTH / each.width))) for each in shown]
    height = max(each.height for each in shown)
    page = Image.new("RGB", (3 * WIDTH + 16, (height + 8) * -(-len(shown) // 3)), "white")
    for number, each in enumerate(shown):
        page.paste(each, (number % 3 * (WIDTH + 8), number // 3 * (height + 8)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    model = inception_v3.load(options.model)
    views = {
        name: View.of(file, Image.fromarray(load_sample_image(file)), model.preprocessing)
        for name, (file, _) in PHOTOS.items()
    }
    print("| image | method | score | completeness gap | insertion | deletion |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, view in views.items():
        results = []
        for each in SHEET:
            wanted = AttributionOptions(**vars(each) | {"class_name": PHOTOS[name][1]})
            results.append(result := attribute(model, view, wanted))
            drawn, gap = curves(model, result), "" if result.gap is None else f"{result.gap:+.3f}"
            areas = f"{drawn.insertion_area:.3f} | {drawn.deletion_area:.3f}"
            print(f"| {view.name} | {each.method} | {result.score:.2f} | {gap} | {areas} |", flush=True)
        sheet(results).save(options.out / f"explain_{name}.webp", quality=QUALITY)
    check(model, views["flower"], options.out / "explain_sanity.png")
    ablate(model, views["flower"], replacement="mean").save(options.out / "explain_ablation.png")


def check(model: inception_v3.InceptionV3, view: View, path: Path) -> None:
    """Print and draw the rank correlations of cascading randomisation."""
    series = {}
    for method in CHECKED:
        wanted = AttributionOptions(method=method, class_name=PHOTOS["flower"][1])  # type: ignore[arg-type]
        randomised = randomisation(model, attribute(model, view, wanted), wanted)
        series[method] = np.array(randomised.correlations)
    print(f"\n| random down to | {' | '.join(series)} |\n| --- |{' ---: |' * len(series)}")
    for row, layer in enumerate(randomised.layers):
        print(f"| {layer} | {' | '.join(f'{values[row]:+.2f}' for values in series.values())} |", flush=True)
    figure = lines(randomised.layers, series, "rank correlation with the trained network's map", "", (-1, 1))
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
