"""The words of the reading suite: common English words of six letters, the commoner ones first."""

_IN_LINES = """
people before should number school system little always almost public family change though street father mother
market office social result around during become moment nature reason course second really friend strong follow
simple letter church summer winter garden window animal doctor police method theory energy figure ground season
answer matter effect center common record report member person period policy action reader writer design degree
future growth health impact income leader length manner memory middle minute modern motion museum narrow native
normal notice object origin output palace parent people planes player pocket poetry powder profit proper purple
radio quaint random rather recent record region remain remote repair repeat rescue result return reveal review
reward ribbon rocket rubber sample sailor saddle safety salmon school search secret select senior series severe
shadow shield signal silent single sister smooth socket source speech spider spirit spoken square stable status
steady stream strike studio submit supply switch symbol talent target temple thread throat throne ticket timber
tissue toward travel treaty tunnel turtle twelve unique united useful valley vanish vessel victim violet virtue
vision volume voyage wealth weapon weekly weight wisdom within wonder worker yellow agency anchor artist aspect
autumn barrel basket battle beauty belief better bishop border bottle bottom branch breath bridge bright broken
bronze bucket budget butter button camera candle canvas carbon career carpet cattle cheese circle client clever
coffee column combat copper corner cotton county cousin create credit crisis custom damage danger daring debate
decade defend define demand desert desire detail device dinner direct divide domain double dragon driver eleven
empire engine enough ensure entire escape estate expect expert export fabric factor famous farmer figure finger
finish flight flower forest formal former fossil fourth freeze frozen garlic gather gentle global golden govern
"""
N_LETTERS = 6
WORDS = tuple(word for word in dict.fromkeys(_IN_LINES.split()) if len(word) == N_LETTERS)
