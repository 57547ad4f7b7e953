"""The command line, a file for each family of verbs: it reads arguments and calls one function.

In come arguments, out go an exit status and text for people; what is done is done elsewhere. A verb's module imports
what it calls only when the verb runs, so that `vlmlaw --help` and `vlmlaw law` start without torch.
"""
