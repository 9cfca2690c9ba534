"""Vision-language models that grade images: one file per kind, and what they are asked.

``rubric`` has the words and reads the answers, ``service`` what all judges behind an API share.
"""
