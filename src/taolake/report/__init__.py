"""The proof card of a round: one JSON file and one HTML page, made from the tables alone.

`card` puts it together, `evidence` queries the tables, `measures` does the arithmetic, `page` and `plots` draw. Nothing
here trains, scores or decides.
"""
