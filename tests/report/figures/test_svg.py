"""An SVG inside a page: names of its own, shorter coordinates, and not a digit of its text changed."""

from vlmlaw.report.figures.svg import inline

DRAWN = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="324pt" height="241pt" viewBox="0 0 324 241" \
xmlns="http://www.w3.org/2000/svg">
 <metadata><a href="http://elsewhere"/></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <defs><path id="m1" d="M 1.23456 7.000001"/></defs>
 <g id="axes_1" clip-path="url(#p1)"><use xlink:href="#m1" style="fill: #222226"/></g>
 <text style="font: 9px 'DejaVu Sans', sans-serif">0.61538</text>
</svg>"""


def test_inline() -> None:
    page = inline(DRAWN, name="grid0", title='a "b" < c', colors={"#222226": "var(--ink)"})
    assert page.startswith('<svg role="img" aria-label="a &quot;b&quot; &lt; c" viewBox=')
    assert "http" not in page and "<style" not in page and "width=" not in page
    assert 'id="grid0-m1"' in page and 'href="#grid0-m1"' in page and "url(#grid0-p1)" in page
    assert "axes_1" not in page and "\n" not in page  # what nothing refers to, and the layout of the file
    assert "M 1.23 7.00" in page and "0.61538" in page
    assert "fill: var(--ink)" in page and "9px var(--font)" in page
