"""Vision-language models that grade images."""
