"""The page's figures, as SVG: curves, trust, small multiples, and the gallery that draws them all.

Comes in: a `Study`, the law with its measurements. Goes out: one drawing each, whose words come from the fit. It reads
no file and knows nothing of the page around it.
"""
