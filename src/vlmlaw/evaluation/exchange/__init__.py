"""Other people's results in, one's own out: lmms-eval, VLMEvalKit, Every Eval Ever, and a published grid.

`vlmlaw law import` reads what these tools write, maps each model to N and V by one small file, and writes the table
that `vlmlaw law fit` reads; `vlmlaw law publish` writes a grid as CSV with a card and as records of Every Eval Ever.
"""
