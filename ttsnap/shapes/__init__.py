"""A small world of shapes: captions, pictures, an oracle, and the models trained on them."""

from __future__ import annotations

from pathlib import Path

GENERATOR = str(Path(__file__).parent / "weights/generator")
"""Folder of the text-to-image model, in diffusers layout."""

CLIP = str(Path(__file__).parent / "weights/clip")
"""Folder of the CLIP that scores its pictures."""
