"""Figures and pictures inside the page's own text, so that it fetches nothing."""

from __future__ import annotations

import base64
import colorsys
import io
import re
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from ttsnap.drawing.grid import enlarged

COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def svg(path: Path, words: str) -> Markup:
    """A figure as an element of the page, its colours as variables that :func:`palette` sets.

    Args:
        path: SVG that matplotlib wrote.
        words: what it shows, for those who cannot see it.
    """
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?width="([\d.]+)pt"[^>]*?(viewBox="[^"]*")[^>]*>', _opened, text, count=1
    )
    # Ids are told apart by figure; most are referred to by nobody.
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    name = re.sub(r"\W", "-", path.stem)
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}.{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'((?:href="|url\()#)', rf"\g<1>{name}.", text)
    text = re.sub(r' d="([^"]*)"', lambda m: f' d="{_short(m[1])}"', text)
    text = COLOUR.sub(lambda m: f"var(--c{m[0][1:]})", re.sub(r"\n\s*", "\n", text))
    label = Markup.escape(words)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def _opened(found: re.Match[str]) -> str:
    width = float(found[1]) * 4 / 3  # points to CSS pixels
    return (
        f'<svg {found[2]} style="--wide: {width:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )


def _short(path: str) -> str:
    """Coordinates to a hundredth of a point, on one line."""
    rounded = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", path)
    return " ".join(rounded.split())


def palette(text: str) -> Markup:
    """CSS that gives the variables of figures in ``text`` their colours, lighter ones at night."""
    found = sorted(set(re.findall(r"var\(--c([0-9a-f]{6})\)", text)))
    day, night = (
        "".join(f"--c{one}:{shade(one)};" for one in found) for shade in ("#{}".format, _at_night)
    )
    dark = f"@media screen and (prefers-color-scheme: dark){{:root{{{night}}}}}"
    return Markup(f":root{{{day}}}\n{dark}")


def _at_night(colour: str) -> str:
    """The colour of the same hue that stands out from a dark ground as this does from white."""
    if colour == "ffffff":
        return "var(--card)"
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    # Greys turn round; of hues the paler one stays the paler.
    lighter = 0.13 + 0.78 * (1 - lightness) if saturation < 0.25 else 0.42 + 0.45 * lightness
    parts = colorsys.hls_to_rgb(hue, lighter, 0.85 * saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def picture(path: Path, side: int) -> str:
    """A picture as a data URI, WebP, at most ``side`` pixels wide, a tiny one enlarged."""
    with Image.open(path) as opened:
        image = Image.fromarray(enlarged(np.array(opened.convert("RGB"))))
    if image.width > side:
        image = image.resize((side, round(image.height * side / image.width)))
    held = io.BytesIO()
    image.save(held, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"
