"""The words of the reading suite: common English words of six letters, the commoner ones first."""

_IN_LINES = """
people before should number school system little always almost public family change though street father mother
market office social result around during become moment nature reason course second really friend strong follow
simple letter church summer winter garden window animal doctor police method theory energy figure ground season
answer matter effect center common record report member person period policy action reader writer design degree
future growth health impact income leader length manner memory middle minute modern motion museum narrow native
normal notice object origin output palace parent planes player pocket poetry powder profit proper purple quaint
random rather recent region
"""
N_LETTERS = 6
WORDS = tuple(_IN_LINES.split())
