"""Figures of the report: curves of the law, its reliability, small multiples, and the gallery that draws them all.

A `Study`, the laws with their measurements, comes in; one figure for each picture of the gallery goes out, as a file or
as SVG text, with labels that come from the fit. The figures must not know the page around them.
"""
