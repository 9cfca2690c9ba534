"""A small world of shapes: captions, pictures, an oracle, and the models trained on them."""
