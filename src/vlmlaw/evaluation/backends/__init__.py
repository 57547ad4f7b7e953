"""Who answers questions about images: a server, a released checkpoint, a trained cell; all behind one interface.

A question's text and images come in with a budget of visual tokens; the reply, the tokens that were counted and the
times go out. A back end must not know what the right answer is: metrics judge replies, elsewhere.
"""
