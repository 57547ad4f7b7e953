"""The report: figures of the laws and the measurements, and one self-contained page that tells the result.

Everything that is drawn or said comes from the law's analysis (`vlmlaw law fit TABLE --out law.json`) and from the
table that it was fitted to; what the workflow knows beyond them (cells, samples, the experiment) is shown where given.
"""
