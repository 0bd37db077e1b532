"""A picture of an HTML page, for the documentation, as Chromium shows it.

python tests/page_picture.py look.html docs/pictures/look.webp
"""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from browser import open_browser


def picture(page: Path, width: int, height: int) -> Image.Image:
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=2)
        tab.goto(page.resolve().as_uri())
        screenshot = tab.screenshot()
    return Image.open(BytesIO(screenshot))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    options = parser.parse_args()
    picture(options.page, options.width, options.height).save(options.out, quality=80, method=6)
