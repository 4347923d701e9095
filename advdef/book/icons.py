"""The theme's icons: a font of thousands, of which a site shows a few dozen."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["used_icons", "with_few_icons"]

_STYLES = "_static/styles/pydata-sphinx-theme.css"
_SCRIPTS = "_static/scripts"
_SOURCE = re.compile(r'src:url\(([^)]*)\.woff2\) format\("woff2"\),url\(\1\.ttf\) format\("truetype"\)')
_RULE = re.compile(r'([^{}]*)\{content:"\\([0-9a-f]{4})"\}')


def used_icons(site: Path) -> set[int]:
    """The characters of the icons that pages, scripts and style sheets of a site use."""
    style = (site / _STYLES).read_text(encoding="utf-8")
    texts = [page.read_text(encoding="utf-8") for page in site.rglob("*.html")]
    texts += [script.read_text(encoding="utf-8") for script in sorted((site / _SCRIPTS).glob("*.js"))
              if script.name != "fontawesome.js"]  # fmt: skip
    names = {name for text in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", text)}
    found = set[int]()
    for selectors, code in _RULE.findall(style):
        called = re.findall(r"\.fa-([a-z0-9-]+)", selectors)
        if not called or names & set(called):
            found.add(int(code, 16))
    others = "".join(file.read_text(encoding="utf-8") for file in sorted(site.glob("_static/**/*.css")))
    plain = re.sub(r"\.fa-[^{}]*\{[^}]*\}", "", others)
    found |= {int(code, 16) for code in re.findall(r"\\(f[0-9a-f]{3})\b", plain)}
    return found | {ord(sign) for sign in plain if "\uf000" <= sign <= "\uf8ff"}


def with_few_icons(site: Path) -> None:
    """Replace the fonts of icons by those of the icons that are used, some kilobytes; other themes are left alone."""
    from fontTools import subset

    sheet = site / _STYLES
    if not sheet.is_file() or not _SOURCE.search(sheet.read_text(encoding="utf-8")):
        return
    icons = used_icons(site)

    def smaller(source: re.Match[str]) -> str:
        font = (sheet.parent / f"{source[1]}.ttf").resolve()
        options = subset.Options(flavor="woff", layout_features=[], notdef_outline=True)
        subsetter = subset.Subsetter(options)
        with subset.load_font(str(font), options) as read:
            subsetter.populate(unicodes=icons & set(read.getBestCmap()))
            subsetter.subset(read)
            subset.save_font(read, str(font.with_suffix(".woff")), options)
        for suffix in (".ttf", ".woff2"):
            font.with_suffix(suffix).unlink()
        return f'src:url({source[1]}.woff) format("woff")'

    changed = _SOURCE.sub(smaller, sheet.read_text(encoding="utf-8"))
    sheet.write_text(changed, encoding="utf-8")
