"""One look for every figure, picture grid and number, in the report as in a search's folder."""
