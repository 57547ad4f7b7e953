"""Models on one's own questions: every model asked every question at every budget of visual tokens, and what follows.

Back ends, questions and budgets come in; replies that a second run resumes from, judged questions, tables of cells and
measurements.csv go out. Nothing here may know how a model computes, nor which server or library answers for it.
"""
