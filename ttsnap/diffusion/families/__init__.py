"""One file per model family: how its pipeline encodes, predicts and packs latents."""
